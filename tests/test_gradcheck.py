"""Numerical derivatives against analytic ones, and the printed comparison."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from bn_helpers.gradcheck import agree, central_difference, complex_step, relative_error

SEEDS = st.integers(0, 2**32 - 1)


def smooth(x):
    """A scalar function of the whole array whose variables are coupled."""
    return np.sin(x).sum() * np.exp(-(x**2).mean()) + (x**3).sum()


def smooth_gradient(x):
    damping = np.exp(-(x**2).mean())
    return np.cos(x) * damping - np.sin(x).sum() * damping * 2 * x / x.size + 3 * x**2


@given(shape=array_shapes(min_dims=0, max_dims=4, max_side=3), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_both_methods_find_the_gradient_of_any_shape(shape, seed):
    # caught: h for 2h, a forgotten restore (coupled variables), real for imag, a flat index
    x = np.random.default_rng(seed).normal(size=shape)
    truth = smooth_gradient(x)
    assert central_difference(smooth, x).shape == complex_step(smooth, x).shape == shape
    np.testing.assert_allclose(central_difference(smooth, x), truth, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(complex_step(smooth, x), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", [central_difference, complex_step])
def test_the_argument_is_left_as_it_was(method):
    x = np.random.default_rng(0).normal(size=(3, 2))
    kept = x.copy()
    method(smooth, x)
    assert np.array_equal(x, kept)
    x.setflags(write=False)
    method(smooth, x)
    transposed = kept.T
    np.testing.assert_allclose(method(smooth, transposed), method(smooth, x).T, rtol=1e-8)


@pytest.mark.parametrize("method", [central_difference, complex_step])
def test_integers_and_lists_are_taken_as_floats(method):
    # caught: a step of 1e-5 lost in an integer array
    np.testing.assert_allclose(method(lambda x: (x**2).sum(), [1, 2, 3]), [2, 4, 6], rtol=1e-9)


def test_central_difference_has_an_error_of_second_order():
    # caught: a one-sided difference (ratio 10)
    x = np.linspace(-1, 1, 5)
    errors = [
        np.abs(central_difference(smooth, x, h) - smooth_gradient(x)).max() for h in (0.1, 0.01)
    ]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.05)


def test_central_difference_is_exact_for_a_parabola():
    x = np.array([1.0, -2.0])
    np.testing.assert_allclose(
        central_difference(lambda x: (x**2).sum(), x, 1.0), 2 * x, rtol=1e-14
    )


def test_central_difference_grows_with_rounding_at_tiny_steps():
    x = np.linspace(-1, 1, 5)
    errors = {
        h: relative_error(central_difference(smooth, x, h), smooth_gradient(x))
        for h in (1e-5, 1e-12)
    }
    assert errors[1e-5] < 1e-8 < errors[1e-12]


@pytest.mark.parametrize("h", [1e-10, 1e-30, 1e-100])
def test_complex_step_needs_no_particular_step(h):
    x = np.linspace(-1, 1, 5)
    assert relative_error(complex_step(smooth, x, h), smooth_gradient(x)) < 1e-14


def test_complex_step_sees_nothing_through_a_modulus():
    # The documented limit: np.var takes moduli, so its derivative comes out as 0.
    x = np.array([1.0, 2.0, 6.0])
    truth = 2 * (x - x.mean()) / 3
    assert relative_error(complex_step(lambda x: ((x - x.mean()) ** 2).mean(), x), truth) < 1e-14
    assert relative_error(complex_step(lambda x: np.var(x) + 0j, x), truth) == 1


@given(seed=SEEDS, scale=st.sampled_from([1e-200, 1e-3, 1.0, 1e200]))
def test_relative_error_is_symmetric_and_free_of_scale(seed, scale):
    ours, truth = np.random.default_rng(seed).normal(size=(2, 4))
    error = relative_error(ours, truth)
    assert error == relative_error(truth, ours)
    assert relative_error(scale * ours, scale * truth) == pytest.approx(error, rel=1e-12)
    assert 0 < error <= 2


def test_relative_error_by_hand():
    # caught: mean for max, the scale of one side only
    assert relative_error([1.0, 2.0, 4.0], [1.0, 2.5, 4.0]) == 0.125
    assert relative_error([0.0, 8.0], [0.0, 4.0]) == 0.5
    assert relative_error(3.0, -3.0) == 2
    assert relative_error([0.0, 0.0], [0.0, 0.0]) == 0
    assert relative_error(np.empty((0, 3)), np.empty((0, 3))) == 0
    assert relative_error([1e-300], [0.0]) == 1


@pytest.mark.parametrize("shapes", [((3,), (1,)), ((3,), (3, 1)), ((), (1,)), ((2, 3), (3, 2))])
def test_shapes_that_would_broadcast_are_refused(shapes):
    ours, truth = (np.zeros(shape) for shape in shapes)
    expected = re.escape(f"expected two arrays of one shape, got {shapes[0]} and {shapes[1]}")
    with pytest.raises(ValueError, match=expected):
        relative_error(ours, truth)
    with pytest.raises(ValueError, match=expected):
        agree("shapes", ours, truth, tol=10)


def test_agree_prints_the_same_line_whatever_the_digits(capsys):
    # caught: the error itself in the line
    truth = np.random.default_rng(0).normal(size=(4, 3))
    lines = []
    for noise in (0, 1e-16, 3e-13, -7e-13):
        assert agree("dx", truth * (1 + noise), truth) is None
        lines.append(capsys.readouterr().out)
    assert set(lines) == {"dx                       agrees (relative error at most 1e-12)\n"}
    agree("loose", 1.0, 1.05, tol=0.1)
    assert (
        capsys.readouterr().out
        == "loose                    agrees (relative error at most 1e-01)\n"
    )


def test_agree_accepts_arrays_tensors_lists_and_numbers(capsys):
    kinds = [np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), [1, 2], (1.0, 2.0)]
    for ours in kinds:
        for truth in kinds:
            agree("kinds", ours, truth)
    agree("number", 1, torch.tensor(1.0, dtype=torch.float64))
    assert capsys.readouterr().out.count("agrees") == len(kinds) ** 2 + 1


@pytest.mark.parametrize("tol", [1e-12, 1e-6, 0.1])
def test_agree_raises_just_above_the_tolerance_and_prints_nothing(tol, capsys):
    # caught: a tolerance that is absolute, or ignored
    for scale in (1e-9, 1.0, 1e9):
        agree("below", scale * (1 - 0.9 * tol), scale, tol)
        capsys.readouterr()
        with pytest.raises(AssertionError, match=rf"^above: .*expected at most {tol:.0e}"):
            agree("above", scale * (1 - 1.1 * tol), scale, tol)
        assert capsys.readouterr().out == ""


def test_agree_raises_for_one_wrong_sign_among_many():
    truth = np.random.default_rng(0).normal(size=1000)
    ours = truth.copy()
    ours[123] *= -1
    with pytest.raises(AssertionError, match="relative error"):
        agree("sign", ours, truth, tol=1e-3)


@pytest.mark.parametrize("sides", ["ours", "truth", "both"])
def test_nan_never_agrees(sides):
    # caught: `if error > tol: raise`, which lets NaN through
    good, bad = [1.0, 2.0], [1.0, np.nan]
    ours, truth = (bad if sides in (side, "both") else good for side in ("ours", "truth"))
    with pytest.raises(AssertionError, match="nan"):
        agree("nan", ours, truth, tol=1e9)


def test_a_tensor_with_a_gradient_is_refused():
    with pytest.raises(RuntimeError, match="detach"):
        agree("leaf", torch.ones(2, requires_grad=True), torch.ones(2))
