"""The exercises of chapter 03: the backward pass. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from bn_helpers.checks.engine import (
    NOTHING_WRONG,
    RIGHT,
    TOLERANCE,
    TOLERANCES,
    Exercise,
    Mistake,
    Question,
    Verdict,
    Wrong,
)

RULES = "03, Three rules take you back"
WAYS = "03, Two ways to the input"
SIX = "03, The paper's six equations"
LINE = "03, dx in one line"
NUMERICAL = "03, The numerical check, done properly"
INVARIANTS = "03, Three invariants"
EPS = 0.05

Gradients = tuple[np.ndarray, np.ndarray, np.ndarray]


def _values(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> SimpleNamespace:
    """Chapter 03's ten lines forward, by name."""
    v = SimpleNamespace(x=x, gamma=gamma, beta=beta)
    v.mean = x.sum(0) / len(x)
    v.centred = x - v.mean
    v.squared = v.centred**2
    v.var = v.squared.sum(0) / len(x)
    v.var_eps = v.var + EPS
    v.std = v.var_eps**0.5
    v.inv_std = 1 / v.std
    v.x_hat = v.centred * v.inv_std
    v.scaled = v.x_hat * gamma
    v.y = v.scaled + beta
    return v


def _batches() -> list[tuple[np.ndarray, SimpleNamespace]]:
    """Two batches, as dy and all values of the forward pass."""
    rng = np.random.default_rng(3)
    batches = []
    for shape in ((6, 3), (9, 4)):
        spread = np.array([0.5, 2.0, 4.0, 0.8])[: shape[1]]
        x = rng.normal(1, 1, shape) * spread
        gamma = rng.uniform(1.5, 3, shape[1]) * np.array([1, -1, 1, -1])[: shape[1]]
        batches.append((rng.normal(0.5, 1, shape), _values(x, gamma, rng.normal(size=shape[1]))))
    return batches


# Exercise 3.1: all lines back


def _lines(dy: np.ndarray, v: SimpleNamespace, wrong: Wrong = NOTHING_WRONG) -> dict[str, Any]:
    m = len(dy)
    g = SimpleNamespace(beta=dy.mean(0) if "beta averaged" in wrong else dy.sum(0))
    g.scaled = dy * v.gamma if "scaled by gamma" in wrong else dy
    factor = {"gamma without x_hat": 1, "gamma with x": v.x, "gamma with centred": v.centred}
    of_gamma = g.scaled * next((factor[w] for w in factor if w in wrong), v.x_hat)
    g.gamma = of_gamma.mean(0) if "gamma averaged" in wrong else of_gamma.sum(0)
    g.x_hat = g.scaled * (1 if "x_hat without gamma" in wrong else v.gamma)
    other = v.x_hat if "inv_std with x_hat" in wrong else v.centred
    of_inv_std = g.x_hat * other
    g.inv_std = of_inv_std if "inv_std not summed" in wrong else of_inv_std.sum(0)
    power = 1 if "one power" in wrong else 2
    inv_std = v.var**-0.5 if "reciprocal without eps" in wrong else v.inv_std
    g.std = g.inv_std * inv_std**power * (1 if "sign of the reciprocal" in wrong else -1)
    of_root = g.std * (1 if "half" in wrong else 0.5)
    root = v.var**0.5 if "root without eps" in wrong else v.std
    g.var_eps = of_root * root if "root multiplied" in wrong else of_root / root
    g.var = g.var_eps
    g.squared = np.broadcast_to(g.var / (1 if "squared without m" in wrong else m), dy.shape)
    own_way = g.x_hat * (1 if "inv_std forgotten" in wrong else v.inv_std)
    two = 1 if "two" in wrong else 2
    by_variance = g.squared * two * (v.x if "x for centred" in wrong else v.centred)
    g.centred = own_way + by_variance
    if "only x_hat's path" in wrong:
        g.centred = own_way
    if "only squared's path" in wrong:
        g.centred = by_variance
    back = g.centred.mean(0) if "mean averaged" in wrong else g.centred.sum(0)
    g.mean = back if "sign of the mean" in wrong else -back
    g.x = g.centred + g.mean / (1 if "x without m" in wrong else m)
    if "x without the mean" in wrong:
        g.x = g.centred
    if "x minus the mean" in wrong:
        g.x = g.centred - g.mean / m
    return vars(g)


