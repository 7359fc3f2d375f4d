"""The exercises of chapter 05: maps. NumPy; torch where a layer or a network is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bn_helpers.checks.engine import (
    NOTHING_WRONG,
    Exercise,
    Mistake,
    Question,
    Wrong,
    is_stub,
)

BLOCK = "05, A batch that fits on the page"
STEPS = "05, One mean, one variance, one γ, one β per map"
ROWS = "05, Every place is a row"
LAYOUT = "05, Where the channel axis stands"
LAYER = "05, Your layer, for maps"
SWAP = "05, Convert a network, and back again"
BREAKS = "05, What per-activation BN would break"
FOLDING = "05, Folding into the convolution"
#: Sizes that differ stop a vector on the wrong axis with an error, which says less than its name
#: does. So most trials have equal sizes, and one shows whether all sizes are served.
ANY_SIZES = "it runs where all sizes differ"


def _on_any_sizes(call: Callable[[], Any], sizes: tuple[int, ...]) -> dict[str, Any]:
    """What a call returns, {name → value}; where sizes differ, an error is a result, too."""
    if len(set(sizes[1:])) == 1:
        return call()
    try:
        return {ANY_SIZES: 1.0, **call()}
    except NotImplementedError:
        raise
    except Exception:
        return {ANY_SIZES: 0.0}


# Forward

_AXES = {
    "activation": (0,),
    "image": (2, 3),
    "position": (1,),
    "layer": (1, 2, 3),
    "all": (0, 1, 2, 3),
    "places": (0, 3),
    "rows": (0, 2),
    "nhwc": (0, 1, 2),
}


def _maps(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float, wrong: Wrong = NOTHING_WRONG
) -> np.ndarray:
    sizes = x.shape
    axes = next((axes for switch, axes in _AXES.items() if switch in wrong), (0, 2, 3))
    column: tuple[int, ...] = (-1, 1, 1)
    for switch, shape in (("along height", (-1, 1)), ("along width", (-1,))):
        column = shape if switch in wrong else column
    along = [(-1,) if f"{name} along width" in wrong else column for name in ("gamma", "beta")]
    if {"reshape", "reshape back"} & wrong:
        x = (x if "reshape" in wrong else x.transpose(0, 2, 3, 1)).reshape(-1, sizes[1])
        axes, along = (0,), [(-1,), (-1,)]
    m = np.prod([x.shape[axis] for axis in axes])
    images = sizes[0]
    mean = x.sum(axis=axes, keepdims=True) / (images if "m in both" in wrong else m)
    centred = x if "not centred" in wrong else x - mean
    squares = (x - mean) ** 2
    if "mean of variances" in wrong and x.ndim == 4:
        squares = (x - x.mean(axis=(2, 3), keepdims=True)) ** 2
    divisor = images if {"m", "m in both"} & wrong else m - 1 if "m' - 1" in wrong else m
    var = squares.sum(axis=axes, keepdims=True) / divisor
    std = np.sqrt(var + (0 if {"no eps", "eps outside"} & wrong else eps))
    std = std + (eps if "eps outside" in wrong else 0)
    std = var + eps if "no root" in wrong else std
    gamma, beta = (beta, gamma) if "swapped" in wrong else (gamma, beta)
    if "no gamma" in wrong:
        gamma = np.ones_like(gamma)
    if "no beta" in wrong:
        beta = np.zeros_like(beta)
    y = gamma.reshape(along[0]) * (centred / std) + beta.reshape(along[1])
    return y.reshape(sizes)


def _batches() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(51)
    trials = []
    for images, maps, height, width in ((5, 3, 3, 3), (6, 4, 4, 4), (5, 2, 4, 3)):
        x = rng.normal(size=(images, maps, height, width)) * rng.uniform(0.3, 3, (maps, 1, 1))
        x += rng.normal(size=(maps, 1, 1)) + rng.normal(size=(images, 1, 1, 1))
        x += rng.normal(size=(height, width))
        trials.append((x, rng.uniform(1.5, 3, maps), rng.uniform(-2, -0.5, maps), 0.05))
    return trials


def _far_away(dtype: np.dtype[Any]) -> list[tuple[Any, ...]]:
    """Whole numbers that the dtype holds exactly, far from zero."""
    mean = {8: 1e9, 4: 3e4, 2: 200}[dtype.itemsize]
    x = mean + np.array([0.0, 3, 2, 1, 4, 5, 6, 2, 3, 4, 1, 5, 2, 0, 6, 3]).reshape(2, 2, 2, 2)
    return [(x, np.array([1.5, 2.0]), np.array([0.5, -1.0]), 1e-5)]


forward_maps = Exercise(
    "forward_maps",
    lambda wrong: partial(_maps, wrong=wrong),
    _batches,
    [],
    {
        "activation": Mistake(
            "each place has a mean and a variance of its own (axis 0 alone, per activation); all "
            "places of a map share them",
            BLOCK,
        ),
        "image": Mistake(
            "each image has its own statistics (axes 2 and 3: that is instance normalization); all "
            "images share a map's",
            BLOCK,
        ),
        "position": Mistake(
            "the statistics are taken over the maps of a place (axis 1: that is layer "
            "normalization at each place); maps do not mix",
            BLOCK,
        ),
        "layer": Mistake(
            "the statistics are taken over all maps of an image (axes 1 to 3: that is layer "
            "normalization); they belong to one map of all images",
            BLOCK,
        ),
        "all": Mistake("one mean and one variance serve all maps; each map has its own", BLOCK),
        "places": Mistake(
            "the rows of a map have statistics of their own: axis 2 is left out", STEPS
        ),
        "rows": Mistake(
            "the columns of a map have statistics of their own: axis 3 is left out", STEPS
        ),
        "nhwc": Mistake(
            "the last axis is taken for the maps, as in NHWC; here x is (N, C, H, W)", LAYOUT
        ),
        "along width": Mistake(
            "γ and β run along the width, where NumPy puts a vector by itself; they belong to the "
            "maps, shape (C, 1, 1)",
            STEPS,
        ),
        "gamma along width": Mistake(
            "γ runs along the width, where NumPy puts a vector by itself; like β it belongs to the "
            "maps, shape (C, 1, 1)",
            STEPS,
        ),
        "beta along width": Mistake(
            "β runs along the width, where NumPy puts a vector by itself; like γ it belongs to the "
            "maps, shape (C, 1, 1)",
            STEPS,
        ),
        "along height": Mistake(
            "γ and β run along the height, as a shape (C, 1) does; they need (C, 1, 1)", STEPS
        ),
        "mean of variances": Mistake(
            "the variance is the mean of the images' own variances, which leaves out how their "
            "means differ; take it around the map's one mean",
            STEPS,
        ),
        "m": Mistake(
            "the squares are divided by the number of images m; there are m′ = m·p·q of them", STEPS
        ),
        "m in both": Mistake(
            "both sums are divided by the number of images m; they have m′ = m·p·q terms", STEPS
        ),
        "m' - 1": Mistake("the variance divides by m′ − 1; Algorithm 1 divides by m′", STEPS),
        "reshape": Mistake(
            "`reshape(-1, C)` without a transpose makes columns that mix the maps; move the maps "
            "to the end first",
            ROWS,
        ),
        "reshape back": Mistake(
            "the way back is a `reshape` alone; reshape to (N, H, W, C), then transpose", ROWS
        ),
        "not centred": Mistake("the mean is not subtracted before the division", STEPS),
        "no eps": Mistake("ε is not used", STEPS),
        "eps outside": Mistake(
            "ε is added to the root; it belongs under it, beside the variance", STEPS
        ),
        "no root": Mistake("the division is by the variance; it is by its root", STEPS),
        "swapped": Mistake("γ and β have changed places", STEPS),
        "no gamma": Mistake("γ is not used", STEPS),
        "no beta": Mistake("β is not used", STEPS),
    },
    [
        "The same four lines as for a table. Which three axes of (N, C, H, W) share a mean?",
        "With axis=(0, 2, 3) and keepdims=True the statistics have shape (1, C, 1, 1). And which "
        "shape must γ have, so that NumPy puts it along the maps?",
        "gamma[:, None, None] has shape (C, 1, 1). The variance is the mean over the same three "
        "axes of the square of x − mean.",
    ],
    play=lambda attempt, x, *more: _on_any_sizes(lambda: {"y": attempt(x, *more)}, x.shape),
    hard=_far_away,
    hard_sentence=Mistake(
        "the digits are lost where the mean is large beside the spread, as by E[x²] − E[x]²", STEPS
    ),
)


# The layer


def _to_table(x: Any, wrong: Wrong) -> Any:
    if "reshape" in wrong:
        return x.reshape(-1, x.shape[1])
    if "width" in wrong:
        return x.flatten(0, 2)
    if "unchanged" in wrong:
        return x
    return (x.transpose(1, -1) if "exchanged" in wrong else x.movedim(1, -1)).flatten(0, 2)


def _from_table(y: Any, sizes: Any, wrong: Wrong) -> Any:
    images, maps, height, width = sizes
    if "exchanged" in wrong:
        height, width = width, height
    if {"unchanged", "table out"} & wrong:
        return y
    if {"reshape", "width", "reshape back"} & wrong:
        return y.reshape(sizes)
    y = y.view(images, height, width, maps)
    return y if "not back" in wrong else y.movedim(-1, 1)


def _layer(wrong: Wrong) -> Any:
    """A class with these mistakes."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        running_mean: Any
        running_var: Any
        num_batches_tracked: Any

        def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1):
            super().__init__()
            self.eps, self.momentum = eps, momentum
            self.weight = nn.Parameter(torch.ones(num_features))
            self.bias = nn.Parameter(torch.zeros(num_features))
            self.register_buffer("running_mean", torch.zeros(num_features))
            self.register_buffer("running_var", torch.ones(num_features))
            self.register_buffer("num_batches_tracked", torch.tensor(0))

        def forward(self, x: Any) -> Any:
            return _from_table(self._on_table(_to_table(x, wrong), len(x)), x.shape, wrong)

        def _on_table(self, x: Any, images: int) -> Any:
            mean, var = x.mean(dim=0), x.var(dim=0, correction=0)
            if self.training or "updates in eval" in wrong:
                self._track(mean.detach(), var.detach(), images if "m" in wrong else len(x))
            if "unbiased used" in wrong:
                var = x.var(dim=0)
            if not self.training and "batch in eval" not in wrong:
                mean, var = self.running_mean, self.running_var
            return self.weight * ((x - mean) / torch.sqrt(var + self.eps)) + self.bias

        def _track(self, mean: Any, var: Any, m: int) -> None:
            self.num_batches_tracked = self.num_batches_tracked + 1
            share = self.momentum
            if share is None:
                share = 1 / int(self.num_batches_tracked)
            factor = 1 if "biased stored" in wrong else m / (m - 1)
            self.running_mean = (1 - share) * self.running_mean + share * mean
            self.running_var = (1 - share) * self.running_var + share * factor * var

    return Layer


