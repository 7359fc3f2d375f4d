"""The recipes of section 4.2 in one place: what is trained, and how; the settings of a run.

Ioffe & Szegedy (2015) train Inception, BN-Baseline, which adds nothing but BN, and BN-x5, BN-x30
and BN-x5-Sigmoid, which add the seven changes of section 4.2.1 too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

# Initial learning rate of plain Inception, by model: the paper's for its own network; for the
# small one, the best of five by the mean of the last four held-out accuracies, over five seeds
# (record inception_tuning).
BASE_LR = {"small": 0.03, "inception": 0.0015, "plain": 0.1}


@dataclass(frozen=True)
class Recipe:
    """Everything that a training run is made of, except data, seed and length.

    The learning rate of step t is ``faster · BASE_LR[model] · 2^(−t / half_life)``.
    """

    about: str
    model: str = "small"  # or "inception", the paper's, or "plain"
    bn: bool = True
    activation: str = "relu"
    init: str | float = "he"  # or "xavier", or σ of a Gaussian
    gain: float = 1.0  # factor on the convolutions' initial weights
    per_activation: bool = False  # BN per activation in the last module
    batch_size: int = 32
    faster: float = 1.0  # learning rate, in units of plain Inception's
    half_life: float = 3000.0  # steps in which the learning rate halves
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4  # on convolutions' and linear layers' weights
    dropout: float = 0.4
    lrn: bool = True
    shuffle: bool = False  # False: the same examples share a mini-batch in every epoch
    distortion: float = 0.4  # largest relative change of brightness, contrast and saturation
    label_smoothing: float = 0.0


class RunError(ValueError):
    """A run that cannot be started or continued; the message says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """A recipe and what else determines a run's curve, to the bit on a CPU.

    Raises RunError for numbers that no run can have.
    """

    recipe: Recipe
    steps: int
    seed: int = 0
    lr: float | None = None  # initial; None: the recipe's
    every: int = 100  # steps between evaluations on held-out images
    closely: int | None = None  # after so many steps, if given, …
    later: int = 100  # … so many between evaluations
    size: int | None = None  # H = W of what the network sees; None: the images'
    width: float = 1.0  # factor on the small and the plain network's widths
    flip: bool = True
    reading: str = "repaired"  # of Figure 5, for the paper's network
    precision: str = "float32"  # or "bfloat16" (autocast)
    compile: bool = False
    sync_bn: bool = False  # statistics over all processes' batches
    held_out: int = 5000  # training images for curves and choices, or a tenth if fewer
    look_at: int = 5000  # so many of them at each evaluation
    train_on: int | None = None  # so many training images only

    def __post_init__(self):
        size = 1 if self.size is None else self.size
        counts = {"steps": self.steps, "every": self.every, "later": self.later}
        counts |= {"look_at": self.look_at, "image size": size}
        for name, count in (counts | {"batch size": self.recipe.batch_size}).items():
            if count < 1:
                raise RunError(f"expected {name} of at least 1, got {count}")
        for name, number in (("learning rate", self.initial_lr), ("width", self.width)):
            if not 0 < number < math.inf:
                raise RunError(f"expected a finite {name} above 0, got {number}")
        if not 0 <= self.seed < 2**32:
            raise RunError(f"expected a seed from 0 to 2**32 - 1, got {self.seed}")
        if self.precision not in ("float32", "bfloat16"):
            raise RunError(f"expected precision float32 or bfloat16, got {self.precision!r}")

    @property
    def initial_lr(self) -> float:
        recipe = self.recipe
        return recipe.faster * BASE_LR[recipe.model] if self.lr is None else self.lr

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0, 1, …: halved every ``half_life`` steps, however long the run."""
        return self.initial_lr * 2 ** (-step / self.recipe.half_life)

    def looks_at(self, step: int) -> bool:
        """Whether the held-out images are looked at after so many steps."""
        far = self.closely is not None and step > self.closely
        every = self.later if far else self.every
        return step == self.steps or step % every == 0


# The seven changes of section 4.2.1: name → fields that differ from BN-Baseline.
CHANGES: dict[str, dict[str, Any]] = {
    "higher learning rate": {"faster": 5.0},
    "no Dropout": {"dropout": 0.0},
    "L2 weight ÷ 5": {"weight_decay": 1e-4},
    "decay 6× faster": {"half_life": 500.0},
    "no LRN": {"lrn": False},
    "thorough shuffling": {"shuffle": True},
    "weaker distortions": {"distortion": 0.1},
}
_all_changes = {field: value for change in CHANGES.values() for field, value in change.items()}

_inception = Recipe("Inception of 2014: no BN, Dropout 40 %, LRN", bn=False)
_baseline = replace(_inception, about="Inception with BN before each activation", bn=True)
_x5 = replace(_baseline, about="BN, the seven changes, learning rate × 5", **_all_changes)
_x30 = replace(_x5, about="BN, the seven changes, learning rate × 30", faster=30.0)
_speed = Recipe(
    "a plain convolutional network with BN, to 94 % of CIFAR-10 as fast as we can",
    model="plain",
    batch_size=512,
    faster=4.0,
    half_life=1000.0,
    nesterov=True,
    dropout=0.0,
    lrn=False,
    shuffle=True,
    distortion=0.0,
    label_smoothing=0.1,
)

RECIPES = {
    "inception": _inception,
    "inception-x5": replace(_inception, about="Inception at 5 times its learning rate", faster=5.0),
    "bn-baseline": _baseline,
    "bn-x5": _x5,
    "bn-x30": _x30,
    "bn-x5-sigmoid": replace(
        _x5, about="BN-x5 with sigmoids for ReLUs", activation="sigmoid", init="xavier"
    ),
    "inception-sigmoid": replace(
        _inception, about="Inception with sigmoids", activation="sigmoid", init="xavier"
    ),
    "speed": _speed,
    "speed-plain": replace(_speed, about="the same without BN", bn=False, faster=0.5),
}

# Section 4.2.3: six networks, each BN-x30 with some of: larger initial weights in the
# convolutions, Dropout of 5 or 10 %, BN per activation in the last hidden layers.
ENSEMBLE = {
    "as it is": {},
    "larger weights": {"gain": 1.5},
    "Dropout 5 %": {"dropout": 0.05},
    "Dropout 10 %": {"dropout": 0.1},
    "per activation": {"per_activation": True},
    "larger weights, Dropout 5 %, per activation": {
        "gain": 1.5,
        "dropout": 0.05,
        "per_activation": True,
    },
}