NAMES = tuple(_lines(*_batches()[0]))


def _written(attempt: Callable[..., Any], dy: np.ndarray, v: SimpleNamespace) -> Any:
    """What an attempt returns, line by line: a dictionary, with or without d."""
    found = attempt(dy, v)
    if isinstance(found, SimpleNamespace):
        raise TypeError("return a dictionary: vars(g) makes one of g")
    if not isinstance(found, Mapping):
        return dict.fromkeys(NAMES, found)
    lines = {name: found.get(name, found.get(f"d{name}")) for name in NAMES}
    squared = np.shape(lines["squared"])
    if squared in (dy.shape[1:], (1, *dy.shape[1:])):  # one row for all examples
        lines["squared"] = np.broadcast_to(lines["squared"], dy.shape)
    return {name: value for name, value in lines.items() if value is not None}


class Lines(Exercise):
    """Judges each line by itself: exact, approximate or off by how much."""

    def _first_difference(
        self, results: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]
    ) -> str | None:
        complaint = super()._first_difference(results, truth)
        if complaint is None or truth is not self.known(NOTHING_WRONG):
            return complaint
        rows = [f"  {name:<8} {_said(results, truth, name)}" for name in NAMES]
        first = NAMES.index(complaint.split()[0].split("[")[0])
        rows[first] += "  ← the first wrong line"
        return "\n".join([complaint, *rows])

    def _hard(self, attempt: Any, results: Sequence[dict[str, Any]]) -> Verdict:
        said = [_said(results, self.known(NOTHING_WRONG), name) for name in NAMES]
        counts = [f"{said.count(word)} {word}" for word in ("exact", "approximate") if word in said]
        words = f"Right. Of {len(NAMES)} lines: {', '.join(counts)}."
        if "approximate" in said:
            words += " Approximate is right too: equal up to rounding."
        return Verdict(RIGHT, words)


def _said(results: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]], name: str) -> str:
    """One line's verdict over all calls."""
    error, tolerance = 0.0, TOLERANCE
    for result, right in zip(results, truth, strict=True):
        found = result.get(name)
        if found is None or found is ...:
            return "missing"
        if isinstance(found, str):
            return found
        expected = np.squeeze(right[name])
        if np.squeeze(found).shape != expected.shape:
            return f"has shape {found.shape}, expected {right[name].shape}"
        error = max(error, np.abs(np.squeeze(found) - expected).max() / np.abs(expected).max())
        tolerance = TOLERANCES.get(found.dtype, TOLERANCE)
    if error == 0:
        return "exact"
    return "approximate" if error <= tolerance else f"off by {max(error, 0.01):.0%}"