def _drive(
    attempt: Any, batches: Any, momentum: Any, weight: np.ndarray, bias: np.ndarray
) -> dict[str, Any]:
    """What a layer does with two batches in training mode and one in evaluation mode."""
    import torch

    if is_stub(getattr(attempt, "forward", None)):
        raise NotImplementedError
    layer = attempt(len(weight), eps=0.05, momentum=momentum).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    found: dict[str, Any] = {}
    *training, last = map(torch.from_numpy, batches)
    for number, x in enumerate(training, 1):
        y = found[f"y in training (batch {number})"] = layer.train()(x.requires_grad_())
        if not isinstance(y, torch.Tensor):
            return found
    (gradient,) = torch.autograd.grad((y * torch.sin(3 * y)).sum(), x, allow_unused=True)
    found["dx in training"] = gradient
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        found[f"{name} after training"] = getattr(layer, name).clone()
    found["y in evaluation"] = layer.eval()(last)
    found["running_mean after evaluation"] = layer.running_mean
    return found


def _lives() -> list[tuple[Any, ...]]:
    import torch  # noqa: F401, before the clock runs

    rng = np.random.default_rng(52)
    trials = []
    for momentum, sizes in ((0.3, (5, 3, 3, 3)), (None, (6, 4, 4, 4)), (0.1, (3, 2, 5, 4))):
        maps = sizes[1]
        spread = rng.uniform(0.3, 3, (maps, 1, 1))
        batches = [rng.normal(1.5, spread, sizes) + rng.normal(size=sizes[2:]) for _ in range(3)]
        weight, bias = rng.uniform(1.5, 3, maps), rng.uniform(-2, -0.5, maps)
        trials.append((batches, momentum, weight, bias))
    return trials


