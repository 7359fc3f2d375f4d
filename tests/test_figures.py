"""What a figure shows: each kind of artist, a wrong edit that is caught, a rounding that is not."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import nbformat
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import pyplot as plt

from bn_helpers import plotting
from bn_helpers.figures import DESCRIBED, compare_outputs, describe, differences

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import execute  # noqa: E402

matplotlib.use("agg")
X = np.arange(1, 9.0)
LONG = np.linspace(0, 6, 400)
TABLE = np.sqrt(np.arange(1, 13.0)).reshape(3, 4)
CLOUD = np.random.default_rng(0).normal(size=(300, 2))


@pytest.fixture(autouse=True)
def style():
    plotting.use_style()
    yield
    plt.close("all")


def draw(commands, noise=0.0):
    """The description of what ``commands`` (str, as in a cell) draw on ``ax``."""
    rng = np.random.default_rng(1)
    names = {"X": X, "LONG": LONG, "TABLE": TABLE, "CLOUD": CLOUD}
    names = {k: v * (1 + noise * rng.uniform(-1, 1, v.shape)) for k, v in names.items()}
    fig, ax = plt.subplots()
    exec(commands, {"ax": ax, "fig": fig, "np": np, "plt": plt, "plotting": plotting, **names})
    described = describe(fig)
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    return described


LINE = "ax.plot(X, X**2, 's--', color='#0072B2', label='a'); ax.plot(X, X, ':', label='b')"
WORDS = f"{LINE}; ax.set(xlabel='time, s', ylabel='loss', title='without BN', xscale='log')"
LEGEND = f"{LINE}; ax.legend(title='runs')"
CURVE = "ax.plot(LONG, np.sin(LONG), label='sine')"
LOG = "ax.loglog(X, 10**X, label='a'); ax.plot(X, np.full(8, 1e3))"
BAND = "plotting.band(ax, X, np.array([X, X + 1, X + 3]), label='BN', color='#0072B2')"
IMAGE = "ax.imshow(np.outer(np.sin(LONG), LONG), vmin=-6, vmax=6, cmap='gray')"
WIDER = IMAGE.replace("vmin=-6", "vmin=-5")
MAP = "plotting.number_map(ax, TABLE, (1, 2, 3), (1, 2, 3, 4), form='.1f')"
POINTS = "ax.scatter(*CLOUD.T, s=9, c=CLOUD[:, 0], vmin=-3, vmax=3)"
BARS = "ax.barh(['a', 'b', 'c'], X[:3], xerr=X[:3] / 9, color='#0072B2', hatch='//')"
HISTOGRAM = "ax.hist(CLOUD[:, 0], bins=20, histtype='step')"
TEXTS = "ax.plot(X, X); ax.text(2, 3, 'here'); ax.annotate('peak 7', (8, 7), (4, 2))"
SHAPES = "ax.plot(X, X); ax.axvline(3); ax.hlines(X, 0, X); ax.axhspan(2, 3)"
ARROWS = "ax.quiver(X, X, X, -X)"
MESH = "fig.colorbar(ax.pcolormesh(TABLE, vmin=1, vmax=4), label='rate')"
CROSSES = "ax.plot(*CLOUD.T, 'x')"
SYMLOG = "ax.plot(X - 4, X); ax.set_xscale('symlog', linthresh=1)"
TICKS = "ax.plot(X, X); ax.set_xticks([2, 4], ['two', 'four'])"
FIGURE = "ax.plot(X, X, label='a'); fig.suptitle('all'); fig.legend(); fig.supxlabel('step')"
SHAPE = "ax.add_patch(Polygon(np.c_[X, X**2], facecolor='r')); ax.set(xlim=(0, 9), ylim=(0, 70))"
SHAPE = f"from matplotlib.patches import Polygon; {SHAPE}"

EDITS = [
    (LINE, "'s--'", "'o--'"),
    (LINE, "'s--'", "'s-'"),
    (LINE, "#0072B2", "#D55E00"),
    (LINE, "X**2", "X**2 + 1"),
    (LINE, "ax.plot(X, X, ':', label='b')", ""),
    (LINE, "label='b'", "label='c'"),
    (WORDS, "time, s", "time, ms"),
    (WORDS, "'loss'", "'accuracy'"),
    (WORDS, "without", "with"),
    (WORDS, ", xscale='log'", ""),
    (LEGEND, "title='runs'", "title='seeds'"),
    (LEGEND, "; ax.legend(title='runs')", ""),
    (LEGEND, "ax.legend(", "ax.legend(['b', 'a'], "),
    (CURVE, "np.sin", "np.cos"),
    (CURVE, "np.sin(LONG)", "np.sin(LONG) + 0.03"),
    (CURVE, "np.sin(LONG)", "np.sin(2 * LONG)"),
    (LOG, "10**X", "1.5 * 10**X"),
    (LOG, "loglog", "semilogx"),
    (BAND, "X + 3", "X + 4"),
    (BAND, "[X, X + 1", "[X + 0.4, X + 1"),
    (BAND, "#0072B2", "#0072B3"),
    (IMAGE, "np.sin", "np.cos"),
    (IMAGE, "vmin=-6", "vmin=-5"),
    (IMAGE, "gray", "viridis"),
    (IMAGE, "cmap", "origin='lower', cmap"),
    (IMAGE, "np.outer(np.sin(LONG), LONG)", "np.outer(LONG, np.sin(LONG))"),
    (MAP, "TABLE", "TABLE[::-1]"),
    (MAP, ".1f", ".2f"),
    (MAP, "(1, 2, 3),", "(1, 2, 4),"),
    (POINTS, "CLOUD.T", "CLOUD[:, ::-1].T"),
    (POINTS, "c=CLOUD[:, 0]", "c=CLOUD[:, 1]"),
    (POINTS, "s=9", "s=4"),
    (BARS, "X[:3],", "X[2::-1],"),
    (BARS, "/ 9", "/ 5"),
    (BARS, "'b', 'c'", "'c', 'b'"),
    (BARS, ", hatch='//'", ""),
    (HISTOGRAM, "CLOUD[:, 0]", "CLOUD[:, 1]"),
    (HISTOGRAM, "bins=20", "bins=30"),
    (TEXTS, "'here'", "'there'"),
    (TEXTS, "peak 7", "peak 8"),
    (TEXTS, "ax.text(2", "ax.text(3"),
    (TEXTS, "(8, 7)", "(7, 7)"),
    (SHAPES, "axvline(3)", "axvline(4)"),
    (SHAPES, "hlines(X, 0, X)", "hlines(X, 1, X)"),
    (SHAPES, "axhspan(2, 3)", "axhspan(2, 4)"),
    (ARROWS, "-X", "X"),
    (MESH, "TABLE", "-TABLE"),
    (MESH, "'rate'", "'error'"),
    (CROSSES, "CLOUD.T", "CLOUD[:, ::-1].T"),
    (SYMLOG, "linthresh=1", "linthresh=2"),
    (SYMLOG, "X - 4", "X - 3"),
    (TICKS, "[2, 4]", "[2, 5]"),
    (TICKS, "'two', 'four'", "'four', 'two'"),
    (FIGURE, "'all'", "'some'"),
    (FIGURE, "'step'", "'epoch'"),
    (FIGURE, "fig.legend()", "fig.legend(title='b')"),
    (SHAPE, "X**2", "9 * X"),
    (SHAPE, "'r'", "'b'"),
]


@pytest.mark.parametrize(("commands", "old", "new"), EDITS, ids=lambda text: text[:30])
def test_a_wrong_edit_is_caught(commands, old, new):
    assert commands.count(old) == 1
    assert differences(draw(commands), draw(commands.replace(old, new)))


@pytest.mark.parametrize("commands", sorted({edit[0] for edit in EDITS}), ids=lambda t: t[:30])
def test_a_rounding_is_not(commands):
    """Catches comparing bytes, and rounding without a tolerance: some value always straddles."""
    stored = draw(commands)
    assert differences(stored, draw(commands)) == []
    assert differences(stored, draw(commands, noise=1e-4)) == []
    assert differences(stored, draw(commands, noise=0.2)), "a fifth is no rounding"


def test_numbers_are_compared_in_the_scale_of_their_axis():
    """Catches a small value on a log axis whose change is nothing beside the largest one."""
    assert differences(draw("ax.semilogy(X, 10**X)"), draw("ax.semilogy(X, 10**X + 9)"))
    assert not differences(draw("ax.plot(X, 10**X)"), draw("ax.plot(X, 10**X + 9)"))


def test_what_lies_outside_of_the_axis_is_not_compared():
    rising = "ax.plot(X, 2**X); ax.set_ylim(0, 9)"
    assert not differences(draw(rising), draw(rising.replace("2**X", "2**X + (X > 6) * 1e9")))
    assert differences(draw(rising), draw(rising.replace("2**X", "2**X + (X < 2)")))


def test_a_tolerance_is_a_share_of_the_axis_and_for_a_share_of_the_numbers():
    for share, caught in ((4, True), (5, True), (6, False)):
        shifted = f"X + 0.5 * (X >= {share})"
        stored, drawn = (draw(f"ax.plot(X, {y}); ax.set_ylim(0, 10)") for y in ("X", shifted))
        assert differences(stored, drawn, 0.04)
        assert bool(differences(stored, drawn, 0.06)) == caught


def test_limits_that_follow_chaotic_data_may_differ_and_limits_by_hand_not():
    stored, drawn = (draw(f"ax.plot(X, [*X[:-1], {last}])") for last in (8, 8.7))
    assert any("limits" in line for line in differences(stored, drawn))
    assert differences(stored, drawn, 0.15) == []
    stored, drawn = (draw(f"ax.plot(X, X); ax.set_ylim(0, {high})") for high in (10, 13))
    assert any("limits" in line for line in differences(stored, drawn, 0.15))


def test_what_is_set_by_hand_is_not_chaotic():
    """Catches a scale of colours that a tolerance of 1 would let pass."""
    assert any("limits" in line for line in differences(*map(draw, (IMAGE, WIDER)), 1, 1))
    stored, drawn = (draw(f"ax.plot(X, X); ax.set_xticks([1, {at}])") for at in (4, 5))
    assert any(", at" in line for line in differences(stored, drawn, 1, 1))


def test_numbers_on_an_image_differ_by_their_last_digit_at_most():
    stored = draw(MAP)
    for change, caught in ((0.04, False), (0.4, True)):
        drawn = draw(MAP.replace("TABLE", f"TABLE + {change} * (TABLE == 1)"))
        assert any("texts" in line for line in differences(stored, drawn)) == caught
    assert differences(draw("ax.text(0, 0, '7')"), draw("ax.text(0, 0, '8')"))


def test_a_share_of_chaotic_numbers_on_an_image_may_be_any():
    """Catches a setting that trains on one machine only and is asked to on all."""
    stored = draw(MAP)
    for never, caught in (("TABLE > 3", False), ("TABLE > 1.5", True)):
        drawn = draw(
            MAP.replace("TABLE", f"np.where({never}, np.inf, TABLE)").replace(
                "form", "limits=(1, TABLE.max()), form"
            )
        )
        assert differences(stored, drawn, 0.2, 0.4)
        assert bool(differences(stored, drawn, 1, 0.4)) == caught


def test_missing_values_stay_missing():
    gap = "ax.plot(X, np.where(X == 3, np.nan, X))"
    stored = draw(gap)
    assert stored["axes"][0]["artists"][0]["y"].split()[2] == "nan"
    assert differences(stored, draw(gap.replace("== 3", "== 30")))
    assert differences(draw(MAP), draw(MAP.replace("TABLE", "np.where(TABLE > 3, np.inf, TABLE)")))


def test_a_description_is_short():
    """Catches numbers that are stored one by one: twenty lines of 10,000 points."""
    stored = draw("for k in range(20): ax.plot(np.tile(LONG, 25) + k)")
    assert len(json.dumps(stored)) < 20_000


def test_hidden_artists_and_axes_are_left_out():
    assert draw("ax.plot(X, X)[0].set_visible(False)")["axes"][0].get("artists") is None
    assert "axes" not in draw("ax.set_visible(False)")


def test_insets_and_shared_axes_are_described():
    assert len(draw("ax.inset_axes((0.5, 0.5, 0.4, 0.4)).plot(X, X)")["axes"]) == 2
    shared = draw("fig.clear(); fig.subplots(1, 2, sharey=True)[0].plot(X, X)")["axes"]
    assert "ticks" in shared[0]["y"]
    assert "ticks" not in shared[1]["y"]
    assert shared[1]["place"] == "1 2 1 1"


def cell(*figures):
    return [{"data": {"image/png": "…", DESCRIBED: figure}} for figure in figures]


def test_the_outputs_of_a_cell_are_compared_in_their_order():
    one, two = draw("ax.plot(X, X)"), draw("ax.plot(X, -X)")
    assert compare_outputs(cell(one, two), cell(one, two)) == []
    assert compare_outputs(cell(one, two), cell(two, one))
    assert compare_outputs(cell(one, two), cell(one))
    assert compare_outputs([{"text": "no figure"}], []) == []


def item(**about):
    """A stand-in for nbval's cell, with this metadata."""
    return SimpleNamespace(
        parent=SimpleNamespace(skip_compare=("image/png",)),
        cell=SimpleNamespace(metadata=about),
        comparison_traceback=[],
    )