backward_lines = Lines(
    "backward_lines",
    lambda wrong: partial(_lines, wrong=wrong),
    _batches,
    ["a dictionary name → gradient"],
    {
        "beta averaged": Mistake(
            "the gradient of β is averaged; β is added to each output, so it gets the sum", RULES
        ),
        "scaled by gamma": Mistake(
            "γ is multiplied in at `scaled` already; between `scaled` and y only β is added", RULES
        ),
        "gamma averaged": Mistake(
            "the gradient of γ is averaged; γ serves the whole batch, so it gets the sum", RULES
        ),
        "gamma without x_hat": Mistake(
            "the gradient of γ lacks the other factor of its product, x̂", RULES
        ),
        "gamma with x": Mistake("the other factor of γ's product is x̂, not x", RULES),
        "gamma with centred": Mistake(
            "the other factor of γ's product is x̂, not the centred values", RULES
        ),
        "x_hat without gamma": Mistake(
            "the gradient of x̂ lacks the other factor of its product, γ", RULES
        ),
        "inv_std with x_hat": Mistake(
            "x̂ is `centred` times `inv_std`: the other factor for `inv_std` is `centred`", RULES
        ),
        "inv_std not summed": Mistake(
            "`inv_std` is one number for the whole batch; what comes back has to be summed", RULES
        ),
        "sign of the reciprocal": Mistake(
            "the derivative of 1/s is −1/s², here without its minus", RULES
        ),
        "one power": Mistake("the derivative of 1/s is −1/s², here −1/s", RULES),
        "half": Mistake("the derivative of a root is 1 / (2 · root), here without the 2", RULES),
        "root multiplied": Mistake(
            "the derivative of a root divides by the root, here it multiplies", RULES
        ),
        "reciprocal without eps": Mistake(
            "`inv_std` is 1/√(σ² + ε): its derivative has `var_eps`, here `var` stands in it", RULES
        ),
        "root without eps": Mistake(
            "`std` is the root of `var_eps`: its derivative has ε in it, here it is that of √σ²",
            RULES,
        ),
        "squared without m": Mistake(
            "the variance is a sum over m: its gradient reaches each square divided by m", RULES
        ),
        "inv_std forgotten": Mistake(
            "x̂ is `centred` times `inv_std`: the factor `inv_std` is missing", RULES
        ),
        "two": Mistake("the derivative of c² is 2c, here without the 2", RULES),
        "x for centred": Mistake("the derivative of `centred`² is 2 `centred`, here with x", RULES),
        "only x_hat's path": Mistake(
            "`centred` is used twice and gets back one part only: the way through the variance is "
            "missing",
            WAYS,
        ),
        "only squared's path": Mistake(
            "`centred` is used twice and gets back one part only: the way through x̂ is missing",
            WAYS,
        ),
        "mean averaged": Mistake(
            "the gradient of the mean is averaged here; it is subtracted from each x, so it gets "
            "the sum, and 1/m comes in the next line",
            RULES,
        ),
        "sign of the mean": Mistake(
            "the mean is subtracted: its gradient gets a minus, here missing", RULES
        ),
        "x without the mean": Mistake(
            "dx is what comes out when the mean is treated as a constant", WAYS
        ),
        "x without m": Mistake(
            "the mean is a sum over m: its gradient reaches each x divided by m", WAYS
        ),
        "x minus the mean": Mistake(
            "what comes back to x on its two paths is added; here one part is subtracted", WAYS
        ),
    },
    [
        "Go through `forward_lines` from its last line to its first. For each line ask: which "
        "values does it use, and which of the three rules holds for each of them?",
        "Where a value of shape (C,) met one of shape (N, C), its gradient is a sum over axis 0. "
        "1/s has the derivative −1/s², a root 1 / (2 · root).",
        "`centred` and `x` are each used in two lines: their gradients are sums of two parts. The "
        "part through a mean over the batch is divided by m.",
    ],
    play=_written,
    keeps_inputs=False,  # v is no array; what it holds is a copy
)


# Exercise 3.2: the backward pass in one line


def _backward(
    dy: np.ndarray,
    x_hat: np.ndarray,
    gamma: np.ndarray,
    inv_std: np.ndarray,
    wrong: Wrong = NOTHING_WRONG,
) -> Gradients:
    dx = _scale(len(dy), gamma, inv_std, wrong) * _bracket(dy, x_hat, wrong)
    dgamma = (dy * x_hat).sum(0)
    if "dgamma without x_hat" in wrong:
        dgamma = dy.sum(0)
    if "dgamma with centred" in wrong:
        dgamma = dgamma / inv_std
    dbeta = dy.sum(0)
    dgamma = dgamma * (gamma if "dgamma by gamma" in wrong else 1)
    dbeta = dbeta * (gamma if "dbeta by gamma" in wrong else 1)
    dgamma = dgamma / (len(dy) if "dgamma averaged" in wrong else 1)
    dbeta = dbeta / (len(dy) if "dbeta averaged" in wrong else 1)
    return (dx, dbeta, dgamma) if "swapped" in wrong else (dx, dgamma, dbeta)


