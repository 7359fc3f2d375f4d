"""The order of bn_helpers' modules, which CONTRIBUTING.md lists, and what stays inside of one."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bn_helpers"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def name_of(file):
    """``data.cifar10`` for bn_helpers/data/cifar10.py, ``data`` for its __init__."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(file): file for file in FILES} | {"": PACKAGE / "__init__.py"}


def listed():
    """The list's modules in order; a package's own come before it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"imports\s+only those before it in this list: ([^.]*)\.", text)
    order = []
    for name, inside in re.findall(r"(\w+)(?:\s+\(([^)]*)\))?", found):
        order += [f"{name}.{part}" for part in re.findall(r"\w+", inside)] + [name]
    return order


def imported(tree):
    """The modules of bn_helpers that a file imports, wherever in it: (module, name or None, as)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "bn_helpers":
                    yield alias.name[len("bn_helpers.") :], None, alias.asname
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import, which this test would miss"
            if node.module.split(".")[0] != "bn_helpers":
                continue
            for alias in node.names:
                module = f"{node.module}.{alias.name}"[len("bn_helpers.") :]
                if module in NAMES:
                    yield module, None, alias.asname or alias.name
                else:
                    yield node.module[len("bn_helpers.") :], alias.name, alias.asname


def test_the_list_is_complete():
    assert len(set(listed())) == len(listed())
    assert set(listed()) == {n for n in NAMES if n and not n.endswith("__")}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_module_imports_only_those_before_it(file):
    """Also within functions. A package's command line may import all of the package."""
    name, order = name_of(file), listed()
    before = order[: order.index(name)] if name in order else order
    for module, _, _ in imported(ast.parse(file.read_text(encoding="utf-8"))):
        if module and name:
            assert module in before, f"{name} imports {module}, which is not before it"
        else:
            assert not name, f"{name} imports bn_helpers itself"


@pytest.mark.parametrize("file", [*FILES, *SCRIPTS], ids=lambda file: file.name)
def test_no_private_name_is_used_elsewhere(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found, aliases = [], {}
    for module, name, alias in imported(tree):
        if name and name.startswith("_") and not name.startswith("__"):
            found.append((module, name))
        elif name is None:
            aliases[alias] = module
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            if private and node.value.id in aliases:
                found.append((aliases[node.value.id], node.attr))
    assert found == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("bn_helpers", "numpy torch"),
        ("bn_helpers.data", "torch PIL sklearn pooch requests"),
        ("bn_helpers.training", "PIL matplotlib bn_helpers.training.command_line"),
        ("bn_helpers.training.recipes", "PIL bn_helpers.training.command_line"),
        ("bn_helpers.ensemble", "PIL bn_helpers.training.command_line"),
    ],
)
@pytest.mark.slow
def test_what_an_import_does_not_load(module, heavy):
    """Catches what only a command, a folder of images or a download needs, loaded by all."""
    code = f"import sys, {module}; print(*set({heavy.split()}) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_every_package_is_installed():
    """Catches a folder that a clone has and Colab, which installs, has not."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (packages,) = re.findall(r"^packages = \[([^]]*)\]", text, re.MULTILINE)
    folders = {file.parent.relative_to(ROOT) for file in FILES}
    wanted = {".".join(folder.parts) for folder in folders} | {"bn_helpers_records"}
    assert set(re.findall(r'"([^"]+)"', packages)) == wanted
