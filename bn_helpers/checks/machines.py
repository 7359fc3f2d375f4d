"""The exercises of chapters 11 to 13: Inception, speed, devices. NumPy alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bn_helpers.checks.engine import NOTHING_WRONG, Exercise, Mistake, Question, Wrong

Trials = list[tuple[Any, ...]]

# --- 11 ---------------------------------------------------------------------------------------

SIX = "11, Six networks"
FIGURE_3 = "11, How many times fewer steps?"


def _top_k_error(
    scores: np.ndarray, labels: np.ndarray, k: int, wrong: Wrong = NOTHING_WRONG
) -> float:
    k = (
        1
        if "top 1" in wrong
        else k - 1
        if "one less" in wrong
        else k + 1
        if "one more" in wrong
        else k
    )
    order = np.argsort(scores if "ascending" in wrong else -scores, axis=1)
    rank = order if "order as rank" in wrong else np.argsort(order, axis=1)
    wrongly = rank[np.arange(len(labels)), labels] >= k
    if "right" in wrong:
        wrongly = ~wrongly
    share = wrongly.sum() if "count" in wrong else wrongly.mean()
    return float(share * 100 if "per cent" in wrong else share)


def _scores() -> Trials:
    rng = np.random.default_rng(14)
    trials = []
    for examples, classes, k in ((31, 9, 3), (37, 7, 2), (23, 11, 5)):
        labels = rng.integers(0, classes, examples)
        scores = rng.normal(size=(examples, classes))
        scores[np.arange(examples), labels] += 0.7
        trials.append((scores, labels, k))
    return trials


top_k_error = Exercise(
    "top_k_error",
    lambda wrong: partial(_top_k_error, wrong=wrong),
    _scores,
    ["the error"],
    {
        "ascending": Mistake("these are the k lowest scores: argsort puts the lowest first", SIX),
        "one less": Mistake("k − 1 classes are looked at: an index of k − 1 is the k-th", SIX),
        "one more": Mistake("k + 1 classes are looked at: an index of k is one too many", SIX),
        "top 1": Mistake("k is not used: the best class alone counts", SIX),
        "order as rank": Mistake(
            "argsort lists the classes in order; at place c stands no rank of class c", SIX
        ),
        "right": Mistake("this is the share that is right; the error is the rest", SIX),
        "count": Mistake("the wrong ones are counted; asked is their share", SIX),
        "per cent": Mistake("this is in per cent; asked is a share, from 0 to 1", SIX),
    },
    [
        "For one example: which classes have the k highest scores, and is the label among them?",
        "np.argsort(scores, axis=1) lists the classes from the lowest score up: take the last k.",
        "(best == labels[:, None]).any(axis=1) says which examples are right.",
    ],
)


def _softmax(z: np.ndarray, axis: int = -1) -> np.ndarray:
    powers = np.exp(z - z.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _ensemble(logits: np.ndarray, wrong: Wrong = NOTHING_WRONG) -> np.ndarray:
    if "logits" in wrong:
        return _softmax(logits.mean(0))
    if "no softmax" in wrong:
        return logits.mean(0)
    if "product" in wrong:
        return _softmax(logits.sum(0))
    axis = 1 if "examples" in wrong else 0 if "networks" in wrong else 2
    shares = _softmax(logits, axis)
    if "powers" in wrong:
        shares = np.exp(logits)
    if "vote" in wrong:
        shares = np.eye(logits.shape[2])[logits.argmax(2)]
    if "highest" in wrong:
        return shares.max(0)
    return shares.sum(0) if "sum" in wrong else shares.mean(0)


def _large_logits(dtype: np.dtype[Any]) -> Trials:
    far = {8: 1000.0, 4: 120.0, 2: 20.0}[dtype.itemsize]
    return [(far + np.array([[[0.0, 1, 3], [2, 0, 1]], [[1, 2, 0], [0, 4, 2]]]),)]


mean_of_networks = Exercise(
    "mean_of_networks",
    lambda wrong: partial(_ensemble, wrong=wrong),
    lambda: [
        (np.random.default_rng(seed).normal(0, 2, shape),)
        for seed, shape in enumerate(((3, 5, 4), (6, 4, 7)))
    ],
    ["the probabilities"],
    {
        "logits": Mistake(
            "the logits are averaged, and then the softmax is taken; the paper averages "
            "probabilities",
            SIX,
        ),
        "no softmax": Mistake("these are mean logits; there is no softmax", SIX),
        "product": Mistake(
            "the networks' probabilities are multiplied (their logits added), not averaged", SIX
        ),
        "examples": Mistake("the softmax runs over the examples; it runs over the classes", SIX),
        "networks": Mistake("the softmax runs over the networks; it runs over the classes", SIX),
        "powers": Mistake("exp of the logits is not divided by its sum over the classes", SIX),
        "vote": Mistake("each network votes for one class; its probabilities count", SIX),
        "highest": Mistake("the highest probability of all networks is taken, not the mean", SIX),
        "sum": Mistake("the probabilities are summed, and not divided by their number", SIX),
    },
    [
        "Two steps, and their order matters: softmax for each network, then the mean of these.",
        "The axes are (networks, examples, classes): softmax over the last, mean over the first.",
        "exp of the logits, divided by its sum over axis 2 with keepdims=True; then mean(axis=0). "
        "Subtract each row's highest logit first, so that exp stays finite.",
    ],
    hard=_large_logits,
    hard_sentence=Mistake("exp of a large logit is infinite; subtract the row's highest first"),
)


def _times_fewer(
    at: np.ndarray, plain: np.ndarray, other: np.ndarray, wrong: Wrong = NOTHING_WRONG
) -> float:
    where = np.arange(1.0, len(at) + 1) if "index" in wrong else at
    never = {"first look": where[0], "last look": where[-1]}
    best = np.median(plain.max(1)) if "one goal" in wrong else None

    def first(run: np.ndarray, goal: float) -> float:
        looks = np.flatnonzero(run >= goal)
        if len(looks):
            return float(where[looks[0]])
        named = never.keys() & wrong
        return never[min(named)] if named else np.inf

    steps = []
    for slow, quick in zip(plain, other, strict=True):
        goal = slow.max() if best is None else best
        own = quick.max() if "own best" in wrong else slow[-1] if "end" in wrong else goal
        steps.append((first(slow, slow[-1] if "end" in wrong else goal), first(quick, own)))
    pairs = np.array(steps)
    if "left out" in wrong:
        pairs = pairs[np.isfinite(pairs[:, 1])]
    a, b = pairs.T[::-1] if "upside down" in wrong else pairs.T
    if "difference" in wrong:
        return float(np.median(a - b))
    if "of medians" in wrong:
        return float(np.median(a) / np.median(b))
    return float(np.mean(a / b) if "mean" in wrong else np.median(a / b))


def _races() -> Trials:
    rng = np.random.default_rng(17)
    trials = []
    for seeds, looks, never in ((5, 9, 0), (5, 12, 1), (4, 10, 1), (3, 8, 2)):
        at = np.cumsum(rng.integers(2, 7, looks)) * 40.0
        time = np.arange(1, looks + 1)
        noise = rng.normal(0, 0.02, (2, seeds, looks))
        plain = 0.6 * (1 - np.exp(-time / rng.uniform(3, 5, (seeds, 1)))) + noise[0]
        other = 0.7 * (1 - np.exp(-time / rng.uniform(1, 3.5, (seeds, 1)))) + noise[1]
        other[:never] *= 0.4
        trials.append((at, plain, other))
    return trials


times_fewer = Exercise(
    "times_fewer",
    lambda wrong: partial(_times_fewer, wrong=wrong),
    _races,
    ["times fewer"],
    {
        "upside down": Mistake(
            "this is the other's steps over plain's; it is plain's over the other's", FIGURE_3
        ),
        "own best": Mistake("the other runs to its own best; the goal is plain's", FIGURE_3),
        "end": Mistake("the goal is plain's last accuracy; it is its best", FIGURE_3),
        "one goal": Mistake(
            "all seeds get one goal; each seed has that of its plain run", FIGURE_3
        ),
        "index": Mistake("the looks are counted; the steps stand in `at`", FIGURE_3),
        "first look": Mistake(
            "a run that never gets there counts as one that did at the first look: argmax of "
            "nothing but False is 0",
            FIGURE_3,
        ),
        "last look": Mistake(
            "a run that never gets there counts with its last step; its ratio is 0", FIGURE_3
        ),
        "left out": Mistake(
            "seeds whose other run never gets there are left out; their ratio is 0", FIGURE_3
        ),
        "of medians": Mistake(
            "this is a ratio of two medians; asked is the median of the seeds' ratios", FIGURE_3
        ),
        "mean": Mistake("the ratios' mean is taken; asked is their median", FIGURE_3),
        "difference": Mistake("the steps are subtracted; asked is how many times fewer", FIGURE_3),
    },
    [
        "One seed first: the goal is plain[seed].max(); at which step is each run there?",
        "A run that never gets there takes np.inf steps, and a number over infinity is 0.",
        "Collect plain's steps over the other's, seed by seed, and take np.median of the list.",
    ],
)

# --- 12 ---------------------------------------------------------------------------------------

BY_HAND = "12, Eight numbers by hand"
ROOF = "12, The roofline"
COUNTED = "12, Passes, counted live"


def _lower_bound(
    values: float, size: float, bandwidth: float, peak: float, wrong: Wrong = NOTHING_WRONG
) -> tuple[float, float, float]:
    passes, operations = 8, 16
    if "forward" in wrong:
        passes, operations = 3, 7
    if "backward" in wrong:
        passes, operations = 5, 9
    if "twice forward" in wrong:
        passes, operations = 6, 14
    if "copies" in wrong:
        passes = 2 * passes
    moved = passes * values * (1 if "no size" in wrong else size)
    done = operations * (1 if "per value" in wrong else values)
    times = moved / bandwidth, done / peak
    if "sum" in wrong:
        return moved, done, sum(times)
    if "min" in wrong:
        return moved, done, min(times)
    alone = 0 if "memory" in wrong else 1 if "arithmetic" in wrong else None
    return moved, done, max(times) if alone is None else times[alone]


lower_bound = Exercise(
    "lower_bound",
    lambda wrong: partial(_lower_bound, wrong=wrong),
    lambda: [(6.4e6, 4, 38e9, 249e9), (2.5e6, 2, 1.6e12, 0.9e12), (1e6, 8, 20e9, 30e9)],
    ["bytes", "operations", "seconds"],
    {
        "forward": Mistake("this is the forward pass alone", BY_HAND),
        "backward": Mistake("this is the backward pass alone", BY_HAND),
        "twice forward": Mistake(
            "the backward pass is counted like the forward; it has 5 passes and 9 operations",
            BY_HAND,
        ),
        "copies": Mistake("a pass reads or writes the tensor, not both", BY_HAND),
        "no size": Mistake("these are values; each has `size` bytes", BY_HAND),
        "per value": Mistake("these are the operations of one value", BY_HAND),
        "sum": Mistake("the two times are added; moving and computing overlap", ROOF),
        "min": Mistake("the shorter time is taken; the longer one decides", ROOF),
        "memory": Mistake("memory decides left of the ridge only", ROOF),
        "arithmetic": Mistake("arithmetic decides right of the ridge only", ROOF),
    },
    [
        "Per value: how many passes and how many operations, forward and backward together?",
        "3 + 5 passes of `size` bytes a value, 7 + 9 operations a value.",
        "Two times: bytes / bandwidth and operations / peak. The longer one is the bound.",
    ],
)

passes = Question(
    "passes",
    {"A": 12, "B": 10, "C": 5, "D": 3},
    {
        "A, first lines": (
            "A",
            14,
            Mistake("`x - mean` is computed once here, not twice as in `composed`", COUNTED),
        ),
        "A, writes": ("A", 5, Mistake("these are the writes; reads count, too", COUNTED)),
        "A, reads": ("A", 7, Mistake("these are the reads; writes count, too", COUNTED)),
        "A, square free": (
            "A",
            10,
            Mistake("the square is written to memory, and read by the mean", COUNTED),
        ),
        "B, as A": (
            "B",
            12,
            Mistake("weight / root has one number a channel, so a product is saved", COUNTED),
        ),
        "B, writes": ("B", 4, Mistake("these are the writes; reads count, too", COUNTED)),
        "B, fused": ("B", 8, Mistake("a product and a sum are two operations", COUNTED)),
        "C, two reads": (
            "C",
            6,
            Mistake("var_mean is one operation, and what it reads is counted once", COUNTED),
        ),
        "C, fused": ("C", 3, Mistake("a product and a sum are two operations", COUNTED)),
        "D, as C": ("D", 5, Mistake("addcmul is one operation: it reads x and writes y", COUNTED)),
        "D, reads": ("D", 2, Mistake("these are the reads; y is written, too", COUNTED)),
    },
    [
        "Go line by line. Whole tensors count that an operation reads, and that it writes.",
        "x - mean reads one and writes one; a mean reads one; mean, var, scale, shift are small.",
        "A: 1, 2, 2 + 1 for the variance, then /, * and + with 2 each.",
    ],
)

# --- 13 ---------------------------------------------------------------------------------------

ALGEBRA = "13, Six lines of algebra"
EIGHT = "13, Eight numbers on two devices"


def _combine(
    counts: np.ndarray, means: np.ndarray, variances: np.ndarray, wrong: Wrong = NOTHING_WRONG
) -> tuple[np.ndarray, np.ndarray]:
    share = (counts / counts.sum())[:, None]
    even = np.full_like(share, 1 / len(counts))
    mean = ((even if "plain mean" in wrong else share) * means).sum(0)
    centre = means.mean(0) if "other centre" in wrong else mean
    apart = np.abs(means - centre) if "not squared" in wrong else (means - centre) ** 2
    within = ((even if "plain variance" in wrong else share) * variances).sum(0)
    if "deviations" in wrong:
        within = (share * np.sqrt(variances)).sum(0) ** 2
    between = ((even if "plain spread" in wrong else share) * apart).sum(0)
    if "minus" in wrong:
        between = -between
    var = within * ("no within" not in wrong) + between * ("no spread" not in wrong)
    if "M - 1" in wrong:
        var = var * counts.sum() / (counts.sum() - 1)
    if "M - W" in wrong:
        var = var * counts.sum() / (counts.sum() - len(counts))
    return mean, var


def _shards() -> Trials:
    rng = np.random.default_rng(13)
    trials = []
    for sizes in ((5, 2, 9), (9, 4), (7, 0, 4, 6)):
        counts = np.array(sizes)
        there = (counts > 0)[:, None]
        means = rng.normal(0, 2, (len(sizes), 3)) * there
        trials.append((counts, means, rng.uniform(0.5, 4, means.shape) * there))
    return trials


def _far_shards(dtype: np.dtype[Any]) -> Trials:
    far = {8: 1e9, 4: 3e4, 2: 200}[dtype.itemsize]
    means = far + np.array([[0.0, 2], [3, 1]])
    return [(np.array([6, 2]), means, np.array([[2.0, 3], [1, 2]]))]


combine = Exercise(
    "combine",
    lambda wrong: partial(_combine, wrong=wrong),
    _shards,
    ["mean", "var"],
    {
        "plain mean": Mistake(
            "the means are averaged as if the shares were equal; weigh them by their counts",
            ALGEBRA,
        ),
        "plain variance": Mistake(
            "the variances are averaged as if the shares were equal; weigh them by their counts",
            ALGEBRA,
        ),
        "plain spread": Mistake(
            "the spread of the means is averaged as if the shares were equal", ALGEBRA
        ),
        "other centre": Mistake(
            "the spread is taken around the plain average of the means, not around μ", ALGEBRA
        ),
        "no spread": Mistake("the spread between the devices is missing", EIGHT),
        "no within": Mistake("the variance within the devices is missing", ALGEBRA),
        "not squared": Mistake("the distance of a mean from μ is squared", ALGEBRA),
        "minus": Mistake("the spread between the devices is subtracted; it is added", ALGEBRA),
        "deviations": Mistake(
            "the deviations are averaged and squared; the variances are averaged", ALGEBRA
        ),
        "M - 1": Mistake("the variance divides by M − 1; the biased one is asked", ALGEBRA),
        "M - W": Mistake(
            "the variance divides by M less the number of devices: these variances are biased "
            "already",
            ALGEBRA,
        ),
    },
    [
        "Weigh everything by m_r / M. As a column, counts[:, None], the weights fit (W, C).",
        "The mean is easy. A device's values spread around its own mean, and that lies off μ.",
        "The third line of the algebra: weigh σ_r² + (μ_r − μ)², and add up.",
    ],
    hard=_far_shards,
    hard_sentence=Mistake(
        "Where the means are large beside the spread, E[x²] − E[x]² leaves no digit", ALGEBRA
    ),
)


def _shared_gradient(
    dys: list[np.ndarray],
    x_hats: list[np.ndarray],
    gamma: np.ndarray,
    inv_std: np.ndarray,
    wrong: Wrong = NOTHING_WRONG,
) -> list[np.ndarray]:
    m = np.array([len(dy) for dy in dys])
    parts = {
        "s": [dy.sum(0) for dy in dys],
        "t": [(dy * x_hat).sum(0) for dy, x_hat in zip(dys, x_hats, strict=True)],
    }
    found = []
    for r, (dy, x_hat) in enumerate(zip(dys, x_hats, strict=True)):
        count = m[r] if "own count" in wrong else m.sum() - ("M - 1" in wrong)
        if "devices" in wrong:
            count = len(dys)
        mean = {}
        for name, sums in parts.items():
            mean[name] = (sums[r] if "not added" in wrong else np.sum(sums, axis=0)) / count
            if {f"own {name}", "own sums"} & wrong:
                mean[name] = sums[r] / m[r]
            elif "mean of means" in wrong:
                mean[name] = np.mean([part / n for part, n in zip(sums, m, strict=True)], axis=0)
        found.append(gamma * inv_std * (dy - mean["s"] - x_hat * mean["t"]))
    return found


def _two_devices() -> Trials:
    rng = np.random.default_rng(31)
    trials = []
    for sizes in ((6, 3), (5, 2, 7)):
        cuts = np.cumsum(sizes)[:-1]
        dy, x = rng.normal(0.4, 1, (2, sum(sizes), 3))
        x_hat = (x - x.mean(0)) / x.std(0)
        gamma, inv_std = rng.uniform(0.5, 2, (2, 3))
        trials.append((np.split(dy, cuts), np.split(x_hat, cuts), gamma, inv_std))
    return trials


shared_gradient = Exercise(
    "shared_gradient",
    lambda wrong: partial(_shared_gradient, wrong=wrong),
    _two_devices,
    ["dx"],
    {
        "own sums": Mistake("the gradient is not that of the whole batch"),
        "own s": Mistake("each device still subtracts the mean of its own dy", ALGEBRA),
        "own t": Mistake("each device still subtracts the mean of its own dy · x̂", ALGEBRA),
        "not added": Mistake("each device has its own sums, over the count of all", ALGEBRA),
        "own count": Mistake("the sums of all are divided by one device's count", ALGEBRA),
        "devices": Mistake("the sums are divided by the number of devices, as DDP does", ALGEBRA),
        "mean of means": Mistake(
            "the devices' means are averaged as if the shares were equal", ALGEBRA
        ),
        "M - 1": Mistake("the sums are divided by M − 1; by M", ALGEBRA),
    },
    [
        "With shared statistics x moves the outputs on every device. Which sums have to know that?",
        "s and t run over all devices, and so does the count M that divides them.",
        "What a device does alone with s[r] and m[r], all do together with sum(s) and sum(m).",
    ],
    play=lambda attempt, *arguments: np.concatenate(attempt(*arguments)),
    planted="own sums",
)