layer2d = Exercise(
    "layer2d",
    _layer,
    _lives,
    [],
    {
        "unchanged": Mistake(
            "this is still chapter 4's layer, which takes axis 0 alone for the batch: on maps it "
            "normalises each activation by itself",
            LAYER,
        ),
        "reshape": Mistake(
            "`reshape(-1, C)` on (N, C, H, W) makes columns that mix the maps; move the maps to "
            "the end first",
            ROWS,
        ),
        "width": Mistake(
            "the width is taken for the maps: the first three axes are joined before the maps "
            "have moved to the end",
            ROWS,
        ),
        "reshape back": Mistake(
            "the way back is a `reshape` alone; give the table the shape (N, H, W, C), then move "
            "the maps to axis 1",
            ROWS,
        ),
        "not back": Mistake(
            "the maps stay on the last axis; y has to be (N, C, H, W) again", LAYER
        ),
        "table out": Mistake("the table itself is returned; y has to be (N, C, H, W) again", LAYER),
        "exchanged": Mistake(
            "`transpose(1, -1)` exchanges maps and width, so that height and width come back "
            "exchanged; `movedim(1, -1)` keeps their order",
            LAYER,
        ),
        "m": Mistake(
            "the factor m/(m − 1) of the stored variance counts the images; m′ counts their "
            "places, too",
            LAYER,
        ),
        "unbiased used": Mistake(
            "in training mode x̂ divides by the root of the variance with m′ − 1, which is what "
            "torch's `var` takes by itself; Algorithm 1 divides by m′",
            LAYER,
        ),
        "biased stored": Mistake(
            "running_var averages the variances that divide by m′; PyTorch stores those that "
            "divide by m′ − 1",
            LAYER,
        ),
        "updates in eval": Mistake(
            "the running statistics move in evaluation mode; there they stand still", LAYER
        ),
        "batch in eval": Mistake(
            "evaluation mode normalises with the batch's statistics; it takes the running ones",
            LAYER,
        ),
    },
    [
        "Chapter 4's layer is right for a table. Which table has a column for each map, and a row "
        "for each place of each image?",
        "x.movedim(1, -1) is (N, H, W, C); flatten(0, 2) joins its first three axes. Keep the "
        "shape before you flatten: you need it on the way out.",
        "On the way out: view the table's result in the shape that you kept, then movedim(-1, 1). "
        "Everything between stays as it was in chapter 4, with len(x) for m′.",
    ],
    play=lambda attempt, batches, *more: _on_any_sizes(
        lambda: _drive(attempt, batches, *more), batches[0].shape
    ),
    seconds=20,
)


