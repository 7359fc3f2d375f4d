"""Population statistics against NumPy on the concatenation and PyTorch's own buffers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import update_bn

from bn_helpers import layers, population

SEEDS = st.integers(0, 2**32 - 1)


def batches_of(rng, sizes, d):
    """Batches (size, d) that differ in mean and scale, with means, variances and sizes."""
    batches = [rng.normal(rng.normal(0, 3, d), rng.uniform(0.1, 4, d), (n, d)) for n in sizes]
    means, variances = ([f(b, axis=0) for b in batches] for f in (np.mean, np.var))
    return batches, np.stack(means), np.stack(variances), np.array(sizes)


@given(seed=SEEDS, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), d=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_pooling_equals_the_concatenation(seed, sizes, d):
    # caught: var of the means left out; equal weights for unequal batches; means weighted equally
    batches, means, variances, counts = batches_of(np.random.default_rng(seed), sizes, d)
    whole = np.concatenate(batches)
    found = population.pool(means, variances, counts)
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.var, whole.var(axis=0), rtol=1e-12, atol=1e-12)


def test_pooling_keeps_its_digits_at_a_large_mean():
    # caught: E[μ²] − E[μ]² instead of centred squares
    x = 1e8 + np.random.default_rng(0).normal(size=(50, 6))
    found = population.pool(x.mean(axis=1), x.var(axis=1), 6)
    assert found.var == pytest.approx(x.var(), rel=1e-6)


@given(
    seed=SEEDS,
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=6),
    d=st.integers(1, 4),
    momentum=st.one_of(st.none(), st.floats(0, 1)),
)
@settings(max_examples=60, deadline=None)
def test_moving_average_equals_pytorchs_buffers(seed, sizes, d, momentum):
    # caught: momentum and 1 − momentum swapped; biased variance stored; cumulative weight 1/t
    # counted from 0; start variance 0
    batches, means, variances, counts = batches_of(np.random.default_rng(seed), sizes, d)
    bn = nn.BatchNorm1d(d, momentum=momentum, dtype=torch.float64)
    for batch in batches:
        bn(torch.from_numpy(batch))
    found = population.moving_average(means, variances, counts, momentum)
    np.testing.assert_allclose(found.mean, bn.running_mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.var, bn.running_var, rtol=1e-10, atol=1e-12)


@given(seed=SEEDS, t=st.integers(1, 6), m=st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_algorithm2_is_the_cumulative_average_and_the_mean_of_unbiased_variances(seed, t, m):
    # caught: m − 1 for m; the circulating Σσ²_B/(n_B − 1)
    batches, means, variances, _ = batches_of(np.random.default_rng(seed), [m] * t, 3)
    ours = population.algorithm2(means, variances, m)
    cumulative = population.moving_average(means, variances, m, momentum=None)
    unbiased = np.mean([b.var(axis=0, ddof=1) for b in batches], axis=0)
    np.testing.assert_allclose(ours.var, unbiased, rtol=1e-12)
    np.testing.assert_allclose(ours.var, cumulative.var, rtol=1e-12)
    np.testing.assert_allclose(ours.mean, cumulative.mean, rtol=1e-11, atol=1e-12)


def test_algorithm2_is_unbiased():
    # m = 2 doubles: without the factor this would be 0.5
    x = np.random.default_rng(0).normal(size=(100_000, 2))
    assert population.algorithm2(x.mean(axis=1), x.var(axis=1), 2).var == pytest.approx(1, abs=0.02)


def test_nan_passes_through_to_its_own_feature_only():
    means, variances = np.zeros((3, 2)), np.ones((3, 2))
    means[1, 0] = variances[1, 0] = np.nan
    for found in (
        population.moving_average(means, variances, 4),
        population.algorithm2(means, variances, 4),
        population.pool(means, variances, 4),
    ):
        assert np.isnan(found.mean[0])
        assert np.isfinite(found.mean[1])
        assert np.isnan(found.var[0])
        assert np.isfinite(found.var[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: population.algorithm2([[0.0]], [[1.0]], 1), "m of at least 2, got 1"),
        (lambda: population.algorithm2([[0.0]], [[1.0]], 2.5), "whole number.*got 2.5"),
        (lambda: population.algorithm2([[0.0]], [[1.0]], [2, 2]), r"1 of them.*got \[2, 2\]"),
        (lambda: population.algorithm2([[0.0]], [[-1.0]], 2), "variances >= 0, got -1.0"),
        (lambda: population.algorithm2(np.zeros((0, 2)), np.zeros((0, 2)), 2), "at least one"),
        (lambda: population.algorithm2([[0.0]], [1.0], 2), r"one shape.*\(1, 1\) and \(1,\)"),
        (lambda: population.pool([[0.0]], [[1.0]], 0), "counts of at least 1, got 0"),
        (lambda: population.moving_average([0.0], [1.0], 2, 1.5), r"momentum in \[0, 1\].*1.5"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def our_batchnorm(dims):
    return layers.BatchNorm


def pytorchs_batchnorm(dims):
    return {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dims]


def network(make, seed=0):
    """Convolution and linear layers, two batch normalizations with weights far from the default."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), make(2)(3, momentum=0.3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(3 * 4 * 4, 5), make(1)(5, momentum=None), nn.ReLU(), nn.Linear(5, 2),
    ).double()  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=g)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2, generator=g)
            else:
                buffer.fill_(7)
    return model


