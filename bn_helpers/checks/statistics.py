"""The exercises of chapter 04: inference statistics. torch only where a layer or loop is run."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bn_helpers.checks.engine import NOTHING_WRONG, Exercise, Mistake, Wrong

PAGE = "04, Algorithm 2 on one page"
FACTOR = "04, Why the factor"
AVERAGE = "04, The moving average"
LAYER = "04, The layer, in steps"
SYMPTOMS = "04, Train and eval: from symptom to cause"
FOLDING = "04, Folding by hand"


# Algorithm 2


def _algorithm2(batches: np.ndarray, wrong: Wrong = NOTHING_WRONG) -> tuple[Any, Any]:
    count, m, features = batches.shape
    axis = 0 if "axis" in wrong else 1
    means, variances = batches.mean(axis=axis), batches.var(axis=axis)
    if "last" in wrong:
        means, variances = means[-1:], variances[-1:]
    average: Any = np.median if "median" in wrong else np.sum if "sum" in wrong else np.mean
    var = average(variances, axis=0)
    if "deviations" in wrong:
        var = average(np.sqrt(variances), axis=0) ** 2
    if "of the means" in wrong:
        var = means.var(axis=0)
    factor = count / (count - 1) if "batches" in wrong else m / (m - 1)
    power = 0 if "biased" in wrong else 2 if "twice" in wrong else 1
    var = var * factor ** (-power if "turned" in wrong else power)
    if "of the means alone" in wrong:
        var = means.var(axis=0)
    if {"pooled", "pooled, N - 1"} & wrong:
        var = batches.reshape(-1, features).var(axis=0, ddof=int("pooled, N - 1" in wrong))
    if "between" in wrong:
        var = var + means.var(axis=0)
    mean, var = means.mean(axis=0), np.sqrt(var) if "root" in wrong else var
    return (var, mean) if "swapped" in wrong else (mean, var)


def _many_batches() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(41)
    return [
        (rng.normal(rng.normal(size=(count, 1, features)), spread, (count, m, features)),)
        for count, m, features, spread in ((5, 4, 3, 2.0), (3, 7, 2, 0.6))
    ]


_POOLED = Mistake(
    "the variance is that of all values together; Algorithm 2 averages the variances of the "
    "batches, which leaves out how their means differ",
    PAGE,
)

_OF_MEANS = Mistake(
    "this is the variance of the batches' means; it is the mean of their variances", PAGE
)

algorithm2 = Exercise(
    "algorithm2",
    lambda wrong: partial(_algorithm2, wrong=wrong),
    _many_batches,
    ["mean", "var"],
    {
        "biased": Mistake("the factor m/(m − 1) is missing", FACTOR),
        "twice": Mistake(
            "m/(m − 1) is there twice: variances that divide by m − 1 have it already", FACTOR
        ),
        "batches": Mistake(
            "the factor counts the batches; m is the number of values in a batch", FACTOR
        ),
        "turned": Mistake(
            "the factor is (m − 1)/m; a batch's variance is too small, not too large", FACTOR
        ),
        "pooled": _POOLED,
        "pooled, N - 1": _POOLED,
        "between": Mistake(
            "the variance of the batches' means is added; Algorithm 2 leaves it out", PAGE
        ),
        "of the means": _OF_MEANS,
        "of the means alone": _OF_MEANS,
        "deviations": Mistake(
            "standard deviations are averaged and the mean squared; average the variances", PAGE
        ),
        "root": Mistake("the root is taken: this is a standard deviation, not a variance", PAGE),
        "axis": Mistake(
            "the statistics are taken over the batches (axis 0); each batch has its own, over its "
            "m examples (axis 1)",
            PAGE,
        ),
        "sum": Mistake("the variances are summed; take their mean", PAGE),
        "median": Mistake("the median of the variances is taken; take their mean", PAGE),
        "last": Mistake("the last batch alone is used; average over all batches", PAGE),
        "swapped": Mistake("mean and variance have changed places", PAGE),
    },
    [
        "Two averages: within each batch first, then over the batches. Which axis is which?",
        "batches.mean(axis=1) has shape (T, C): one mean for each batch. NumPy's var divides by m.",
        "The mean over axis 0 of both; the second one times m/(m − 1), with m = batches.shape[1].",
    ],
)


# Running statistics


def _running(
    batches: list[np.ndarray], momentum: float = 0.1, wrong: Wrong = NOTHING_WRONG
) -> tuple[Any, Any]:
    features = batches[0].shape[1]
    mean = np.zeros(features)
    var = np.zeros(features) if "var from 0" in wrong else np.ones(features)
    if "from the first" in wrong:
        mean, var = batches[0].mean(axis=0), _corrected(batches[0], batches, wrong)
    start = mean, var
    for t, batch in enumerate(batches):
        share = 1 / (t + 1) if "cumulative" in wrong else 0.1 if "fixed" in wrong else momentum
        share = 1 - share if "turned" in wrong else share
        keep = 1.0 if "no decay" in wrong else 1 - share
        before = mean, var = start if "forgets" in wrong else (mean, var)
        mean = keep * mean + share * batch.mean(axis=0)
        around = before[0] if "around running" in wrong else mean if "around new" in wrong else None
        var = keep * var + share * _corrected(batch, batches, wrong, around)
    return (var, mean) if "swapped" in wrong else (mean, var)


def _corrected(
    batch: np.ndarray, batches: list[np.ndarray], wrong: Wrong, around: Any = None
) -> np.ndarray:
    """A batch's variance, as it goes into the average."""
    m = len(batches[0]) if "first m" in wrong else len(batch)
    m = len(batches) if "batches" in wrong else m
    power = 0 if "biased" in wrong else 2 if "twice" in wrong else 1
    factor = (m / (m - 1)) ** (-power if "factor turned" in wrong else power)
    centre = batch.mean(axis=0) if around is None else around
    var = factor * ((batch - centre) ** 2).mean(axis=0)
    return np.sqrt(var) if "std" in wrong else var