# Folding


def _fold(
    weight: np.ndarray,
    bias: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    eps: float,
    wrong: Wrong = NOTHING_WRONG,
) -> tuple[Any, Any]:
    std = np.sqrt(var + (0 if {"no eps", "eps outside"} & wrong else eps))
    std = std + (eps if "eps outside" in wrong else 0)
    if "no root" in wrong:
        std = var + eps
    if "swapped" in wrong:
        gamma, beta = beta, gamma
    scale = std if "no gamma" in wrong else gamma * std
    if "times" not in wrong:
        scale = 1 / std if "no gamma" in wrong else gamma / std
    column: tuple[int, ...] = (-1, 1, 1, 1)
    for switch, shape in (("inputs", (-1, 1, 1)), ("height", (-1, 1)), ("width", (-1,))):
        column = shape if switch in wrong else column
    shift = bias + mean if "plus mean" in wrong else bias if "no mean" in wrong else bias - mean
    shift = -mean if "no bias" in wrong else shift
    new_bias = scale * shift + (0 if "no beta" in wrong else beta)
    if "bias not scaled" in wrong:
        new_bias = bias - scale * mean + beta
    if "beta scaled" in wrong:
        new_bias = scale * (shift + beta)
    if "old bias" in wrong:
        new_bias = bias
    return (weight if "old weight" in wrong else weight * scale.reshape(column)), new_bias


