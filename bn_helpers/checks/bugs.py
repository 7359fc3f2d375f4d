"""The exercises of "Find the bug": code as it is handed out, mended, and mended the wrong way.

NumPy; torch where a layer of PyTorch's is taken apart.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bn_helpers.checks.engine import NOTHING_WRONG, Exercise, Mistake, Question, Wrong

LINES = "02, Algorithm 1, line by line"
EPS = "02, What ε does"
DIGITS = "02, Computing the variance"
WAYS = "03, Two ways to the input"
ONE_LINE = "03, dx in one line"
CHECK = "03, The numerical check, done properly"
DETECTORS = "03, Which test catches which bug?"
AVERAGE = "04, The moving average"
LAYER = "04, The layer, in steps"
SYMPTOMS = "04, Train and eval: from symptom to cause"
MAPS = "05, One mean, one variance, one γ, one β per map"
ROWS = "05, Every place is a row"
FOLDING = "05, Folding into the convolution"


def _batch(seed: int, *shape: int) -> np.ndarray:
    """Values whose channels (axis 1) differ in mean and spread."""
    rng = np.random.default_rng(seed)
    channel = (shape[1],) + (1,) * (len(shape) - 2)
    return rng.normal(rng.normal(size=channel), rng.uniform(0.5, 3, size=channel), shape)


def _pair(seed: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """γ and β as they are after some training."""
    rng = np.random.default_rng(seed)
    return rng.uniform(1.5, 3, size=channels), rng.normal(size=channels)


# B.1: one layer, in training mode


def _normalize(
    x: Any, gamma: Any, beta: Any, eps: float = 1e-5, wrong: Wrong = NOTHING_WRONG
) -> Any:
    m = len(x)
    mean = x.mean(dim=0)
    around = x if "second moment" in wrong else x - mean
    var = (around**2).mean(dim=0)
    if "all" in wrong:
        var = x.var(correction=0)
    if "sum" in wrong:
        var = var * m
    if "planted" in wrong:
        var = var * m / (m - 1)
    if "further off" in wrong:
        var = var * (m / (m - 1)) ** 2
    root = var + eps if "no root" in wrong else (var + eps) ** 0.5
    if {"no eps", "eps outside"} & wrong:
        root = var**0.5 + (eps if "eps outside" in wrong else 0)
    x_hat = (x - mean) / root
    if "afterwards" in wrong:
        x_hat = (x - mean) / (var * m / (m - 1) + eps) ** 0.5 * (m / (m - 1)) ** 0.5
    return gamma * x_hat + beta


def _with_torch(trials: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The trials; and PyTorch is there before the limit of a check begins."""
    import torch  # noqa: F401

    return trials


def _on_tensors(attempt: Any, *arguments: Any) -> Any:
    import torch

    return attempt(*(torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments))


bug_1 = Exercise(
    "bug_1",
    lambda wrong: partial(_normalize, wrong=wrong),
    lambda: _with_torch([(_batch(m, m, 3), *_pair(m, 3), 0.05) for m in (5, 8)]),
    ["y"],
    {
        "planted": Mistake("the smaller the batch, the more y's variance falls short of γ²"),
        "further off": Mistake(
            "the variance is multiplied by m/(m − 1) where it has to be divided by it", LINES
        ),
        "afterwards": Mistake(
            "x̂ is stretched afterwards, and ε with it; mend the variance where it is computed", EPS
        ),
        "sum": Mistake("the squares are summed and not divided by m", LINES),
        "second moment": Mistake(
            "the variance is taken around 0; it is the mean square of x − mean", LINES
        ),
        "all": Mistake("one variance serves all features; each feature has its own", LINES),
        "no eps": Mistake("ε is gone; it is added to the variance, under the root", EPS),
        "eps outside": Mistake("ε is added to the root; it belongs under it", EPS),
        "no root": Mistake("the division is by the variance; it is by its root", LINES),
    },
    [
        "All features suffer alike, and only m matters. Which line knows how many examples there "
        "are?",
        "Put in four numbers whose variance you know, say −3, −1, 1, 3: it is 5. Print each line.",
        "NumPy's var and torch's var are not the same function. What does torch's divide by, if "
        "it is not told?",
    ],
    play=_on_tensors,
    planted="planted",
)


