"""What a figure shows, as JSON beside its picture, so that the tests can compare it.

A picture's bytes differ between machines, and nbval skips them. :func:`describe` writes down what
is drawn: titles, labels, scales, ticks, each artist's look and its numbers, rounded to about a
thousandth of the axis and, where there are many, as means over blocks. :func:`differences` compares
two descriptions: words exactly, numbers to a share of the axis, in the axis's own scale.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection, LineCollection, PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.quiver import Quiver
from matplotlib.scale import LogTransform, SymmetricalLogTransform
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator, NullLocator
from matplotlib.transforms import IdentityTransform, Transform
from numpy.typing import ArrayLike

#: The type under which a figure's description lies in a notebook's output.
DESCRIBED = "application/vnd.bn-helpers.figure+json"
#: By how much of its axis a number may differ from the stored one, and be the same.
TOLERANCE = 0.005
#: Of an artist's numbers, how many may differ by more, up to a tolerance that is asked for.
SHARE = 0.4
MANY = 24  # numbers; what has more is stored as so few
JOINT = " | "  # between words that are stored in one line


def register() -> None:
    """Store a description beside each figure that IPython displays; nothing outside of IPython."""
    try:
        from IPython import get_ipython
        from IPython.core.formatters import JSONFormatter, catch_format_error
    except ImportError:
        return

    class Formatter(JSONFormatter):
        @catch_format_error
        def __call__(self, shown):
            return describe(shown) if isinstance(shown, Figure) else None

    if shell := get_ipython():
        # After the picture's formatter: the picture is drawn as it would be without this.
        shell.display_formatter.formatters[DESCRIBED] = Formatter(format_type=DESCRIBED)


def describe(figure: Figure) -> dict[str, Any]:
    """What ``figure`` shows, as JSON: strings in dicts in lists; long rows of numbers reduced."""
    figure.draw_without_rendering()
    page = _Ruler("linear", (0, 1), clip=False)
    return _filled(
        size=" × ".join(f"{inches:g}" for inches in figure.get_size_inches()),
        title=figure.get_suptitle(),
        xlabel=figure.get_supxlabel(),
        ylabel=figure.get_supylabel(),
        legends=[_legend(legend) for legend in figure.legends],
        artists=[*_texts(_free_texts(figure), lambda _: (page, page))],
        axes=[_axes(ax) for ax in _all_axes(figure.axes) if ax.get_visible()],
    )


def differences(
    stored: Any, drawn: Any, tolerance: float = TOLERANCE, share: float = SHARE
) -> list[str]:
    """Where the description ``drawn`` differs from ``stored``, a sentence each.

    Words are the same, and numbers within 0.005 of the axis (of the colour scale, for an image).
    Where runs are chaotic, a larger ``tolerance`` lets a ``share`` of an artist's numbers differ by
    so much, and of the numbers written on an image by any; 1 lets values come and go. The
    limits that Matplotlib chooses are then not compared.
    """
    found = _compared(
        {key: value for key, value in stored.items() if key != "axes"},
        {key: value for key, value in drawn.items() if key != "axes"},
        _Context({}, tolerance, share),
        "figure",
    )
    pair = stored.get("axes", []), drawn.get("axes", [])
    if len(pair[0]) != len(pair[1]):
        return [*found, f"figure: {len(pair[1])} axes, stored {len(pair[0])}"]
    for number, (old, new) in enumerate(zip(*pair, strict=True)):
        found += _compared(old, new, _Context(old, tolerance, share), f"axes {number}")
    return found


def compare_outputs(
    stored: Any, drawn: Any, tolerance: float = TOLERANCE, share: float = SHARE
) -> list[str]:
    """:func:`differences` of all figures in two lists of a cell's outputs, in their order.

    Where ``stored`` has pictures and no description there is nothing to compare.
    """
    old, new = (
        [output["data"][DESCRIBED] for output in outputs if DESCRIBED in output.get("data", {})]
        for outputs in (stored, drawn)
    )
    if not old:
        return []
    if len(old) != len(new):
        return [f"{len(new)} figures, stored {len(old)}"]
    pairs = zip(old, new, strict=True)
    return [line for pair in pairs for line in differences(*pair, tolerance, share)]


class _Ruler:
    """The scale and the limits of an axis, by which its numbers are stored and compared."""

    def __init__(self, scale: str, limits: ArrayLike, clip: bool = True) -> None:
        self.transform = _transform(scale)
        ends = self.transform.transform(np.array(limits, dtype=float))
        self.low, self.high = ends.min(), ends.max()
        self.span = float(self.high - self.low) or 1.0
        self.clip = clip
        self.linear = isinstance(self.transform, IdentityTransform)

    def units(self, values: ArrayLike) -> np.ndarray:
        """``values`` in the axis's units; what lies outside of the axis is put at its edge."""
        with np.errstate(all="ignore"):
            found = self.transform.transform(np.ravel(values).astype(float))
        if self.clip:
            margin = 0.05 * self.span
            found = np.clip(found, self.low - margin, self.high + margin)
        return found

    def text(self, values: ArrayLike, joined: bool = True) -> str:
        """``values`` as a line of numbers; more than :data:`MANY` are reduced."""
        kept = self.transform.inverted().transform(_reduced(self.units(values), joined))
        if self.linear:
            digits = 3 - math.floor(math.log10(self.span))
            return " ".join(f"{round(float(number), digits) + 0:.12g}" for number in kept)
        return " ".join(f"{float(number):.4g}" for number in kept)

    def apart(self, stored: str, drawn: str) -> np.ndarray:
        """The differences of two lines of as many numbers, as a share of the axis."""
        old, new = (self.units([float(n) for n in line.split()]) for line in (stored, drawn))
        either, both = np.isnan(old) | np.isnan(new), np.isnan(old) & np.isnan(new)
        return np.where(either, np.where(both, 0, 1), np.abs(old - new) / self.span)