def _sequences() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(42)
    return [
        ([rng.normal(1.5, 2, (m, 3)) for m in (5, 9, 6, 7)], 0.3),
        ([rng.normal(-1, 0.7, (m, 2)) for m in (8, 5, 6)], 0.05),
    ]


running = Exercise(
    "running",
    lambda wrong: partial(_running, wrong=wrong),
    _sequences,
    ["mean", "var"],
    {
        "biased": Mistake(
            "the variance that is averaged divides by m; PyTorch stores the one that divides by "
            "m − 1",
            AVERAGE,
        ),
        "twice": Mistake("m/(m − 1) is there twice", AVERAGE),
        "factor turned": Mistake("the factor is (m − 1)/m; it is m/(m − 1)", FACTOR),
        "batches": Mistake(
            "the factor counts the batches; m is the number of values in a batch", FACTOR
        ),
        "first m": Mistake(
            "the first batch's m serves all batches; each batch has its own", AVERAGE
        ),
        "turned": Mistake(
            "momentum is the other way round: in PyTorch it is the share of the new batch, in "
            "Keras that of the old average",
            "04, PyTorch and Keras",
        ),
        "fixed": Mistake("the momentum is 0.1 whatever is asked for", AVERAGE),
        "cumulative": Mistake(
            "batch t gets the share 1/t; that is `momentum=None`, and here a momentum is given",
            AVERAGE,
        ),
        "no decay": Mistake("the old average is kept whole; it is multiplied by 1 − a", AVERAGE),
        "forgets": Mistake("each batch begins again at 0 and 1; the last batch remains", AVERAGE),
        "var from 0": Mistake("the variance starts at 0; it starts at 1", AVERAGE),
        "from the first": Mistake(
            "the averages start at the first batch's statistics; PyTorch's start at 0 and 1",
            AVERAGE,
        ),
        "std": Mistake("standard deviations are averaged; average the variances", AVERAGE),
        "around running": Mistake(
            "the variance is taken around the old running mean; it is taken around the batch's own",
            AVERAGE,
        ),
        "around new": Mistake(
            "the variance is taken around the new running mean; it is taken around the batch's own",
            AVERAGE,
        ),
        "swapped": Mistake("mean and variance have changed places", AVERAGE),
    },
    [
        "A loop over the batches; two numbers per feature go through it, and start at 0 and 1.",
        "Each batch moves both: r = (1 − momentum) · r + momentum · s. What is the variance's s?",
        "batch.var(axis=0) divides by m; times m/(m − 1), with m = len(batch), it is stored.",
    ],
)


