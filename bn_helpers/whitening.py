"""Whitening in NumPy, and its derivative with respect to the whole batch.

Ioffe & Szegedy (2015), section 2: the operation that batch normalization stands in for. A batch X
is (m, d), one example a row; everything is computed in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Cache(NamedTuple):
    """The map x → W (x − mean), and what its backward pass needs.

    ``W`` (d, d) and ``mean`` (d,) whiten other examples as ``(X - mean) @ W.T``. ``centred`` is
    X − mean (m, d). ``values`` (d,), ascending, and ``vectors`` (d, d), one a column, are the
    eigenvalues and eigenvectors of Cov + eps I; :func:`cholesky` leaves both None.
    """

    W: np.ndarray
    mean: np.ndarray
    centred: np.ndarray
    values: np.ndarray | None = None
    vectors: np.ndarray | None = None


def covariance(X: ArrayLike, eps: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, centred batch and regularised covariance.

    Parameters
    ----------
    X : floating array (m, d), finite, m >= 2 and d >= 1.
    eps : float >= 0, in squared units of X, added to the diagonal of the covariance.

    Returns
    -------
    mean : (d,).
    centred : (m, d), X − mean.
    cov : (d, d), centredᵀ centred / m + eps I: biased (1/m), as the variance of Algorithm 1.

    Raises
    ------
    TypeError
        X is not floating.
    ValueError
        X is no such batch, or not finite; eps < 0.
    """
    X = np.asarray(X)
    if not np.issubdtype(X.dtype, np.floating):
        raise TypeError(f"expected floating input, got {X.dtype}; convert with X.astype(float)")
    if X.ndim != 2 or len(X) < 2 or X.shape[1] < 1:
        raise ValueError(
            f"expected a batch (m, d) of at least 2 examples, got shape {X.shape}; "
            "flatten images with images.reshape(len(images), -1)"
        )
    if bad := np.count_nonzero(~np.isfinite(X)):
        raise ValueError(f"expected finite values, got {bad} that are not; drop these examples")
    if not eps >= 0:
        raise ValueError(f"expected eps >= 0, got {eps}; the usual value is 1e-5")
    X = X.astype(np.float64, copy=False)
    mean = X.mean(axis=0)
    centred = X - mean
    cov = centred.T @ centred / len(X)
    cov[np.diag_indices_from(cov)] += eps
    return mean, centred, cov