# B.2: mean and variance


def _statistics(x: np.ndarray, wrong: Wrong = NOTHING_WRONG) -> tuple[Any, Any]:
    if {"planted", "clipped", "absolute"} & wrong:
        mean = x.mean(axis=0)
        var = (x**2).mean(axis=0) - mean**2
        if "clipped" in wrong:
            var = np.maximum(var, 0)
        if "absolute" in wrong:
            var = np.abs(var)
    else:
        exact = x.astype(np.float64)
        mean = exact.mean(axis=0)
        var = exact.var() * np.ones_like(mean) if "all" in wrong else exact.var(axis=0)
    m = len(x)
    if "m - 1" in wrong:
        var = var * m / (m - 1)
    if "sum" in wrong:
        var = var * m
    if "root" in wrong:
        var = np.sqrt(var)
    if "shifted" in wrong:
        mean = mean - x[0]
    return mean, var


def _near_and_far() -> list[tuple[Any, ...]]:
    """In float32: ordinary numbers, and whole ones (they are exact) far from zero."""
    rng = np.random.default_rng(24)  # two of the five come out below zero
    far = 10_000 + rng.integers(-4, 5, size=(12, 5))
    ordinary = _batch(21, 7, 3)
    return [(x.astype(np.float32),) for x in (ordinary, far)]


def _out_of_reach(dtype: np.dtype[Any]) -> list[tuple[Any, ...]]:
    """Whole numbers that the dtype holds exactly, further off."""
    mean = {8: 1e9, 4: 3e4, 2: 200}[dtype.itemsize]
    return [(mean + np.array([[0.0, 3], [2, 1], [4, 5], [6, 2], [3, 4]]),)]


bug_2 = Exercise(
    "bug_2",
    lambda wrong: partial(_statistics, wrong=wrong),
    _near_and_far,
    ["mean", "var"],
    {
        "planted": Mistake("far from zero the variance has no right digit left"),
        "clipped": Mistake(
            "no variance is negative any more, and they are as wrong as they were", DIGITS
        ),
        "absolute": Mistake(
            "the sign is gone, the error is not: they are as wrong as they were", DIGITS
        ),
        "m - 1": Mistake("the variance divides by m − 1; Algorithm 1 divides by m", LINES),
        "sum": Mistake("the squares are summed and not divided by m", LINES),
        "all": Mistake("one variance serves all features; each feature has its own", LINES),
        "root": Mistake("the root is taken: this is a standard deviation", LINES),
        "shifted": Mistake(
            "x was shifted to compute the variance, and the mean did not come back", DIGITS
        ),
    },
    [
        "On paper nothing is wrong. How many digits has a float32? How many has 10,000²?",
        "Two large numbers that are almost equal are subtracted: the digits that they share go, "
        "and the rounding stays.",
        "Subtract while the numbers are small: first the mean from x, then square.",
    ],
    hard=_out_of_reach,
    hard_sentence=Mistake(
        "More digits only move the place where they run out; subtract the mean before you square",
        DIGITS,
    ),
    planted="planted",
)


# B.3: the way back


def _backward(
    dy: np.ndarray,
    x_hat: np.ndarray,
    gamma: np.ndarray,
    inv_std: np.ndarray,
    wrong: Wrong = NOTHING_WRONG,
) -> tuple[Any, ...]:
    m = len(dy)
    dy = gamma * dy if "dy itself" in wrong else dy
    dbeta = dy.sum(axis=0)
    dgamma = (dy * x_hat).sum(axis=0)
    from_mean = 0 if "no mean" in wrong else dbeta / m
    from_var = 0 if "no variance" in wrong else x_hat * dgamma / m
    directly = gamma * dy if "one way" in wrong else dy
    rest = from_mean + from_var
    dx = inv_std * (directly - (gamma * rest if "other ways" in wrong else rest))
    if not {"planted", "dy itself", "one way", "other ways"} & wrong:
        dx = dx / gamma if "divided" in wrong else gamma * dx
    if "twice" in wrong:
        dx = gamma * dx
    if "averaged" in wrong:
        dgamma = dgamma / m
        dbeta = dbeta / m
    return dx, dgamma, dbeta


