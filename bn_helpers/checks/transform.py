"""The exercises of chapter 02: the transform. NumPy alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bn_helpers.checks.engine import NOTHING_WRONG, Exercise, Mistake, Wrong

STEPS = "02, Algorithm 1, line by line"


def _forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, wrong: Wrong = NOTHING_WRONG
) -> np.ndarray:
    axis = 1 if "axis" in wrong else None if "all" in wrong else 0
    keep = axis is not None
    m = x.size if axis is None else x.shape[axis]
    mean = np.median(x, axis=0) if "median" in wrong else x.mean(axis=axis, keepdims=keep)
    centred = x if "not centred" in wrong else x - mean
    around = x if "second moment" in wrong else x - mean
    var = (around**2).sum(axis=axis, keepdims=keep) / (m - 1 if "m - 1" in wrong else m)
    if "sum" in wrong:
        var = var * m
    if "absolute" in wrong:
        var = np.abs(around).mean(axis=axis, keepdims=keep) ** 2
    inside = 0 if {"no eps", "eps outside"} & wrong else eps**2 if "eps squared" in wrong else eps
    std = np.sqrt(var + inside) + (eps if "eps outside" in wrong else 0)
    if "no root" in wrong:
        std = var + inside
    x_hat = centred * std if "times" in wrong else centred / std
    gamma, beta = (beta, gamma) if "swapped" in wrong else (gamma, beta)
    if "no gamma" in wrong:
        gamma = np.ones_like(gamma)
    if "no beta" in wrong:
        beta = np.zeros_like(beta)
    if "minus beta" in wrong:
        beta = -beta
    return gamma * (x_hat + beta) if "beta inside" in wrong else gamma * x_hat + beta


def _batches() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(2)
    spread = np.array([0.3, 2.0, 5.0])
    shapes = ((6, 3), (9, 3))
    return [
        (
            rng.normal(size=shape) * spread + rng.normal(size=3),
            rng.uniform(1.5, 3, size=3),
            rng.normal(size=3),
            0.05,
        )
        for shape in shapes
    ]


def _far_away(dtype: np.dtype[Any]) -> list[tuple[Any, ...]]:
    """Whole numbers that the dtype holds exactly, far from zero."""
    mean = {8: 1e9, 4: 3e4, 2: 200}[dtype.itemsize]
    x = mean + np.array([[0.0, 3], [2, 1], [4, 5], [6, 2], [3, 4]])
    return [(x, np.array([1.5, 2.0]), np.array([0.5, -1.0]), 1e-5)]


forward = Exercise(
    "forward",
    lambda wrong: partial(_forward, wrong=wrong),
    _batches,
    ["y"],
    {
        "axis": Mistake(
            "the statistics are taken over the features of an example (that is layer "
            "normalization); BN takes them over the examples of a feature",
            STEPS,
        ),
        "all": Mistake(
            "one mean and one variance serve all features; each feature has its own", STEPS
        ),
        "median": Mistake("μ is a mean; this is what comes out with the median", STEPS),
        "not centred": Mistake("the mean is not subtracted before the division", STEPS),
        "second moment": Mistake(
            "the variance is taken around 0; it is the mean square of x − μ", STEPS
        ),
        "m - 1": Mistake("the variance divides by m − 1; Algorithm 1 divides by m", STEPS),
        "sum": Mistake("the squares are summed and not divided by m", STEPS),
        "absolute": Mistake(
            "the spread is the mean of |x − μ|; the variance is the mean of its square", STEPS
        ),
        "no eps": Mistake("ε is not used", "02, What ε does"),
        "eps outside": Mistake(
            "ε is added to the root; it belongs under it, beside the variance", STEPS
        ),
        "eps squared": Mistake("ε is squared; it is added to the variance as it is", STEPS),
        "no root": Mistake("the division is by the variance; it is by its root", STEPS),
        "times": Mistake("x − μ is multiplied by the root; it is divided by it", STEPS),
        "swapped": Mistake("γ and β have changed places", STEPS),
        "no gamma": Mistake("γ is not used", STEPS),
        "no beta": Mistake("β is not used", STEPS),
        "minus beta": Mistake("β is subtracted; it is added", STEPS),
        "beta inside": Mistake("β is added before γ multiplies; γ multiplies x̂ alone", STEPS),
    },
    [
        "Four lines, in Algorithm 1's order: mean, variance, x̂, y. Which axis is the batch's?",
        "x has shape (N, C); a mean over axis 0 has shape (C,), and NumPy stretches it over x.",
        "The variance is the mean over axis 0 of (x − mean) squared; ε joins it under the root.",
    ],
    hard=_far_away,
    hard_sentence=Mistake(
        "Where the mean is large beside the spread, E[x²] − E[x]² leaves no digit",
        "02, Computing the variance",
    ),
)