def test_nbval_compares_what_figures_show(request):
    """Catches the hook that pytest no longer calls, and a tolerance that is not read."""
    stored, drawn = (cell(draw(f"ax.plot(X, X + {y})")) for y in ("0", "0.2 * (X == 3)"))
    asked, plugins = [], request.config.pluginmanager.get_plugins()
    (root,) = [plugin for plugin in plugins if hasattr(plugin, "with_figures")]

    def others(test, ref, skip):
        asked.append(skip)
        return True

    strict, chaotic = item(), item(bn={"figure": {"tolerance": 0.05}})
    for each, same in ((strict, False), (chaotic, True)):
        each.compare_outputs = others
        root.pytest_itemcollected(each)
        assert each.compare_outputs(stored, stored)
        assert each.compare_outputs(drawn, stored) == same
    assert "apart" in strict.comparison_traceback[-1]
    assert asked[0] == ("image/png", DESCRIBED)


def test_a_display_stores_the_description_beside_the_picture():
    """Catches a style that no longer asks for it, and a backend that takes it away again."""
    shell = InteractiveShell.instance()
    try:
        shell.run_cell("from bn_helpers import plotting; plotting.use_style()")
        shell.run_cell("%matplotlib inline")
        fig, ax = plt.subplots()
        ax.plot(X, X)
        data, _ = shell.display_formatter.format(fig)
        assert list(data)[-1] == DESCRIBED
        assert data[DESCRIBED] == describe(fig)
        assert DESCRIBED not in shell.display_formatter.format(X)[0]
    finally:
        InteractiveShell.clear_instance()


def test_describing_leaves_the_figure_as_it_was():
    fig, ax = plt.subplots()
    ax.plot(X, X)
    before = copy.deepcopy(describe(fig))
    assert describe(fig) == before


@pytest.mark.slow
def test_a_wrong_edit_fails_a_notebook(tmp_path):
    """With nbval itself: the stored outputs pass, and do not once the cell draws something else."""
    path = tmp_path / "figure.ipynb"
    lines = "from bn_helpers import plotting", "from matplotlib import pyplot as plt"
    cells = [
        nbformat.v4.new_code_cell("pass"),  # the one that execute writes
        nbformat.v4.new_code_cell("\n".join((*lines, "plotting.use_style()"))),
        nbformat.v4.new_code_cell("plt.plot([1, 2, 3])\nplt.show()"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    execute.execute(path)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "conftest"]
    command += ["--nbval", "-q", "-p", "no:cacheprovider", str(path)]
    for old, status, says in (("[", 0, "3 passed"), ("2, 3", 1, "of the axis apart")):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f"plot([1, {old}", "plot([1, 2.5, 3"), encoding="utf-8")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, says in done.stdout) == (status, True), done.stdout