def _going_back() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(3)
    trials = []
    for m in (6, 9):
        x = _batch(m, m, 3)
        inv_std = 1 / np.sqrt(x.var(axis=0) + 0.05)
        x_hat = (x - x.mean(axis=0)) * inv_std
        trials.append((rng.normal(0.4, 1, size=x.shape), x_hat, _pair(m, 3)[0], inv_std))
    return trials


bug_3 = Exercise(
    "bug_3",
    lambda wrong: partial(_backward, wrong=wrong),
    _going_back,
    ["dx", "dgamma", "dbeta"],
    {
        "planted": Mistake("dx is right for a layer that has learned nothing, and for no other"),
        "dy itself": Mistake(
            "dy is multiplied by γ before ∂γ and ∂β are taken, and they change with it", ONE_LINE
        ),
        "one way": Mistake(
            "γ multiplies what comes directly; the ways through mean and variance miss it", WAYS
        ),
        "other ways": Mistake(
            "γ multiplies the ways through mean and variance; the direct one misses it", WAYS
        ),
        "twice": Mistake("γ is there twice", ONE_LINE),
        "divided": Mistake("dx is divided by γ", ONE_LINE),
        "no mean": Mistake("the way through the mean is gone", WAYS),
        "no variance": Mistake("the way through the variance is gone", WAYS),
        "averaged": Mistake(
            "∂γ and ∂β are averaged over the batch; they are sums: the loss has its 1/m already",
            ONE_LINE,
        ),
    },
    [
        "dgamma and dbeta are right. A fresh layer has γ = 1 and β = 0: what cannot show there?",
        "If γ were twice as large, y would answer x twice as much. And dx?",
        "x reaches y through x̂ alone, on three ways, and each of them ends in γ x̂ + β.",
    ],
    planted="planted",
)


# B.4: a layer and its gradient


def _layer(wrong: Wrong) -> Any:
    import torch

    class Layer(torch.nn.Module):
        def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
            super().__init__()
            self.eps, self.momentum = eps, momentum
            self.gamma = torch.nn.Parameter(torch.ones(num_features))
            self.beta = torch.nn.Parameter(torch.zeros(num_features))
            self.register_buffer("running_mean", torch.zeros(num_features))
            self.register_buffer("running_var", torch.ones(num_features))

        def forward(self, x: Any) -> Any:
            mean: Any = self.running_mean
            var: Any = self.running_var
            if self.training or "both modes" in wrong:
                m = len(x)
                mean, var = x.mean(dim=0), x.var(dim=0, correction=int("m - 1" in wrong))
                if {"planted", "only mean"} & wrong:
                    var = var.detach()
                if {"planted", "only var"} & wrong:
                    mean = mean.detach()
                corrected = var if "biased" in wrong else var * m / (m - 1)
                for name, new in (("running_mean", mean), ("running_var", corrected)):
                    new = new if "graph" in wrong else new.detach()
                    if "stand still" not in wrong:
                        getattr(self, name).lerp_(new, self.momentum)
            return self.gamma * (x - mean) / torch.sqrt(var + self.eps) + self.beta

    return Layer


def _two_steps(attempt: Any, batches: list[np.ndarray], gamma: Any, beta: Any) -> dict[str, Any]:
    """A layer in training mode for two batches, then in evaluation mode for the last."""
    import torch

    layer = attempt(len(gamma), eps=0.05, momentum=0.3)
    with torch.no_grad():
        layer.gamma.copy_(torch.from_numpy(gamma))
        layer.beta.copy_(torch.from_numpy(beta))
    results: dict[str, Any] = {}
    for step, batch in enumerate(batches, 1):
        x = torch.from_numpy(batch).float().requires_grad_()
        y = layer(x)
        layer.zero_grad()
        (y**3 + y).sum().backward()
        results |= {f"y in step {step}": y, f"dx in step {step}": x.grad}
    return results | {
        "dgamma": layer.gamma.grad,
        "dbeta": layer.beta.grad,
        "running_mean": layer.running_mean.clone(),
        "running_var": layer.running_var.clone(),
        "running_mean.requires_grad": layer.running_mean.requires_grad,
        "running_var.requires_grad": layer.running_var.requires_grad,
        "y in evaluation mode": layer.eval()(torch.from_numpy(batches[0]).float()),
    }