def pca(X: ArrayLike, eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """Whiten along the principal axes: W = Λ^(−1/2) Uᵀ, where Cov + eps I = U Λ Uᵀ.

    Parameters
    ----------
    X, eps : as in :func:`covariance`; with eps = 0, X − mean must have rank d.

    Returns
    -------
    x_hat : (m, d), least variable axis first. Its covariance is I, but λ / (λ + eps) along an
        axis of variance λ: 0 where the batch does not vary.
    cache : :class:`Cache`. Each eigenvector's (first) largest entry is positive, so that pictures
        do not flip between machines.

    Raises
    ------
    TypeError, ValueError
        as :func:`covariance`; ValueError also for a singular Cov + eps I.
    """
    mean, centred, values, vectors = _eigen(X, eps)
    W = (vectors / np.sqrt(values)).T
    return centred @ W.T, Cache(W, mean, centred, values, vectors)


def zca(X: ArrayLike, eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """Whiten and turn back: W = U Λ^(−1/2) Uᵀ = (Cov + eps I)^(−1/2), the symmetric choice.

    Of all whitened versions it is the nearest to X − mean (least squares), so that images still
    look like images. Parameters, returns and errors as :func:`pca`; x_hat's columns are features.
    """
    mean, centred, values, vectors = _eigen(X, eps)
    W = (vectors / np.sqrt(values)) @ vectors.T
    return centred @ W.T, Cache(W, mean, centred, values, vectors)


def cholesky(X: ArrayLike, eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """Whiten feature by feature: W = L⁻¹, where Cov + eps I = L Lᵀ, L lower triangular.

    Column j is feature j less its best linear prediction from the features before it, scaled.
    Parameters, returns and errors as :func:`pca`; x_hat's columns are features.
    """
    mean, centred, cov = covariance(X, eps)
    try:
        L = np.linalg.cholesky(cov)
        pivots = np.diag(L) ** 2
    except np.linalg.LinAlgError:
        pivots = np.zeros(1)
    _require_positive(pivots, np.diag(cov), centred, eps)
    W = np.tril(np.linalg.inv(L))
    return centred @ W.T, Cache(W, mean, centred)


def pca_backward(dY: ArrayLike, cache: Cache) -> np.ndarray:
    """Gradient of a loss with respect to the batch that :func:`pca` whitened.

    Parameters and returns as :func:`zca_backward`. ValueError also where two eigenvalues are
    equal to rounding: the axes, and so their derivative, are not defined there.
    """
    values, vectors = _decomposition(cache)
    gap = values[:, None] - values
    np.fill_diagonal(gap, np.inf)
    if np.abs(gap).min() <= _rounding(values):
        raise ValueError(
            f"expected distinct eigenvalues, got two that differ by {np.abs(gap).min():.0e}; "
            "PCA's axes are not defined there: use zca and zca_backward"
        )
    kernel = 1 / (np.sqrt(values)[:, None] * gap)  # the axes turn
    np.fill_diagonal(kernel, -0.5 * values**-1.5)  # their scales change
    rotated = kernel * (_weight_gradient(dY, cache) @ vectors)
    return _batch_gradient(dY, vectors @ rotated @ vectors.T, cache)


def zca_backward(dY: ArrayLike, cache: Cache) -> np.ndarray:
    """Gradient of a loss with respect to the batch that :func:`zca` whitened.

    Goes through the mean, the covariance and its inverse square root: ∂Norm(x, X)/∂x and
    ∂Norm(x, X)/∂X of section 2 together. Finite for equal eigenvalues: the divided difference of
    λ^(−1/2) is −1 / (√λi √λj (√λi + √λj)), with no λi − λj left in it.

    Parameters
    ----------
    dY : (m, d), the gradient of the loss with respect to x_hat.
    cache : what the forward call returned.

    Returns
    -------
    dX : (m, d); its columns sum to zero.

    Raises
    ------
    ValueError
        dY has not the shape of x_hat; the cache is :func:`cholesky`'s.
    """
    values, vectors = _decomposition(cache)
    roots = np.sqrt(values)
    kernel = -1 / (np.outer(roots, roots) * np.add.outer(roots, roots))
    rotated = kernel * (vectors.T @ _weight_gradient(dY, cache) @ vectors)
    return _batch_gradient(dY, vectors @ rotated @ vectors.T, cache)


def cholesky_backward(dY: ArrayLike, cache: Cache) -> np.ndarray:
    """Gradient of a loss with respect to the batch that :func:`cholesky` whitened.

    dW = −Φ(W dCov Wᵀ) W, where Φ keeps the lower triangle and halves the diagonal. Parameters,
    returns and errors as :func:`zca_backward`.
    """
    lower = -np.tril(_weight_gradient(dY, cache) @ cache.W.T)
    lower[np.diag_indices_from(lower)] /= 2
    return _batch_gradient(dY, cache.W.T @ lower @ cache.W, cache)


def newton_schulz(cov: ArrayLike, iterations: int) -> np.ndarray:
    """Approximate cov^(−1/2) with matrix products alone (Huang et al. 2019, Algorithm 1).

    The coupled form Y ← Y T, Z ← T Z, T = (3 I − Z Y) / 2, started at Y = cov / trace, Z = I. In
    exact arithmetic Z is Huang's P ← (3 P − P³ cov / trace) / 2; unlike that, it also stays put
    in floating point once it has converged (Higham 2008, section 6.3).

    Parameters
    ----------
    cov : (d, d), symmetric positive definite; complex too, for a complex-step derivative.
    iterations : int >= 0; the error starts to fall after about log(trace / λ_min) / log(2.25).

    Returns
    -------
    Z : (d, d), approximately cov^(−1/2).

    Raises
    ------
    ValueError
        cov is not square, its trace is not positive, or iterations is no such number.
    """
    cov = np.asarray(cov)
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or not np.trace(cov).real > 0:
        raise ValueError(
            f"expected a square matrix of positive trace, got shape {cov.shape}; "
            "pass the covariance, not the batch"
        )
    if iterations < 0 or iterations != int(iterations):
        raise ValueError(
            f"expected a iterations as a whole number >= 0, got {iterations}; 5 to 15 do"
        )
    trace = np.trace(cov)
    eye = np.eye(len(cov))
    Y, Z = cov / trace, eye
    for _ in range(int(iterations)):
        T = (3 * eye - Z @ Y) / 2
        Y, Z = Y @ T, T @ Z
    return Z / np.sqrt(trace)


def _eigen(X, eps):
    mean, centred, cov = covariance(X, eps)
    values, vectors = np.linalg.eigh(cov)
    _require_positive(values, values, centred, eps)
    # The first of the largest entries: with a plain argmax, rounding would choose between equals.
    first = np.argmax(np.abs(vectors) > 0.999999 * np.abs(vectors).max(axis=0), axis=0)
    signs = np.sign(np.take_along_axis(vectors, first[None], axis=0))
    return mean, centred, values, vectors * signs


def _decomposition(cache):
    if cache.values is None:
        raise ValueError(
            "expected a cache with eigenvalues, got one of cholesky; call cholesky_backward"
        )
    return cache.values, cache.vectors


def _rounding(scale):
    return len(scale) * np.finfo(np.float64).eps * np.max(scale)


def _require_positive(pivots, scale, centred, eps):
    if not pivots.min() > _rounding(scale):
        m, d = centred.shape
        raise ValueError(
            f"expected Cov + eps I of full rank {d}, got a singular one: {m} examples have rank "
            f"at most {min(m - 1, d)} and eps is {eps:g}; raise eps, take more examples or drop "
            "constant features"
        )


def _weight_gradient(dY, cache):
    dY = np.asarray(dY)
    if dY.shape != cache.centred.shape:
        raise ValueError(
            f"expected dY of shape {cache.centred.shape} (that of x_hat), got {dY.shape}; "
            "pass the cache of the same forward call"
        )
    return dY.T @ cache.centred


def _batch_gradient(dY, dcov, cache):
    """Add the three ways in which X acts on x_hat: itself, through W, through the mean."""
    dX = dY @ cache.W + cache.centred @ (dcov + dcov.T) / len(dY)
    return dX - dX.mean(axis=0)
