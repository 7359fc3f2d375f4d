"""Entering and leaving a model: folding, PyTorch's and Keras' layers, sharing among processes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bn_helpers import layers
from bn_helpers.layers import BatchNorm
from bn_helpers.population import bessel, refuse_negative

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_NATIVE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def from_native(model: nn.Module) -> Any:
    """Make each batch normalization of PyTorch in ``model`` one of ours.

    Parameters
    ----------
    model : ``nn.Module``, changed in place: each ``nn.BatchNorm1d`` to ``nn.BatchNorm3d`` and
        ``nn.SyncBatchNorm`` becomes a :class:`~bn_helpers.layers.BatchNorm` and keeps its
        parameters, buffers, hooks and mode.

    Returns
    -------
    model : the same object.

    Raises
    ------
    TypeError
        a subclass of PyTorch's layers, whose code may differ; nothing is changed.
    """
    found: list[Any] = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for module in found:
        if not isinstance(module, BatchNorm) and type(module) not in _NATIVE:
            raise TypeError(
                f"expected BatchNorm or nn.BatchNorm1d to nn.BatchNorm3d, got "
                f"{type(module).__name__}; replace it by one of them first"
            )
    for module in found:
        if type(module) in _NATIVE:
            module.__class__ = BatchNorm  # the attributes are the same, but one
            module.process_group = None
    return model


def to_native(model: nn.Module, kind: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """Make each :class:`~bn_helpers.layers.BatchNorm` in ``model`` one of PyTorch's own layers.

    For tools that ask for the exact type: fusing by ``torch.fx``, quantisation,
    ``torch.jit.script``.

    Parameters
    ----------
    model : ``nn.Module``, changed in place; parameters, buffers, hooks and mode are kept, process
        groups are not.
    kind : ``nn.BatchNorm1d``, ``nn.BatchNorm2d`` or ``nn.BatchNorm3d``, for (N, C) and (N, C, L),
        (N, C, H, W), (N, C, D, H, W): ours takes all, so the model does not say which it meets.

    Returns
    -------
    model : the same object.

    Raises
    ------
    TypeError
        another kind.
    """
    if kind not in _NATIVE[:3]:
        raise TypeError(f"expected nn.BatchNorm1d, nn.BatchNorm2d or nn.BatchNorm3d, got {kind!r}")
    for module in model.modules():
        if isinstance(module, BatchNorm):
            del module.process_group
            module.__class__ = kind  # type: ignore[assignment]
    return model


def synchronize(model: nn.Module, process_group: Any = None) -> nn.Module:
    """Let every batch normalization in ``model`` share its statistics with the other processes.

    Like ``nn.SyncBatchNorm.convert_sync_batchnorm``, but on any device. To undo it, set the
    layers' ``process_group`` to None.

    Parameters
    ----------
    model : ``nn.Module``, changed in place: as by :func:`from_native`, and each
        :class:`~bn_helpers.layers.BatchNorm` gets the group.
    process_group : as in :class:`~bn_helpers.layers.BatchNorm`; None: all processes.

    Returns
    -------
    model : the same object.

    Raises
    ------
    RuntimeError
        torch.distributed is not initialised.
    TypeError
        process_group is something else; a subclass of PyTorch's layers.
    """
    if process_group is None and dist.is_available() and dist.is_initialized():
        process_group = dist.group.WORLD
    layers.check_group(process_group)
    for module in from_native(model).modules():
        if isinstance(module, BatchNorm):
            module.process_group = process_group
    return model


def fold(layer: Any, bn: Any) -> Any:
    """Return one layer that computes ``bn(layer(x))`` with bn's running statistics (Algorithm 2).

    Parameters
    ----------
    layer : ``nn.Linear`` (on (N, features)), ``nn.Conv1d`` to ``nn.Conv3d`` or
        ``nn.ConvTranspose1d`` to ``nn.ConvTranspose3d``, any groups, with or without bias.
    bn : :class:`~bn_helpers.layers.BatchNorm` or ``nn.BatchNorm1d`` to ``nn.BatchNorm3d``, in eval
        mode, for the layer's output channels C.

    Returns
    -------
    folded : a new layer of layer's type, dtype and device, with a bias. layer and bn stay as
        they are and share no memory with it.

    Raises
    ------
    TypeError
        another kind of layer or of bn.
    ValueError
        bn is in training mode, has no running statistics, or another channel count.
    """
    _check_foldable(layer, bn)
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    folded = copy.deepcopy(layer)
    with torch.no_grad():
        scale = torch.rsqrt(bn.running_var.to(dtype) + bn.eps)
        if bn.weight is not None:
            scale = bn.weight * scale
        bias = -bn.running_mean if layer.bias is None else layer.bias.to(dtype) - bn.running_mean
        bias = scale * bias if bn.bias is None else scale * bias + bn.bias
        if isinstance(layer, _TRANSPOSED):
            # (in, out / groups, ...): the in rows of a group feed that group's output channels.
            column = scale.view(layer.groups, 1, -1, *(1,) * len(layer.kernel_size))
            weight = (layer.weight.unflatten(0, (layer.groups, -1)) * column).flatten(0, 1)
        else:
            weight = layer.weight * scale.view(-1, *(1,) * (layer.weight.dim() - 1))
    folded.weight = nn.Parameter(weight.to(layer.weight), layer.weight.requires_grad)
    folded.bias = nn.Parameter(bias.to(layer.weight), layer.weight.requires_grad)
    return folded


def _check_foldable(layer, bn):
    if not isinstance(layer, _FOLDABLE):
        raise TypeError(
            "expected a Linear, Conv1d to Conv3d or ConvTranspose1d to ConvTranspose3d layer, "
            f"got {type(layer).__name__}; fold the layer that stands directly before bn"
        )
    if not isinstance(bn, _BatchNorm):
        raise TypeError(
            f"expected a batch normalization layer, got {type(bn).__name__}; "
            "call fold(layer, bn), in the order in which they are applied"
        )
    if bn.training:
        raise ValueError(
            "expected bn in eval mode, got training mode, where the output depends on the whole "
            "batch; call bn.eval() first"
        )
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(
            "expected bn with running statistics, got none; train with track_running_stats=True"
        )
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if bn.num_features != channels:
        raise ValueError(
            f"expected bn for the layer's {channels} output channels, got {bn.num_features}; "
            f"use BatchNorm({channels})"
        )


def from_keras(
    moving_mean: ArrayLike,
    moving_variance: ArrayLike,
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    m: int | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Keras' statistics and settings as those of ``nn.BatchNorm*d``.

    Keras' momentum is the share that is *kept*, and Keras 3 (like ``fused=False`` before it)
    stores the average of the *biased* variances, where PyTorch stores unbiased ones. The fused
    kernels of TensorFlow apply m/(m − 1) themselves: leave ``m`` out for their statistics.

    Parameters
    ----------
    moving_mean, moving_variance : arrays of one shape.
    momentum, epsilon : float in [0, 1] and float > 0, Keras' settings; its defaults.
    m : int, values per statistic in each training batch; the variance becomes the one PyTorch
        would have stored. None leaves it: predictions in eval mode are then Keras' own.
    steps : int, training batches seen; the start value 1, of which momentum**steps is left in the
        average, is not scaled by m/(m − 1). None if it is long forgotten. Used only with ``m``.

    Returns
    -------
    dict with ``running_mean``, ``running_var`` (float64), ``momentum`` and ``eps``.

    Raises
    ------
    ValueError
        momentum outside [0, 1], epsilon ≤ 0, m below 2, steps below 0, shapes that
        differ, a negative variance.
    """
    mean, var = _settings(moving_mean, moving_variance, momentum, epsilon, steps)
    if m is not None:
        left = 0.0 if steps is None else momentum**steps
        var = left + bessel(m, mean[None])[0] * (var - left)
    return {"running_mean": mean, "running_var": var, "momentum": 1 - momentum, "eps": epsilon}


