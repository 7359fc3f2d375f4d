"""Run all tests and notebooks with the oldest or the newest versions that pyproject.toml admits.

    python scripts/versions.py oldest|newest [what pytest takes, instead of everything]
    python scripts/versions.py colab [book/01_whitening.ipynb …]

Each sets up a .venv-… of its own with the Python that runs this (several gigabytes, since PyTorch
comes with CUDA). The oldest run keeps the pinned tools; the newest moves them too. `colab` has the
newest versions installed, not bn_helpers, and runs notebooks from an empty folder, as Colab does:
their first cell has to bring the package and to leave PyTorch alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = ["--nbval", "-n", "2", "--dist", "loadfile", "tests", "book"]
FREE = {"setuptools"}  # old versions of torch limit it
# What an old version needs that its own metadata do not say.
BESIDE_THE_OLDEST = ["pyparsing<3.3"]  # Matplotlib before 3.10.8 uses names that 3.3 deprecates


def dependencies():
    """Name → lower bound, of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(requirement.split(">=") for requirement in project["dependencies"])


def tools(*files):
    """The requirements in these files that are not the package's own."""
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    wanted = [re.split(r"\s*#", line)[0] for line in lines if re.match(r"\w", line)]
    return [tool for tool in wanted if re.match(r"[\w.-]+", tool)[0] not in dependencies()]


def requirements(end):
    """What pip installs for ``"oldest"``, ``"newest"`` or ``"colab"``."""
    if end == "colab":
        return [*dependencies(), "ipykernel", "nbclient", "pyyaml"]
    direct = tools("requirements-book.in", "requirements.in")
    if end == "newest":
        return [*dependencies(), *direct]
    chosen = {re.match(r"[\w.-]+", tool)[0] for tool in direct}
    chosen |= {pin.split("==")[0] for pin in tools("requirements-book.txt")}
    pins = [pin for pin in tools("requirements.txt") if pin.split("==")[0] in chosen - FREE]
    oldest = [f"{name}=={version}" for name, version in dependencies().items()]
    return [*oldest, *pins, *FREE, *BESIDE_THE_OLDEST]


def environment(end):
    """Make .venv-<end> anew and return its Python."""
    folder = ROOT / f".venv-{end}"
    venv.create(folder, clear=True, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, *requirements(end)], check=True)
    if end != "colab":
        subprocess.run([*pip, "--no-build-isolation", "--no-deps", "-e", "."], cwd=ROOT, check=True)
    subprocess.run([python, "-m", "pip", "list", "--format=freeze"], check=True)
    return python


def as_on_colab(notebooks):
    """Run the notebooks' cells in an empty folder; called with the environment's own Python."""
    import nbformat
    from execute import bootstrap_source
    from nbclient import NotebookClient

    versions = "from importlib.metadata import version\nprint(version('torch'))"
    bare = "import importlib.util\nassert not importlib.util.find_spec('bn_helpers')"
    with tempfile.TemporaryDirectory() as empty:
        config = Path(empty) / "_config.yml"
        config.write_text(f"repository: {{url: 'file://{ROOT}', branch: HEAD}}")
        install = bootstrap_source(config)
        config.unlink()
        for number, path in enumerate(notebooks):
            nb = nbformat.read(path, as_version=4)
            code = [cell for cell in nb.cells if cell.cell_type == "code"]
            checks = [nbformat.v4.new_code_cell(versions) for _ in range(2)]
            code[0].source = install if number else f"{bare}\n{install}"
            nb.cells = [checks[0], *code, checks[1]]
            NotebookClient(nb, timeout=600, resources={"metadata": {"path": empty}}).execute()
            before, after = (check.outputs[0]["text"].strip() for check in checks)
            assert before == after, f"torch {before} became {after}"
            print(f"{path}: ran from an empty folder, torch stayed {after}", flush=True)


def main(end, *arguments):
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if end == "inside":
        return as_on_colab(arguments)
    python = environment(end)
    if end == "colab":
        chosen = arguments or ["book/01_whitening.ipynb", "book/05_convolution.ipynb"]
        command = [python, __file__, "inside", *chosen]
    else:
        command = [python, "-m", "pytest", *(arguments or EVERYTHING)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