def _bracket(dy: np.ndarray, x_hat: np.ndarray, wrong: Wrong) -> np.ndarray:
    """dy − mean(dy) − x̂ mean(dy · x̂), before γ and inv_std."""
    m = len(dy) - 1 if "m - 1" in wrong else len(dy)
    product = dy * x_hat
    axis = None if "whole batch" in wrong else 0
    m = m * dy.shape[1] if axis is None else m
    mean_dy = dy.sum(axis) / (1 if "sum of dy" in wrong else m)
    mean_product = product.sum(axis) / (1 if "sum of dy x_hat" in wrong else m)
    if "each for itself" in wrong:
        mean_product = product
    along = mean_product if "without x_hat" in wrong else x_hat * mean_product
    constant = "both detached" in wrong
    sign = -1 if "sign of the mean" in wrong else 1
    if not (constant or "mean detached" in wrong):
        dy = dy - sign * mean_dy
    sign = -1 if "sign of the variance" in wrong else 1
    if not (constant or "variance detached" in wrong):
        dy = dy - sign * along
    return dy


def _scale(m: int, gamma: np.ndarray, inv_std: np.ndarray, wrong: Wrong) -> np.ndarray:
    scale = np.ones_like(gamma) if "no gamma" in wrong else gamma
    scale = gamma**2 if "gamma twice" in wrong else scale
    power = -1 if "std" in wrong else 2 if "inv_std squared" in wrong else 1
    scale = scale * inv_std ** (0 if "no inv_std" in wrong else power)
    scale = scale * (m if "1/m forgotten" in wrong else 1)
    return scale / (m if "1/m twice" in wrong else 1)


def _with_dx_first(attempt: Callable[..., Any], *arguments: np.ndarray) -> Any:
    """What an attempt returns; a lone array of dy's shape is dx, and the others are missing."""
    found = attempt(*arguments)
    alone = hasattr(found, "shape") and tuple(found.shape) == arguments[0].shape
    return {"dx": found} if alone else found


def _left_behind() -> list[tuple[Any, ...]]:
    return [(dy, v.x_hat, v.gamma, v.inv_std) for dy, v in _batches()]


