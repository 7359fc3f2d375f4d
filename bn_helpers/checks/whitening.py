"""The exercises of chapter 01: whitening. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bn_helpers.checks.engine import NOTHING_WRONG, Exercise, Mistake, Question, Wrong

SCALED = "01, Four points and two weights"
WHITE = "01, What whitening must do"
IMAGES = "01, How badly are real images scaled?"
ROOT = "01, How an inverse root changes: 2 × 2"
BIAS = "01, A bias that grows while the loss stands still"
DIAGONAL = "01, BN is the diagonal case"


def _matrix(cov: np.ndarray, eps: float, wrong: Wrong) -> np.ndarray:
    """W for a covariance to which eps has been added; eps itself serves those who add it later."""
    if "cholesky" in wrong:
        return np.linalg.inv(np.linalg.cholesky(cov))
    if "entrywise" in wrong:
        return np.linalg.inv(np.sqrt(cov))
    if "power of entries" in wrong:
        return cov**-0.5
    if "diagonal" in wrong:
        return np.diag(np.diag(cov) ** -0.5)
    values, vectors = np.linalg.eigh(cov)
    roots = np.sqrt(values) + (eps if "eps outside" in wrong else 0)
    if "no root" in wrong:
        roots = roots**2
    scales = np.diag(roots if "times" in wrong else 1 / roots)
    if "pca" in wrong:
        return scales @ vectors.T
    if "transposed" in wrong:
        vectors = vectors.T
    return vectors @ scales @ vectors.T


def _zca(x: np.ndarray, eps: float, wrong: Wrong = NOTHING_WRONG) -> np.ndarray:
    m, d = x.shape
    mean = x.mean(axis=1, keepdims=True) if "axis" in wrong else x.mean(axis=0)
    mean = x.mean() if "one mean" in wrong else mean
    around = x if {"not centred", "second moment"} & wrong else x - mean
    mapped = x if {"not centred", "raw mapped"} & wrong else x - mean
    count = 1 if "sum" in wrong else m - 1 if "m - 1" in wrong else m
    cov = around.T @ around / count
    if "eps everywhere" in wrong:
        cov = cov + eps
    elif not {"no eps", "eps outside"} & wrong:
        cov = cov + (eps**2 if "eps squared" in wrong else eps) * np.eye(d)
    x_hat = mapped @ _matrix(cov, eps, wrong).T
    return x_hat + mean if "mean added" in wrong else x_hat


def _correlated() -> list[tuple[Any, ...]]:
    """Batches whose features all vary together, so that no covariance is negative."""
    rng = np.random.default_rng(1)
    trials = []
    for m, d in ((7, 3), (9, 4)):
        common = rng.normal(size=(m, 1)) * 2
        own = rng.normal(size=(m, d)) * np.linspace(0.4, 1.2, d)
        trials.append((common * rng.uniform(0.8, 1.4, size=d) + own + rng.uniform(1, 3, d), 0.05))
    return trials


def _far_away(dtype: np.dtype[Any]) -> list[tuple[Any, ...]]:
    """Whole numbers that the dtype holds exactly, far from zero."""
    mean = {8: 1e9, 4: 3e4, 2: 200}[dtype.itemsize]
    return [(mean + np.array([[0.0, 3], [2, 1], [4, 5], [6, 2], [3, 4]]), 1e-5)]


zca = Exercise(
    "zca",
    lambda wrong: partial(_zca, wrong=wrong),
    _correlated,
    ["x_hat"],
    {
        "axis": Mistake(
            "the mean is taken over the features of an example; it is over the examples of a "
            "feature, axis 0",
            SCALED,
        ),
        "one mean": Mistake(
            "one mean is taken of all the numbers; each feature has its own, x.mean(axis=0)", SCALED
        ),
        "not centred": Mistake("the batch is not centred", SCALED),
        "second moment": Mistake(
            "the covariance is taken of x as it is; it is that of the centred batch", SCALED
        ),
        "raw mapped": Mistake("W is applied to x as it is; it maps the centred batch", WHITE),
        "mean added": Mistake("the mean is added again at the end; x̂ has mean 0", WHITE),
        "m - 1": Mistake("the covariance divides by m − 1; it is the mean over all m", SCALED),
        "sum": Mistake("the covariance is a sum and not divided by m", SCALED),
        "no eps": Mistake("ε is not used", WHITE),
        "eps everywhere": Mistake(
            "ε is added to every entry of the covariance; it belongs on the diagonal, ε times the "
            "unit matrix",
            WHITE,
        ),
        "eps outside": Mistake(
            "ε is added to the roots of the eigenvalues; it joins the covariance, under the root",
            WHITE,
        ),
        "eps squared": Mistake("ε is squared; it is added to the variances as it is", WHITE),
        "no root": Mistake("this multiplies by C⁻¹; the root is missing", WHITE),
        "times": Mistake("this multiplies by the root of C; it divides by it", WHITE),
        "pca": Mistake(
            "this is PCA whitening: it is white, but still turned; ZCA turns back with U", WHITE
        ),
        "cholesky": Mistake(
            "this is Cholesky whitening: it is white, but asked is C^(−1/2), which is symmetric",
            WHITE,
        ),
        "transposed": Mistake(
            "U and Uᵀ have changed places: np.linalg.eigh has the eigenvectors in its columns",
            WHITE,
        ),
        "diagonal": Mistake(
            "each feature is scaled by itself, which leaves the correlations: that is BN", DIAGONAL
        ),
        "entrywise": Mistake(
            "the root is taken entry by entry; a matrix's root is taken of its eigenvalues", WHITE
        ),
        "power of entries": Mistake(
            "cov**-0.5 is taken entry by entry; a matrix's power is taken of its eigenvalues", WHITE
        ),
    },
    [
        "Centre first. What shape has the covariance, and over how many examples is it a mean?",
        "np.linalg.eigh gives the eigenvalues of the covariance with ε on its diagonal, and the "
        "eigenvectors as columns of U. ZCA is U, then one number for each eigenvalue, then Uᵀ.",
        "W is U @ np.diag(…) @ U.T with the eigenvalues to the power −1/2, and each row of the "
        "centred batch is multiplied by it.",
    ],
    hard=_far_away,
    hard_sentence=Mistake(
        "the digits are lost where the mean is large beside the spread; subtract it before you "
        "multiply, not after"
    ),
)


def _condition(x: np.ndarray, wrong: Wrong = NOTHING_WRONG) -> Any:
    if "centred" in wrong:
        x = x - x.mean(axis=0)
    a = x if {"no bias", "centred"} & wrong else np.hstack([np.ones((len(x), 1)), x])
    second_moments = a.T @ a / len(a)
    values = np.linalg.eigvalsh(second_moments)
    if {"last by first", "first by last"} & wrong:
        values = np.linalg.eigvals(second_moments)
        return values[-1] / values[0] if "last by first" in wrong else values[0] / values[-1]
    if "diagonal" in wrong:
        values = np.sort(np.diag(second_moments))
    if "root" in wrong:
        values = np.sqrt(values)
    if "difference" in wrong:
        return values[-1] - values[0]
    return values[0] / values[-1] if "inverted" in wrong else values[-1] / values[0]


def _inputs() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(318)  # np.linalg.eigvals does not return their eigenvalues in order
    shapes = ((8, 3), (11, 2))
    return [(rng.normal(size=s) * rng.uniform(0.5, 2, s[1]) + rng.uniform(1, 2),) for s in shapes]


condition = Exercise(
    "condition",
    lambda wrong: partial(_condition, wrong=wrong),
    _inputs,
    ["κ"],
    {
        "no bias": Mistake("the bias is missing: append a 1 to each example", IMAGES),
        "centred": Mistake(
            "this is the condition number of the covariance; the inputs stay as they are, and the "
            "bias adds a 1",
            IMAGES,
        ),
        "root": Mistake(
            "this is the root of κ: singular values of the inputs, or roots of the eigenvalues",
            IMAGES,
        ),
        "inverted": Mistake("this is 1/κ; the largest eigenvalue stands on top", SCALED),
        "difference": Mistake("κ is a ratio of eigenvalues; this is their difference", SCALED),
        "diagonal": Mistake("the diagonal entries of H are not its eigenvalues", IMAGES),
        "last by first": Mistake(
            "np.linalg.eigvals leaves the eigenvalues unsorted, so the last is not the largest; "
            "np.linalg.eigvalsh sorts them",
            IMAGES,
        ),
        "first by last": Mistake(
            "np.linalg.eigvals leaves the eigenvalues unsorted, so the last is not the smallest; "
            "np.linalg.eigvalsh sorts them",
            IMAGES,
        ),
    },
    [
        "First build a, one example a row: a column of ones beside x.",
        "H is aᵀa / m, a symmetric matrix; np.linalg.eigvalsh gives its eigenvalues in rising "
        "order.",
        "The condition number is the last of them divided by the first.",
    ],
)


def _kernel(values: np.ndarray, wrong: Wrong) -> np.ndarray:
    """K in the eigenbasis, or what a learner takes for it."""
    if "eigenvalues" in wrong:
        values = values**2
    roots = np.sqrt(values)
    product, total = np.outer(roots, roots), np.add.outer(roots, roots)
    gap = values[:, None] - values
    if "equal" in wrong:
        kernel = (1 / roots[:, None] - 1 / roots) / gap
        np.fill_diagonal(kernel, -0.5 * values**-1.5)
    elif "root itself" in wrong:
        kernel = 1 / total
    elif "inverse" in wrong:
        kernel = -1 / product**2
    else:
        kernel = -1 / (product * (1 if "no sum" in wrong else total))
    kernel = kernel / 2 if "half" in wrong else kernel
    return -kernel if "sign" in wrong else kernel


def _inverse_root(C: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(C)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def _inverse_root_change(C: np.ndarray, dC: np.ndarray, wrong: Wrong = NOTHING_WRONG) -> np.ndarray:
    if "whole step" in wrong:
        return _inverse_root(C + dC) - _inverse_root(C)
    values, U = np.linalg.eigh(C)
    if "commuting" in wrong:
        return -0.5 * U @ np.diag(values**-1.5) @ U.T @ dC
    if "transposed" in wrong:
        U = U.T
    first = U.T if "turned wrong way" in wrong else U
    seen = dC if "not turned" in wrong else first.T @ dC @ first
    change = _kernel(values, wrong) * seen
    last = U.T if "back wrong way" in wrong else U
    return change if {"not turned", "not back"} & wrong else last @ change @ last.T


def _covariances() -> list[tuple[Any, ...]]:
    """Eigenvalues far apart, twice, and then all equal."""
    rng = np.random.default_rng(3)
    trials = []
    for eigenvalues in ([1.0, 2.5, 6.0], [0.8, 1.7, 3.0, 5.5], [2.0, 2.0, 2.0]):
        d = len(eigenvalues)
        axes, _ = np.linalg.qr(rng.normal(size=(d, d)))
        equal = len(set(eigenvalues)) == 1
        C = np.diag(eigenvalues) if equal else axes @ np.diag(eigenvalues) @ axes.T
        change = rng.uniform(-0.2, 0.2, size=(d, d))
        trials.append((C, change + change.T))
    return trials


def _play_change(attempt: Callable[..., Any], C: np.ndarray, dC: np.ndarray) -> Any:
    """NaN at equal eigenvalues as infinity: it has one reason there, and may be named."""
    change = attempt(C, dC)
    if np.ptp(np.diag(C)) == 0 and isinstance(change, np.ndarray) and np.isnan(change).all():
        return np.full(C.shape, np.inf)
    return change


inverse_root_change = Exercise(
    "inverse_root_change",
    lambda wrong: partial(_inverse_root_change, wrong=wrong),
    _covariances,
    ["dW"],
    {
        "not turned": Mistake(
            "K multiplies dC as it is; K belongs to the basis of the eigenvectors, so dC has to be "
            "seen there first",
            ROOT,
        ),
        "not back": Mistake(
            "the change is still in the basis of the eigenvectors; turn it back", ROOT
        ),
        "transposed": Mistake(
            "U and Uᵀ have changed places: np.linalg.eigh has the eigenvectors in its columns", ROOT
        ),
        "turned wrong way": Mistake("dC is seen as U dC Uᵀ; it is Uᵀ dC U", ROOT),
        "back wrong way": Mistake("it is turned back by Uᵀ … U; it is U … Uᵀ", ROOT),
        "sign": Mistake("the sign is wrong: where C grows, its inverse root shrinks", ROOT),
        "commuting": Mistake(
            "−½ C^(−3/2) dC is the rule for numbers; matrices do not commute", ROOT
        ),
        "no sum": Mistake("the sum of the roots is missing in K's denominator", ROOT),
        "half": Mistake(
            "there is a ½ too many: K has it already, since √λ + √λ is 2√λ on the diagonal", ROOT
        ),
        "eigenvalues": Mistake("K takes the roots of the eigenvalues, not these themselves", ROOT),
        "root itself": Mistake("this is the change of C^(1/2), the root; asked is C^(−1/2)", ROOT),
        "inverse": Mistake("this is the change of C⁻¹; asked is C^(−1/2)", ROOT),
        "equal": Mistake(
            "λi − λj is divided by, and is 0 where two eigenvalues are equal: use the form of K "
            "without it",
            ROOT,
        ),
        "whole step": Mistake(
            "this is the change for all of dC; asked is the first order, what remains for small dC",
            ROOT,
        ),
    },
    [
        "Three steps: see dC in the basis of the eigenvectors, multiply by K, turn back.",
        "With values, U = np.linalg.eigh(C), dC is seen as U.T @ dC @ U. K is a table over all "
        "pairs of eigenvalues; np.outer and np.add.outer make such tables.",
        "K is −1 over np.outer(roots, roots) times np.add.outer(roots, roots), entry by entry. A "
        "sum of roots is never 0; a difference of eigenvalues is, on the diagonal: NaN.",
    ],
    play=_play_change,
)


def _predict_bias(
    u: np.ndarray, target: np.ndarray, rate: float, steps: int, wrong: Wrong = NOTHING_WRONG
) -> Any:
    if "inside" in wrong:
        return 0.0
    mean = np.sum if "sum" in wrong else np.mean
    rate = 1.0 if "no rate" in wrong else 2 * rate if "factor two" in wrong else rate
    steps = steps + 1 if "one more" in wrong else 1 if "one step" in wrong else steps
    if "no centring" in wrong:
        b = 0.0
        for _ in range(steps):
            b = b - rate * mean(u + b - target)
        return -b if "sign" in wrong else b
    gradient = mean(u - target) if "u not centred" in wrong else mean(-target)
    return (1 if "sign" in wrong else -1) * rate * steps * gradient


def _experiments() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(4)
    return [
        (rng.normal(size=5) + 0.7, rng.normal(size=5) + 2, 0.07, 13),
        (rng.normal(size=8) - 1.1, rng.normal(size=8) - 1, 0.2, 6),
    ]


predict_bias = Exercise(
    "predict_bias",
    lambda wrong: partial(_predict_bias, wrong=wrong),
    _experiments,
    ["b"],
    {
        "inside": Mistake(
            "0 is where the true gradient leaves b; here the derivative of E[x] is ignored", BIAS
        ),
        "sign": Mistake("the sign is wrong: a step goes against the gradient", BIAS),
        "sum": Mistake("the gradient is summed over the examples; the loss divides by m", BIAS),
        "u not centred": Mistake(
            "the gradient is taken of u − t; centring has removed u's mean too", BIAS
        ),
        "no centring": Mistake(
            "this b feeds back into the loss; x̂ is centred, so b never reaches it", BIAS
        ),
        "one step": Mistake("this is b after a single step", BIAS),
        "one more": Mistake("this is b a step later", BIAS),
        "factor two": Mistake("the ½ of the loss cancels the 2 of its derivative", BIAS),
        "no rate": Mistake("the learning rate is not used", BIAS),
    },
    [
        "What is the sum of (x̂ − t) / m over the examples? You know the mean of x̂.",
        "x̂ has mean 0 whatever b is, so the gradient that ignores E[x] is the same at each step.",
        "The gradient is minus the mean of the targets; b moves by −rate times it, at every step.",
    ],
)

count_statistics = Question(
    "count_statistics",
    {"whitening": 5150, "BN": 200},
    {
        "both halves": (
            "whitening",
            10_100,
            Mistake("the covariance is symmetric: an entry and its mirror image are one", WHITE),
        ),
        "hundred missing": (
            "whitening",
            5050,
            Mistake("100 are missing: count the mean, the variances and the covariances", WHITE),
        ),
        "covariances alone": (
            "whitening",
            4950,
            Mistake("these are the covariances; the variances and the mean are missing", WHITE),
        ),
        "W alone": (
            "whitening",
            10_000,
            Mistake("these are the entries of a matrix, of which many are the same", WHITE),
        ),
        "no mean": ("BN", 100, Mistake("BN needs a mean for each feature as well", DIAGONAL)),
        "learnt too": (
            "BN",
            400,
            Mistake("γ and β are learnt; estimated from the batch are mean and variance", DIAGONAL),
        ),
        "one for all": (
            "BN",
            2,
            Mistake("each feature has a mean and a variance of its own", DIAGONAL),
        ),
        "covariances too": (
            "BN",
            5150,
            Mistake("BN keeps the diagonal of the covariance alone", DIAGONAL),
        ),
    },
    [
        "Both need the mean of each feature. What else does each of them need?",
        "Whitening needs a variance for each feature and a covariance for each pair; how many "
        "pairs can be made of 100?",
    ],
    tolerance=1e-6,
)