def _transform(scale: str) -> Transform:
    name, *parameters = scale.split()
    if name == "log":
        return LogTransform(float(parameters[0]))
    if name == "symlog":
        return SymmetricalLogTransform(*map(float, parameters))
    return IdentityTransform()


def _reduced(values: np.ndarray, joined: bool) -> np.ndarray:
    """At most a few numbers: means over blocks of a line, some points and quartiles of a cloud."""
    if len(values) <= MANY:
        return values
    if joined:
        kept = [_mean(block) for block in np.array_split(values, MANY - 4)]
        return np.array([*kept, _mean(values[:1]), _mean(values[-1:]), *_quantiles(values, (0, 1))])
    picks = values[np.linspace(0, len(values) - 1, MANY - 5).astype(int)]
    return np.array([*picks, *_quantiles(values, (0, 0.25, 0.5, 0.75, 1))])


def _mean(block: np.ndarray) -> float:
    finite = block[np.isfinite(block)]
    return float(finite.mean()) if finite.size else math.nan


def _quantiles(values: np.ndarray, levels: Iterable[float]) -> list[float]:
    finite = values[np.isfinite(values)]
    return [float(np.quantile(finite, level)) if finite.size else math.nan for level in levels]


def _numbers(values: Any) -> np.ndarray:
    """As floats, what is masked as NaN."""
    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)


def _filled(**entries: Any) -> dict[str, Any]:
    """``entries`` without the empty ones."""
    return {key: value for key, value in entries.items() if value not in ("", None, [], {})}


def _all_axes(axes: Iterable[Any]) -> Iterator[Axes]:
    for ax in axes:
        yield ax
        yield from _all_axes(ax.child_axes)


