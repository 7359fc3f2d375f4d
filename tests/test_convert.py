"""Folding against the two layers one after the other, in float64; other libraries' layers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bn_helpers import convert
from bn_helpers.convert import fold
from bn_helpers.layers import BatchNorm

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NATIVE = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def randomize(module, seed):
    """Random parameters and running statistics, none of them 0 or 1; variances positive."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=g, dtype=torch.float64))
                if name.endswith("running_var"):
                    value.abs_().add_(0.1)
    return module


@st.composite
def layers_and_inputs(draw):
    dims, bias = draw(st.integers(0, 3)), draw(st.booleans())
    if dims == 0:
        layer = nn.Linear(draw(st.integers(1, 5)), draw(st.integers(1, 5)), bias)
        return layer.double(), (3, layer.in_features), 0
    groups, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    channels = [groups * draw(st.integers(1, 3)) for _ in range(2)]
    options = {
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, kernel - 1)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": bias,
    }
    if draw(st.booleans()):
        layer = TRANSPOSED[dims](*channels, kernel, output_padding=options["stride"] - 1, **options)
    else:
        mode = draw(st.sampled_from(["zeros", "circular", "replicate"]))
        layer = CONV[dims](*channels, kernel, padding_mode=mode, **options)
    return layer.double(), (2, channels[0], *(6,) * dims), dims


