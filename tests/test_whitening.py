"""bn_helpers.whitening against PyTorch's float64 autograd and numerical derivatives.

Mutations that were tried, each caught by at least one test here: m − 1 for m in the covariance;
eps left out; the mean left out of the backward pass; the covariance's path left out; ``dcov`` not
symmetrised; ``cache.W.T`` for ``cache.W`` in the backward pass; ZCA's kernel with the wrong sign;
PCA's gap with the wrong sign, or without its diagonal; Cholesky's diagonal not halved; the sign of
the eigenvectors not fixed, or fixed by a plain argmax; Newton–Schulz without the trace, or in the
uncoupled form; the check for a singular covariance, or for equal eigenvalues, dropped.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bn_helpers import gradcheck, reference, whitening

METHODS = ("pca", "zca", "cholesky")


def torch_whiten(method, X, eps):
    """The same map from PyTorch's operations, differentiable where eigenvalues are distinct."""
    centred = X - X.mean(dim=0)
    cov = centred.T @ centred / len(X) + eps * torch.eye(X.shape[1], dtype=X.dtype)
    if method == "cholesky":
        L = torch.linalg.cholesky(cov)
        return torch.linalg.solve_triangular(L, centred.T, upper=False).T
    values, U = torch.linalg.eigh(cov)
    if method == "zca":
        return centred @ U @ torch.diag(values**-0.5) @ U.T
    # PCA's columns have no sign of their own: make each one's largest eigenvector entry positive.
    U = U * torch.sign(U.gather(0, U.abs().argmax(dim=0)[None])).detach()
    return centred @ U @ torch.diag(values**-0.5)


def well_separated(d, m, seed, scale=1.0):
    """A batch whose covariance has the eigenvalues 1, 2, …, d (times scale²), turned at random."""
    rng = np.random.default_rng(seed)
    centred = rng.normal(size=(m, d))
    centred -= centred.mean(axis=0)
    white = np.linalg.svd(centred, full_matrices=False)[0] * np.sqrt(m)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return scale * (white * np.sqrt(np.arange(1, d + 1)) @ turn + rng.normal(size=d))


