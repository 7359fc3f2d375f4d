"""The NumPy specification against PyTorch in float64, its own invariants and the complex step."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bn_helpers.gradcheck import complex_step, relative_error
from bn_helpers.reference import batchnorm_backward, batchnorm_forward, batchnorm_inference

LAYOUTS = {
    "contiguous": np.array,
    "fortran": np.asfortranarray,
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "transposed": lambda a: np.moveaxis(np.moveaxis(a, 0, -1).copy(), -1, 0),
    "every other": lambda a: np.repeat(a, 2, axis=0)[::2],
}


@st.composite
def problems(draw, min_values=2):
    """A batch x, gamma, beta, dy, eps and axes: rank 1 to 5, any axes, also negative ones."""
    rank = draw(st.integers(1, 5))
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    shape = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    if np.prod([shape[a] for a in axes]) < min_values:
        shape[axes[0]] = min_values
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    offset, scale = draw(st.sampled_from([(0, 1), (5, 0.1), (-100, 3), (0, 1e-3), (1e3, 30)]))
    x = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](offset + scale * rng.normal(size=shape))
    remaining = [n for a, n in enumerate(shape) if a not in axes]
    gamma, beta = rng.normal(size=remaining), rng.normal(size=remaining)
    dy = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](rng.normal(size=shape))
    eps = draw(st.sampled_from([1e-8, 1e-5, 1e-3, 1.0]))
    written = tuple(a - rank if draw(st.booleans()) else a for a in axes)
    return x, gamma, beta, dy, eps, written


def through_torch(x, gamma, beta, dy, eps, axes):
    """y, dx, dgamma, dbeta by ``F.batch_norm`` and autograd, the averaged axes moved to front."""
    averaged = sorted(a % x.ndim for a in axes)
    kept = [a for a in range(x.ndim) if a not in averaged]
    leaves = [torch.tensor(np.array(v), requires_grad=True) for v in (x, gamma, beta)]
    moved = leaves[0].permute(averaged + kept)
    flat = moved.reshape(-1, max(leaves[1].numel(), 1))
    y = F.batch_norm(flat, None, None, *(v.reshape(-1) for v in leaves[1:]), True, 0.0, eps)
    y = y.reshape(moved.shape).permute(list(np.argsort(averaged + kept)))
    y.backward(torch.tensor(np.array(dy)))
    return [y.detach().numpy(), *(v.grad.numpy() for v in leaves)]


def assert_close(ours, theirs, tol):
    assert ours.shape == theirs.shape
    assert relative_error(ours, theirs) <= tol


@given(problems())
@settings(max_examples=200, deadline=None)
def test_forward_and_backward_equal_pytorch(problem):
    # caught: any sign in the backward, m − 1 for m, eps dropped or doubled, either mean left out
    x, gamma, beta, dy, eps, axes = problem
    y, cache = batchnorm_forward(x, gamma, beta, eps, axes)
    results = y, *batchnorm_backward(dy, cache)
    # Two equal terms cancel in x − mean: what is left of 16 digits depends on |x| / std.
    tol = 1e-12 * (1 + np.abs(x).max() / np.sqrt(cache.var + eps).min())
    for ours, theirs in zip(results, through_torch(*problem), strict=True):
        # Gradients that are zero but for rounding are compared on the scale of their terms.
        floor = np.abs(dy).max() * max(1, np.abs(gamma * cache.inv_std).max())
        assert np.abs(ours - theirs).max() <= tol * max(floor, np.abs(theirs).max())


@given(problems(min_values=3))
@settings(max_examples=60, deadline=None)
def test_backward_equals_the_complex_step(problem):
    x, gamma, beta, dy, eps, axes = problem

    def loss(x, gamma, beta):
        return (batchnorm_forward(x, gamma, beta, eps, axes)[0] * dy).sum()

    _, cache = batchnorm_forward(x, gamma, beta, eps, axes)
    dx, dgamma, dbeta = batchnorm_backward(dy, cache)
    tol = 1e-11 * (1 + np.abs(x).max() / np.sqrt(cache.var + eps).min())
    size = np.abs(gamma * cache.inv_std).max() * np.abs(dy).max()
    assert np.abs(dx - complex_step(lambda v: loss(v, gamma, beta), x)).max() <= tol * size
    assert_close(dgamma, complex_step(lambda v: loss(x, v, beta), gamma), tol)
    assert_close(dbeta, complex_step(lambda v: loss(x, gamma, v), beta), 1e-10)


@given(problems())
@settings(max_examples=100, deadline=None)
def test_statistics_and_invariants(problem):
    # caught: unbiased variance, mean left out of dx (its sum), eps left out of x_hat's norm
    x, gamma, beta, dy, eps, axes = problem
    y, cache = batchnorm_forward(x, gamma, beta, eps, axes)
    dx, dgamma, dbeta = batchnorm_backward(dy, cache)
    m = x.size // gamma.size
    np.testing.assert_allclose(cache.mean, x.mean(axis=axes), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(cache.var, x.var(axis=axes), rtol=1e-9, atol=1e-20)
    norm = (cache.x_hat**2).sum(axis=axes)
    np.testing.assert_allclose(norm, m * cache.var / (cache.var + eps), rtol=1e-9, atol=1e-15)
    size = np.abs(gamma * cache.inv_std).max() * np.abs(dy).max() * m
    tol = 1e-11 * (1 + np.abs(x).max() / np.sqrt(cache.var + eps).min())
    assert np.abs(dx.sum(axis=axes)).max() <= tol * size
    leak = gamma * cache.inv_std**3 * eps * dgamma
    assert np.abs((dx * cache.x_hat).sum(axis=axes) - leak).max() <= tol * size
    # y is linear in gamma and beta, so Euler's relation ties both to the output.
    np.testing.assert_allclose(
        gamma * dgamma + beta * dbeta, (dy * y).sum(axis=axes), atol=1e-9 * m, rtol=1e-9
    )


@given(problems(), st.floats(-50, 50), st.sampled_from([0.01, 0.5, 3.0, 100.0]))
@settings(max_examples=60, deadline=None)
def test_shift_and_scale_of_the_input(problem, shift, a):
    # Section 3.3, exact where eps scales with the variance: same y, dx divided by a.
    x, gamma, beta, dy, eps, axes = problem
    y, cache = batchnorm_forward(x, gamma, beta, eps, axes)
    y_moved, cache_moved = batchnorm_forward(a * (x + shift), gamma, beta, eps * a**2, axes)
    reach = (np.abs(x).max() + abs(shift)) / np.sqrt(cache.var + eps).min()
    np.testing.assert_allclose(y_moved, y, atol=1e-11 * (1 + reach), rtol=0)
    dx, dx_moved = (batchnorm_backward(dy, c)[0] for c in (cache, cache_moved))
    size = np.abs(gamma * cache.inv_std).max() * np.abs(dy).max() * x.size
    np.testing.assert_allclose(a * dx_moved, dx, atol=1e-11 * (1 + reach) * size, rtol=0)


@given(problems(min_values=1))
@settings(max_examples=100, deadline=None)
def test_inference_is_one_affine_map(problem):
    # caught: a sign, eps dropped, the variance's root forgotten, mean not scaled
    x, gamma, beta, _, eps, axes = problem
    mean, var = beta + 1, gamma**2
    y = batchnorm_inference(x, gamma, beta, mean, var, eps, axes)
    # Where each value of x stands in the table (values, statistics) that PyTorch understands.
    places = np.moveaxis(np.arange(x.size).reshape(x.shape), axes, range(len(axes)))
    places = places.reshape(-1, gamma.size)
    vectors = (torch.tensor(v.reshape(-1)) for v in (mean, var, gamma, beta))
    theirs = np.empty(x.size)
    theirs[places] = F.batch_norm(torch.tensor(x.ravel()[places]), *vectors, False, 0.0, eps)
    theirs = theirs.reshape(x.shape)
    size = np.abs(x).max() * np.abs(gamma / np.sqrt(var + eps)).max()
    np.testing.assert_allclose(y, theirs, rtol=1e-12, atol=1e-12 * (1 + size))


def test_inference_with_the_batch_statistics_is_the_forward_pass():
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(size=(5, 3, 4)), rng.normal(size=3), rng.normal(size=3)
    y, cache = batchnorm_forward(x, gamma, beta, axes=(0, 2))
    again = batchnorm_inference(x, gamma, beta, cache.mean, cache.var, axes=(0, 2))
    assert_close(again, y, 1e-14)


@pytest.mark.parametrize(
    ("dtype", "tol"), [(np.float64, 1e-13), (np.float32, 1e-5), (np.float16, 4e-3)]
)
def test_dtypes(dtype, tol):
    # caught: float16 accumulated in float16 (the squares of 300 overflow), another dtype returned
    rng = np.random.default_rng(0)
    x = (300 + 100 * rng.normal(size=(256, 3))).astype(dtype)
    gamma, beta = rng.normal(size=3).astype(dtype), rng.normal(size=3).astype(dtype)
    dy = rng.normal(size=x.shape).astype(dtype)
    y, cache = batchnorm_forward(x, gamma, beta)
    dx, dgamma, dbeta = batchnorm_backward(dy, cache)
    z = batchnorm_inference(x, gamma, beta, cache.mean, cache.var)
    assert y.dtype == dx.dtype == z.dtype == dtype
    wide = [v.astype(np.float64) for v in (x, gamma, beta, dy)]
    truth, exact = batchnorm_forward(*wide[:3])
    expected = batchnorm_backward(wide[3], exact)
    assert_close(y, truth, tol)
    assert_close(z, truth, tol)
    for ours, theirs in zip((dx, dgamma, dbeta), expected, strict=True):
        assert_close(ours, theirs, tol)


def test_arguments_are_not_changed():
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(size=(5, 3)), rng.normal(size=3), rng.normal(size=3)
    dy, copies = rng.normal(size=(5, 3)), [v.copy() for v in (x, gamma, beta)]
    _, cache = batchnorm_forward(x, gamma, beta)
    kept, dy_kept = cache.x_hat.copy(), dy.copy()
    batchnorm_backward(dy, cache)
    batchnorm_inference(x, gamma, beta, cache.mean, cache.var)
    for value, copy in zip(
        (x, gamma, beta, cache.x_hat, dy), (*copies, kept, dy_kept), strict=True
    ):
        assert np.array_equal(value, copy)


def test_axes_may_be_one_integer():
    x = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(
        batchnorm_forward(x, np.ones(2), np.zeros(2), axes=1)[0],
        batchnorm_forward(x, np.ones(2), np.zeros(2), axes=(-1,))[0],
    )


def test_constant_feature_gives_beta_and_a_finite_gradient():
    x = np.full((4, 1), 7.0)
    y, cache = batchnorm_forward(x, np.array([2.0]), np.array([3.0]))
    assert np.array_equal(y, np.full((4, 1), 3.0))
    dy = np.array([[1.0], [0.0], [0.0], [0.0]])
    expected = 2 / np.sqrt(1e-5) * (dy - 0.25)
    assert_close(batchnorm_backward(dy, cache)[0], expected, 1e-12)


def test_two_values_leave_next_to_no_gradient():
    _, cache = batchnorm_forward(np.array([2.0, 8.0]), 1.0, 0.0)
    dx, _, _ = batchnorm_backward(np.array([1.0, -2.0]), cache)
    expected = 1.5 * cache.inv_std**3 * 1e-5 * np.array([1, -1])
    np.testing.assert_allclose(dx, expected, rtol=1e-9)
    assert np.abs(dx).max() < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_feature(bad):
    x = np.random.default_rng(0).normal(size=(5, 3))
    x[2, 1] = bad
    with np.errstate(invalid="ignore"):
        y, cache = batchnorm_forward(x, np.ones(3), np.zeros(3))
        dx, dgamma, _ = batchnorm_backward(np.ones((5, 3)), cache)
    for value in (y, dx, dgamma):
        assert np.isnan(value[..., 1]).all()
        assert np.isfinite(value[..., [0, 2]]).all()


X, ONES = np.arange(12.0).reshape(4, 3), np.ones(3)
BAD_INPUT = {
    "integers": (
        lambda: batchnorm_forward(X.astype(int), ONES, ONES),
        TypeError,
        "got int64; conv",
    ),
    "booleans": (lambda: batchnorm_forward(X > 3, ONES, ONES), TypeError, "got bool; convert"),
    "eps 0": (lambda: batchnorm_forward(X, ONES, ONES, 0), ValueError, "eps > 0, got 0; the usual"),
    "eps < 0": (lambda: batchnorm_forward(X, ONES, ONES, -1e-5), ValueError, "got -1e-05; the"),
    "eps nan": (lambda: batchnorm_forward(X, ONES, ONES, np.nan), ValueError, "got nan; the usual"),
    "one value": (
        lambda: batchnorm_forward(X[:1], ONES, ONES),
        ValueError,
        "at least 2 values per statistic, got 1 from shape (1, 3) over axes (0,); use a larger",
    ),
    "no values": (lambda: batchnorm_forward(X[:0], ONES, ONES), ValueError, "got 0 from shape (0,"),
    "no axes": (lambda: batchnorm_forward(X, ONES, ONES, axes=()), ValueError, "rank 2, got ()"),
    "axis 2": (lambda: batchnorm_forward(X, ONES, ONES, axes=(2,)), ValueError, "rank 2, got (2,)"),
    "axis -3": (lambda: batchnorm_forward(X, ONES, ONES, axes=-3), ValueError, "rank 2, got (-3,)"),
    "axis twice": (
        lambda: batchnorm_forward(X, ONES, ONES, axes=(0, -2)),
        ValueError,
        "got (0, -2)",
    ),
    "scalar x": (lambda: batchnorm_forward(1.0, 1.0, 1.0), ValueError, "rank 0, got (0,)"),
    "gamma": (
        lambda: batchnorm_forward(X, np.ones(4), ONES),
        ValueError,
        "gamma of shape (3,) for x of shape (4, 3) and axes (0,), got (4,)",
    ),
    "scalar gamma": (lambda: batchnorm_forward(X, 1.0, ONES), ValueError, "axes (0,), got ()"),
    "beta": (lambda: batchnorm_forward(X, ONES, ONES[:, None]), ValueError, "beta of shape (3,)"),
    "dy": (
        lambda: batchnorm_backward(X[:3], batchnorm_forward(X, ONES, ONES)[1]),
        ValueError,
        "dy of shape (4, 3) (that of y), got (3, 3); pass the cache of the same forward call",
    ),
    "dy that would broadcast": (
        lambda: batchnorm_backward(X[:1], batchnorm_forward(X, ONES, ONES)[1]),
        ValueError,
        "got (1, 3)",
    ),
    "mean": (
        lambda: batchnorm_inference(X, ONES, ONES, np.ones((1, 3)), ONES),
        ValueError,
        "mean of shape (3,) for x of shape (4, 3) and axes (0,), got (1, 3)",
    ),
    "var": (lambda: batchnorm_inference(X, ONES, ONES, ONES, 1.0), ValueError, "var of shape (3,)"),
    "negative var": (
        lambda: batchnorm_inference(X, ONES, ONES, ONES, np.array([1.0, -0.5, 2.0])),
        ValueError,
        "var >= 0, got -0.5; pass a variance, not its log",
    ),
    "inference eps": (
        lambda: batchnorm_inference(X, ONES, ONES, ONES, ONES, eps=0.0),
        ValueError,
        "eps > 0, got 0.0",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_refused_with_value_and_expectation(call, error, message):
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert str(caught.value).startswith("expected ")
