"""The exercises of chapters 09 and 10: shift, other index sets, failures. NumPy alone."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from bn_helpers.checks.engine import NOTHING_WRONG, Exercise, Mistake, Question, Wrong

Trials = list[tuple[Any, ...]]

# --- 09 ---------------------------------------------------------------------------------------

TOYS = "09, Guess before you run"
MOMENTS = "09, First measure: the distribution of a layer's inputs"


def _drift(seen: np.ndarray, wrong: Wrong = NOTHING_WRONG) -> tuple[float, float]:
    axis = 1 if "axis" in wrong else 0

    def shift(before: np.ndarray, after: np.ndarray, unit: np.ndarray) -> np.ndarray:
        ddof = 1 if "m - 1" in wrong else 0
        old, new = (a.std(axis, ddof=ddof) for a in (before, after))
        if "unit after" in wrong:
            unit = after
        apart = after.mean(axis) - before.mean(axis)
        wider = new**2 - old**2 if "variances" in wrong else new - old
        if "means alone" in wrong:
            wider = 0 * wider
        far = np.abs(apart) + np.abs(wider) if "added" in wrong else np.hypot(apart, wider)
        if "examples" in wrong:
            far = np.sqrt(((after - before) ** 2).mean(axis))
        if "no unit" in wrong:
            return far
        return far / unit.std(axis, ddof=ddof) ** (2 if "variance as unit" in wrong else 1)

    first = seen[0]
    steps = [
        shift(before, after, first if "first's unit" in wrong else before)
        for before, after in pairwise(seen)
    ]
    middle = np.mean if "mean of units" in wrong else np.median
    jitter = np.sum(steps, axis=0) if "sum" in wrong else np.mean(steps, axis=0)
    run = np.sum(steps, axis=0) if "path" in wrong else shift(first, seen[-1], first)
    return float(middle(jitter)), float(middle(run))


def _activations() -> Trials:
    rng = np.random.default_rng(9)
    trials = []
    for looks, examples, units in ((5, 11, 6), (4, 8, 5)):
        spread = rng.uniform(0.5, 2, (looks, 1, units)) * rng.uniform(0.8, 3, units)
        centre = np.cumsum(rng.normal(0.4, 1, (looks, 1, units)), axis=0)
        noise = rng.normal(size=(examples, units)) + 0.3 * rng.normal(size=(looks, examples, units))
        trials.append((centre + spread * noise,))
    return trials


drift = Exercise(
    "drift",
    lambda wrong: partial(_drift, wrong=wrong),
    _activations,
    ["jitter", "drift"],
    {
        "no unit": Mistake("the shift is not divided by the deviation before", TOYS),
        "variance as unit": Mistake("the unit is the variance; it is its root", TOYS),
        "unit after": Mistake("the unit is the deviation after; it is the one before", TOYS),
        "first's unit": Mistake(
            "all steps are in units of the first look; each has the look before it", MOMENTS
        ),
        "means alone": Mistake("a change of width is a shift, too: B of the toy", TOYS),
        "variances": Mistake("the variances are compared; the deviations have the unit", TOYS),
        "added": Mistake("the two differences are added; they are sides of a right angle", TOYS),
        "m - 1": Mistake("the deviations divide by m − 1; BN's divide by m", TOYS),
        "examples": Mistake(
            "each example is compared with itself, which is the third measure", TOYS
        ),
        "axis": Mistake(
            "the moments are taken over the units of an example; they are a unit's over the "
            "examples",
            MOMENTS,
        ),
        "mean of units": Mistake("the units' mean is taken; asked is their median", MOMENTS),
        "sum": Mistake("the steps are added up; asked is their mean", MOMENTS),
        "path": Mistake(
            "the drift is the sum of all steps; asked is the first look against the last",
            MOMENTS,
        ),
    },
    [
        "Write a function of two looks first: each unit's shift from one to the other, (units,).",
        "For one unit: the hypotenuse of the means' difference and the deviations', over the old.",
        "The jitter is that over neighbouring looks, mean over steps; the drift over seen[0] and "
        "seen[-1]. Then the median over units.",
    ],
)

shifted = Question(
    "shifted",
    {"moments": 3, "distribution": 3, "examples": 13**0.5, "examples after BN": 2},
    {
        "mean not divided": ("moments", 6, Mistake("the unit is the deviation before, 2", TOYS)),
        "by the variance": ("moments", 1.5, Mistake("the unit is the deviation, not 4", TOYS)),
        "mean missed": ("moments", 0, Mistake("the width is the same, the mean is not", TOYS)),
        "not ranked": (
            "distribution",
            13**0.5,
            Mistake("each value goes with the one of its rank, not of its example", TOYS),
        ),
        "ranks not divided": (
            "distribution",
            6,
            Mistake("the unit is the deviation before, 2", TOYS),
        ),
        "mean distance": (
            "examples",
            3,
            Mistake("the distances are averaged; their squares are, and then the root", TOYS),
        ),
        "examples not divided": (
            "examples",
            2 * 13**0.5,
            Mistake("the unit is the deviation before, 2", TOYS),
        ),
        "nothing left": (
            "examples after BN",
            0,
            Mistake("BN takes out mean and width; the order stays reversed", TOYS),
        ),
        "as before": (
            "examples after BN",
            13**0.5,
            Mistake("BN takes the common motion out; less is left", TOYS),
        ),
        "in old units": (
            "examples after BN",
            4,
            Mistake("after BN the deviation is 1: divide by 2 before you compare", TOYS),
        ),
    },
    [
        "Mean and standard deviation of the new row first, then the two rows sorted.",
        "Sorted, each value has moved by 6. Each against itself: 12, 8, 6, 4, 0.",
        "After BN both rows have mean 0 and deviation 1, and one is the other backwards: as in D.",
    ],
)

# --- 10 ---------------------------------------------------------------------------------------

SETS = "10, One idea, other index sets"
SMALL = "10, Small batches"
MIXED = "10, Batches that are not mixed"
DOMAIN = "10, Another domain"


def _group_norm(x: np.ndarray, groups: int, eps: float, wrong: Wrong = NOTHING_WRONG) -> np.ndarray:
    N, C, H, W = x.shape
    if "size" in wrong:
        groups = C // groups
    if "layer" in wrong:
        groups = 1
    if "instance" in wrong:
        groups = C
    split = (N, C // groups, groups, H, W) if "dealt" in wrong else (N, groups, C // groups, H, W)
    rows = x.reshape(split)
    axes: tuple[int, ...] = (1, 3, 4) if "dealt" in wrong else (2, 3, 4)
    if "batch" in wrong:
        axes = (0, *axes)
    if "places" in wrong:
        axes = axes[:-2]
    mean = rows.mean(axes, keepdims=True)
    var = rows.var(axes, keepdims=True, ddof=1 if "m - 1" in wrong else 0)
    std = np.sqrt(var) + eps if "eps outside" in wrong else np.sqrt(var + eps)
    return ((rows - mean) / std).reshape(x.shape)


def _maps() -> Trials:
    rng = np.random.default_rng(10)
    return [
        (rng.normal(0, 2, shape) + rng.normal(0, 3, (1, shape[1], 1, 1)), groups, 0.05)
        for shape, groups in (((3, 6, 3, 2), 2), ((2, 12, 2, 2), 3))
    ]


group_norm = Exercise(
    "group_norm",
    lambda wrong: partial(_group_norm, wrong=wrong),
    _maps,
    ["y"],
    {
        "layer": Mistake("one mean serves all channels of an example: that is layer norm", SETS),
        "instance": Mistake("each channel has its own mean: that is instance norm", SETS),
        "batch": Mistake("the examples share their statistics; each has its own", SETS),
        "places": Mistake("each place has statistics of its own; a group's places share", SETS),
        "dealt": Mistake(
            "the channels are dealt out in turn (0, 2, 4 …); a group's channels are neighbours",
            SETS,
        ),
        "size": Mistake(
            "`groups` is taken for the number of channels in a group; it is how many there are",
            SETS,
        ),
        "m - 1": Mistake("the variance divides by one less than the set's size", SETS),
        "eps outside": Mistake("ε is added to the root; it belongs under it", SETS),
    },
    [
        "Which entries share a mean? Give them axes of their own: five axes in place of four.",
        "x.reshape(N, groups, C // groups, H, W) puts neighbouring channels into one group.",
        "Mean and variance over axes (2, 3, 4) with keepdims=True, then back to x.shape.",
    ],
)


def _pair_slope(
    a: np.ndarray, b: np.ndarray, eps: float, wrong: Wrong = NOTHING_WRONG
) -> np.ndarray:
    half = (a - b) if "whole gap" in wrong else (a - b) / 2
    var = 2 * half**2 if "m - 1" in wrong else half**2
    inside = 0 * var + eps**2 if "eps squared" in wrong else eps
    std = np.sqrt(var + inside)
    if "constants" in wrong:
        return 1 / std
    if "mean alone" in wrong:
        return 1 / (2 * std)
    if "std alone" in wrong:
        return 1 / std - half**2 / (2 * std**3)
    if "no eps" in wrong:
        return 0 * std
    power = 1 if "no cube" in wrong else 3
    return inside / std**power / (1 if "by half" in wrong else 2)


def _pairs() -> Trials:
    rng = np.random.default_rng(11)
    return [(rng.normal(0, 1, 7), rng.normal(0, 1, 7), eps) for eps in (0.3, 0.07)]


pair_slope = Exercise(
    "pair_slope",
    lambda wrong: partial(_pair_slope, wrong=wrong),
    _pairs,
    ["the slope"],
    {
        "constants": Mistake(
            "mean and deviation are held fixed; both move with a",
            "10, Small batches",
        ),
        "mean alone": Mistake("the mean moves, but the deviation is held fixed", SMALL),
        "std alone": Mistake("the deviation moves, but the mean is held fixed", SMALL),
        "no eps": Mistake("without ε the two values are ±1 and nothing moves; here is an ε", SMALL),
        "by half": Mistake("this is the slope by half the gap; a moves that by half", SMALL),
        "whole gap": Mistake("x̂ has half the gap above the root; the mean lies between", SMALL),
        "m - 1": Mistake("the variance divides by m − 1; that is 1 here in place of 2", SMALL),
        "eps squared": Mistake("ε is squared; it is added to the variance as it is", SMALL),
        "no cube": Mistake("the root's third power divides: (h² + ε) to the power 3/2", SMALL),
    },
    [
        "Write h for half the gap, (a − b)/2. The mean lies between a and b: what is a − μ?",
        "x̂ = h / √(h² + ε). Differentiate that by h, then think of how h moves with a.",
        "By h it is ε / (h² + ε) to the power 3/2, and a step of a moves h by half of it.",
    ],
)

repaired = Question(
    "repaired",
    {
        "dimmed": True,
        "inverted": False,
        "two values": False,
        "two classes a batch": False,
        "two classes in the statistics": True,
    },
    {
        "dimmed, no": (
            "dimmed",
            False,
            Mistake("one factor for all images is what new statistics undo exactly", DOMAIN),
        ),
        "inverted, yes": (
            "inverted",
            True,
            Mistake("new statistics bring the right moments; the sign stays wrong", DOMAIN),
        ),
        "two values, yes": (
            "two values",
            True,
            Mistake(
                "what fails at m = 2 is training; the stored statistics are not to blame", SMALL
            ),
        ),
        "company, yes": (
            "two classes a batch",
            True,
            Mistake("these weights count on the company that they were trained in", MIXED),
        ),
        "statistics, no": (
            "two classes in the statistics",
            False,
            Mistake("nothing but the statistics is wrong here, and they are replaced", DOMAIN),
        ),
    },
    [
        "Ask of each: is it the stored statistics that are wrong, or the weights?",
        "Two are wrong in the statistics alone. The chapter prints accuracies for all five.",
    ],
)