def _axes(ax: Axes) -> dict[str, Any]:
    place = ax.get_subplotspec()
    grid = place.get_geometry() if place else ()
    x = _axis(ax.xaxis, ax.get_autoscalex_on())
    y = _axis(ax.yaxis, ax.get_autoscaley_on())
    rulers = [_Ruler(axis["scale"], axis["limits"].split()) for axis in (x, y)]
    page = _Ruler("linear", (0, 1), clip=False)

    def measured(artist: Artist) -> tuple[_Ruler, _Ruler]:
        transform = artist.get_transform()
        if isinstance(artist, PathCollection | Quiver):
            transform = artist.get_offset_transform()
        if isinstance(artist, Annotation):
            return (rulers[0], rulers[1]) if artist.xycoords == "data" else (page, page)
        in_data = transform.contains_branch_seperately(ax.transData)
        first, second = (r if inside else page for r, inside in zip(rulers, in_data, strict=True))
        return first, second

    legend = ax.get_legend()
    return _filled(
        place=" ".join(map(str, grid)),
        title=JOINT.join(
            filter(None, (ax.get_title("left"), ax.get_title(), ax.get_title("right")))
        ),
        aspect=str(ax.get_aspect()).replace("auto", ""),
        frame="" if ax.axison else "off",
        x=x,
        y=y,
        legend=_legend(legend) if legend else None,
        artists=[
            *_merged(_line(line, *measured(line)) for line in _visible(ax.lines)),
            *_merged(_collection(each, *measured(each)) for each in _visible(ax.collections)),
            *_patches(_visible(ax.patches), measured),
            *(_image(image, *rulers) for image in _visible(ax.images)),
            *_texts(_visible(ax.texts), measured),
            *({"kind": type(other).__name__} for other in _visible((*ax.artists, *ax.tables))),
        ],
    )


def _visible(artists: Iterable[Any]) -> list[Any]:
    return [artist for artist in artists if artist.get_visible()]


def _axis(axis: Axis, automatic: bool) -> dict[str, Any]:
    """Label, scale, limits and labelled ticks; ``at`` where the ticks were set one by one."""
    transform, scale = axis.get_transform(), axis.get_scale()
    if isinstance(transform, LogTransform):
        scale += f" {transform.base:g}"
    if isinstance(transform, SymmetricalLogTransform):
        scale += f" {transform.base:g} {transform.linthresh:g} {transform.linscale:g}"
    low, high = np.sort(axis.get_view_interval())
    ruler = _Ruler(scale, (low, high))
    locator = axis.get_major_locator()
    fixed = isinstance(locator, FixedLocator | NullLocator) or "Category" in type(locator).__name__
    # Where Matplotlib chooses, one at the very edge may be out on another machine.
    edge = (-1e-6 if fixed else 0.01) * ruler.span
    ticks = {tick.get_loc(): _words(tick) for tick in axis.get_major_ticks()}
    places = zip(ticks, ruler.units([*ticks]), strict=True)
    inside = [at for at, u in places if ruler.low + edge <= u <= ruler.high - edge]
    return _filled(
        label=axis.get_label_text(),
        scale=scale,
        limits=ruler.text((high, low) if axis.get_inverted() else (low, high)),
        chosen="by Matplotlib" if automatic else "",
        unit=axis.get_offset_text().get_text(),
        ticks=JOINT.join(ticks[at] for at in inside).strip(" |") if axis.get_visible() else "",
        at=ruler.text(inside) if fixed else "",
    )


def _words(tick: Any) -> str:
    return JOINT.join(
        label.get_text() for label in (tick.label1, tick.label2) if label.get_visible()
    )


def _colour(colour: Any, alpha: float | None = None) -> str:
    """As hexadecimal, the alpha at its end unless it is opaque; several are joined."""
    if isinstance(colour, np.ndarray) and colour.ndim == 2:
        return "/".join(dict.fromkeys(_colour(row) for row in colour[:MANY])) or "none"
    if isinstance(colour, str) and colour == "none":
        return colour
    shade = to_hex(colour if alpha is None else (colour, alpha), keep_alpha=True)
    return shade[:7] if shade.endswith("ff") else shade


