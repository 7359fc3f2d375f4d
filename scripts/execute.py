"""Re-run notebooks in place and leave nothing in them that changes from run to run.

    python scripts/execute.py [book/01_whitening.ipynb …]     (default: all)

The first code cell of each notebook, which brings in bn_helpers where it is missing, is written
here from the repository's address in _config.yml, and an exercise's stub from its solution.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import exercises  # noqa: E402

KEPT_METADATA = ("tags", "mystnb", "bn")


def notebooks(book=ROOT / "book"):
    """All notebooks of the book, in folders too (a chapter's labs)."""
    return sorted(path for path in book.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def bootstrap_source(config_file=ROOT / "_config.yml", clone=".."):
    """Source of the first cell: install from the repository, or from the clone while unset.

    ``clone`` is the way there from the notebook's folder.
    """
    repository = yaml.safe_load(config_file.read_text(encoding="utf-8"))["repository"]
    address = f'"git+{repository["url"]}@{repository["branch"]}"' if repository["url"] else clone
    return (
        "# On Colab, or wherever the course's helper package is missing; torch stays as it is.\n"
        "try:\n"
        "    import bn_helpers  # noqa: F401\n"
        "except ModuleNotFoundError:\n"
        f"    %pip install -q {address}"
    )


def normalise(nb, path):
    """Give ``nb`` its first code cell, numbered cell ids and only metadata that is the book's."""
    first = next(cell for cell in nb.cells if cell.cell_type == "code")
    first.source = bootstrap_source(clone=os.path.relpath(ROOT, Path(path).resolve().parent))
    first.metadata = {"tags": ["remove-cell"]}
    for number, cell in enumerate(nb.cells):
        cell.id = f"cell-{number:03d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT_METADATA}
    exercises.fill_in(nb.cells)
    nb.metadata = {
        **{k: v for k, v in nb.metadata.items() if k == "bn"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nb


def execute(path):
    nb = normalise(nbformat.read(path, as_version=4), path)
    # allow_errors stays False: only a cell tagged raises-exception may raise.
    NotebookClient(
        nb,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # not its note that loopback is unencrypted
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    nbformat.write(normalise(nb, path), path)


def main(arguments):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the kernels inherit it; two are far slower
    paths = [Path(a) for a in arguments] or notebooks()
    for path in paths:
        print(f"executing {path}", flush=True)
        execute(path)


if __name__ == "__main__":
    main(sys.argv[1:])
