"""The networks that are trained: the paper's Inception, a small one for 32×32 images, plain ones.

Each convolution or linear layer is followed by BN, if there is any, and the activation
(section 3.2: BN stands before the nonlinearity, and what is before it has no bias then).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Norm = Callable[[int], nn.Module] | None

# Ioffe & Szegedy (2015), Figure 5. Rows: name, widths of the branches (1×1; 3×3 reduce, 3×3;
# double 3×3 reduce, double 3×3), pooling, its projection (0: pass through, and stride 2).
FIGURE_5: tuple[tuple[Any, ...], ...] = (
    ("3a", 64, 64, 64, 64, 96, "avg", 32),
    ("3b", 64, 64, 96, 64, 96, "avg", 64),
    ("3c", 0, 128, 160, 64, 96, "max", 0),
    ("4a", 224, 64, 96, 96, 128, "avg", 128),
    ("4b", 192, 96, 128, 96, 128, "avg", 128),
    ("4c", 160, 128, 160, 128, 160, "avg", 128),
    ("4d", 96, 128, 192, 160, 192, "avg", 128),
    ("4e", 0, 128, 192, 192, 256, "max", 0),
    ("5a", 352, 192, 320, 160, 224, "avg", 128),
    ("5b", 352, 192, 320, 192, 224, "max", 128),
)
# Output channels that Figure 5 prints. The branches of 4c, 4d and 4e sum to 608, 608 and 1056.
PRINTED = (256, 320, 576, 576, 576, 576, 576, 1024, 1024, 1024)
ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class Unit(nn.Sequential):
    """Convolution, BN (or a bias), activation: (N, in_channels, H, W) → (N, channels, H', W')."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, kind: dict[str, Any], stride: int = 1
    ) -> None:
        conv = nn.Conv2d(
            in_channels, channels, kernel, stride, kernel // 2, bias=kind["norm"] is None
        )
        norm = [] if kind["norm"] is None else [kind["norm"](channels)]
        super().__init__(conv, *norm, ACTIVATIONS[kind["activation"]]())


class Branches(nn.Module):
    """Several ways through the same input, concatenated: (N, C, H, W) → (N, sum of theirs, …)."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class PerActivation(nn.Module):
    """BN with one mean, variance, gamma and beta for each place of each map (section 4.2.3)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels * size * size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.flatten(1)).view(x.shape)


class Inception(nn.Module):
    """The paper's Inception (appendix, Figure 5) for images (N, 3, 224, 224) → (N, classes).

    Parameters
    ----------
    reading : ``"printed"``, the widths of Figure 5 as they stand, or ``"repaired"``, with
        projections of 96 instead of 128 in 4c and 4d, which give the printed output channels.
    classes : int.
    norm : callable, channels → module, put before each activation; None: no BN, biases instead.
    activation : ``"relu"`` or ``"sigmoid"``.
    lrn : whether Local Response Normalisation stands after the stem's poolings, as in 2014.
    dropout : float in [0, 1), before the classifier (0.4 in the original).

    Raises
    ------
    ValueError
        another reading or activation.
    """

    def __init__(
        self,
        reading: str = "printed",
        *,
        classes: int = 1000,
        norm: Norm = nn.BatchNorm2d,
        activation: str = "relu",
        lrn: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check("reading", reading, ("printed", "repaired"))
        kind = _kind(norm, activation)
        # "separable convolution with depth multiplier 8": 8 filters a colour, then 1×1.
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 7, 2, 3, groups=3, bias=False),
            Unit(24, 64, 1, kind),
            nn.MaxPool2d(3, 2, 1),
            *_lrn(lrn),
            Unit(64, 64, 1, kind),
            Unit(64, 192, 3, kind),
            *_lrn(lrn),
            nn.MaxPool2d(3, 2, 1),
        )
        self.modules_by_name = nn.ModuleDict()
        channels = 192
        for name, *widths, pool, projection in FIGURE_5:
            if reading == "repaired" and name in ("4c", "4d"):
                projection = 96
            module, channels = _module(channels, widths, pool, projection, kind)
            self.modules_by_name[name] = module
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for module in self.modules_by_name.values():
            x = module(x)
        return self.classifier(self.dropout(x.mean((2, 3))))


