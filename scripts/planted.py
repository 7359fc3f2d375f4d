"""Plant wrong edits in the cells that draw figures, and say which of them the tests would catch.

    python scripts/planted.py [book/06_figure_1.ipynb …]     (default: all that are in PLANTED)

Each notebook runs once; a cell that draws runs again with each of its edits, one at a time, and
what its figures show is compared as the tests do. Edits change what is drawn, and never raise.
"""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bn_helpers.figures import DESCRIBED, compare_outputs  # noqa: E402

#: Notebook → (what is wrong, the text in one of its cells, what stands there instead).
PLANTED = {
    "book/06_figure_1.ipynb": [
        ("another table", 'without BN", WITHOUT', 'without BN", WITH'),
        ("rows and columns swapped", "SIGMAS, RATES, form=form", "RATES, SIGMAS, form=form"),
        ("mean for median", "np.median(accuracies, axis=0)", "np.mean(accuracies, axis=0)"),
        (
            "the other runs",
            'row["test"] for row in CHOSEN[bn]',
            'row["test"] for row in CHOSEN[not bn]',
        ),
        (
            "the paper's other panel",
            'False, "1b"), (axes[2], True, "1c"',
            'False, "1c"), (axes[2], True, "1b"',
        ),
        (
            "labels swapped",
            '("15th", ":"), ("50th", "-"), ("85th", "--")',
            '("85th", ":"), ("50th", "-"), ("15th", "--")',
        ),
        (
            "linear for log",
            'xscale="log", xlabel="step", title=SIDES[bn]',
            'xlabel="step", title=SIDES[bn]',
        ),
        ("titles swapped", "ax.set(title=side, ", "ax.set(title=SIDES[not bn], "),
    ],
    "book/07_scale.ipynb": [
        ("columns swapped", "differences[:, k] + 1e-9", "differences[:, 2 - k] + 1e-9"),
        ("another law", "slope[1.0] / SCALES,", "slope[1.0] / SCALES**2,"),
        ("another power", "10 / tuned[:, i].T ** 2", "10 / tuned[:, i].T"),
        (
            "labels swapped",
            "{'with' if bn else 'without'} BN, rate",
            "{'without' if bn else 'with'} BN, rate",
        ),
        (
            "no square root",
            "np.sqrt((values**2).mean(axis=(2, 3)))",
            "(values**2).mean(axis=(2, 3))",
        ),
        ("linear for log", 'side[1].set(yscale="log", ', "side[1].set("),
        ("another range of colours", "vmin=5, vmax=10.5", "vmin=0, vmax=10.5"),
        (
            "another logarithm",
            "np.isfinite(first), np.log2(first)",
            "np.isfinite(first), np.log10(first)",
        ),
    ],
    "book/08_regularisation.ipynb": [
        ("another column", 'noise[:, :, 0], "first layer"', 'noise[:, :, 2], "first layer"'),
        (
            "one series dropped",
            '    (1, ms, part[None], "with BN, systematic", plotting.GREEN, "-.", "^"),\n',
            "",
        ),
        ("labels swapped", 'ylabel=("noise", "error")[i]', 'ylabel=("error", "noise")[i]'),
        ("rows reversed", "np.full(20, row)", "np.full(20, len(networks) - 1 - row)"),
        ("mean for median", "ax.plot(np.median(tested), row", "ax.plot(np.mean(tested), row"),
        ("a wrong unit", 'xlabel="test accuracy, %"', 'xlabel="test accuracy"'),
        (
            "labels swapped",
            'xlabel="decay λ", ylabel="learning rate η"',
            'ylabel="decay λ", xlabel="learning rate η"',
        ),
    ],
    "book/09_why.ipynb": [
        ("a wrong unit", 'title=a, xlabel="step", ylim', 'title=a, xlabel="epoch", ylim'),
        ("one series dropped", "in list(SIDES)[:5]", "in list(SIDES)[:4]"),
        ("linear for log", "ax.semilogy(range(2, 6), values", "ax.plot(range(2, 6), values"),
        (
            "columns swapped",
            'before it": (0, 0, "bottom"), "BN, moments after it": (1, ',
            'before it": (1, 0, "bottom"), "BN, moments after it": (0, ',
        ),
        ("another column", "[:, 1:], axis=-1).T", "[:, :-1], axis=-1).T"),
        ("a wrong label", 'set_ylabel("cos(G, G′)")', 'set_ylabel("‖G − G′‖")'),
        (
            "another quantity",
            "ax.loglog(after[key], steps",
            "ax.loglog(run_shift[key][1, 0], steps",
        ),
        ("another quantity", "np.median(kept[:, :5], 0).T", "np.median(turned[:, :5], 0).T"),
        ("another logarithm", "top, np.log2(FACTORS)", "top, np.log10(FACTORS)"),
    ],
    "book/10_failures.ipynb": [
        ("another cell of the cube", "sets == sets[0, 3, 3]", "sets == sets[1, 3, 3]"),
        ("panels swapped", "found[kind, m][column] for", "found[kind, m][1 - column] for"),
        ("another column", 'np.median(found["batch", m][2])', 'np.median(found["batch", m][1])'),
        ("labels permuted", "zip(list(changes)[1:], looks", "zip(list(changes)[:0:-1], looks"),
    ],
    "book/11_inception.ipynb": [
        ("a wrong unit", 'np.array(printed["x"]) / 1e6', 'np.array(printed["x"]) / 1e3'),
        ("another column", "curves[:, :, 2], label", "curves[:, :, 1], label"),
        ("a wrong unit", "above, 100 * highest[kind]", "above, highest[kind]"),
    ],
    "book/12_speed.ipynb": [
        ("the inverse", "ridge = peak / bandwidth", "ridge = bandwidth / peak"),
        (
            "another look",
            'plotting.RED if "BN" in name else plotting.BLUE',
            'plotting.BLUE if "BN" in name else plotting.RED',
        ),
        ("labels reversed", "names, speeds = list(steps),", "names, speeds = list(steps)[::-1],"),
        ("a wrong label", 'f"{dtype}, {layout}" if i', 'f"{layout}, {dtype}" if i'),
    ],
    "book/13_devices.ipynb": [
        ("another axis", "eight.std(1, keepdims=True)", "eight.std(0, keepdims=True)"),
        ("labels swapped", 'label=f"device {device}")', 'label=f"device {1 - device}")'),
        (
            "labels swapped",
            '(1, "re-estimated statistics"), (0, "running, of device 0")',
            '(0, "re-estimated statistics"), (1, "running, of device 0")',
        ),
        ("ticks reversed", "xticklabels=[32, 4, 2]", "xticklabels=[2, 4, 32]"),
    ],
}