bug_4 = Exercise(
    "bug_4",
    _layer,
    lambda: _with_torch([([_batch(40, 7, 3), _batch(41, 6, 3)], *_pair(4, 3))]),
    ["y"],
    {
        "planted": Mistake("a loss that no shift of x can change still has a gradient in x"),
        "only mean": Mistake("the mean has its gradient now, the variance has none yet", WAYS),
        "only var": Mistake("the variance has its gradient now, the mean has none yet", WAYS),
        "graph": Mistake(
            "the running averages hold on to the graphs of all batches so far, and memory grows "
            "with each; update them without gradients",
            LAYER,
        ),
        "stand still": Mistake("the running averages no longer move", AVERAGE),
        "biased": Mistake("running_var no longer gets the m/(m − 1)", LAYER),
        "m - 1": Mistake("x̂ divides by the root of a variance with m − 1", LINES),
        "both modes": Mistake("both modes do the same: `self.training` is not asked", SYMPTOMS),
    },
    [
        "Both modes give the right y. So the numbers are right, and something that goes with "
        "them is not.",
        "Add 1 to all of x: y stays as it is, so the gradients of a feature add up to 0. Here "
        "they do not. Which way back is missing?",
        "Some lines in `no_grad` belong there, for the averages are no part of y. Do all?",
    ],
    play=_two_steps,
    planted="planted",
    seconds=20,
)


# B.5: one function for both modes


def _both_modes(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    training: bool,
    momentum: float | None = None,
    eps: float = 1e-5,
    wrong: Wrong = NOTHING_WRONG,
) -> tuple[Any, ...]:
    if momentum is None:
        momentum = 0.9 if {"default", "both"} & wrong else 0.1
    mean, var = running_mean, running_var
    if training or "always" in wrong:
        m = len(x)
        batch = x.mean(axis=0), x.var(axis=0)
        corrected = batch[1] if "biased" in wrong else batch[1] * m / (m - 1)
        turned = {"planted", "default"} & wrong
        for_mean = 1 - momentum if turned or "var alone" in wrong else momentum
        for_var = 1 - momentum if turned or "mean alone" in wrong else momentum
        keep_mean, keep_var = (1, 1) if "sum" in wrong else (1 - for_mean, 1 - for_var)
        running_mean = keep_mean * running_mean + for_mean * batch[0]
        running_var = keep_var * running_var + for_var * corrected
        mean, var = (running_mean, running_var) if "running" in wrong else batch
    y = gamma * (x - mean) / np.sqrt(var + eps) + beta
    return y, running_mean, running_var


def _average_over(
    attempt: Any, batches: list[np.ndarray], gamma: Any, beta: Any, options: dict[str, float]
) -> dict[str, Any]:
    """Three batches in training mode, then one in evaluation mode."""
    running = np.zeros(len(gamma)), np.ones(len(gamma))
    results: dict[str, Any] = {}
    for number, x in enumerate(batches, 1):
        training = number < len(batches)
        y, *running = attempt(x, gamma, beta, *running, training, **options)
        part = f"of batch {number}" if training else "in evaluation mode"
        results |= {
            f"y {part}": y,
            f"running_mean {part}": np.copy(running[0]),
            f"running_var {part}": np.copy(running[1]),
        }
    return results


bug_5 = Exercise(
    "bug_5",
    lambda wrong: partial(_both_modes, wrong=wrong),
    lambda: [
        ([_batch(50 + m, m, 3) for m in (8, 6, 9, 5)], *_pair(5, 3), options)
        for options in ({}, {"momentum": 0.3})
    ],
    ["y"],
    {
        "planted": Mistake("after a hundred batches the averages know the last one or two"),
        "default": Mistake(
            "the default of momentum is another; a caller's momentum=0.1 still means what it "
            "should not",
            AVERAGE,
        ),
        "both": Mistake(
            "the update is right, and the default of momentum is no longer 0.1", AVERAGE
        ),
        "mean alone": Mistake("the mean's average is mended, the variance's is not", AVERAGE),
        "var alone": Mistake("the variance's average is mended, the mean's is not", AVERAGE),
        "sum": Mistake("the past is kept whole, so the averages grow and grow", AVERAGE),
        "biased": Mistake("running_var no longer gets the m/(m − 1)", LAYER),
        "running": Mistake(
            "training mode normalises with the running averages; it uses the batch's", LAYER
        ),
        "always": Mistake("both modes do the same: `training` is not asked", SYMPTOMS),
    },
    [
        "y is right while training. What differs in evaluation mode is running_mean and "
        "running_var: follow one number through two batches.",
        "Begin with running_mean = 0 and give it a batch with mean 1. F.batch_norm's running_mean "
        "is then 0.1. What is yours?",
        "In PyTorch `momentum` is the share of the new batch. Elsewhere it is the share that the "
        "past keeps.",
    ],
    play=_average_over,
    planted="planted",
)


