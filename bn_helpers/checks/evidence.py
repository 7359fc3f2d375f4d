"""The exercises of chapters 06 to 08: curves, scale, noise. NumPy alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bn_helpers.checks.engine import NOTHING_WRONG, Exercise, Mistake, Question, Wrong

Trials = list[tuple[Any, ...]]

# --- 06 ---------------------------------------------------------------------------------------

FASTER = "06, Fourteen times fewer?"
PANEL_B = "06, What panel (b) gives away before training starts"


def _steps_over_seeds(
    at: np.ndarray, accuracies: np.ndarray, level: float, wrong: Wrong = NOTHING_WRONG
) -> float:
    if "curve first" in wrong:
        accuracies = np.median(accuracies, axis=0, keepdims=True)
    where = np.arange(len(at), dtype=float) if "index" in wrong else at
    steps = []
    for run in accuracies:
        there = run > level if "above" in wrong else run >= level
        looks = np.flatnonzero(there)
        if not len(looks):
            given = {"first look": where[0], "last look": where[-1], "nan": np.nan}
            named = given.keys() & wrong
            if "left out" not in wrong:
                steps.append(given[min(named)] if named else np.inf)
            continue
        k = looks[-1] if "last" in wrong else looks[0]
        if "stays" in wrong:
            k = min(np.append(np.flatnonzero(~there), -1).max() + 1, len(at) - 1)
        if "joined" in wrong and k:
            steps.append(np.interp(level, run[k - 1 : k + 1], where[k - 1 : k + 1]))
        else:
            steps.append(where[k])
    if "fastest" in wrong:
        return float(min(steps))
    return float(np.mean(steps) if "mean" in wrong else np.median(steps))


def _curves() -> Trials:
    """Rounded accuracies, so that some hit the level exactly; some runs never get there."""
    rng = np.random.default_rng(33)
    trials = []
    for seeds, looks, never in ((5, 10, 0), (5, 12, 2), (4, 10, 1), (7, 13, 0), (5, 9, 3)):
        at = np.cumsum(rng.integers(2, 7, looks)) * 50.0
        rise = 1 - np.exp(-np.arange(1, looks + 1) / rng.uniform(2, 4, (seeds, 1)))
        noisy = rise + rng.normal(0, 0.1, rise.shape)
        noisy[:never] = np.minimum(noisy[:never], 0.7)
        steps = 20 if never else 50
        trials.append((at, np.round(np.minimum(noisy, 1.0) * steps) / steps, 0.8))
    return trials


steps_over_seeds = Exercise(
    "steps_over_seeds",
    lambda wrong: partial(_steps_over_seeds, wrong=wrong),
    _curves,
    ["the number of steps"],
    {
        "above": Mistake("a look at exactly the level has reached it: ≥, not >", FASTER),
        "last": Mistake(
            "this is the last look at the level or above it; asked is the first", FASTER
        ),
        "stays": Mistake(
            "this is the look from which the curve stays at the level; asked is the first there",
            FASTER,
        ),
        "index": Mistake("this is the number of the look; the step stands in `at`", FASTER),
        "joined": Mistake(
            "the crossing is read off the line between two looks; asked is the look", FASTER
        ),
        "first look": Mistake(
            "a run that never gets there counts as one that did at the first look: argmax of "
            "nothing but False is 0",
            FASTER,
        ),
        "last look": Mistake(
            "a run that never gets there counts with its last step; nobody has seen it arrive",
            FASTER,
        ),
        "left out": Mistake(
            "runs that never get there are left out, which flatters the side that has most of them",
            FASTER,
        ),
        "nan": Mistake(
            "a run that never gets there is NaN, and so is any median with it; it is later than "
            "any number",
            FASTER,
        ),
        "mean": Mistake("the runs' mean is taken; asked is the median", FASTER),
        "curve first": Mistake(
            "this is when the median curve gets there; asked is the median of when the runs do",
            FASTER,
        ),
        "fastest": Mistake("this is the fastest run; asked is the median of all", FASTER),
    },
    [
        "One run first: at which looks is it at the level or above? Which of them is the first?",
        "np.flatnonzero(run >= level) lists these looks. What if the list is empty?",
        "For an empty list take np.inf. np.median sorts infinity behind all numbers, as it should.",
    ],
)

first_gap = Question(
    "first_gap",
    {"medians": 0.3, "half": 1 / 8, "fourth layer": 0.25, "wider": 0.05},
    {
        "no root": ("medians", 3.0, Mistake("100 independent weights add up to √100 σ", PANEL_B)),
        "no half": ("medians", 0.6, Mistake("a sigmoid's output is near 1/2, not 1", PANEL_B)),
        "slope": (
            "medians",
            0.15,
            Mistake("this is √100 g′(0) σ, which carries what differs between images", PANEL_B),
        ),
        "one layer": (
            "half",
            0.5,
            Mistake("σ scales one layer here; each of the three layers brings it in", PANEL_B),
        ),
        "two layers": (
            "half",
            0.25,
            Mistake("the first layer scales what differs between images, too", PANEL_B),
        ),
        "no sigma": ("fourth layer", 2.5, Mistake("√100 g′(0) is multiplied by σ", PANEL_B)),
        "no slope": (
            "fourth layer",
            1.0,
            Mistake("the sigmoid's slope at 0 is missing; it is 1/4", PANEL_B),
        ),
        "slope 1/2": (
            "fourth layer",
            0.5,
            Mistake("a sigmoid's value at 0 is 1/2, its slope there is 1/4", PANEL_B),
        ),
        "by fan-in": (
            "wider",
            0.025,
            Mistake("four times the units count with their root", PANEL_B),
        ),
        "upside down": (
            "wider",
            0.2,
            Mistake("more units spread more; σ has to fall to make up for it", PANEL_B),
        ),
    },
    [
        "Two rules: a unit is given about ½ Σ w; what differs passes a layer with √n g′(0) σ.",
        "A sum of n independent weights has standard deviation √n σ, and g′(0) = 1/4.",
        "What differs between images passes three layers, so it goes with the third power of σ.",
    ],
)

# --- 07 ---------------------------------------------------------------------------------------

UNIT = "07, One unit, two weights"
SWEPT = "07, §3.3, swept"

ten_times = Question(
    "ten_times",
    {"output": 1, "gradient": 3, "turn": 9, "rate": 1 / 9},
    {
        "output scaled": (
            "output",
            1 / 3,
            Mistake("the batch's deviation falls with the weights, and divides it out", UNIT),
        ),
        "same gradient": (
            "gradient",
            1,
            Mistake("the output is the same, its slope by the weights is not", UNIT),
        ),
        "gradient falls": (
            "gradient",
            1 / 3,
            Mistake("shorter weights get larger gradients: 1/a", UNIT),
        ),
        "gradient squared": ("gradient", 9, Mistake("the gradient goes with 1/a, not 1/a²", UNIT)),
        "gradient only": (
            "turn",
            3,
            Mistake("the gradient's growth is counted, but it acts on shorter weights", UNIT),
        ),
        "turn falls": ("turn", 1 / 9, Mistake("shorter weights turn further", UNIT)),
        "same turn": ("turn", 1, Mistake("the same rate acts on shorter weights", UNIT)),
        "rate once": (
            "rate",
            1 / 3,
            Mistake("this makes up for the gradient, not for the weights' length", UNIT),
        ),
        "rate up": (
            "rate",
            9,
            Mistake("the steps are too long already; the rate has to fall", UNIT),
        ),
        "same rate": ("rate", 1, Mistake("the direction would turn by another angle", UNIT)),
    },
    [
        "The table of the first section has a = 10 and a = 0.1. Which columns change, and how?",
        "A small step turns w by the step's length over the weights' length.",
        "The gradient goes with 1/a, and it acts on weights a times as long: 1/a² in all.",
    ],
)


def _output_factor(
    a: np.ndarray, var: float, eps: float, wrong: Wrong = NOTHING_WRONG
) -> np.ndarray:
    sign = np.abs(a) if "sign" in wrong else a
    if "not divided" in wrong:
        return sign
    now = (a if "a once" in wrong else a**2) * var
    before = np.full_like(a, var)
    inside = a**2 * eps if "eps scaled" in wrong else eps
    if "eps outside" in wrong:
        stds = np.sqrt(before) + eps, np.sqrt(now) + inside
    else:
        stds = np.sqrt(before + (0 if "own eps" in wrong else eps)), np.sqrt(now + inside)
    if "no root" in wrong:
        stds = stds[0] ** 2, stds[1] ** 2
    factor = sign * stds[0] / stds[1]
    return 1 / factor if "upside down" in wrong else factor


def _scales() -> Trials:
    rng = np.random.default_rng(7)
    return [
        (rng.uniform(0.3, 3, 6) * [1, 1, -1, 1, -1, 1], var, eps)
        for var, eps in ((0.6, 0.2), (1.7, 0.05))
    ]


output_factor = Exercise(
    "output_factor",
    lambda wrong: partial(_output_factor, wrong=wrong),
    _scales,
    ["the factor"],
    {
        "sign": Mistake("a negative a turns the output into its negative", SWEPT),
        "not divided": Mistake(
            "the batch's deviation grows with a and divides it out again", SWEPT
        ),
        "a once": Mistake("the variance goes with the square of a", SWEPT),
        "eps scaled": Mistake(
            "this is a/|a|: ε is left out or scaled with the weights; it stays as it is", SWEPT
        ),
        "own eps": Mistake("BN(Wu), too, has its ε", SWEPT),
        "eps outside": Mistake("ε is added to the root; it belongs under it", SWEPT),
        "no root": Mistake("the division is by the variance; it is by its root", SWEPT),
        "upside down": Mistake(
            "this is BN(Wu) over BN((aW)u); asked is the other way round", SWEPT
        ),
    },
    [
        "Write x̂ of Wu, then x̂ of (aW)u. Which of x, μ, σ² and ε change, and how?",
        "x − μ is multiplied by a, σ² by a², ε by nothing.",
        "a (x − μ) / √(a²σ² + ε) over (x − μ) / √(σ² + ε): x − μ cancels.",
    ],
)

# --- 08 ---------------------------------------------------------------------------------------

LAW = "08, One example, many batches"
DECAY = "08, Weight decay in front of BN is a learning rate"

company = Question(
    "company",
    {"in the middle": 0.1, "in the tail": 0.25, "half": 128, "skewed": 0.2},
    {
        "variance": (
            "in the middle",
            0.01,
            Mistake("this is the variance; its root is asked", LAW),
        ),
        "no m": ("in the middle", 1, Mistake("the bracket is divided by m", LAW)),
        "tail variance": (
            "in the tail",
            1 / 16,
            Mistake("this is the variance; its root is asked", LAW),
        ),
        "as in the middle": (
            "in the tail",
            48**-0.5,
            Mistake("the noise of the batch's deviation is missing; it grows with z²", LAW),
        ),
        "kurtosis": ("in the tail", 12**-0.5, Mistake("the last term has κ − 1, not κ", LAW)),
        "z once": ("in the tail", 24**-0.5, Mistake("z is squared in the last term", LAW)),
        "excess": (
            "in the tail",
            0.0,
            Mistake("κ is the kurtosis, 3 for a normal distribution, not what exceeds it", LAW),
        ),
        "m twice": ("half", 64, Mistake("the noise falls as 1/√m", LAW)),
        "m half": ("half", 16, Mistake("a smaller batch is noisier", LAW)),
        "z positive": ("skewed", 0.12**0.5, Mistake("z is negative here", LAW)),
        "no skewness": (
            "skewed",
            0.08**0.5,
            Mistake("s z is missing: the noises of mean and deviation go together", LAW),
        ),
    },
    [
        "The law stands below the table of six batches; the noise is its root.",
        "For a normal distribution s = 0 and κ = 3, so the bracket is 1 + z²/2.",
        "The second: (1 + 2)/48. The last: (1 − 1 + 1)/25. Take the roots.",
    ],
)


def _lengths(
    start: float, push: float, lr: float, decay: float, steps: int, wrong: Wrong = NOTHING_WRONG
) -> np.ndarray:
    k = 1 - decay if "decay alone" in wrong else 1 - lr * decay
    if "no decay" in wrong:
        k = 1.0
    found = [start]
    for _ in range(int(steps)):
        length = found[-1]
        at = k * length if "shrunk first" in wrong else length
        force = push if "constant" in wrong else push / at**2 if "twice" in wrong else push / at
        step = (lr**0.5 if "rate once" in wrong else lr) * force
        kept = (k**0.5 if "k once" in wrong else k) * length
        if "decay last" in wrong:
            new = k * np.hypot(length, step)
        elif "along" in wrong:
            new = kept + step
        elif "against" in wrong:
            new = kept - step
        else:
            new = np.hypot(kept, step)
        found.append(float(new))
    return np.array(found) ** (2 if "squares" in wrong else 1)


lengths = Exercise(
    "lengths",
    lambda wrong: partial(_lengths, wrong=wrong),
    lambda: [(2.0, 1.7, 0.5, 0.3, 5), (1.3, 2.1, 0.2, 0.4, 7)],
    ["the lengths"],
    {
        "no decay": Mistake("the decay is not used", DECAY),
        "decay alone": Mistake("the decay acts with the rate: k = 1 − ηλ", DECAY),
        "decay last": Mistake("the decay shrinks W before the step, not the step, too", DECAY),
        "shrunk first": Mistake(
            "the gradient is taken at the shrunk weights; it is taken at W, before", DECAY
        ),
        "constant": Mistake("the gradient's length falls as the weights grow: push / ‖W‖", DECAY),
        "twice": Mistake("the gradient is divided by ‖W‖², which is for the angle; by ‖W‖", DECAY),
        "along": Mistake(
            "the step is added along W; it is perpendicular",
            UNIT,
        ),
        "against": Mistake(
            "the step is subtracted along W; it is perpendicular, and lengthens W",
            UNIT,
        ),
        "rate once": Mistake("the step is η times the gradient, and squared with it", UNIT),
        "k once": Mistake("k multiplies the length, so its square multiplies the square", DECAY),
        "squares": Mistake("these are the squares of the lengths", UNIT),
    },
    [
        "One step is two sides of a right angle: the shrunk weights, and η times the gradient.",
        "The sides are (1 − ηλ) ‖W‖ and η push / ‖W‖; Pythagoras gives the new length.",
        "np.hypot(one side, the other) appended to a list that begins with start.",
    ],
)

settled = Question(
    "settled",
    {"rate × 4": 2, "decay × 4": 2, "traded": 1},
    {
        "no settling": (
            "rate × 4",
            4,
            Mistake("with the higher rate the length settles elsewhere, too", DECAY),
        ),
        "rate idle": ("rate × 4", 1, Mistake("the length makes up for a part only", DECAY)),
        "decay idle": (
            "decay × 4",
            1,
            Mistake("decay does not change the function, but it sets the length", DECAY),
        ),
        "decay whole": ("decay × 4", 4, Mistake("shorter weights get larger gradients", DECAY)),
        "decay inverse": (
            "decay × 4",
            0.5,
            Mistake("stronger decay settles at shorter weights, which turn further", DECAY),
        ),
        "rate alone": (
            "traded",
            0.1,
            Mistake("the tenfold decay makes up for the tenth of the rate", DECAY),
        ),
        "decay only": (
            "traded",
            10,
            Mistake("the tenth of the rate makes up for the tenfold decay", DECAY),
        ),
    },
    [
        "Settled means: what decay takes off in a step is what the gradient adds.",
        "For small ηλ: 2ηλ ‖W‖² = η² push² / ‖W‖². Solve for ‖W‖², or run your function for long.",
        "‖W‖² goes with √(η/λ), so η/‖W‖² goes with √(ηλ).",
    ],
    tolerance=0.05,
)
