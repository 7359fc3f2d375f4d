"""The exercises of chapter 02: the transform. NumPy alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bn_helpers.checks import guard
from bn_helpers.checks.engine import (
    NOTHING_WRONG,
    RIGHT,
    WRONG,
    Exercise,
    Mistake,
    Question,
    Verdict,
    Wrong,
)

STEPS = "02, Algorithm 1, line by line"
UNDO = "02, What γ and β are for"
EPS = "02, What ε does"
BIAS = "02, In training mode, the bias before BN does nothing"
FACTOR = "02, BN(aWu) = BN(Wu): for which a?"
MOVED = "02, One example moves them all"
VARIANCE = "02, Computing the variance"


def _forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, wrong: Wrong = NOTHING_WRONG
) -> np.ndarray:
    axis = 1 if "axis" in wrong else None if "all" in wrong else 0
    keep = axis is not None
    m = x.size if axis is None else x.shape[axis]
    mean = np.median(x, axis=0) if "median" in wrong else x.mean(axis=axis, keepdims=keep)
    if "mean of 4" in wrong:
        mean = mean * m / 4
    centred = x if "not centred" in wrong else x - mean
    around = x if "second moment" in wrong else x - mean
    by = 4 if "variance of 4" in wrong else m - 1 if "m - 1" in wrong else m
    var = (around**2).sum(axis=axis, keepdims=keep) / (1 if "sum" in wrong else by)
    if "absolute" in wrong:
        var = np.abs(around).mean(axis=axis, keepdims=keep) ** 2
    std = _root(var, eps, wrong)
    if "range" in wrong:
        centred, std = x - x.min(axis=0), x.max(axis=0) - x.min(axis=0)
    x_hat = centred * std if "times" in wrong else centred / std
    return _scaled_and_shifted(x_hat, gamma, beta, wrong)


def _root(var: Any, eps: float, wrong: Wrong) -> Any:
    """What x − μ is divided by."""
    if "fixed eps" in wrong:
        eps = 1e-5
    inside = 0 if {"no eps", "eps outside"} & wrong else eps**2 if "eps squared" in wrong else eps
    if "eps subtracted" in wrong:
        inside = -inside
    if "no root" in wrong:
        return var + inside
    return np.sqrt(var + inside) + (eps if "eps outside" in wrong else 0)


def _scaled_and_shifted(x_hat: Any, gamma: Any, beta: Any, wrong: Wrong) -> Any:
    gamma, beta = (beta, gamma) if "swapped" in wrong else (gamma, beta)
    if "no gamma" in wrong:
        gamma = np.ones_like(gamma)
    if "divided by gamma" in wrong:
        gamma = 1 / gamma
    if "no beta" in wrong:
        beta = np.zeros_like(beta)
    if "minus beta" in wrong:
        beta = -beta
    return gamma * (x_hat + beta) if "beta inside" in wrong else gamma * x_hat + beta


def _batches() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(2)
    # In the second call a hard-wired 1e-5 is neither this ε nor none, for float32 either.
    calls = ((6, 0.3, 0.05), (9, 0.01, 3e-5))
    return [
        (
            rng.normal(size=(m, 3)) * [smallest, 2.0, 5.0] + rng.normal(size=3),
            rng.uniform(1.5, 3, size=3),
            rng.normal(size=3),
            eps,
        )
        for m, smallest, eps in calls
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
        "mean of 4": Mistake(
            "the mean divides by 4, which was the toy's m; m is the number of rows of x", STEPS
        ),
        "variance of 4": Mistake(
            "the variance divides by 4, which was the toy's m; m is the number of rows of x", STEPS
        ),
        "no eps": Mistake("ε is not used", EPS),
        "fixed eps": Mistake("ε is 1e-5 whatever is handed over; use the argument eps", EPS),
        "eps outside": Mistake(
            "ε is added to the root; it belongs under it, beside the variance", STEPS
        ),
        "eps squared": Mistake("ε is squared; it is added to the variance as it is", STEPS),
        "eps subtracted": Mistake("ε is subtracted from the variance; it is added", STEPS),
        "range": Mistake(
            "each feature is brought to the range from 0 to 1; Algorithm 1 subtracts the mean and "
            "divides by the standard deviation",
            STEPS,
        ),
        "no root": Mistake("the division is by the variance; it is by its root", STEPS),
        "times": Mistake("x − μ is multiplied by the root; it is divided by it", STEPS),
        "swapped": Mistake("γ and β have changed places", STEPS),
        "no gamma": Mistake("γ is not used", STEPS),
        "divided by gamma": Mistake("x̂ is divided by γ; it is multiplied by it", STEPS),
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
        VARIANCE,
    ),
)


def _identity(
    x: np.ndarray, eps: float, wrong: Wrong = NOTHING_WRONG
) -> tuple[np.ndarray, np.ndarray]:
    axis = 1 if "axis" in wrong else None if "all" in wrong else 0
    mean = np.median(x, axis=axis) if "median" in wrong else x.mean(axis=axis)
    around = x if "second moment" in wrong else x - x.mean(axis=axis, keepdims=True)
    var = (around**2).sum(axis=axis) / (around[:, 0].size - ("m - 1" in wrong))
    if axis != 0:
        var = (around**2).mean(axis=axis)
    inside = 0 if {"no eps", "eps outside"} & wrong else -eps if "eps subtracted" in wrong else eps
    gamma = var + inside if "no root" in wrong else np.sqrt(var + inside)
    if "eps outside" in wrong:
        gamma = gamma + eps
    if "inverse" in wrong:
        gamma = 1 / gamma
    beta = -mean if "minus" in wrong else np.zeros_like(mean) if "no shift" in wrong else mean
    if "shift divided" in wrong:
        beta = beta / gamma
    if "shift multiplied" in wrong:
        beta = beta * gamma
    return (beta, gamma) if "swapped" in wrong else (gamma, beta)


identity = Exercise(
    "identity",
    lambda wrong: partial(_identity, wrong=wrong),
    lambda: [(x, eps) for x, _, _, eps in _batches()],
    ["gamma", "beta"],
    {
        "no eps": Mistake(
            "ε is missing: this γ is the paper's √Var[x], and it falls short by the factor "
            "σ/√(σ² + ε)",
            UNDO,
        ),
        "eps outside": Mistake("ε is added to σ; BN adds it to the variance, under the root", UNDO),
        "eps subtracted": Mistake("ε is subtracted; BN divides by the root of Var + ε", UNDO),
        "no root": Mistake("γ is a variance; BN divides by its root, and γ undoes that", UNDO),
        "inverse": Mistake(
            "γ is what BN multiplies by already; to undo it, γ is the inverse of that", UNDO
        ),
        "m - 1": Mistake("the variance divides by m − 1; BN divides by m", STEPS),
        "second moment": Mistake("γ comes from E[x²]; the variance is around the mean", STEPS),
        "minus": Mistake("β has the wrong sign: BN subtracted the mean, so β adds it", UNDO),
        "no shift": Mistake("β is 0, and the mean does not come back", UNDO),
        "shift divided": Mistake("β is divided by γ; it is added after γ multiplies", STEPS),
        "shift multiplied": Mistake("β is multiplied by γ; it is added as it is", STEPS),
        "median": Mistake("β is the median; BN subtracted the mean", STEPS),
        "swapped": Mistake("γ and β have changed places", STEPS),
        "axis": Mistake("there is one γ and one β for each example, not for each feature", STEPS),
        "all": Mistake("one γ and one β serve all features; each feature has its own", STEPS),
    },
    [
        "Write down the third and fourth line of Algorithm 1 and demand y = x. What must γ cancel, "
        "and what must β bring back?",
        "γ has to cancel the whole denominator, ε included; β has to bring back what was "
        "subtracted.",
        "Both have shape (C,) and come from the batch: one from its variance over axis 0, one from "
        "its mean.",
    ],
)

scale = Question(
    "scale",
    {
        "1000 W": "same",
        "0.001 W": "smaller",
        "-W": "flipped",
        "W u + 5": "same",
        "each row of W times its own number from 1 to 1000": "same",
        "each column of W times its own number from 1 to 1000": "other",
        "1000 W, and ε = 10": "same",
    },
    {
        "large": (
            "1000 W",
            "other",
            Mistake("mean and standard deviation grow a thousandfold, too, and cancel it", FACTOR),
        ),
        "large shrinks": (
            "1000 W",
            "smaller",
            Mistake("ε loses weight when the variance grows; it does not gain any", FACTOR),
        ),
        "small": (
            "0.001 W",
            "same",
            Mistake("the variance is 1e−6 now, and ε = 1e−5 is ten times as large", FACTOR),
        ),
        "small, other": (
            "0.001 W",
            "other",
            Mistake("all values shrink by one factor, to a third or so: there is a word", FACTOR),
        ),
        "sign": (
            "-W",
            "same",
            Mistake("a root is never negative, so nothing cancels the minus sign", FACTOR),
        ),
        "sign, other": (
            "-W",
            "other",
            Mistake("each x̂ turns into −x̂: there is a word for it", FACTOR),
        ),
        "bias": (
            "W u + 5",
            "other",
            Mistake("what is added to all examples is part of their mean, which is gone", BIAS),
        ),
        "rows": (
            "each row of W times its own number from 1 to 1000",
            "other",
            Mistake("a row belongs to one unit, and each unit is normalised by itself", FACTOR),
        ),
        "columns": (
            "each column of W times its own number from 1 to 1000",
            "same",
            Mistake(
                "a column belongs to one input: the units' mixtures change, not their scale", FACTOR
            ),
        ),
        "eps too, smaller": (
            "1000 W, and ε = 10",
            "smaller",
            Mistake("compare ε with the new variance, 1e6, not with the old one", FACTOR),
        ),
        "eps too, other": (
            "1000 W, and ε = 10",
            "other",
            Mistake(
                "10 is 1000² · 1e−5, so 1000² comes out of the root, of both terms under it", FACTOR
            ),
        ),
    },
    [
        "What happens to the mean and to the standard deviation of Wu in each case?",
        "Nothing changes where the factor is positive, is the same for all examples of a unit, and "
        "leaves the variance large beside ε.",
        "Let your forward tell you: draw u (60, 4) and W (3, 4) with "
        "np.random.default_rng(0).normal, divide each row of W by the standard deviation of its "
        "column of u @ W.T, and compare u @ W.T before and after each change.",
    ],
)


def _variance(rows: Any, wrong: Wrong = NOTHING_WRONG) -> np.ndarray:
    rows = list(rows)
    if "first lost" in wrong:
        rows = rows[1:]
    if "all" in wrong:
        rows = [row[None] for row in np.ravel(rows)]
    mean = np.zeros_like(rows[0])
    squares = np.zeros_like(rows[0])
    for count, row in enumerate(rows, start=2 if "count behind" in wrong else 1):
        old = mean
        if "fixed" not in wrong or count == 1:
            part = 2 if "halfway" in wrong and count > 1 else count
            mean = mean + (row - mean) / part
        squares = squares + _square(row, old, mean, wrong)
    return _divided(squares, mean, len(rows), wrong)


def _square(row: Any, old: Any, mean: Any, wrong: Wrong) -> Any:
    """What a row adds to the squares."""
    if "second moment" in wrong:
        return row**2
    first = row - (mean if "new twice" in wrong else old)
    second = row - (old if "old twice" in wrong else mean)
    return np.sqrt(np.abs(first * second)) if "absolute" in wrong else first * second


def _divided(squares: Any, mean: Any, m: int, wrong: Wrong) -> Any:
    if "sum" not in wrong:
        squares = squares / (m - ("m - 1" in wrong))
    if "mean too" in wrong and "second moment" not in wrong:
        squares = squares - mean**2
    if "root" in wrong:
        squares = np.sqrt(np.abs(squares))  # no NaN, which would fit other NaN
    return -squares if "negative" in wrong else squares


def _streams() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(3)
    return [(3 + rng.normal(size=(m, 3)) * [0.5, 1.0, 2.0],) for m in (7, 11)]


class OnePass(Exercise):
    """An exercise on a stream: says so where an attempt needs it twice, or keeps it whole."""

    def judge(self, attempt: Any) -> Verdict:
        verdict = super().judge(attempt)
        if verdict.outcome == WRONG and not verdict.mistakes and self._is_right_of_lists(attempt):
            complaint = verdict.words.splitlines()[0].removeprefix("Wrong: ")
            return self._wrong(complaint, [_ONCE], ["once"])
        if verdict == (RIGHT, "Right.", ()) and self._keeps(attempt):
            return Verdict(RIGHT, f"Right.\n{_KEPT}")
        return verdict

    def _is_right_of_lists(self, attempt: Any) -> bool:
        trials = self.trials()
        results = guard.run(
            lambda: [{self.returns[0]: np.asarray(attempt(list(rows)))} for (rows,) in trials],
            self.seconds,
        ).value
        return bool(results) and not self._first_difference(results, self.known(NOTHING_WRONG))

    def _keeps(self, attempt: Any) -> bool:
        """Whether all rows of a long stream are still there at its end."""
        handed_out: list[weakref.ref[np.ndarray]] = []
        still_there: list[weakref.ref[np.ndarray]] = []

        def stream() -> Iterator[np.ndarray]:
            for values in np.random.default_rng(5).normal(size=(300, 3)):
                row = values.copy()
                handed_out.append(weakref.ref(row))
                yield row
            still_there.extend(ref for ref in handed_out if ref() is not None)

        guard.run(lambda: attempt(stream()), self.seconds)
        return len(still_there) == 300


_ONCE = Mistake(
    "the rows come only once: a second loop over them finds none, and they have no length",
    VARIANCE,
)
_KEPT = Mistake(
    "But it keeps all rows, and these data do not fit into memory. How to do without",
    VARIANCE,
)
variance = OnePass(
    "variance",
    lambda wrong: partial(_variance, wrong=wrong),
    _streams,
    ["variance"],
    {
        "m - 1": Mistake("the squares are divided by m − 1; BN divides by m", VARIANCE),
        "sum": Mistake("the squares are not divided by m in the end", VARIANCE),
        "old twice": Mistake(
            "both factors take the old mean; one of them takes the new one", VARIANCE
        ),
        "new twice": Mistake(
            "both factors take the new mean; one of them takes the old one", VARIANCE
        ),
        "fixed": Mistake(
            "the squares are taken around the first value, and the distance of the mean from it is "
            "not taken off",
            VARIANCE,
        ),
        "halfway": Mistake(
            "the mean goes half the way to each new value; it goes the n-th part", VARIANCE
        ),
        "count behind": Mistake("the count is one too large: the first value has n = 1", VARIANCE),
        "first lost": Mistake("the first value starts the mean, but is not counted", VARIANCE),
        "second moment": Mistake("this is E[x²]: nothing is subtracted", VARIANCE),
        "mean too": Mistake(
            "the squared mean is subtracted, too, though the squares are taken around the mean",
            VARIANCE,
        ),
        "absolute": Mistake("distances are added up, not their squares", VARIANCE),
        "root": Mistake("this is the standard deviation, the root of the variance", VARIANCE),
        "negative": Mistake("the sign is wrong: E[x²] comes first, and E[x]² off it", VARIANCE),
        "all": Mistake("one variance serves all features; each feature has its own", VARIANCE),
    },
    [
        "Carry three things from row to row: how many there were, their mean, and the squares so "
        "far, each starting at 0.",
        "The table in the chapter is the test: print your three numbers for 10000, 10001, 10002.",
        "Keep the distance to the old mean in a variable before the mean moves. Then each row is "
        "three lines: distance, mean, squares.",
    ],
    play=lambda attempt, rows: attempt(iter(rows)),
    keeps_inputs=False,  # a row that has come by is the learner's
    hard=lambda dtype: [(_far_away(dtype)[0][0].astype(dtype),)],
    hard_sentence=Mistake(
        "E[x²] − E[x]² is right on paper; where the mean is large beside the spread, both terms "
        "lose the digits in which they differ. Subtract before you square",
        VARIANCE,
    ),
)


def _jacobian(x: np.ndarray, gamma: float, eps: float, wrong: Wrong = NOTHING_WRONG) -> np.ndarray:
    m = len(x)
    var = x.var(ddof=1) if "m - 1" in wrong else x.var()
    std = np.sqrt(var if "no eps" in wrong else var + eps)
    x_hat = (x if "not centred" in wrong else x - x.mean()) / std
    products = np.outer(x_hat, x_hat)
    if "own only" in wrong:
        products = np.diag(np.diag(products))
    answer = np.eye(m) - _part("mean", m, wrong) - _part("variance", m, wrong) * products
    if "diagonal" in wrong:
        answer = np.diag(np.diag(answer))
    if "no gamma" not in wrong:
        answer = gamma * answer
    if "no root" in wrong:
        std = std**2
    if "not divided" not in wrong:
        answer = answer * std if "times" in wrong else answer / std
    if "step" in wrong:
        answer = 2 * answer
    return -answer if "negative" in wrong else answer


def _part(name: str, m: int, wrong: Wrong) -> float:
    """What stands before the term of the mean or of the variance: 1/m."""
    part = 1.0 if f"{name} not divided" in wrong else 1 / m
    if name == "variance":
        part *= (2 if "two" in wrong else 1) / (2 if "half" in wrong else 1)
    if f"{name} constant" in wrong:
        return 0.0
    return -part if f"{name} plus" in wrong else part


def _features() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(4)
    return [(2 + 1.5 * rng.normal(size=m), gamma, 0.05) for m, gamma in ((5, 1.7), (8, -2.3))]


jacobian = Exercise(
    "jacobian",
    lambda wrong: partial(_jacobian, wrong=wrong),
    _features,
    ["J"],
    {
        "mean constant": Mistake(
            "the mean is treated as a constant: each xᵢ moves it by 1/m", MOVED
        ),
        "variance constant": Mistake(
            "the variance is treated as a constant: each xᵢ moves it by 2(xᵢ − μ)/m", MOVED
        ),
        "mean not divided": Mistake("the mean's part is 1; xᵢ is one of m in the mean: 1/m", MOVED),
        "variance not divided": Mistake(
            "the variance's part is not divided by m; xᵢ is one of m in the variance, too", MOVED
        ),
        "two": Mistake(
            "the variance's part is twice what it is: the 2 of the square meets the ½ of the root",
            MOVED,
        ),
        "half": Mistake(
            "the variance's part is half of what it is: the ½ of the root meets the 2 of the "
            "square",
            MOVED,
        ),
        "mean plus": Mistake("the mean's part has the wrong sign: the mean is subtracted", MOVED),
        "variance plus": Mistake(
            "the variance's part has the wrong sign: a larger variance makes the outputs smaller",
            MOVED,
        ),
        "own only": Mistake(
            "the variance's part stands on the diagonal alone; every xᵢ moves the variance, and "
            "the variance every output",
            MOVED,
        ),
        "diagonal": Mistake(
            "only an example's answer to itself is there; each output answers every input", MOVED
        ),
        "m - 1": Mistake("the variance divides by m − 1; Algorithm 1 divides by m", STEPS),
        "no eps": Mistake("ε is not used", EPS),
        "not centred": Mistake("x̂ is taken without subtracting the mean", STEPS),
        "no gamma": Mistake("γ is not used: y = γ x̂ + β", STEPS),
        "no root": Mistake("it is divided by the variance; BN divides by its root", STEPS),
        "not divided": Mistake(
            "this is right but for the division by √(σ² + ε): it would be so for σ = 1", STEPS
        ),
        "times": Mistake("it is multiplied by √(σ² + ε), not divided", STEPS),
        "step": Mistake(
            "everything is twice what it is: from x − h to x + h the step is 2h", MOVED
        ),
        "negative": Mistake("everything has the wrong sign: y(x + h) comes first", MOVED),
    },
    [
        "The chapter does it numerically in one loop: move one input up and down, look at all "
        "outputs. Then try it with derivatives.",
        "xᵢ reaches yⱼ on three ways: directly (if i = j), through the mean, and through the "
        "variance. Each is one term.",
        "Without ε and for γ = 1: ∂μ/∂xᵢ = 1/m, and ∂σ/∂xᵢ = x̂ᵢ/m. Now differentiate (xⱼ − μ)/σ.",
    ],
)