backward = Exercise(
    "backward",
    lambda wrong: partial(_backward, wrong=wrong),
    _left_behind,
    ["dx", "dgamma", "dbeta"],
    {
        "mean detached": Mistake(
            "dx is what comes out when the mean is treated as a constant", WAYS
        ),
        "variance detached": Mistake(
            "dx is what comes out when the variance is treated as a constant", WAYS
        ),
        "both detached": Mistake(
            "dx is what comes out when mean and variance are treated as constants, as under "
            "no_grad",
            WAYS,
        ),
        "no gamma": Mistake("γ is left out of dx", SIX),
        "gamma twice": Mistake(
            "dx has the factor γ twice; once it stands before the bracket, no more is inside", LINE
        ),
        "no inv_std": Mistake("`inv_std` is left out of dx", SIX),
        "inv_std squared": Mistake(
            "dx is divided by the variance; it is divided by its root, `inv_std` once", LINE
        ),
        "std": Mistake(
            "dx is divided by `inv_std`; that is 1/√(σ² + ε) already, so it multiplies", LINE
        ),
        "sum of dy": Mistake("the sum of dy is subtracted; it is its mean over the batch", LINE),
        "sum of dy x_hat": Mistake(
            "x̂ is multiplied by the sum of dy · x̂; it is by its mean over the batch", LINE
        ),
        "m - 1": Mistake("the means divide by m − 1; Algorithm 1 divides by m", LINE),
        "each for itself": Mistake(
            "each example pays for its own dy · x̂; it is the mean over the batch", LINE
        ),
        "whole batch": Mistake(
            "the means are taken over all features at once; each feature has its own", LINE
        ),
        "without x_hat": Mistake(
            "the mean of dy · x̂ is subtracted as it is; it is multiplied by x̂ first", LINE
        ),
        "sign of the mean": Mistake("the mean of dy is added; it is subtracted", LINE),
        "sign of the variance": Mistake(
            "the variance's term is added; it is subtracted: its derivative −½s³ is negative", SIX
        ),
        "1/m forgotten": Mistake("dx is m times too large: a 1/m is missing", LINE),
        "1/m twice": Mistake("dx is m times too small: 1/m is there once too often", LINE),
        "dgamma without x_hat": Mistake("the gradient of γ lacks the factor x̂", SIX),
        "dgamma with centred": Mistake("the gradient of γ has x − μ where x̂ belongs", SIX),
        "dgamma averaged": Mistake(
            "the gradient of γ is averaged over the batch; γ collects the sum", SIX
        ),
        "dbeta averaged": Mistake(
            "the gradient of β is averaged over the batch; β collects the sum", SIX
        ),
        "dgamma by gamma": Mistake("the gradient of γ is multiplied by γ", SIX),
        "dbeta by gamma": Mistake("the gradient of β is multiplied by γ", SIX),
        "swapped": Mistake("the gradients of γ and β have changed places", SIX),
    },
    [
        "Equation 4 has three terms: directly, through the variance, through the mean. "
        "dγ and dβ are equations 5 and 6, sums over the batch.",
        "(x − μ) is `x_hat / inv_std`: put it into equations 2 and 4. Then γ and `inv_std` can be "
        "taken out of all three terms of dx.",
        "In the bracket three things are left: dy; a mean over the batch; and `x_hat` times "
        "another mean over the batch, one in which `x_hat` stands too.",
    ],
    play=_with_dx_first,
)


# Exercise 3.3: a numerical gradient

WAVE = 60.0


class Wave:
    """A strongly curved function of an array, which remembers where it was asked."""

    def __init__(self, weights: np.ndarray, x: np.ndarray) -> None:
        self.weights, self.x = weights, np.array(x)
        self.moves: list[float] = []
        self.calls = 0
        self.digits = 15

    def __call__(self, z: Any) -> Any:
        self.calls += 1
        z = np.asarray(z)
        moves = np.abs(z - self.x)
        self.moves += moves[moves > 0].tolist()
        if z.dtype.kind == "f":
            self.digits = min(self.digits, np.finfo(z.dtype).precision)
        return (self.weights * np.sin(WAVE * z)).sum()


def _measured(
    attempt: Callable[..., Any], weights: np.ndarray, x: np.ndarray, *h: float
) -> dict[str, Any]:
    """An attempt's gradient, what it did to x, and how it asked the function."""
    f = Wave(weights, x)
    gradient = attempt(f, x, *h)
    left = np.round((np.asarray(x, dtype=float) - f.x) / 1e-5, 3)  # rounding is no change
    step = float(np.median(f.moves)) if f.moves else 0.0
    follows = not h or 0.6 < max(f.moves, default=0) / h[0] < 2.5  # 2: a formula of five points
    return {
        "gradient": gradient,
        "what is left in x": left,
        "step from h (1: yes)": float(follows),
        "step": step,
        "digits": f.digits,
        "calls": f.calls,
    }