# B.6: a layer, saved and loaded


def _kept(wrong: Wrong) -> Any:
    import torch

    class Layer(torch.nn.Module):
        def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
            super().__init__()
            self.eps, self.momentum = eps, momentum
            self.gamma = torch.nn.Parameter(torch.ones(num_features))
            self.beta = torch.nn.Parameter(torch.zeros(num_features))
            starts = {"running_mean": torch.zeros, "running_var": torch.ones}
            if "from 0" in wrong:
                starts["running_var"] = torch.zeros
            for name, start in starts.items():
                value = start(num_features)
                forgotten = "only var" if name == "running_mean" else "only mean"
                if {"planted", forgotten} & wrong:
                    setattr(self, name, value)
                elif "parameters" in wrong:
                    setattr(self, name, torch.nn.Parameter(value))
                else:
                    self.register_buffer(name, value, persistent="not persistent" not in wrong)

        def forward(self, x: Any) -> Any:
            mean: Any = self.running_mean
            var: Any = self.running_var
            if self.training or "both modes" in wrong:
                m = len(x)
                mean, var = x.mean(dim=0), x.var(dim=0, correction=0)
                corrected = var if "biased" in wrong else var * m / (m - 1)
                for name, new in (("running_mean", mean), ("running_var", corrected)):
                    old = getattr(self, name)
                    moved = (1 - self.momentum) * old.detach() + self.momentum * new.detach()
                    if "parameters" in wrong:
                        old.data = moved
                    else:
                        setattr(self, name, moved)
            return self.gamma * (x - mean) / torch.sqrt(var + self.eps) + self.beta

    return Layer


def _saved_and_loaded(
    attempt: Any, batches: list[np.ndarray], gamma: Any, beta: Any
) -> dict[str, Any]:
    import torch

    trained, loaded = (attempt(len(gamma), eps=0.05, momentum=0.3) for _ in range(2))
    test, *train = [torch.from_numpy(batch).float() for batch in batches]
    results = {"y of a new layer": loaded.eval()(test).detach().clone()}
    with torch.no_grad():
        trained.gamma.copy_(torch.from_numpy(gamma))
        trained.beta.copy_(torch.from_numpy(beta))
    for number, batch in enumerate(train, 1):
        results[f"y of batch {number}"] = trained(batch)
    loaded.load_state_dict(trained.state_dict())
    results |= {
        "y in evaluation mode": trained.eval()(test),
        "y after loading": loaded.eval()(test),
        "values that learn": sum(p.numel() for p in trained.parameters() if p.requires_grad),
    }
    trained.double()
    return results | {
        f"bytes of a value of {name}, after layer.double()": getattr(trained, name).element_size()
        for name in ("running_mean", "running_var")
    }