# The layer


def _layer(wrong: Wrong) -> Any:
    """A class with these mistakes."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1):
            super().__init__()
            self.eps, self.momentum = eps, momentum
            one = torch.zeros if "weight from 0" in wrong else torch.ones
            for name, value in (("weight", one), ("bias", torch.zeros)):
                learns = f"{name} no parameter" not in wrong
                vector = value(num_features)
                setattr(self, name, nn.Parameter(vector) if learns else vector)
            first = torch.zeros if "var from 0" in wrong else torch.ones
            _keep(self, "running_mean", torch.zeros(num_features), wrong)
            _keep(self, "running_var", first(num_features), wrong)
            count = torch.tensor(0.0 if "float counter" in wrong else 0)
            _keep(self, "num_batches_tracked", count, wrong)

        def forward(self, x: Any) -> Any:
            return _transformed(self, x, wrong)

    return Layer


def _keep(layer: Any, name: str, value: Any, wrong: Wrong) -> None:
    """Give the layer a statistic: as a buffer, or as it should not be."""
    from torch import nn

    counts = name == "num_batches_tracked"
    if {"plain", f"plain {name}"} & wrong:
        setattr(layer, name, value)
    elif "parameters" in wrong and not counts:
        setattr(layer, name, nn.Parameter(value, requires_grad=False))
    else:
        layer.register_buffer(name, value)


def _transformed(layer: Any, x: Any, wrong: Wrong) -> Any:
    """The forward pass."""
    evaluates = layer.training == ("modes swapped" in wrong)
    in_eval = {"updates in eval", "updates in eval, last", "moves to itself", "no modes"} & wrong
    of_batch = not evaluates or {"batch in eval", "no modes"} & wrong
    seen = x.reshape(-1, 1).expand(-1, x.shape[1]) if "all features" in wrong else x
    mean, var = seen.mean(dim=0), seen.var(dim=0, correction=0)
    before = layer.running_mean.detach().clone(), layer.running_var.detach().clone()
    if in_eval if evaluates else "never moves" not in wrong:
        to_itself = evaluates and "moves to itself" in wrong
        _track(layer, *(before if to_itself else (mean, var)), len(x), wrong)
    after = layer.running_mean.detach(), layer.running_var.detach()
    if {"updates in eval, last", "moves to itself"} & wrong:
        after = before
    used = mean, seen.var(dim=0, correction=1) if "unbiased used" in wrong else var
    if "constants" in wrong:
        used = used[0].detach(), used[1].detach()
    if not of_batch or "running in training" in wrong:
        used = after
    elif "running before" in wrong:
        used = before
    without = "no eps" in wrong or ("no eps in eval" in wrong and evaluates)
    eps = 0.0 if without else layer.eps
    outside = "eps outside" in wrong
    std = used[1] ** 0.5 + eps if outside else (used[1] + eps) ** 0.5
    x_hat = (x - used[0]) / std
    alone = "plain x_hat in eval" in wrong and evaluates
    return x_hat if alone else layer.weight * x_hat + layer.bias


def _track(layer: Any, mean: Any, var: Any, m: int, wrong: Wrong) -> None:
    """Move the running statistics."""
    before = int(layer.num_batches_tracked)
    if not {"not counted", "not counted, 1/0"} & wrong:
        layer.num_batches_tracked = layer.num_batches_tracked + 1
    count = int(layer.num_batches_tracked) or 1
    average = 0.1 if "none is 0.1" in wrong else 1 / (count + ("late" in wrong))
    if {"counted after", "not counted, 1/0"} & wrong:
        average = 1 / before if before else np.inf
    share = average if layer.momentum is None else layer.momentum
    given = layer.momentum is not None
    if "turned throughout" in wrong or (given and "turned" in wrong):
        share = 1 - share
    factor = (m / (m - 1) if m > 1 else np.nan) ** (2 if "twice stored" in wrong else 1)
    var = var if "biased stored" in wrong else factor * var
    var = var**0.5 if "std stored" in wrong else var
    for name, new in (("running_mean", mean), ("running_var", var)):
        moved = (1 - share) * getattr(layer, name) + share * new
        if name in dict(layer.named_parameters()):
            getattr(layer, name).data = moved.detach()
        else:
            setattr(layer, name, moved if {"graph", f"graph {name}"} & wrong else moved.detach())


YES_NO = "(1: yes, 0: no)"


def _drive(
    attempt: Any, batches: Any, given: Any, momentum: Any, weight: Any, bias: Any
) -> dict[str, Any]:
    """What a layer does in training mode, in evaluation mode and with one example."""
    import torch

    layer = attempt(len(weight), eps=0.05, momentum=momentum).double()
    found: dict[str, Any] = {}
    parameters, state = dict(layer.named_parameters()), layer.state_dict()
    for name in ("weight", "bias"):
        found[f"{name} among the parameters {YES_NO}"] = float(name in parameters)
    found["number of parameters"] = float(len(parameters))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        found[f"{name} in the state dict {YES_NO}"] = float(name in state)
    whole = "float" not in str(getattr(layer.num_batches_tracked, "dtype", "int"))
    found[f"num_batches_tracked is an integer {YES_NO}"] = float(whole)
    for name in ("weight", "bias"):
        found[f"{name} of a new layer"] = getattr(layer, name).detach().clone()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    layer.train()
    for t, batch in enumerate(batches, 1):
        _one_pass(layer, batch, f"in training (batch {t})", found)
    _look(layer, "after training", found)
    layer.eval()
    _one_pass(layer, given, "in evaluation", found)
    _look(layer, "after evaluation", found)
    found["y of one example in evaluation"] = _of_one(layer, given[:1], found)
    return found


def _of_one(layer: Any, given: np.ndarray, found: dict[str, Any]) -> Any:
    """What a layer makes of one example; NaN where it cannot, or where its statistics moved."""
    import torch

    nothing = torch.full(given.shape, torch.nan)
    for name in ("running_mean", "running_var"):
        before = torch.as_tensor(found[f"{name} after training"])
        if not torch.equal(before, torch.as_tensor(found[f"{name} after evaluation"])):
            return nothing
    try:
        y = layer(torch.from_numpy(given)).detach()
    except Exception:
        return nothing
    return torch.where(y.isfinite(), y, torch.nan)


def _one_pass(layer: Any, batch: np.ndarray, when: str, found: dict[str, Any]) -> None:
    """Output, and the gradients of a loss that is not the same in each place."""
    import torch

    x = torch.from_numpy(batch).requires_grad_()
    try:
        y = layer(x)
    except ZeroDivisionError as error:
        if layer.momentum is None and not layer.num_batches_tracked:
            error.args = ("num_batches_tracked is still 0; count a batch, then divide by it",)
        raise
    except TypeError as error:
        for name in ("running_mean", "running_var"):
            if isinstance(getattr(layer, name), torch.nn.Parameter):
                error.args = (f"{name} is an nn.Parameter, which takes no tensor; use a buffer",)
        raise
    found[f"y {when}"] = y
    if not isinstance(y, torch.Tensor):
        return
    places = torch.arange(1.0, x.numel() + 1, dtype=x.dtype).reshape(x.shape)
    inputs = {"dx": x, "the gradient of weight": layer.weight, "the gradient of bias": layer.bias}
    wanted = [tensor for tensor in inputs.values() if tensor.requires_grad]
    gradients = iter(
        torch.autograd.grad((y * torch.sin(places)).sum(), wanted, allow_unused=True)
        if y.requires_grad
        else [None] * len(wanted)
    )
    for name, tensor in inputs.items():
        gradient = next(gradients) if tensor.requires_grad else None
        found[f"{name} {when}"] = torch.zeros_like(tensor) if gradient is None else gradient


def _look(layer: Any, when: str, found: dict[str, Any]) -> None:
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        value = getattr(layer, name)  # a copy: what follows may move it
        found[f"{name} {when}"] = value.detach().clone() if hasattr(value, "detach") else value
    for name in ("running_mean", "running_var"):
        graph = getattr(getattr(layer, name), "grad_fn", None)
        found[f"{name} in the graph {when} {YES_NO}"] = float(graph is not None)


def _lives() -> list[tuple[Any, ...]]:
    """What layers live through: batches in training mode, one in evaluation mode."""
    import torch  # noqa: F401  # before the clock runs

    rng = np.random.default_rng(43)
    trials = []
    for momentum, sizes in ((0.3, (6, 5)), (None, (5, 7)), (0.1, ())):
        batches = [rng.normal(1.5, [0.5, 2.0, 4.0], (m, 3)) for m in sizes]
        given = rng.normal(1, 2, (7, 3))
        trials.append((batches, given, momentum, rng.uniform(1.5, 3, 3), rng.uniform(-2, -0.5, 3)))
    return trials


_STILL = Mistake("the running statistics move in evaluation mode; there they stand still", SYMPTOMS)
_TURNED = Mistake(
    "momentum is the other way round: in PyTorch it is the share of the new batch, in Keras that "
    "of the old average",
    "04, PyTorch and Keras",
)
_GRAPH = Mistake("the buffers are not detached and keep the graph of every batch", LAYER)
_NOT_COUNTED = Mistake("num_batches_tracked does not count the batches", LAYER)
_NO_PARAMETER = "{} is no nn.Parameter: the optimizer does not see it, and it does not learn"
_NOT_SAVED = "{} is not among the saved buffers: register_buffer keeps, saves and loads it"

layer = Exercise(
    "layer",
    _layer,
    _lives,
    [],
    {
        "biased stored": Mistake(
            "running_var averages the variances that divide by m; PyTorch stores those that divide "
            "by m − 1",
            LAYER,
        ),
        "twice stored": Mistake(
            "m/(m − 1) is in running_var twice: torch's var divides by m − 1 already, unless "
            "correction=0",
            LAYER,
        ),
        "unbiased used": Mistake(
            "in training mode x̂ divides by the root of the variance with m − 1; Algorithm 1 has m "
            "there, and only the buffer gets m/(m − 1)",
            LAYER,
        ),
        "turned": _TURNED,
        "turned throughout": _TURNED,
        "none is 0.1": Mistake(
            "`momentum=None` counts as 0.1; it gives batch t the share 1/t", LAYER
        ),
        "late": Mistake(
            "with `momentum=None` batch t gets the share 1/(t + 1); the first one gets all", LAYER
        ),
        "counted after": Mistake(
            "with `momentum=None` the share is taken before the batch is counted: 1/0", LAYER
        ),
        "updates in eval": _STILL,
        "updates in eval, last": _STILL,
        "moves to itself": _STILL,
        "never moves": Mistake("the running statistics do not move in training mode", LAYER),
        "batch in eval": Mistake(
            "evaluation mode normalises with the batch's statistics; it takes the running ones",
            SYMPTOMS,
        ),
        "no modes": Mistake("both modes do the same: `self.training` is not asked", SYMPTOMS),
        "modes swapped": Mistake("the two modes have changed places", SYMPTOMS),
        "all features": Mistake(
            "mean and variance are taken over all features together; each feature has its own",
            "02, Algorithm 1, line by line",
        ),
        "running in training": Mistake(
            "training mode normalises with the running statistics; it takes the batch's own", LAYER
        ),
        "running before": Mistake(
            "training mode normalises with the running statistics of the batches before; it takes "
            "the batch's own",
            LAYER,
        ),
        "constants": Mistake(
            "the batch's statistics are detached before they normalise: gradients have to go "
            "through them, and only the buffers are detached",
            "03, Two ways to the input",
        ),
        "graph": _GRAPH,
        "graph running_mean": _GRAPH,
        "graph running_var": _GRAPH,
        "plain": Mistake(
            "the running statistics are plain attributes: they are not saved, loaded or "
            "moved to a device",
            LAYER,
        ),
        "plain running_mean": Mistake(_NOT_SAVED.format("running_mean"), LAYER),
        "plain running_var": Mistake(_NOT_SAVED.format("running_var"), LAYER),
        "plain num_batches_tracked": Mistake(_NOT_SAVED.format("num_batches_tracked"), LAYER),
        "parameters": Mistake(
            "the running statistics are parameters, which an optimizer or weight decay may move",
            LAYER,
        ),
        "weight no parameter": Mistake(_NO_PARAMETER.format("weight"), LAYER),
        "bias no parameter": Mistake(_NO_PARAMETER.format("bias"), LAYER),
        "weight from 0": Mistake(
            "weight starts at 0, so that all outputs are 0; γ starts at 1", LAYER
        ),
        "float counter": Mistake(
            "num_batches_tracked is a float: after half() it counts to 2,048 and no further; make "
            "it an integer",
            LAYER,
        ),
        "not counted": _NOT_COUNTED,
        "not counted, 1/0": _NOT_COUNTED,
        "var from 0": Mistake(
            "running_var starts at 0; it starts at 1, so that a fresh layer does nothing", SYMPTOMS
        ),
        "std stored": Mistake("running_var holds standard deviations; it holds variances", LAYER),
        "no eps": Mistake("ε is not used", "02, What ε does"),
        "no eps in eval": Mistake("ε is not used in evaluation mode", FOLDING),
        "eps outside": Mistake(
            "ε is added to the root; it belongs under it, beside the variance",
            "02, Algorithm 1, line by line",
        ),
        "plain x_hat in eval": Mistake(
            "weight and bias are not used in evaluation mode; γ and β belong to both", FOLDING
        ),
    },
    [
        "State first: two parameters, three buffers, two settings. Then two modes: where do mean "
        "and variance come from in each, and in which do the buffers move?",
        "register_buffer keeps a tensor in the state dict. In training mode: x.mean(dim=0) and "
        "x.var(dim=0, correction=0); what goes into a buffer is detached first.",
        "Both modes end in the same two lines: x_hat from mean, var and eps under the root, then "
        "weight and bias. The share of a batch is momentum, or 1 / num_batches_tracked once it is "
        "counted; into running_var goes m / (m − 1) times the variance.",
    ],
    play=_drive,
    seconds=20,
)


# Scale and shift


def _affine(
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    eps: float = 1e-5,
    wrong: Wrong = NOTHING_WRONG,
) -> tuple[Any, Any]:
    mean, var = (var, np.abs(mean)) if "mean for var" in wrong else (mean, var)
    gamma, beta = (beta, gamma) if "gamma for beta" in wrong else (gamma, beta)
    inside = 0 if {"no eps", "eps outside"} & wrong else eps**2 if "eps squared" in wrong else eps
    std = np.sqrt(var + inside) + (eps if "eps outside" in wrong else 0)
    std = var + inside if "no root" in wrong else std
    factor = 1.0 if "no gamma" in wrong else gamma
    scale = factor * std if "times" in wrong else factor / std
    times_mean = scale * mean
    if "mean as it is" in wrong:
        times_mean = mean
    if "mean over std" in wrong:
        times_mean = mean / std
    if "gamma mean" in wrong:
        times_mean = gamma * mean
    times_mean = 0 * mean if "no mean" in wrong else times_mean
    added = 0 * beta if "no beta" in wrong else scale * beta if "beta inside" in wrong else beta
    shift = added + times_mean if "plus" in wrong else added - times_mean
    return (shift, scale) if "swapped" in wrong else (scale, shift)


def _channels() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(44)
    return [
        (
            rng.uniform(1.5, 3, n),
            rng.normal(size=n),
            rng.normal(1, 2, n),
            rng.uniform(0.3, 5, n),
            eps,
        )
        for n, eps in ((4, 0.05), (3, 0.2))
    ]


affine = Exercise(
    "affine",
    lambda wrong: partial(_affine, wrong=wrong),
    _channels,
    ["scale", "shift"],
    {
        "no eps": Mistake("ε is not used", FOLDING),
        "eps outside": Mistake(
            "ε is added to the root; it belongs under it, beside the variance", FOLDING
        ),
        "eps squared": Mistake("ε is squared; it is added to the variance as it is", FOLDING),
        "no root": Mistake("the division is by the variance; it is by its root", FOLDING),
        "times": Mistake("γ is multiplied by the root; it is divided by it", FOLDING),
        "no gamma": Mistake("γ is not used", FOLDING),
        "gamma for beta": Mistake("γ and β have changed places", FOLDING),
        "mean for var": Mistake("mean and variance have changed places", FOLDING),
        "mean as it is": Mistake(
            "the shift subtracts the mean as it is; it is scaled first", FOLDING
        ),
        "mean over std": Mistake(
            "the mean in the shift is divided by the root, without γ", FOLDING
        ),
        "gamma mean": Mistake("the mean in the shift is multiplied by γ alone", FOLDING),
        "plus": Mistake("the scaled mean is added to β; it is subtracted", FOLDING),
        "no mean": Mistake("the shift is β alone; the mean is missing", FOLDING),
        "no beta": Mistake("β is missing in the shift", FOLDING),
        "beta inside": Mistake("β is multiplied by the scale; it is added as it is", FOLDING),
        "swapped": Mistake("scale and shift have changed places", FOLDING),
    },
    [
        "Write y = γ · (x − mean) / root + β and multiply it out: what stands before x?",
        "scale is γ over the root of var + ε. The rest does not depend on x.",
        "What the scale does to the mean comes off β.",
    ],
)


# The loop


def _loop(wrong: Wrong) -> Any:
    import torch
    import torch.nn.functional as F

    if "handed out" in wrong:
        wrong = wrong | {"no eval", "per batch"}

    def mode(model: Any, training: bool, *unless: str) -> None:
        if not wrong.intersection(unless):
            model.train(training)

    def accuracy(model: Any, held_out: Any) -> float:
        hits = []
        with torch.set_grad_enabled("gradients" in wrong):
            for x, labels in held_out:
                right = (model(x).argmax(dim=1) == labels).double()
                hits.append(right.mean()[None] if "per batch" in wrong else right)
        return torch.cat(hits[-1:] if "last batch" in wrong else hits).mean().item()

    def fit(model: Any, optimizer: Any, batches: Any, held_out: Any, epochs: int) -> list[float]:
        accuracies = []
        mode(model, True, "never train")
        for _ in range(epochs):
            mode(model, True, "never train", "never back")
            for x, labels in batches:
                loss = F.cross_entropy(model(x), labels)
                optimizer.zero_grad() if "accumulates" not in wrong else None
                loss.backward()
                optimizer.step()
            mode(model, False, "no eval")
            seen = batches if "training data" in wrong else held_out
            accuracies.append(accuracy(model, seen))
        return accuracies

    return fit


def _train(
    attempt: Any, images: Any, labels: Any, held_out: Any, held_labels: Any, sizes: Any, epochs: int
) -> dict[str, Any]:
    """What a loop returns, and what it leaves of the model it is given."""
    import torch
    from torch import nn

    counted = {True: 0, False: 0}

    class Network(nn.Sequential):
        def forward(self, x: Any) -> Any:
            counted[torch.is_grad_enabled()] += 1
            return super().forward(x)

    def split(x: np.ndarray, y: np.ndarray, sizes: Any) -> list[tuple[Any, Any]]:
        parts = torch.from_numpy(x).split(sizes), torch.from_numpy(y).long().split(sizes)
        return list(zip(*parts, strict=True))

    first = nn.Linear(images.shape[1], 6, bias=False)
    last = nn.Linear(6, 3)
    # As it comes from a file: in evaluation mode.
    model = Network(first, nn.BatchNorm1d(6, momentum=0.3), nn.ReLU(), last).double().eval()
    with torch.no_grad():
        for weight in (first.weight, last.weight):
            places = torch.arange(1.0, weight.numel() + 1, dtype=weight.dtype)
            weight.copy_(torch.sin(3 * places).reshape(weight.shape))
        last.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    batches = split(images, labels, [15, 12, 9])
    accuracies = attempt(model, optimizer, batches, split(held_out, held_labels, sizes), epochs)
    return {
        "the accuracies": accuracies,
        "num_batches_tracked": model[1].num_batches_tracked,
        "running_mean": model[1].running_mean,
        "running_var": model[1].running_var,
        "the first layer's weight": first.weight,
        "the number of forward passes with gradients": float(counted[True]),
    }


def _experiments() -> list[tuple[Any, ...]]:
    import torch  # noqa: F401  # before the clock runs

    rng = np.random.default_rng(45)
    trials = []
    for epochs in (3, 4):
        turn = rng.normal(size=(4, 3))
        images, held_out = rng.normal(1, 2, (36, 4)), rng.normal(1, 2, (23, 4))
        labels, held_labels = ((x @ turn).argmax(axis=1).astype(float) for x in (images, held_out))
        trials.append((images, labels, held_out, held_labels, [9, 9, 5], epochs))
    return trials


loop = Exercise(
    "loop",
    _loop,
    _experiments,
    [],
    {
        "handed out": Mistake(
            "the accuracies still depend on how the held-out images are grouped", SYMPTOMS
        ),
        "no eval": Mistake(
            "the held-out batches go through in training mode: each is normalised with its own "
            "statistics and moves the running ones",
            SYMPTOMS,
        ),
        "never back": Mistake(
            "after the first evaluation the model stays in evaluation mode and trains on in it",
            SYMPTOMS,
        ),
        "never train": Mistake(
            "the model trains in evaluation mode from the start: its statistics stand still",
            SYMPTOMS,
        ),
        "gradients": Mistake("the evaluation records gradients, which nobody needs", SYMPTOMS),
        "accumulates": Mistake("the gradients of all steps add up", SYMPTOMS),
        "per batch": Mistake(
            "the batches' accuracies are averaged though the batches differ in size; count images",
            SYMPTOMS,
        ),
        "last batch": Mistake("the accuracy is that of the last held-out batch alone", SYMPTOMS),
        "training data": Mistake(
            "the accuracy is measured on the training batches; measure it on held_out", SYMPTOMS
        ),
    },
    [
        "In which mode is the model when the held-out images come? `no_grad` is no mode.",
        "A call is missing before the evaluation. Once it is there: in which mode does the second "
        "epoch train?",
        "The other reason is arithmetic: a mean of means counts a small batch as much as a large "
        "one. Collect one entry for each image.",
    ],
    play=_train,
    seconds=20,
    planted="handed out",
)