def to_keras(
    running_mean: ArrayLike,
    running_var: ArrayLike,
    *,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    m: int | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """The statistics and settings of ``nn.BatchNorm*d`` as Keras': undoes :func:`from_keras`.

    Parameters
    ----------
    running_mean, running_var : arrays of one shape.
    momentum, eps : float in [0, 1] and float > 0, PyTorch's settings; its defaults.
    m, steps : as in :func:`from_keras`; None leaves the variance as it is.

    Returns
    -------
    dict with ``moving_mean``, ``moving_variance`` (float64), ``momentum`` and ``epsilon``.

    Raises
    ------
    ValueError
        as :func:`from_keras`, and momentum None, which Keras does not have.
    """
    if momentum is None:
        raise ValueError(
            "expected momentum in [0, 1], got None; Keras has no cumulative average: "
            "convert with the momentum that training is to go on with"
        )
    mean, var = _settings(running_mean, running_var, momentum, eps, steps)
    if m is not None:
        left = 0.0 if steps is None else (1 - momentum) ** steps
        var = left + (var - left) / bessel(m, mean[None])[0]
    return {"moving_mean": mean, "moving_variance": var, "momentum": 1 - momentum, "epsilon": eps}


def _settings(mean, var, momentum, eps, steps):
    mean, var = np.asarray(mean, dtype=float), np.asarray(var, dtype=float)
    if mean.shape != var.shape:
        raise ValueError(f"expected mean and variance of one shape, got {mean.shape}, {var.shape}")
    refuse_negative(var)
    if not 0 <= momentum <= 1:
        raise ValueError(f"expected momentum in [0, 1], got {momentum}")
    if not eps > 0:
        raise ValueError(f"expected a positive epsilon, got {eps}; the defaults are 1e-3 and 1e-5")
    if steps is not None and steps < 0:
        raise ValueError(f"expected steps >= 0, got {steps}; pass the number of batches seen")
    return mean, var