def draws(cell):
    return any(DESCRIBED in output.get("data", {}) for output in cell.get("outputs", []))


def try_edits(path, edits):
    """(what, old, what was noticed; empty: missed) of each edit."""
    nb = nbformat.read(path, as_version=4)
    for _, old, _ in edits:
        places = sum(cell.source.count(old) for cell in nb.cells if draws(cell))
        assert places == 1, f"{path}: expected {old!r} once in the cells that draw, got {places}"
    client = NotebookClient(
        nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    with client.setup_kernel():
        for number, cell in enumerate(nb.cells):
            if cell.cell_type == "code":
                yield from try_cell(client, cell, number, edits)


def try_cell(client, cell, number, edits):
    stored = copy.deepcopy(cell)
    client.execute_cell(cell, number)
    mine = [edit for edit in edits if edit[1] in cell.source] if draws(stored) else []
    allowed = stored.metadata.get("bn", {}).get("figure", {})
    found = compare_outputs(stored.outputs, cell.outputs, **allowed)
    assert not found, f"cell {number} differs from the stored one without an edit: {found}"
    for what, old, new in mine:
        wrong = copy.deepcopy(stored)
        wrong.source = stored.source.replace(old, new)
        try:
            client.execute_cell(wrong, number)
        except CellExecutionError as error:
            yield what, old, [f"NO PLANT, it raises: {error.ename} {error.evalue}"]
            continue
        yield what, old, compare_outputs(stored.outputs, wrong.outputs, **allowed)
    if mine:
        client.execute_cell(copy.deepcopy(stored), number)


def main(arguments):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    caught = planted = 0
    for name in arguments or PLANTED:
        print(name, flush=True)
        for what, old, found in try_edits(ROOT / name, PLANTED[name]):
            planted, caught = planted + 1, caught + bool(found)
            verdict = "caught" if found else "MISSED"
            print(
                f"  {verdict}: {what} ({old.strip()[:50]}) {found[0][:150] if found else ''}",
                flush=True,
            )
    print(f"{caught} of {planted} caught")


if __name__ == "__main__":
    main(sys.argv[1:])