def _convolutions() -> list[tuple[Any, ...]]:
    rng = np.random.default_rng(53)
    trials = []
    for shape in ((3, 3, 3, 3), (5, 5, 5, 5), (4, 2, 3, 5)):
        maps = shape[0]
        vectors = [
            rng.uniform(0.5, 2, maps),  # bias
            rng.uniform(1.5, 3, maps),  # gamma
            rng.uniform(-2, -0.5, maps),  # beta
            rng.uniform(1, 3, maps),  # mean
            rng.uniform(0.3, 4, maps),  # var
        ]
        trials.append((rng.normal(size=shape), *vectors, 0.05))
    return trials


def _play_fold(attempt: Any, weight: np.ndarray, *more: Any) -> dict[str, Any]:
    def call() -> dict[str, Any]:
        pair = attempt(weight, *more)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError("expected the weight and the bias of the new convolution")
        return {"weight": pair[0], "bias": pair[1]}

    if len(set(weight.shape)) == 1:
        return call()
    return _on_any_sizes(call, (0, *weight.shape))


fold_maps = Exercise(
    "fold_maps",
    lambda wrong: partial(_fold, wrong=wrong),
    _convolutions,
    [],
    {
        "no bias": Mistake(
            "the convolution's own bias is forgotten; BN scales and shifts it, too", FOLDING
        ),
        "bias not scaled": Mistake(
            "the convolution's bias is not scaled; BN's factor meets all that comes out of the "
            "convolution",
            FOLDING,
        ),
        "plus mean": Mistake("the mean is added to the bias; BN subtracts it", FOLDING),
        "no mean": Mistake("the mean is not used", FOLDING),
        "inputs": Mistake(
            "the scale runs along the input maps (axis 1 of the weight); it belongs to the output "
            "maps, axis 0",
            FOLDING,
        ),
        "height": Mistake(
            "the scale runs along the filters' height, as a shape (C, 1) does; it belongs to the "
            "output maps, axis 0",
            FOLDING,
        ),
        "width": Mistake(
            "the scale runs along the filters' width, where NumPy puts a vector by itself; it "
            "belongs to the output maps, axis 0",
            FOLDING,
        ),
        "no eps": Mistake("ε is not used", FOLDING),
        "eps outside": Mistake(
            "ε is added to the root; it belongs under it, beside the variance", FOLDING
        ),
        "no root": Mistake("the division is by the variance; it is by its root", FOLDING),
        "times": Mistake("γ is multiplied by the root; it is divided by it", FOLDING),
        "no gamma": Mistake("γ is not used", FOLDING),
        "no beta": Mistake("β is not used", FOLDING),
        "beta scaled": Mistake("β is scaled; it is added after the scaling, as it is", FOLDING),
        "swapped": Mistake("γ and β have changed places", FOLDING),
        "old weight": Mistake("the filters are not scaled", FOLDING),
        "old bias": Mistake("the bias is the convolution's own; BN shifts it", FOLDING),
    },
    [
        "Write BN of the convolution's output on paper, for one map: y = s·(w∗u + b − E) + β. What "
        "multiplies u, and what is left over?",
        "s = γ / √(Var + ε), one for each output map. The new filters are s·w; the left-over is "
        "s·(b − E) + β.",
        "s has shape (C_out,) and the weight (C_out, C_in, kH, kW): s[:, None, None, None] puts s "
        "along axis 0.",
    ],
    play=_play_fold,
)


# Conversion