def pictures(n=23, seed=1):
    """Sorted by brightness, so that batches differ."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 1, 6, 6)) + np.linspace(-2, 2, n)[:, None, None, None]


@pytest.fixture(params=[pytorchs_batchnorm, our_batchnorm])
def make(request):
    return request.param


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


@pytest.mark.parametrize("shuffled", [False, True])
def test_averaging_equals_pytorchs_update_bn(make, shuffled):
    # caught: momentum left as it was; statistics not reset; dropout left in training mode; rng
    # ignored
    # update_bn knows PyTorch's classes only, so the twin is always made of those.
    images = torch.from_numpy(pictures(20))
    model, twin = network(make), network(pytorchs_batchnorm)
    rng, order = None, torch.arange(20)
    if shuffled:
        rng = np.random.default_rng(3)
        order = torch.from_numpy(np.random.default_rng(3).permutation(20))
    population.reestimate(model, images, 5, rng=rng)
    twin[3].p = 0.0
    update_bn(images[order].split(5), twin)
    for name, value in buffers(model).items():
        torch.testing.assert_close(value, buffers(twin)[name], rtol=1e-12, atol=1e-12)


def test_pooling_the_first_layer_gives_the_variance_of_all_its_inputs(make):
    model, images = network(make), torch.from_numpy(pictures(20))
    population.reestimate(model, images, 5, method="pooled")
    inputs = model[0](images).detach().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(model[1].running_mean, inputs.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(model[1].running_var, inputs.var(axis=1), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 23])
@pytest.mark.parametrize("rng", [None, 0])
def test_layerwise_gives_each_layer_the_variance_it_meets_at_inference(make, batch_size, rng):
    # caught: layers in training mode; last incomplete batch dropped; order of layers reversed
    model, images = network(make), pictures()
    rng = None if rng is None else np.random.default_rng(rng)
    population.reestimate(model, images, batch_size, method="layerwise", rng=rng)
    model.eval()
    x = torch.from_numpy(images)
    for layer in model:
        if hasattr(layer, "running_var"):
            values = x.transpose(0, 1).flatten(1).detach().numpy()
            np.testing.assert_allclose(layer.running_mean, values.mean(axis=1), rtol=1e-10)
            np.testing.assert_allclose(layer.running_var, values.var(axis=1), rtol=1e-10)
        x = layer(x)


@pytest.mark.parametrize("method", ["average", "pooled", "layerwise"])
def test_modes_momentum_weights_and_gradients_stay_as_they_were(make, method):
    model = network(make)
    model.train()
    model[1].eval()
    weights = [p.detach().clone() for p in model.parameters()]
    state = torch.random.get_rng_state()
    population.reestimate(model, pictures(), 4, method=method)
    assert torch.equal(state, torch.random.get_rng_state())
    assert [m.training for m in model] == [True, False, *[True] * 7]
    assert (model[1].momentum, model[6].momentum) == (0.3, None)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert all(not layer._forward_pre_hooks for layer in model)
    assert (
        model[1].num_batches_tracked
        == model[6].num_batches_tracked
        == 23 // 4 + (method == "layerwise")
    )


class FailsAt(nn.Module):
    """Raises at the n-th call: somebody pulls the plug in mid-pass."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def forward(self, x):
        self.left -= 1
        if not self.left:
            raise RuntimeError("stopped")
        return x


@pytest.mark.parametrize("method", ["average", "pooled", "layerwise"])
def test_a_failed_pass_leaves_statistics_modes_and_momentum(make, method):
    model = nn.Sequential(*network(make), FailsAt(4 if method != "layerwise" else 9))
    before = buffers(model)
    with pytest.raises(RuntimeError, match="stopped"):
        population.reestimate(model, pictures(), 4, method=method)
    after = buffers(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model)
    assert (model[1].momentum, model[6].momentum) == (0.3, None)
    assert all(not layer._forward_pre_hooks for layer in model)


@pytest.mark.parametrize("method", ["average", "pooled", "layerwise"])
def test_layers_that_are_never_called_or_keep_no_statistics_are_left_alone(make, method):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = make(1)(2), make(1)(2)
            self.untracked = make(1)(2, track_running_stats=False)

        def forward(self, x):
            return self.untracked(self.used(x))

    model = Model().double()
    model.unused.running_mean += 7
    population.reestimate(model, np.random.default_rng(0).normal(3, 1, (8, 2)), 4, method=method)
    assert model.unused.running_mean.tolist() == [7, 7]
    assert model.used.running_mean.mean() == pytest.approx(3, abs=1)


@pytest.mark.parametrize("method", ["average", "pooled", "layerwise"])
def test_half_precision_models_are_reestimated(make, method):
    model = nn.Sequential(make(1)(2)).bfloat16()
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (64, 2))).bfloat16()
    population.reestimate(model, x, 8, method=method)
    assert model[0].running_mean.dtype == torch.bfloat16
    assert model[0].running_var.float() == pytest.approx(x.double().var(dim=0).numpy(), rel=0.1)


def test_bad_input_to_reestimate_is_named_and_changes_nothing(make):
    model = network(make)
    before = buffers(model)
    for kwargs, message in (
        ({"batch_size": 1}, "between 2 and 23 .*got 1"),
        ({"batch_size": 24}, "between 2 and 23 .*got 24"),
        ({"batch_size": 0, "method": "layerwise"}, "between 1 and 23 .*got 0"),
        ({"batch_size": 4, "method": "mean"}, "one of .*'pooled'.*got 'mean'"),
    ):
        with pytest.raises(ValueError, match=message):
            population.reestimate(model, pictures(), **kwargs)
    after = buffers(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="found none in Linear"):
        population.reestimate(nn.Linear(2, 2).double(), np.zeros((4, 2)), 2)
    instance = nn.InstanceNorm1d(2, track_running_stats=True).double()
    with pytest.raises(ValueError, match="found none in InstanceNorm1d"):
        population.reestimate(instance, np.zeros((4, 2, 3)), 2)


def test_importing_it_loads_no_torch():
    code = "import sys, bn_helpers.population; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