@given(
    case=layers_and_inputs(),
    seed=st.integers(0, 2**32 - 1),
    options=st.sampled_from([{}, {"bias": False}, {"affine": False}, {"eps": 0.1}]),
    ours=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_folding_equals_the_two_layers(case, seed, options, ours):
    # caught: sqrt(var) without eps; the layer's bias not scaled; groups of a transposed layer
    # mixed up; the input axis scaled; gamma or beta forgotten; an original changed
    layer, shape, dims = case
    channels = layer.out_features if dims == 0 else layer.out_channels
    kind = BatchNorm if ours else NATIVE[dims]
    bn = randomize(kind(channels, dtype=torch.float64, **options), seed).eval()
    randomize(layer, seed + 1)
    before = copy.deepcopy((layer.state_dict(), bn.state_dict()))
    folded = fold(layer, bn)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(folded(x), bn(layer(x)), rtol=1e-10, atol=1e-10)
    assert type(folded) is type(layer)
    for module, state in zip((layer, bn), before, strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[name])
    memory = {p.data_ptr() for p in (*layer.parameters(), *bn.state_dict().values())}
    assert memory.isdisjoint(p.data_ptr() for p in folded.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bn_dtype", [torch.float32, torch.bfloat16])
def test_the_layers_dtype_and_freezing_are_kept(dtype, bn_dtype):
    # caught: a scale or shift rounded to the half type before it is used; a frozen layer thawed
    layer = randomize(nn.Conv2d(4, 6, 3).to(dtype), 0).requires_grad_(False)
    bn = randomize(BatchNorm(6).to(bn_dtype), 1).eval()
    folded = fold(layer, bn)
    assert {p.dtype for p in folded.parameters()} == {dtype}
    assert not any(p.requires_grad for p in folded.parameters())
    assert folded.weight.is_leaf
    exact = fold(copy.deepcopy(layer).double(), copy.deepcopy(bn).double())
    rounding = {"rtol": torch.finfo(dtype).eps, "atol": 1e-5}
    for name, value in folded.named_parameters():
        torch.testing.assert_close(value, getattr(exact, name).to(dtype), **rounding)


@pytest.mark.parametrize(
    ("layer", "bn", "error", "parts"),
    [
        (nn.Linear(2, 3), BatchNorm(3), ValueError, ["got training mode", "bn.eval()"]),
        (
            nn.Linear(2, 3),
            BatchNorm(4).eval(),
            ValueError,
            ["got 4", "the layer's 3 output channels", "BatchNorm(3)"],
        ),
        (
            nn.ConvTranspose2d(4, 6, 3),
            nn.BatchNorm2d(4).eval(),
            ValueError,
            ["got 4", "the layer's 6 output channels", "BatchNorm(6)"],
        ),
        (
            nn.Linear(2, 3),
            BatchNorm(3, track_running_stats=False).eval(),
            ValueError,
            ["got none", "running statistics", "track_running_stats=True"],
        ),
        (nn.ReLU(), BatchNorm(3).eval(), TypeError, ["got ReLU", "Linear", "directly before bn"]),
        (
            BatchNorm(3).eval(),
            nn.Linear(2, 3),
            TypeError,
            ["got BatchNorm", "Linear", "directly before bn"],
        ),
        (
            nn.Linear(2, 3),
            nn.LayerNorm(3).eval(),
            TypeError,
            ["got LayerNorm", "batch normalization layer", "fold(layer, bn)"],
        ),
    ],
)
def test_what_cannot_be_folded_is_refused(layer, bn, error, parts):
    # caught: folding with a batch's statistics, or by broadcasting a wrong channel count
    with pytest.raises(error) as raised:
        fold(layer, bn)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_to_native_and_back(kind):
    # caught: a layer in a container left out; parameters replaced; a mode or a buffer reset
    model = nn.Sequential(nn.Sequential(BatchNorm(3, momentum=None)), BatchNorm(3).eval())
    randomize(model, 0)
    state, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    assert convert.to_native(model, kind) is model
    assert [type(model[0][0]), type(model[1])] == [kind, kind]
    assert "process_group" not in vars(model[1])
    assert (model[0][0].momentum, model[1].training) == (None, False)
    x = torch.randn(4, 3, *[2] * (3 if kind is nn.BatchNorm3d else kind is nn.BatchNorm2d and 2))
    expected = model(x)
    assert convert.from_native(model) is model
    assert [type(model[0][0]), type(model[1])] == [BatchNorm, BatchNorm]
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    model.load_state_dict(state)
    torch.testing.assert_close(model(x), expected)


def test_only_known_layers_are_converted():
    # caught: another class given to a layer whose code differs
    class Own(nn.BatchNorm1d):
        pass

    model = nn.Sequential(nn.BatchNorm1d(3), Own(3))
    with pytest.raises(TypeError, match="got Own; replace it"):
        convert.from_native(model)
    assert type(model[0]) is nn.BatchNorm1d
    with pytest.raises(TypeError, match=r"expected nn\.BatchNorm1d, nn\.BatchNorm2d or"):
        convert.to_native(model, nn.SyncBatchNorm)


def keras_layer(batches, momentum, epsilon):
    """Keras 3's update, line for line: moving = moving·momentum + batch·(1 − momentum)."""
    mean, var = np.zeros(batches[0].shape[1]), np.ones(batches[0].shape[1])
    for x in batches:
        mean = mean * momentum + x.mean(axis=0) * (1 - momentum)
        var = var * momentum + x.var(axis=0) * (1 - momentum)
    return mean, var


@given(
    seed=st.integers(0, 2**32 - 1),
    t=st.integers(0, 5),
    m=st.integers(2, 6),
    momentum=st.floats(0, 1),
)
@settings(max_examples=40, deadline=None)
def test_keras_statistics_become_pytorchs_and_come_back(seed, t, m, momentum):
    # caught: momentum not turned round; start value scaled too; factor inverted
    batches = [np.random.default_rng([seed, i]).normal(3, 2, (m, 3)) for i in range(t)]
    mean, var = keras_layer(batches, momentum, 1e-3) if t else (np.zeros(3), np.ones(3))
    bn = nn.BatchNorm1d(3, momentum=1 - momentum, dtype=torch.float64)
    for batch in batches:
        bn(torch.from_numpy(batch))
    converted = convert.from_keras(mean, var, momentum=momentum, m=m, steps=t)
    assert converted["momentum"] == 1 - momentum
    assert converted["eps"] == 1e-3
    np.testing.assert_allclose(converted["running_mean"], bn.running_mean, atol=1e-10)
    np.testing.assert_allclose(converted["running_var"], bn.running_var, rtol=1e-9, atol=1e-10)
    back = convert.to_keras(**converted, m=m, steps=t)
    assert back["epsilon"] == 1e-3
    assert back["momentum"] == pytest.approx(momentum)
    np.testing.assert_allclose(back["moving_variance"], var, rtol=1e-9, atol=1e-10)


def test_without_m_the_statistics_stay_and_predictions_are_keras_own():
    converted = convert.from_keras([0.5], [2.0])
    assert converted["running_var"] == 2.0
    assert converted["momentum"] == pytest.approx(0.01)
    assert convert.to_keras([0.5], [2.0])["momentum"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convert.from_keras([0.0], [1.0], momentum=-1), r"momentum in \[0, 1\].*-1"),
        (lambda: convert.from_keras([0.0], [1.0], epsilon=0), "positive epsilon, got 0"),
        (lambda: convert.from_keras([0.0], [1.0], m=1), "m of at least 2, got 1"),
        (lambda: convert.from_keras([0.0], [1.0], m=2, steps=-1), "steps >= 0, got -1"),
        (lambda: convert.from_keras([0.0], [1.0, 2.0]), "one shape"),
        (lambda: convert.to_keras([0.0], [1.0], momentum=None), "no cumulative average"),
    ],
)
def test_bad_statistics_of_keras_are_refused(call, message):
    # caught: a check left out
    with pytest.raises(ValueError, match=message):
        call()
