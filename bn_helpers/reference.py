"""Batch normalization in NumPy: the specification that everything else is tested against.

Ioffe & Szegedy (2015), Algorithm 1 (forward), section 3 (backward), Algorithm 2 (inference).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Cache(NamedTuple):
    """What the backward pass needs.

    ``x_hat`` has x's shape; mean, biased var, inv_std = 1/sqrt(var + eps) and gamma have the
    remaining axes' shape; ``axes`` are the axes averaged over, sorted and non-negative.
    """

    x_hat: np.ndarray
    mean: np.ndarray
    var: np.ndarray
    inv_std: np.ndarray
    gamma: np.ndarray
    axes: tuple[int, ...]


def batchnorm_forward(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    eps: float = 1e-5,
    axes: int | Sequence[int] = (0,),
) -> tuple[np.ndarray, Cache]:
    """Normalise ``x`` over ``axes`` with its own statistics (Algorithm 1).

    Parameters
    ----------
    x : array, any shape, floating or complex dtype. float16 is computed in float32.
    gamma, beta : array of the shape of the axes that remain, e.g. (C,) for ``axes=(0, 2, 3)``.
    eps : float > 0, added to the variance.
    axes : the axes averaged over. ``(0,)`` for (N, D); ``(0, 2, 3)`` for (N, C, H, W).

    Returns
    -------
    y : array like x; NumPy's promotion applies where gamma or beta has a wider dtype.
    cache : :class:`Cache`, for :func:`batchnorm_backward`. ``cache.var`` is biased (1/m).

    Raises
    ------
    TypeError
        x is neither floating nor complex.
    ValueError
        eps <= 0, axes that x lacks, fewer than 2 values per statistic, wrong gamma or beta.
    """
    x, axes = _checked(x, eps, axes)
    m = int(np.prod([x.shape[a] for a in axes]))
    if m < 2:
        raise ValueError(
            f"expected at least 2 values per statistic, got {m} from shape {x.shape} over axes "
            f"{axes}; use a larger batch, or batchnorm_inference with stored statistics"
        )
    gamma, beta = (_broadcastable(n, v, x, axes) for n, v in (("gamma", gamma), ("beta", beta)))
    work = _working(x)
    mean = work.mean(axis=axes, keepdims=True)
    centred = work - mean
    # (x − μ)², not np.var: np.var takes |·|² of complex numbers, which breaks the complex step.
    var = (centred**2).mean(axis=axes, keepdims=True)
    inv_std = 1 / np.sqrt(var + eps)
    x_hat = centred * inv_std
    y = gamma * x_hat + beta
    mean, var, inv_std, gamma = (np.squeeze(a, axis=axes) for a in (mean, var, inv_std, gamma))
    return _restored(y, x), Cache(x_hat, mean, var, inv_std, gamma, axes)


def batchnorm_backward(dy: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of a loss with respect to x, gamma and beta (section 3, all six equations in one).

    Parameters
    ----------
    dy : array like y, the gradient of the loss with respect to y.
    cache : what :func:`batchnorm_forward` returned.

    Returns
    -------
    dx : array like dy.
    dgamma, dbeta : arrays of gamma's shape; float32 for float16 input.

    Raises
    ------
    ValueError
        dy has not the shape of y.
    """
    dy = np.asarray(dy)
    if dy.shape != cache.x_hat.shape:
        raise ValueError(
            f"expected dy of shape {cache.x_hat.shape} (that of y), got {dy.shape}; "
            "pass the cache of the same forward call"
        )
    axes, grad = cache.axes, _working(dy)
    dbeta = grad.sum(axis=axes)
    dgamma = (grad * cache.x_hat).sum(axis=axes)
    scale = np.expand_dims(cache.gamma * cache.inv_std, axes)
    mean_grad = grad.mean(axis=axes, keepdims=True)
    mean_grad_x_hat = (grad * cache.x_hat).mean(axis=axes, keepdims=True)
    dx = scale * (grad - mean_grad - cache.x_hat * mean_grad_x_hat)
    return _restored(dx, dy), dgamma, dbeta


def batchnorm_inference(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    eps: float = 1e-5,
    axes: int | Sequence[int] = (0,),
) -> np.ndarray:
    """Normalise ``x`` with fixed statistics (Algorithm 2, step 11): one affine map per statistic.

    Parameters
    ----------
    x, gamma, beta, eps, axes : as in :func:`batchnorm_forward`; one value per statistic is enough.
    mean, var : arrays of gamma's shape, the population statistics.

    Returns
    -------
    y : array like x.

    Raises
    ------
    TypeError, ValueError
        as :func:`batchnorm_forward`; ValueError also for a negative var.
    """
    x, axes = _checked(x, eps, axes)
    named = (("gamma", gamma), ("beta", beta), ("mean", mean), ("var", var))
    gamma, beta, mean, var = (_broadcastable(name, value, x, axes) for name, value in named)
    if np.any(var.real < 0):
        raise ValueError(f"expected var >= 0, got {var.real.min()}; pass a variance, not its log")
    scale = gamma / np.sqrt(var + eps)
    return _restored(scale * _working(x) + (beta - scale * mean), x)


def _checked(x: np.ndarray, eps: float, axes: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.inexact):
        raise TypeError(f"expected floating input, got {x.dtype}; convert with x.astype(float)")
    if not eps > 0:
        raise ValueError(f"expected eps > 0, got {eps}; the usual value is 1e-5")
    axes = (axes,) if np.isscalar(axes) else tuple(axes)
    if not axes or any(not -x.ndim <= a < x.ndim for a in axes):
        raise ValueError(
            f"expected axes of an array of rank {x.ndim}, got {axes}; they count from 0"
        )
    positive = tuple(sorted({a % x.ndim for a in axes}))
    if len(positive) != len(axes):
        raise ValueError(f"expected each axis once, got {axes}; remove the repeated one")
    return x, positive


def _broadcastable(name, value, x, axes):
    value = np.asarray(value)
    remaining = tuple(n for a, n in enumerate(x.shape) if a not in axes)
    if value.shape != remaining:
        raise ValueError(
            f"expected {name} of shape {remaining} for x of shape {x.shape} and axes {axes}, "
            f"got {value.shape}; give one value for each combination of the remaining axes"
        )
    return np.expand_dims(value, axes)


def _working(x):
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _restored(result, like):
    return result.astype(like.dtype) if like.dtype == np.float16 else result