bug_6 = Exercise(
    "bug_6",
    _kept,
    lambda: _with_torch([([_batch(60 + m, m, 3) for m in (5, 7, 8)], *_pair(6, 3))]),
    ["y"],
    {
        "planted": Mistake("saved and loaded, the layer is another in evaluation mode"),
        "only mean": Mistake("running_mean comes back, running_var does not", SYMPTOMS),
        "only var": Mistake("running_var comes back, running_mean does not", SYMPTOMS),
        "not persistent": Mistake(
            "the statistics move with the layer now, and are still not saved", SYMPTOMS
        ),
        "parameters": Mistake(
            "the statistics are parameters now, and an optimizer moves them like weights; they "
            "are measured, not learned",
            LAYER,
        ),
        "from 0": Mistake("running_var starts at 0; it starts at 1", LAYER),
        "biased": Mistake("running_var no longer gets the m/(m − 1)", LAYER),
        "both modes": Mistake("both modes do the same: `self.training` is not asked", SYMPTOMS),
    },
    [
        "Training mode does not notice: it asks the batch. What does evaluation mode ask?",
        "Look at `list(layer.state_dict())`. What is a layer's state, and what of it is listed?",
        "A tensor that is no parameter and yet belongs to the state has to be registered: "
        "chapter 4's layer does it in two lines.",
    ],
    play=_saved_and_loaded,
    planted="planted",
    seconds=20,
)


# B.7: maps


def _maps(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    eps: float = 1e-5,
    wrong: Wrong = NOTHING_WRONG,
) -> np.ndarray:
    axes: Any = (0, 2, 3)
    for name, others in {
        "planted": 0,
        "instance": (2, 3),
        "layer": (1, 2, 3),
        "all": (0, 1, 2, 3),
        "rows": (0, 3),
        "columns": (0, 2),
    }.items():
        axes = others if name in wrong else axes
    mean = x.mean(axis=0 if "var alone" in wrong else axes, keepdims=True)
    var = x.var(axis=0 if "mean alone" in wrong else axes, keepdims=True)
    if "var alone" in wrong:
        var = x.var(axis=axes, keepdims=True)
    if "within places" in wrong:
        var = x.var(axis=0).mean(axis=(1, 2), keepdims=True)
    if "within images" in wrong:
        var = x.var(axis=(2, 3), keepdims=True).mean(axis=0)
    if "m - 1" in wrong:
        m = x.size // var.size
        var = var * m / (m - 1)
    x_hat = (x - mean) / np.sqrt(var + eps)
    return gamma[:, None, None] * x_hat + beta[:, None, None]


bug_7 = Exercise(
    "bug_7",
    lambda wrong: partial(_maps, wrong=wrong),
    lambda: [
        (_batch(70 + h, 5, 3, h, w) + np.linspace(-1, 1, w), *_pair(7, 3), 0.05)
        for h, w in ((4, 2), (2, 6))
    ],
    ["y"],
    {
        "planted": Mistake("with two images y takes two values for a channel, whatever they show"),
        "instance": Mistake(
            "each image has its own statistics (instance normalization); the batch shares them",
            ROWS,
        ),
        "layer": Mistake(
            "each image has one mean and variance over all channels (layer normalization)", MAPS
        ),
        "all": Mistake("one mean and one variance serve all channels", MAPS),
        "rows": Mistake("each row of a map has its own statistics; all places share them", ROWS),
        "columns": Mistake(
            "each column of a map has its own statistics; all places share them", ROWS
        ),
        "mean alone": Mistake("the mean is mended, the variance is taken as it was", MAPS),
        "var alone": Mistake("the variance is mended, the mean is taken as it was", MAPS),
        "within places": Mistake(
            "the variances of the places are averaged; how their means differ is lost", ROWS
        ),
        "within images": Mistake(
            "the variances of the images are averaged; how their means differ is lost", ROWS
        ),
        "m - 1": Mistake("the variance divides by m′ − 1; Algorithm 1 divides by m′", LINES),
    },
    [
        "Two values are normalised to −1 and 1, whatever they are. Which two values here?",
        "Print mean.shape. A channel has one mean, so how many numbers should there be?",
        "For a channel all images and all places are one long list: which axes are these?",
    ],
    planted="planted",
)


# B.8: folding


def _fold(
    weight: np.ndarray,
    bias: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    eps: float = 1e-5,
    wrong: Wrong = NOTHING_WRONG,
) -> tuple[Any, Any]:
    var = running_var + (0 if "no eps" in wrong else eps)
    scale = gamma / (var if "no root" in wrong else np.sqrt(var))
    mean = -running_mean if "plus mean" in wrong else running_mean
    new = scale * (bias - mean) + beta
    if "planted" in wrong:
        new = bias - scale * mean + beta
    if "no bias" in wrong:
        new = beta - scale * mean
    if "beta too" in wrong:
        new = scale * (bias - mean + beta)
    if "mean as it is" in wrong:
        new = scale * bias - mean + beta
    if "twice" in wrong:
        new = scale * (scale * (bias - mean)) + beta
    weight = weight if "weight as it is" in wrong else weight * scale[:, None, None, None]
    return weight, new


