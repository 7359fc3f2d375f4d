"""One style for all figures: white and opaque (survives dark mode), readable without colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from bn_helpers import figures

# Okabe & Ito's colours, told apart by colour-blind readers; lines also differ in dash and marker.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#595959",
)
#: Keyword arguments for the two sides of the book's recurring comparison.
WITHOUT_BN = {"color": RED, "linestyle": "--", "marker": "o", "markersize": 4}
WITH_BN = {"color": BLUE, "linestyle": "-", "marker": "s", "markersize": 4}


def use_style() -> None:
    """Set Matplotlib's defaults for the book; call it once at the top of a notebook.

    Each figure's output stores what it shows, too (:func:`bn_helpers.figures.describe`).
    """
    figures.register()
    plt.rcdefaults()
    colours = cycler(color=[BLUE, RED, GREEN, ORANGE, PURPLE, GREY])
    dashes = cycler(linestyle=["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1))])
    plt.rcParams.update(
        {
            "axes.prop_cycle": colours + dashes,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.grid": True,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "figure.constrained_layout.use": True,
            "figure.dpi": 144,
            "figure.facecolor": "white",
            "figure.figsize": (6.4, 3.4),
            "font.size": 10,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "image.cmap": "gray",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "savefig.facecolor": "white",
        }
    )


def image_row(
    axes: Axes | np.ndarray,
    images: Iterable[np.ndarray],
    title: str | None = None,
    limit: float | None = None,
) -> None:
    """Draw grey images (N, H, W) on ``axes``, one each; ``title`` stands left of the first.

    ``limit`` fixes the grey scale to [−limit, limit]; without it each image uses its own range.
    """
    axes = np.asarray(axes).ravel()
    for ax, image in zip(axes, images, strict=False):
        vmin, vmax = (None, None) if limit is None else (-limit, limit)
        ax.imshow(image, vmin=vmin, vmax=vmax, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        for spine in ax.spines.values():
            spine.set_visible(False)
    if title:
        axes[0].set_ylabel(title, rotation=0, ha="right", va="center")


def band(
    ax: Axes,
    x: ArrayLike,
    runs: ArrayLike,
    *,
    label: str,
    color: str,
    linestyle: str = "-",
    marker: str | None = None,
    markersize: float = 4,
) -> None:
    """Draw the median of ``runs`` (runs, points) over ``x`` and the range of all runs as a band."""
    runs = np.asarray(runs)
    ax.fill_between(x, runs.min(axis=0), runs.max(axis=0), color=color, alpha=0.2, linewidth=0)
    ax.plot(
        x,
        np.median(runs, axis=0),
        label=label,
        color=color,
        linestyle=linestyle,
        marker=marker,
        markersize=markersize,
    )


def number_map(
    ax: Axes,
    table: ArrayLike,
    rows: Sequence[float],
    columns: Sequence[float],
    *,
    form: str = ".2f",
    limits: tuple[float, float] | None = None,
    title: str | None = None,
    never: str = "never",
) -> None:
    """Draw ``table`` (rows, columns) as coloured cells with their numbers; low values are dark.

    ``rows`` and ``columns`` label the ticks; ``limits`` (low, high) fixes the colours; a value that
    is infinite or NaN is a white cell that says ``never``.
    """
    table = np.asarray(table, dtype=float)
    finite = np.isfinite(table)
    low, high = limits or (table[finite].min(), table[finite].max())
    colours = plt.get_cmap("viridis").with_extremes(bad="white")
    shown = np.ma.masked_where(~finite, table)
    ax.imshow(shown, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        dark = finite[i, j] and value < low + 0.6 * (high - low)
        text = format(value, form) if finite[i, j] else never
        size = 8 if len(text) < 6 else 7
        ax.text(j, i, text, ha="center", va="center", size=size, color="w" if dark else "k")
    ax.set_xticks(range(len(columns)), [f"{c:g}" for c in columns])
    ax.set_yticks(range(len(rows)), [f"{r:g}" for r in rows])
    ax.grid(False)
    ax.set_title(title or "")