shapes = st.tuples(st.integers(1, 7), st.integers(2, 12)).map(lambda p: (p[0], p[0] + p[1]))
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([1e-3, 1.0, 1e3])


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=seeds, scale=scales)
def test_the_result_is_white_and_W_makes_it(method, shape, seed, scale):
    X = well_separated(*shape, seed, scale)
    x_hat, cache = getattr(whitening, method)(X, eps=0)
    np.testing.assert_allclose(x_hat.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(x_hat.T @ x_hat / len(X), np.eye(shape[0]), atol=1e-9)
    np.testing.assert_allclose((X - cache.mean) @ cache.W.T, x_hat, atol=1e-9)
    cov = np.cov(X.T, bias=True).reshape(shape[0], shape[0])
    np.testing.assert_allclose(cache.W @ cov @ cache.W.T, np.eye(shape[0]), atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=seeds, scale=scales, eps=st.sampled_from([1e-5, 0.1]))
def test_forward_and_backward_equal_pytorch(method, shape, seed, scale, eps):
    X = well_separated(*shape, seed, scale)
    dY = np.random.default_rng(seed).normal(size=X.shape)
    leaf = torch.tensor(X, requires_grad=True)
    expected = torch_whiten(method, leaf, eps * scale**2)
    expected.backward(torch.from_numpy(dY))
    x_hat, cache = getattr(whitening, method)(X, eps=eps * scale**2)
    dX = getattr(whitening, f"{method}_backward")(dY, cache)
    assert gradcheck.relative_error(x_hat, expected.detach().numpy()) < 1e-8
    # Where d + 1 = m and such, the true gradient nearly vanishes: compare with what is cancelled.
    size = np.abs(dY @ cache.W).max()
    np.testing.assert_allclose(dX, leaf.grad.numpy(), atol=1e-8 * size, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_backward_equals_central_differences(method, eps):
    X = well_separated(3, 8, seed=1)
    dY = np.random.default_rng(2).normal(size=X.shape)
    forward = getattr(whitening, method)
    numeric = gradcheck.central_difference(lambda b: np.sum(forward(b, eps)[0] * dY), X)
    ours = getattr(whitening, f"{method}_backward")(dY, forward(X, eps)[1])
    assert gradcheck.relative_error(ours, numeric) < 1e-7


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=20)
@given(shape=shapes, seed=seeds)
def test_gradient_has_the_invariances_of_whitening(method, shape, seed):
    """Shifting or scaling the batch changes nothing, so the gradient is orthogonal to both."""
    X = well_separated(*shape, seed)
    dY = np.random.default_rng(seed).normal(size=X.shape)
    _, cache = getattr(whitening, method)(X, eps=0)
    dX = getattr(whitening, f"{method}_backward")(dY, cache)
    np.testing.assert_allclose(dX.sum(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(np.sum(dX * cache.centred), 0, atol=1e-9)


def test_each_choice_of_W_is_what_it_is_called():
    X = well_separated(5, 20, seed=3)
    W = {method: getattr(whitening, method)(X, eps=0)[1].W for method in METHODS}
    np.testing.assert_allclose(W["zca"], W["zca"].T, atol=1e-12)
    assert np.linalg.eigvalsh(W["zca"]).min() > 0
    np.testing.assert_array_equal(W["cholesky"], np.tril(W["cholesky"]))
    assert np.diag(W["cholesky"]).min() > 0
    rows = W["pca"] @ W["pca"].T  # orthogonal rows, the longest belongs to the least variance
    np.testing.assert_allclose(rows, np.diag(1 / np.arange(1.0, 6)), atol=1e-12)
    for method in ("pca", "cholesky"):
        turn = W[method] @ np.linalg.inv(W["zca"])
        np.testing.assert_allclose(turn @ turn.T, np.eye(5), atol=1e-12)


def test_eigenvectors_have_a_sign_that_rounding_cannot_choose():
    X = np.array([[5.0, 4], [-1, -2], [3, 0], [1, 2]])  # both entries of each axis are equal
    expected = [[0.5**0.5, -(0.5**0.5)], [18**-0.5, 18**-0.5]]
    for stretch in (1, 1 + 1e-9, 1 - 1e-9):
        moved = X * np.array([1, stretch])
        np.testing.assert_allclose(whitening.pca(moved, 0)[1].W, expected, atol=1e-7)


def test_zca_backward_is_smooth_at_equal_eigenvalues_and_pca_says_so():
    X = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])  # covariance I
    dY = np.arange(8.0).reshape(4, 2) ** 2
    for method in ("zca", "cholesky"):
        forward = getattr(whitening, method)
        numeric = gradcheck.central_difference(lambda b, f=forward: np.sum(f(b, 0)[0] * dY), X)
        ours = getattr(whitening, f"{method}_backward")(dY, forward(X, 0)[1])
        assert gradcheck.relative_error(ours, numeric) < 1e-8
    with pytest.raises(ValueError, match=r"distinct eigenvalues.*use zca"):
        whitening.pca_backward(dY, whitening.pca(X, eps=0)[1])


@pytest.mark.parametrize("method", METHODS)
def test_one_feature_is_batch_normalization(method):
    X = np.random.default_rng(4).normal(3, 2, size=(9, 1))
    dY = np.random.default_rng(5).normal(size=(9, 1))
    x_hat, cache = getattr(whitening, method)(X, eps=1e-2)
    y, bn_cache = reference.batchnorm_forward(X, np.ones(1), np.zeros(1), eps=1e-2)
    np.testing.assert_allclose(x_hat, y, rtol=1e-12)
    dx = reference.batchnorm_backward(dY, bn_cache)[0]
    np.testing.assert_allclose(
        getattr(whitening, f"{method}_backward")(dY, cache), dx, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("method", METHODS)
def test_eps_holds_degenerate_directions(method):
    X = np.random.default_rng(6).normal(size=(4, 7))  # m ≤ d
    X[:, 2] = 5.0  # and a constant feature, as three pixels of the digits
    x_hat, cache = getattr(whitening, method)(X, eps=1e-4)
    assert np.isfinite(x_hat).all()
    assert np.linalg.eigvalsh(x_hat.T @ x_hat / 4).max() <= 1
    if method != "pca":
        np.testing.assert_allclose(x_hat[:, 2], 0, atol=1e-9)
        dX = getattr(whitening, f"{method}_backward")(np.ones_like(X), cache)
        assert np.isfinite(dX).all()
    with pytest.raises(ValueError, match=r"full rank 7.*rank at most 3.*raise eps"):
        getattr(whitening, method)(X, eps=0)


def test_float32_is_computed_in_float64_and_inputs_are_left_alone():
    X = np.random.default_rng(7).normal(size=(20, 3)).astype(np.float32)
    kept = X.copy()
    x_hat, _ = whitening.zca(X)
    assert x_hat.dtype == np.float64
    np.testing.assert_array_equal(x_hat, whitening.zca(X.astype(np.float64))[0])
    np.testing.assert_array_equal(X, kept)


@settings(deadline=None, max_examples=30)
@given(d=st.integers(1, 8), kappa=st.sampled_from([1.0, 1e2, 1e6]), seed=seeds)
def test_newton_schulz_arrives_and_stays(d, kappa, seed):
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    values = np.geomspace(1, kappa, d)
    cov, root = (turn * values) @ turn.T, (turn / np.sqrt(values)) @ turn.T
    needed = int(np.log(values.sum()) / np.log(2.25)) + 8
    for iterations in (needed, needed + 40):
        Z = whitening.newton_schulz(cov, iterations)
        np.testing.assert_allclose(Z, root, atol=1e-8)


def test_newton_schulz_follows_huangs_recursion():
    cov = whitening.covariance(well_separated(4, 9, seed=8))[2]
    P, cov_n = np.eye(4), cov / np.trace(cov)
    for iterations in range(5):
        np.testing.assert_allclose(
            whitening.newton_schulz(cov, iterations), P / np.sqrt(np.trace(cov)), atol=1e-13
        )
        P = (3 * P - P @ P @ P @ cov_n) / 2


def test_newton_schulz_converges_to_the_derivative_too():
    """Matrix products are analytic, so the complex step goes through; eigh and Cholesky are not."""
    X = well_separated(3, 8, seed=9)
    dY = np.random.default_rng(10).normal(size=X.shape)

    def loss(b):
        centred = b - b.mean(axis=0)
        return np.sum(centred @ whitening.newton_schulz(centred.T @ centred / len(b), 25).T * dY)

    ours = whitening.zca_backward(dY, whitening.zca(X, eps=0)[1])
    assert gradcheck.relative_error(ours, gradcheck.complex_step(loss, X)) < 1e-10


BAD = [
    (lambda: whitening.zca(np.ones((4, 2), dtype=int)), TypeError, r"int64.*astype\(float\)"),
    (lambda: whitening.zca(np.ones((4, 2, 2))), ValueError, r"\(4, 2, 2\).*reshape"),
    (lambda: whitening.pca(np.ones((1, 3))), ValueError, r"at least 2 examples.*\(1, 3\)"),
    (lambda: whitening.pca(np.ones((3, 0))), ValueError, r"\(3, 0\)"),
    (lambda: whitening.zca(np.eye(3), eps=-1), ValueError, r"eps >= 0, got -1"),
    (lambda: whitening.zca(np.eye(3), eps=np.nan), ValueError, r"eps >= 0, got nan"),
    (lambda: whitening.zca([[np.nan, 1.0], [np.inf, 2.0]]), ValueError, r"got 2 that are not"),
    (lambda: whitening.newton_schulz(np.ones((3, 2)), 5), ValueError, r"\(3, 2\).*not the batch"),
    (lambda: whitening.newton_schulz(np.zeros((2, 2)), 5), ValueError, r"positive trace"),
    (lambda: whitening.newton_schulz(np.eye(2), -1), ValueError, r"got -1"),
    (lambda: whitening.newton_schulz(np.eye(2), 1.5), ValueError, r"got 1.5"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_with_the_way_out(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_of_another_shape_is_refused(method):
    _, cache = getattr(whitening, method)(well_separated(3, 8, seed=11))
    with pytest.raises(ValueError, match=r"shape \(8, 3\).*got \(8, 2\).*same forward call"):
        getattr(whitening, f"{method}_backward")(np.ones((8, 2)), cache)


@pytest.mark.parametrize("backward", [whitening.pca_backward, whitening.zca_backward])
def test_a_cache_of_cholesky_is_refused(backward):
    """Catches an error about None instead of one that names the function to call."""
    X = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(ValueError, match="call cholesky_backward"):
        backward(X, whitening.cholesky(X)[1])