class SmallInception(nn.Module):
    """Inception in small: (N, in_channels, H, W), H and W multiples of 4 → (N, classes).

    A 3×3 stem, then four modules of 1×1 | 3×3 | double 3×3 branches (both after a 1×1
    reduction), each branch ``widths[i]`` maps wide; 2×2 max pooling before the first and the third
    module; global average pooling. 13 convolutions deep, without the pooling branch.

    Parameters
    ----------
    in_channels, classes : int.
    widths : four int, maps of each branch of the modules; the stem has ``2 · widths[0]``.
    norm, activation, lrn, dropout : as :class:`Inception`'s; LRN stands after the first pooling.
    per_activation : int or None; the images' size H = W: the last module then has BN per
        activation (section 4.2.3, "per-activation … in the last hidden layers").

    Raises
    ------
    ValueError
        another activation; not four widths; per-activation BN without norm.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        widths: Sequence[int] = (8, 16, 16, 24),
        *,
        norm: Norm = nn.BatchNorm2d,
        activation: str = "relu",
        lrn: bool = False,
        dropout: float = 0.0,
        per_activation: int | None = None,
    ) -> None:
        super().__init__()
        kind = _kind(norm, activation)
        if len(widths) != 4:
            raise ValueError(f"expected four widths, got {widths}")
        if per_activation and norm is None:
            raise ValueError("expected BN with per_activation, got norm=None")
        channels = 2 * widths[0]
        layers: list[nn.Module] = [Unit(in_channels, channels, 3, kind)]
        for i, width in enumerate(widths):
            if i in (0, 2):
                layers += [nn.MaxPool2d(2), *_lrn(lrn and i == 0)]
            if i == 3 and per_activation:
                kind = _kind(lambda maps: PerActivation(maps, per_activation // 4), activation)
            layers.append(
                Branches(
                    Unit(channels, width, 1, kind),
                    nn.Sequential(Unit(channels, width, 1, kind), Unit(width, width, 3, kind)),
                    nn.Sequential(
                        Unit(channels, width, 1, kind),
                        Unit(width, width, 3, kind),
                        Unit(width, width, 3, kind),
                    ),
                )
            )
            channels = 3 * width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(self.features(x).mean((2, 3))))


class PlainConv(nn.Module):
    """A plain convolutional network: (N, in_channels, H, W), H, W ≥ 2**blocks → (N, classes).

    Each block is ``depth`` 3×3 convolutions with ``widths[i]`` maps, the first of them followed by
    2×2 max pooling; then global max pooling.

    Parameters
    ----------
    in_channels, classes, depth : int.
    widths : int for each block.
    norm, activation, dropout : as :class:`Inception`'s.
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 10,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 2,
        *,
        norm: Norm = nn.BatchNorm2d,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kind = _kind(norm, activation)
        layers, channels = [], in_channels
        for width in widths:
            layers += [Unit(channels, width, 3, kind), nn.MaxPool2d(2)]
            layers += [Unit(width, width, 3, kind) for _ in range(depth - 1)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(self.features(x).amax((2, 3))))


def sigmoid_net(
    depth: int = 10, width: int = 50, norm: Norm = None, *, inputs: int = 64, classes: int = 10
) -> nn.Sequential:
    """``depth`` sigmoid layers of ``width``: images of ``inputs`` pixels → (N, classes).

    ``norm``: callable, channels → module, put before each sigmoid in place of the bias (section
    3.2); None: no BN. Weights and biases are PyTorch's own; :func:`initialize` draws others.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    size = inputs
    for _ in range(depth):
        layers.append(nn.Linear(size, width, bias=norm is None))
        if norm is not None:
            layers.append(norm(width))
        layers.append(nn.Sigmoid())
        size = width
    layers.append(nn.Linear(size, classes))
    return nn.Sequential(*layers)


def initialize(
    model: nn.Module,
    how: str | float = "he",
    *,
    generator: torch.Generator,
    gain: float = 1.0,
) -> None:
    """Draw all convolutions' and linear layers' weights anew, in place; biases become 0.

    Parameters
    ----------
    how : ``"he"``, N(0, 2 / fan_in); ``"xavier"``, N(0, 2 / (fan_in + fan_out)); or a float σ > 0,
        N(0, σ²), "small random Gaussian values" as in 2014.
    generator : ``torch.Generator``.
    gain : float, factor on the convolutions' weights (section 4.2.3, "increased initial weights").

    Raises
    ------
    ValueError
        another ``how``.
    """
    for layer in model.modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        fan_in = layer.weight[0].numel()
        fan_out = layer.weight[:, 0].numel()
        if how == "he":
            std = math.sqrt(2 / fan_in)
        elif how == "xavier":
            std = math.sqrt(2 / (fan_in + fan_out))
        elif isinstance(how, float) and how > 0:
            std = how
        else:
            raise ValueError(f"expected 'he', 'xavier' or a float > 0, got {how!r}")
        if isinstance(layer, nn.Conv2d):
            std *= gain
        nn.init.normal_(layer.weight, std=std, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def count_weights(model: nn.Module) -> int:
    """Number of weights in convolutions and linear layers, without biases and BN's parameters."""
    layers = (m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    return sum(layer.weight.numel() for layer in layers)


def _module(channels, widths, pool, projection, kind):
    """A row of Figure 5 and its output channels."""
    one, reduce_3, three, reduce_d, double = widths
    stride = 1 if projection else 2
    branches = [Unit(channels, one, 1, kind)] if one else []
    branches += [
        nn.Sequential(Unit(channels, reduce_3, 1, kind), Unit(reduce_3, three, 3, kind, stride)),
        nn.Sequential(
            Unit(channels, reduce_d, 1, kind),
            Unit(reduce_d, double, 3, kind),
            Unit(double, double, 3, kind, stride),
        ),
    ]
    pooling = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pool](3, stride, 1)
    project = [Unit(channels, projection, 1, kind)] if projection else []
    branches.append(nn.Sequential(pooling, *project))
    return Branches(*branches), one + three + double + (projection or channels)


def _lrn(wanted):
    return [nn.LocalResponseNorm(5)] if wanted else []


def _kind(norm, activation):
    _check("activation", activation, tuple(ACTIVATIONS))
    return {"norm": norm, "activation": activation}


def _check(name, value, known):
    if value not in known:
        raise ValueError(f"expected {name} to be one of {known}, got {value!r}")
