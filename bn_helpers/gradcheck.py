"""Numerical derivatives and their comparison with analytic ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def central_difference(
    f: Callable[[np.ndarray], float], x: ArrayLike, h: float = 1e-5
) -> np.ndarray:
    """Gradient of the scalar function ``f`` at ``x`` by (f(x + h) − f(x − h)) / 2h.

    Parameters
    ----------
    f : callable, array like x → real number.
    x : float64 array, any shape; not changed.
    h : float, the step. The error is O(h²) from the formula plus O(1e-16 / h) from rounding.

    Returns
    -------
    gradient : float64 array like x.
    """
    x = np.array(x, dtype=np.float64)
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + h
        above = f(x)
        x[i] = kept - h
        below = f(x)
        x[i] = kept
        gradient[i] = (above - below) / (2 * h)
    return gradient


def complex_step(f: Callable[[np.ndarray], complex], x: ArrayLike, h: float = 1e-30) -> np.ndarray:
    """Gradient of the scalar function ``f`` at ``x`` by Im f(x + ih) / h.

    Nothing is subtracted, so rounding sets no lower limit for h.

    Parameters
    ----------
    f : callable, complex array like x → complex number, analytic in x: no ``abs``, ``max``,
        ``np.var``, ``.real`` or ``.conj``.
    x : float64 array, any shape; not changed.
    h : float, the step; may be as small as 1e-30.

    Returns
    -------
    gradient : float64 array like x.
    """
    x = np.array(x, dtype=np.complex128)
    gradient = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        x[i] += 1j * h
        gradient[i] = f(x).imag / h
        x[i] = x[i].real
    return gradient


def relative_error(ours: ArrayLike, truth: ArrayLike) -> float:
    """Largest absolute difference over the largest absolute value of either.

    Parameters
    ----------
    ours, truth : real arrays of one shape, torch tensors without gradients, lists or numbers.

    Returns
    -------
    error : float >= 0; 0 for two arrays of zeros, NaN where either holds NaN or infinity.

    Raises
    ------
    TypeError
        either is complex.
    ValueError
        the shapes differ.
    """
    ours, truth = np.asarray(ours), np.asarray(truth)
    if np.iscomplexobj(ours) or np.iscomplexobj(truth):
        raise TypeError("expected real arrays, got complex ones; compare .real and .imag")
    if ours.shape != truth.shape:
        raise ValueError(
            f"expected two arrays of one shape, got {ours.shape} and {truth.shape}; "
            "broadcasting would hide a mistake: reshape one of them"
        )
    ours, truth = ours.astype(np.float64), truth.astype(np.float64)
    scale = max(np.abs(ours).max(initial=0), np.abs(truth).max(initial=0))
    if not np.isfinite(scale):
        return float("nan")
    return float(np.abs(ours - truth).max(initial=0) / scale) if scale else 0.0


def agree(name: str, ours: ArrayLike, truth: ArrayLike, tol: float = 1e-12) -> None:
    """Print that two arrays agree to the relative tolerance ``tol``.

    The line says the bound, not the digits, so that it is the same on every machine.
    ``ours`` and ``truth`` are as in :func:`relative_error`.

    Raises
    ------
    AssertionError
        the error is larger, or either array holds NaN or infinity.
    TypeError, ValueError
        as :func:`relative_error`.
    """
    error = relative_error(ours, truth)
    if not error <= tol:
        raise AssertionError(f"{name}: relative error {error:.2e}, expected at most {tol:.0e}")
    print(f"{name:<24} agrees (relative error at most {tol:.0e})")