def _swap(model: Any, old: Any, new: Any, wrong: Wrong = NOTHING_WRONG) -> Any:
    for name, child in model.named_children():
        if not isinstance(child, old):
            if "top level" not in wrong:
                _swap(child, old, new, wrong)
            continue
        eps = {} if "no eps" in wrong else {"eps": child.eps}
        momentum = {} if "no momentum" in wrong else {"momentum": child.momentum}
        layer = new(len(child.weight), **eps, **momentum)
        if "no dtype" not in wrong:
            layer.to(child.weight)
        lost = {
            "no parameters": ("weight", "bias"),
            "no buffers": ("running_mean", "running_var", "num_batches_tracked"),
            "no counter": ("num_batches_tracked",),
        }
        left = {name for switch, names in lost.items() if switch in wrong for name in names}
        if "no state" not in wrong:
            state = child.state_dict()
            kept = {name: value for name, value in state.items() if name not in left}
            layer.load_state_dict(kept, strict=False)
        if "no mode" not in wrong:
            layer.train(child.training)
        setattr(model, name, layer)
        if "first only" in wrong:
            break
    return model


def _play_swap(attempt: Any, backwards: bool, training: bool) -> dict[str, Any]:
    """A network with a layer inside a block, before and after."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(54)
    kinds = (nn.BatchNorm2d, _layer(NOTHING_WRONG))
    old, new = kinds[::-1] if backwards else kinds

    def normalised(maps: int, **settings: Any) -> Any:
        layer: Any = old(maps, **settings)
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
        layer.num_batches_tracked.add_(7)
        return layer

    block = nn.Sequential(nn.ReLU(), normalised(3, eps=0.2, momentum=None))
    model: Any = nn.Sequential(normalised(3, eps=0.05, momentum=0.3), block, normalised(3)).double()
    model.train(training)
    model[2].eval()  # one is frozen, whatever the others do
    x = torch.randn(4, 3, 2, 2, generator=generator, dtype=torch.float64)
    returned = attempt(model, old, new)
    if returned is ...:
        raise NotImplementedError
    found: dict[str, Any] = {"what swap returns": returned}
    if not isinstance(returned, nn.Module):
        return found
    found["what swap returns"] = 1.0
    model = returned
    layers = {"first layer": model[0], "layer in the block": model[1][1], "frozen layer": model[2]}
    for name, layer in layers.items():
        found[f"{name}: is replaced"] = float(type(layer) is new)
        for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            found[f"{name}: {key}"] = getattr(layer, key).detach().double()
        found[f"{name}: eps"] = layer.eps
        found[f"{name}: momentum"] = -1.0 if layer.momentum is None else layer.momentum
        found[f"{name}: in training mode"] = float(layer.training)
        found[f"{name}: is float64"] = float(layer.weight.dtype is torch.float64)
    found["y of the network"] = model.double()(x).detach()
    return found


def _ways() -> list[tuple[Any, ...]]:
    import torch  # noqa: F401, before the clock runs

    return [(False, True), (True, False)]


swap = Exercise(
    "swap",
    lambda wrong: partial(_swap, wrong=wrong),
    _ways,
    [],
    {
        "top level": Mistake(
            "a layer inside a block is not found: `named_children` gives the network's own "
            "children alone, so the function has to call itself",
            SWAP,
        ),
        "first only": Mistake("the search ends at the first layer that is found", SWAP),
        "no state": Mistake("the new layers start afresh; hand over the state", SWAP),
        "no parameters": Mistake("γ and β (`weight`, `bias`) start afresh", SWAP),
        "no buffers": Mistake(
            "the running statistics start afresh: parameters alone are not the state", SWAP
        ),
        "no counter": Mistake(
            "`num_batches_tracked` starts at 0, which counts where momentum is None", SWAP
        ),
        "no eps": Mistake("ε is the default; take the old layer's `eps`", SWAP),
        "no momentum": Mistake("`momentum` is the default; take the old layer's", SWAP),
        "no mode": Mistake(
            "a frozen layer is in training mode again; hand over the mode (`training`)", SWAP
        ),
        "no dtype": Mistake(
            "the new layer is float32; give it the dtype and device of the old one's weight", SWAP
        ),
    },
    [
        "named_children() lists what stands directly in a module. What about a layer in a block?",
        "What makes a layer: its class, its settings (eps, momentum), its state (state_dict: "
        "parameters and buffers), its mode, its dtype and device. Which does a new one lack?",
        "For each child of class old: layer = new(len(child.weight), eps=…, momentum=…), then "
        "layer.to(child.weight), load_state_dict, train(child.training), and "
        "setattr(model, name, layer). For any other child: call swap on it.",
    ],
    play=_play_swap,
    seconds=20,
)


# A quiz


class _Counts(Question):
    """Axes as text or numbers, in any order; a factor counts by what it has above or below 1."""

    def _same(self, given: Any, right: Any) -> bool:
        if isinstance(right, str):
            return _axes(given) == _axes(right)
        if isinstance(right, float) and np.isinf(right):
            return isinstance(given, float | np.floating) and bool(given == right)
        if isinstance(right, float) and super()._same(given, right):
            (factor,) = np.ravel(given)
            return bool(abs(float(factor) - right) <= 0.06 * abs(right - 1))
        return super()._same(given, right)


def _axes(given: Any) -> set[int] | None:
    """The axes of a batch of maps; None where they are none."""
    digits = re.findall(r"-?\d+", str(given))
    axes = {int(digit) % 4 for digit in digits if -4 <= int(digit) < 4}
    return axes if digits and len(axes) == len(digits) else None


counts = _Counts(
    "counts",
    {
        "values in a mean": 2400,
        "parameters, per map": 48,
        "parameters, per activation": 5760,
        "factor for one image": 120 / 119,
        "axes in NHWC": "0, 1, 2",
    },
    {
        "images": ("values in a mean", 20, Mistake("these are the images m", BLOCK)),
        "places": (
            "values in a mean",
            120,
            Mistake("these are the places of one image; the batch has 20 images", BLOCK),
        ),
        "everything": (
            "values in a mean",
            57600,
            Mistake("these are all values of the batch; each map has a mean of its own", BLOCK),
        ),
        "gammas": (
            "parameters, per map",
            24,
            Mistake("these are the γ; each map has a β, too", STEPS),
        ),
        "buffers": (
            "parameters, per map",
            96,
            Mistake("the running statistics are buffers; no gradient moves them", LAYER),
        ),
        "one pair": (
            "parameters, per map",
            2,
            Mistake("these are the parameters of one map; the layer has 24 maps", STEPS),
        ),
        "gammas per activation": (
            "parameters, per activation",
            2880,
            Mistake("these are the γ; each activation has a β, too", BREAKS),
        ),
        "pair per place": (
            "parameters, per activation",
            240,
            Mistake("these are the places of one map, twice; the layer has 24 maps", BREAKS),
        ),
        "whole batch": (
            "factor for one image",
            2400 / 2399,
            Mistake("this is m′/(m′ − 1) for all 20 images; with one m′ is smaller", LAYER),
        ),
        "images alone": (
            "factor for one image",
            20 / 19,
            Mistake("this is m/(m − 1) for 20 images; it is m′/(m′ − 1), for one image", LAYER),
        ),
        "no factor": (
            "factor for one image",
            1.0,
            Mistake("the two variances differ: one divides by m′, the stored one by m′ − 1", ROWS),
        ),
        "infinite": (
            "factor for one image",
            np.inf,
            Mistake("m/(m − 1) is infinite at one image; m′ counts its places, too", ROWS),
        ),
        "upside down": (
            "factor for one image",
            119 / 120,
            Mistake("the stored variance is the larger one: it divides by m′ − 1", ROWS),
        ),
        "places of a row": (
            "factor for one image",
            12 / 11,
            Mistake("m′ counts all places of the map, not those of one row", STEPS),
        ),
        "as in NCHW": (
            "axes in NHWC",
            "0, 2, 3",
            Mistake("these are the axes for (N, C, H, W)", LAYOUT),
        ),
        "last axis": (
            "axes in NHWC",
            "3",
            Mistake("that is the axis of the maps, the one that stays", LAYOUT),
        ),
        "images only": (
            "axes in NHWC",
            "0",
            Mistake("that is one mean per activation; all places share a map's mean", BLOCK),
        ),
        "places only": (
            "axes in NHWC",
            "1, 2",
            Mistake("these are the places of one image; all images share a map's mean", BLOCK),
        ),
    },
    [
        "A map has 10 · 12 places. Which values share a mean: those of one map, in all images.",
        "Each map, or else each activation, has one γ and one β. And with one image m is 1, but m′ "
        "is not.",
    ],
    tolerance=1e-3,
)
