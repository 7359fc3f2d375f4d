"""What the project says of itself: one version, annotated functions, versions that are tested."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import bn_helpers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import versions  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Its constructor is annotated where PyTorch's own is, and only there.
AS_IN_PYTORCH = {"layers.BatchNorm.__init__"}


def test_there_is_one_version():
    assert PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == bn_helpers.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changes, flags=re.M)
    assert released[0] == bn_helpers.__version__


def public(body, prefix, method=False):
    """(name, function, whether it has a self) of what users of a module call."""
    for node in body:
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or node.name[0] != "_"):
            static = any("staticmethod" in ast.unparse(d) for d in node.decorator_list)
            yield f"{prefix}.{node.name}", node, method and not static
        elif isinstance(node, ast.ClassDef) and node.name[0] != "_":
            yield from public(node.body, f"{prefix}.{node.name}", method=True)


def unannotated(package):
    """Public functions that leave out the type of a parameter or of what they return."""
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package).with_suffix("").parts)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for name, function, bound in public(tree.body, module.removesuffix(".__init__")):
            a = function.args
            taken = [*a.posonlyargs, *a.args][bound:]
            taken += [*a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
            if not function.returns or any(arg.annotation is None for arg in taken):
                yield name


def test_public_functions_are_annotated():
    """mypy checks the annotations that are there; this, that they are."""
    assert set(unannotated(ROOT / "bn_helpers")) == AS_IN_PYTORCH
    assert (ROOT / "bn_helpers" / "py.typed").is_file()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(x: int) -> int: ...", []),
        ("def f(x: int): ...", ["m.f"]),
        ("def f(x) -> int: ...", ["m.f"]),
        ("def f(*x, y: int) -> int: ...", ["m.f"]),
        ("def _f(x): ...", []),
        ("class A:\n def __init__(self, x: int) -> None: ...\n def g(self): ...", ["m.A.g"]),
        ("class A:\n @staticmethod\n def g(x) -> int: ...", ["m.A.g"]),
    ],
)
def test_what_counts_as_annotated(tmp_path, source, found):
    (tmp_path / "m.py").write_text(source)
    assert list(unannotated(tmp_path)) == found


def test_the_oldest_run_takes_the_lower_bounds_and_the_pinned_tools():
    oldest = versions.requirements("oldest")
    assert {f"{name}=={bound}" for name, bound in versions.dependencies().items()} <= set(oldest)
    assert len(versions.dependencies()) == len(PROJECT["dependencies"])
    names = [re.match(r"[\w.-]+", line)[0] for line in oldest]
    assert len(names) == len(set(names))
    assert {"pytest", "nbval", "hypothesis", "jupyter-book", "ipykernel"} <= set(names)
    assert not [line for line in versions.requirements("newest") if "==" in line]


def test_the_workflow_runs_both_ends_and_every_python():
    check = yaml.safe_load((ROOT / ".github" / "workflows" / "check.yml").read_text())
    rows = check["jobs"]["check"]["strategy"]["matrix"]["include"]
    ran = {row["run"]: row["python"] for row in rows}
    assert {".ci/run", "make test-oldest", "make test-newest", "make test-colab"} <= set(ran)
    assert f">={ran['make test-oldest']}" == PROJECT["requires-python"]
    pythons = re.search(r"in (3[^)]*)\) break", (ROOT / "scripts" / "setup.sh").read_text())[1]
    assert {row["python"] for row in rows} == set(pythons.split(" | "))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned(workflow):
    """Catches a tag, which can be moved to other code."""
    used = re.findall(r"uses: +(.*)", workflow.read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", action), action


def test_hooks_need_no_network():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repo["repo"] for repo in hooks["repos"]] == ["local"]