def _look(artist: Any) -> str:
    """Colour, dash, width, marker, hatch: what a legend repeats."""
    if isinstance(artist, Line2D):
        parts: list[str] = []
        if artist.get_linestyle() not in ("None", "", " "):
            parts += [_colour(artist.get_color(), artist.get_alpha()), str(artist.get_linestyle())]
            parts += [f"{artist.get_linewidth():g}", artist.get_drawstyle().replace("default", "")]
        if artist.get_marker() not in ("None", "", " ", None):
            face = _colour(artist.get_markerfacecolor(), artist.get_alpha())
            parts += [f"marker {artist.get_marker()} {artist.get_markersize():g} {face}"]
            parts += [artist.get_fillstyle().replace("full", "")]
        return " ".join(filter(None, parts))
    if isinstance(artist, Patch):
        filled = _colour(artist.get_facecolor()) if artist.get_fill() else "none"
        edge = f"{_colour(artist.get_edgecolor())} {artist.get_linestyle()}"
        return f"{filled} edge {edge} {artist.get_linewidth():g} {artist.get_hatch() or ''}".strip()
    if isinstance(artist, LineCollection):
        return _colour(artist.get_color())
    if isinstance(artist, Collection):
        faces = "" if artist.get_array() is not None else _colour(artist.get_facecolor())
        return f"{faces} {artist.get_hatch() or ''}".strip()
    return ""


def _label(artist: Artist) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _legend(legend: Legend) -> dict[str, Any]:
    entries = zip(legend.get_texts(), legend.legend_handles, strict=True)
    shown = [f"{text.get_text()}: {_look(handle)}" for text, handle in entries]
    return _filled(title=legend.get_title().get_text().strip(), entries=JOINT.join(shown))


def _row(kind: str, x: str, y: str, points: int, rulers: tuple[_Ruler, _Ruler], **more: Any) -> Any:
    """An artist's entry; ``x`` and ``y`` that are no data say so."""
    names = [
        f"{name} of the page" if not r.clip else name for name, r in zip("xy", rulers, strict=True)
    ]
    count = points if points > MANY else None
    return _filled(kind=kind, **more, points=count, **{names[0]: x, names[1]: y})