def _convolutions() -> list[tuple[Any, ...]]:
    trials = []
    for seed, shape in ((8, (4, 3, 3, 3)), (9, (2, 5, 1, 1))):
        rng = np.random.default_rng(seed)
        outputs = shape[0]
        trials.append(
            (
                rng.normal(size=shape),
                rng.normal(size=outputs),
                *_pair(seed, outputs),
                rng.normal(size=outputs),
                rng.uniform(0.2, 3, size=outputs),
                0.05,
            )
        )
    return trials


bug_8 = Exercise(
    "bug_8",
    lambda wrong: partial(_fold, wrong=wrong),
    _convolutions,
    ["weight", "bias"],
    {
        "planted": Mistake("each channel is off by the same number in every place"),
        "no bias": Mistake("the convolution's own bias is gone", FOLDING),
        "beta too": Mistake("β is scaled, too; it is added after the scaling", FOLDING),
        "mean as it is": Mistake("running_mean is subtracted without the scale", FOLDING),
        "plus mean": Mistake("running_mean is added; it is subtracted", FOLDING),
        "twice": Mistake("the bias is scaled twice", FOLDING),
        "weight as it is": Mistake("the weight has lost its scale", FOLDING),
        "no eps": Mistake("ε is gone; it is added to running_var, under the root", EPS),
        "no root": Mistake("the scale divides by the variance; it divides by its root", FOLDING),
    },
    [
        "An error that is the same everywhere in a map can come from one of the two results only.",
        "Write BN(Wu + b) with scale s: s (Wu + b − mean) + β. What multiplies b?",
        "Most networks that are folded have no bias before BN, so its b is 0. What would 0 hide?",
    ],
    planted="planted",
)


# B.9: which test would have told

_PASSES = "on ordinary numbers it is right to six digits, and no test here uses others"
bug_tests = Question(
    "bug_tests",
    {
        "B.1": "training",
        "B.2": "none",
        "B.3": "gradient",
        "B.4": "gradient",
        "B.5": "evaluation",
        "B.6": "none",
        "B.7": "training",
        "B.8": "evaluation",
    },
    {
        "passes its own": (
            "B.1",
            "gradient",
            Mistake("its gradient is the right one of what it computes", DETECTORS),
        ),
        "stores the right one": (
            "B.1",
            "evaluation",
            Mistake("it has no evaluation mode to test", LINES),
        ),
        "ordinary": ("B.2", "training", Mistake(_PASSES, DIGITS)),
        "ordinary later": ("B.2", "evaluation", Mistake(_PASSES, DIGITS)),
        "forward": ("B.3", "training", Mistake("it computes no y; only gradients", ONE_LINE)),
        "y is right": ("B.4", "training", Mistake("its y is right in training mode", WAYS)),
        "y is right later": ("B.4", "evaluation", Mistake("its y is right in this mode", WAYS)),
        "asks the batch": (
            "B.5",
            "training",
            Mistake("training mode asks the batch, and never sees the averages", AVERAGE),
        ),
        "same object": (
            "B.6",
            "evaluation",
            Mistake("this test evaluates the very layer that was trained", SYMPTOMS),
        ),
        "no mistake in y": (
            "B.6",
            "training",
            Mistake("training mode asks the batch alone", SYMPTOMS),
        ),
        "stretched": (
            "B.7",
            "shape",
            Mistake("y has the shape of x, whatever shape the mean has", MAPS),
        ),
        "shapes fit": ("B.8", "shape", Mistake("both results have the right shape", FOLDING)),
        "no batch": (
            "B.8",
            "training",
            Mistake("only what is fixed can be folded, so that is not what it replaces", FOLDING),
        ),
    },
    [
        "For each bug: which number is wrong? y while training, y while evaluating, a gradient? "
        "That is the test.",
        "No test here saves a layer, and none uses numbers far from zero.",
        "The shape is right in all eight. Two of them pass every test of the four.",
    ],
)