class Numerical(Exercise):
    """Judges the gradient and x; how the function was asked only helps to name the mistake."""

    def known(self, wrong: Wrong) -> list[dict[str, Any]]:
        judged = ("gradient", "what is left in x", "step from h (1: yes)")
        return [{name: known[name] for name in judged} for known in super().known(wrong)]

    def _named(self, results: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        if not results[0].get("calls"):
            return ()
        if named := super()._named(results):
            return named
        step, digits = (results[0].get(name) for name in ("step", "digits"))
        if step is None or digits is None or not step > 0:
            return ()
        if digits < 10:
            return ("float32",)
        return ("tiny step",) if step < 1e-8 else ("large step",) if step > 3e-4 else ()


def _numerical(f: Wave, x: np.ndarray, h: float = 1e-5, wrong: Wrong = NOTHING_WRONG) -> np.ndarray:
    fixed = {"tiny step": 1e-13, "large step": 0.1, "h ignored": 1e-5}
    h = next((fixed[switch] for switch in fixed if switch in wrong), h)
    start = x.astype(np.float32) if "float32" in wrong else x
    gradient = np.zeros(x.shape)
    step = np.zeros_like(start)
    for i in np.ndindex(x.shape):
        if "not reset" not in wrong:
            step[...] = 0
        step[... if "all at once" in wrong else i] = h
        above = f(start if {"one-sided, behind", "one point"} & wrong else start + step)
        ahead_only = {"one-sided", "one-sided by 2h", "one point"} & wrong
        below = f(start if ahead_only else start - step)
        difference = below - above if "sign" in wrong else above - below
        width = h if {"one-sided", "one-sided, behind", "no factor 2"} & wrong else 2 * h
        if "precedence" in wrong:
            gradient[i] = difference / 2 * h
        else:
            gradient[i] = difference if "not divided" in wrong else difference / width
    if "not put back" in wrong:
        x -= h
    return gradient


def _waves() -> list[tuple[Any, ...]]:
    """Two calls with h as it is in the learner's first line, and one with another."""
    rng = np.random.default_rng(33)
    waves = [(rng.normal(size=shape), rng.normal(size=shape)) for shape in ((4,), (2, 3), (3,))]
    return [*waves[:2], (*waves[2], 2e-6)]


numerical_gradient = Numerical(
    "numerical_gradient",
    lambda wrong: partial(_numerical, wrong=wrong),
    _waves,
    ["gradient"],
    {
        "one-sided": Mistake(
            "one side only, (f(x + h) − f(x)) / h: its error falls as h, the central difference's "
            "as h²",
            NUMERICAL,
        ),
        "one-sided, behind": Mistake(
            "one side only, (f(x) − f(x − h)) / h: its error falls as h, the central difference's "
            "as h²",
            NUMERICAL,
        ),
        "one-sided by 2h": Mistake(
            "one side is f(x) itself while the division is by 2h; the other point is x − h (from "
            "x + h that is 2h back)",
            NUMERICAL,
        ),
        "no factor 2": Mistake(
            "from x − h to x + h it is 2h; here the difference is divided by h", NUMERICAL
        ),
        "not divided": Mistake("the difference is not divided by 2h", NUMERICAL),
        "precedence": Mistake(
            "`/ 2 * h` divides by 2 and multiplies by h; write `/ (2 * h)`", NUMERICAL
        ),
        "sign": Mistake("f(x − h) − f(x + h): the difference is the wrong way round", NUMERICAL),
        "all at once": Mistake(
            "all entries of x are moved at once; each entry is moved by itself", NUMERICAL
        ),
        "not reset": Mistake(
            "the step of the entry before is still there, so ever more entries are moved; put "
            "each one back, or make the zeros inside the loop",
            NUMERICAL,
        ),
        "one point": Mistake(
            "f gets the same point twice, so the difference is 0; `up = x` is a second name for "
            "x, and a copy is `x.copy()`",
            NUMERICAL,
        ),
        "h ignored": Mistake(
            "h is not used: the step is another than the one that was asked for", NUMERICAL
        ),
        "not put back": Mistake(
            "x is not as it was: an entry that has been moved has to be put back", NUMERICAL
        ),
        "tiny step": Mistake(
            "the step is so small that the difference is mostly rounding", NUMERICAL
        ),
        "large step": Mistake("the step is so large that the function bends on the way", NUMERICAL),
        "float32": Mistake("float32 has too few digits to subtract; use float64", NUMERICAL),
    },
    [
        "One entry of x at a time: two calls of f, then back to where it was. "
        "`np.ndindex(x.shape)` runs over all entries, whatever the shape.",
        "Make an array of zeros like x, put h into one place, and call f at x plus and x minus "
        "this array.",
        "From x − h to x + h is a way of 2h, so that is what the difference is divided by.",
    ],
    play=_measured,
    keeps_inputs=False,  # here, up to rounding: "what is left in x"
)


# Exercise 3.4: which invariant notices which bug

detectors = Question(
    "detectors",
    {"mean detached": "sum", "wrong sign": "x_hat", "gamma left out": "neither"},
    {
        "the mean and x_hat": (
            "mean detached",
            "x_hat",
            Mistake(
                "a constant that stays in dx adds nothing along x̂, because x̂ sums to 0",
                INVARIANTS,
            ),
        ),
        "the mean and neither": (
            "mean detached",
            "neither",
            Mistake(
                "add up this dx over the batch, and ask what has become of mean(dy)", INVARIANTS
            ),
        ),
        "the sign and sum": (
            "wrong sign",
            "sum",
            Mistake("x̂ sums to 0, so any multiple of it may be added without a trace", INVARIANTS),
        ),
        "the sign and neither": (
            "wrong sign",
            "neither",
            Mistake("what lies along x̂ is here not removed but doubled", INVARIANTS),
        ),
        "gamma and sum": (
            "gamma left out",
            "sum",
            Mistake("a sum that is 0 stays 0 when all its terms are divided by γ", INVARIANTS),
        ),
        "gamma and x_hat": (
            "gamma left out",
            "x_hat",
            Mistake(
                "a vector that is orthogonal to x̂ stays so when it is divided by γ", INVARIANTS
            ),
        ),
    },
    [
        "Add up each dx over the batch, on paper: which terms vanish? x̂ sums to 0.",
        "Then take the dot product of each dx with x̂. The sum of x̂² is m, nearly.",
        "One of the three bugs only changes dx by a factor. What does a factor do to a 0?",
    ],
)


# Exercise 3.5: by hand

_FIRST = "x = 1, dy = 2"

dx_by_hand = Question(
    "dx_by_hand",
    {
        _FIRST: 6,
        "x = 1, dy = 1": 2,
        "x = 1, dy = 0": -2,
        "x = 1, dy = -1": -6,
        "x = 6, dy = 3": 0,
    },
    {
        "mean": (_FIRST, 10, Mistake("the mean of dy, which is 1, is not subtracted", LINE)),
        "variance": (_FIRST, 4, Mistake("the term with x̂ is missing", LINE)),
        "both": (
            _FIRST,
            8,
            Mistake("this is γ/σ · dy, with mean and variance treated as constants", WAYS),
        ),
        "gamma": (_FIRST, 0.75, Mistake("γ = 8 is missing", LINE)),
        "no root": (
            _FIRST,
            3,
            Mistake("the division is by the variance, 4; it is by its root", LINE),
        ),
        "no division": (_FIRST, 12, Mistake("the division by σ = 2 is missing", LINE)),
        "bracket": (_FIRST, 1.5, Mistake("the factor γ/σ before the bracket is missing", LINE)),
        "sign": (_FIRST, 2, Mistake("the term with x̂ is added; it is subtracted", LINE)),
    },
    [
        "The mean is 2. What are the variance, its root and the five x̂?",
        "x̂ is −½ four times, and 2. You need two means: that of dy and that of dy · x̂.",
        "Both means are 1 and γ/σ is 4: the bracket is dy − 1 − x̂.",
    ],
)