def _merged(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows``, short ones without a label put to the one of the same look before them."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        before = kept[-1] if kept else {}
        alike = before.keys() - {"label", "count"} == row.keys() == {"kind", "look", "x", "y"}
        if alike and all(before[key] == row[key] for key in ("kind", "look")):
            before.update(x=f"{before['x']} {row['x']}", y=f"{before['y']} {row['y']}")
            before["count"] = before.get("count", 1) + 1
        else:
            kept.append(row)
    return kept


def _line(line: Line2D, x: _Ruler, y: _Ruler) -> dict[str, Any]:
    across, up = map(_numbers, line.get_data(orig=False))
    joined = line.get_linestyle() not in ("None", "", " ")
    named = {"label": _label(line), "look": _look(line)}
    rows = x.text(across, joined), y.text(up, joined)
    return _row("line", *rows, len(across), (x, y), **named)


def _collection(found: Collection, x: _Ruler, y: _Ruler) -> dict[str, Any]:
    """Scattered points, arrows, segments, bands and meshes."""
    more: dict[str, Any] = {"label": _label(found), "look": _look(found)}
    if isinstance(found, PathCollection | Quiver):
        kind, at, joined = "points", _numbers(found.get_offsets()), False
    elif isinstance(found, QuadMesh):
        kind, at, joined = "mesh", _numbers(found.get_coordinates()).reshape(-1, 2), False
    else:
        kind = "segments" if isinstance(found, LineCollection) else "area"
        paths = [path.vertices for path in found.get_paths()]
        at, joined = np.concatenate(paths or [np.empty((0, 2))]), kind == "area"
        more["count"] = len(paths) if len(paths) > 1 else None
    if isinstance(found, Quiver):
        kind, sizes = "arrows", np.concatenate([found.U, found.V])
        more["sizes"] = _Ruler("linear", (0, np.abs(sizes).max())).text(sizes, joined=False)
    elif isinstance(found, PathCollection):
        sizes = found.get_sizes()
        more["sizes"] = " ".join(f"{size:.4g}" for size in sizes[:MANY])
    if found.get_array() is not None:
        more |= _values(found)
    return _row(kind, x.text(at[:, 0], joined), y.text(at[:, 1], joined), len(at), (x, y), **more)


def _values(mapped: Any) -> dict[str, str]:
    """What is shown as colours: the numbers, over blocks if many, and the scale of colours."""
    table = _numbers(mapped.get_array())
    scale = "log 10" if type(mapped.norm).__name__ == "LogNorm" else "linear"
    limits = mapped.get_clim()
    if table.ndim == 3:  # colours themselves
        scale, limits = "linear", (0, 255 if table.max() > 1 else 1)
    shape = " × ".join(map(str, table.shape))
    if table.ndim > 1 and table.size > 2.5 * MANY:
        rows = np.array_split(table, min(5, len(table)))
        blocks = [np.array_split(row, min(5, row.shape[1]), axis=1) for row in rows]
        table = np.array([_mean(block) for block in itertools.chain.from_iterable(blocks)])
    ruler = _Ruler(scale, limits)
    lines = [ruler.text(part) for part in np.array_split(table.ravel(), -(-table.size // MANY))]
    return {
        "shape": shape,
        "colours": f"{mapped.get_cmap().name} {scale}",
        "limits": " ".join(f"{limit:.4g}" for limit in limits),
        "values": " ".join(lines),
    }


def _image(image: AxesImage, x: _Ruler, y: _Ruler) -> dict[str, Any]:
    left, right, bottom, top = image.get_extent()
    sides = x.text([left, right]), y.text([bottom, top])
    more: dict[str, Any] = _values(image)
    return _row("image", *sides, 0, (x, y), label=_label(image), **more)


def _patches(patches: Iterable[Patch], measured: Any) -> Iterator[dict[str, Any]]:
    """Bars and other shapes, those of one look in one entry: opposite corners, or all corners."""
    groups: dict[tuple[str, str, str], list[Patch]] = {}
    for patch in patches:
        groups.setdefault((type(patch).__name__, _look(patch), _label(patch)), []).append(patch)
    for (kind, look, label), group in groups.items():
        x, y = measured(group[0])
        paths = [patch.get_patch_transform().transform_path(patch.get_path()) for patch in group]
        corners = [
            _numbers(p.vertices)[[0, 2]] if kind == Rectangle.__name__ else _numbers(p.vertices)
            for p in paths
        ]
        at = np.concatenate(corners)
        count = len(group) if len(group) > 1 else None
        more: dict[str, Any] = {"label": label, "look": look, "count": count}
        joined = len(group) == 1
        rows = x.text(at[:, 0], joined), y.text(at[:, 1], joined)
        yield _row(kind.lower(), *rows, len(at), (x, y), **more)


def _free_texts(figure: Figure) -> list[Text]:
    """A figure's texts without those that have names."""
    named = [figure.get_suptitle(), figure.get_supxlabel(), figure.get_supylabel()]
    return [text for text in _visible(figure.texts) if text.get_text() not in named]


def _texts(texts: Iterable[Text], measured: Any) -> Iterator[dict[str, Any]]:
    """Words on a plot, those set alike in one entry, in which numbers may differ a little."""
    groups: dict[Any, list[Text]] = {}
    for text in texts:
        arrow = "arrow" if getattr(text, "arrow_patch", None) else ""
        set_as = (
            text.get_horizontalalignment(),
            text.get_verticalalignment(),
            f"{text.get_rotation():g}",
            arrow,
        )
        groups.setdefault((" ".join(set_as).strip(), measured(text)), []).append(text)
    for (look, (x, y)), group in groups.items():
        at = [t.xy if isinstance(t, Annotation) else t.get_position() for t in group]
        across, up = (np.array(values, dtype=float) for values in zip(*at, strict=True))
        more: dict[str, Any] = {
            "look": look,
            "colours": "/".join(sorted({_colour(text.get_color()) for text in group})),
            "texts": JOINT.join(text.get_text() for text in group),
        }
        yield _row("text", x.text(across, False), y.text(up, False), len(group), (x, y), **more)


class _Context:
    """The rulers of an axes' stored description, and how far apart how many numbers may be."""

    def __init__(self, axes: dict[str, Any], tolerance: float, share: float) -> None:
        self.axes = axes
        self.usual, self.tolerance = min(tolerance, TOLERANCE), tolerance
        self.share = share if tolerance > TOLERANCE else 0.0
        self.rulers = {
            name: _Ruler(axes[name]["scale"], axes[name]["limits"].split())
            for name in "xy"
            if name in axes
        }
        images = [a for a in axes.get("artists", []) if a["kind"] in ("image", "mesh")]
        self.image = self._colours(images[0]) if images else None

    @property
    def strict(self) -> _Context:
        """The same for what was set by hand, and runs do not change."""
        return _Context(self.axes, self.usual, 0)

    def _colours(self, artist: dict[str, Any]) -> _Ruler:
        return _Ruler(artist["colours"].partition(" ")[2], artist["limits"].split())

    def ruler(self, key: str, stored: dict[str, Any], name: str) -> _Ruler | None:
        """By what the numbers under ``key`` of ``stored`` are compared; None: they are words."""
        if key.endswith("of the page"):
            return _Ruler("linear", (0, 1), clip=False)
        if key == "at" and name in self.rulers:
            return self.rulers[name]
        if key == "limits" and name in self.rulers:
            return _Ruler(stored["scale"], stored["limits"].split(), clip=False)
        if key in self.rulers:
            return self.rulers[key]
        if key == "values":
            return self._colours(stored)
        if key in ("sizes", "limits"):
            size = max(abs(float(number)) for number in stored[key].split())
            return _Ruler("linear", (0, size), clip=False)
        return None


def _compared(old: Any, new: Any, context: _Context, place: str, name: str = "") -> list[str]:
    """The differences of two dicts of a description; ``name`` is x or y within an axis."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        here, before, after = f"{place}, {key}", old.get(key), new.get(key)
        if key == "ticks" and "at" not in {*old, *new} and old["limits"] != new["limits"]:
            continue  # where Matplotlib chooses, a little more room may be another tick
        if key == "limits" and "chosen" in old and context.share:
            continue  # they follow what is drawn, which is compared
        if before is None or after is None:
            found.append(f"{here}: {_short(after)}, stored {_short(before)}")
        elif isinstance(before, dict):
            found += _compared(before, after, context, here, key)
        elif isinstance(before, list):
            found += _compared_lists(before, after, context, here)
        elif ruler := context.ruler(key, old, name):
            chaotic = context if key not in ("limits", "at", "sizes") else context.strict
            found += _compared_numbers(before, after, ruler, chaotic, here)
        elif before != after and not (key == "texts" and _near(before, after, context)):
            found.append(f"{here}: {_short(after)}, stored {_short(before)}")
    return found


def _compared_lists(old: list[Any], new: list[Any], context: _Context, place: str) -> list[str]:
    if len(old) != len(new):
        return [f"{place}: {len(new)}, stored {len(old)}"]
    found = []
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        name = before.get("label") or f"{before.get('kind', '')} {number}".strip()
        found += _compared(before, after, context, f"{place} “{name}”")
    return found


def _compared_numbers(
    old: str, new: str, ruler: _Ruler, context: _Context, place: str
) -> list[str]:
    if len(old.split()) != len(new.split()):
        return [f"{place}: {len(new.split())} numbers, stored {len(old.split())}"]
    apart = ruler.apart(old, new)
    far = apart > context.usual
    if far.mean() <= context.share and apart.max() <= max(context.tolerance, context.usual):
        return []
    return [f"{place}: {_short(new)}, stored {_short(old)}: {apart.max():.1%} of the axis apart"]


def _near(old: str, new: str, context: _Context) -> bool:
    """Whether texts on an image are the same but for what its numbers may differ by."""
    before, after = old.split(JOINT), new.split(JOINT)
    if context.image is None or len(before) != len(after):
        return False
    allowed = context.usual * context.image.span
    same = [_near_number(*pair, allowed) for pair in zip(before, after, strict=True)]
    return same.count(False) <= context.share * len(same)


def _near_number(old: str, new: str, allowed: float) -> bool:
    """Whether two texts are the same, or numbers that differ by a last digit or ``allowed``."""
    pattern = r"-?\d[\d,]*(?:\.(\d+))?"
    match = re.fullmatch(pattern, old), re.fullmatch(pattern, new)
    if old == new or None in match:
        return old == new
    decimals, others = (len(m[1] or "") for m in match if m)
    apart = abs(float(old.replace(",", "")) - float(new.replace(",", "")))
    return decimals == others and apart <= 1.01 * max(10.0**-decimals, allowed)


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) < 90 else f"{text[:87]}…"
