import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bn_helpers import data, ensemble, training

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}


def toy(n, width, classes, seed):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((n, 1, 1, width)).astype(np.float32)
    images[:, ..., 0] = 0  # a pixel that is never on
    images[n // 4 :, ..., 1] = 0  # and one that is off in some batches
    return data.Split(images, rng.integers(classes, size=n))


def alone(stack, k, widths):
    """Network k of a fresh stack as PyTorch builds it, in float64."""
    parts = [nn.Flatten()]
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        hidden = layer < len(widths) - 2
        linear = nn.Linear(fan_in, fan_out, bias=not (stack.bn and hidden), dtype=torch.float64)
        w = stack.weights[layer]
        w = w.view(fan_in, len(stack), fan_out)[:, k] if layer == 0 else w[k]
        linear.weight.data = w.T.double().clone()
        if linear.bias is not None:
            linear.bias.data = stack.shift[layer][k, 0].double().clone()
        parts.append(linear)
        if hidden:
            if stack.bn:
                norm = nn.BatchNorm1d(fan_out, stack.eps, stack.momentum, dtype=torch.float64)
                norm.bias.data = stack.shift[layer][k, 0].double().clone()
                norm.weight.data = stack.gamma[layer][k, 0].double().clone()
                parts.append(norm)
            parts.append(ACTIVATIONS[stack.activation]())
    return nn.Sequential(*parts)


def shake(stack, seed):
    """Give biases, beta and gamma values that hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*stack.shift, *stack.gamma):
        tensor.add_(torch.empty_like(tensor).uniform_(-0.5, 0.5, generator=generator))


@given(
    bn=st.booleans(),
    activation=st.sampled_from(["sigmoid", "relu"]),
    hidden=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    networks=st.integers(1, 3),
    eps=st.sampled_from([1e-5, 1e-1]),
    momentum=st.sampled_from([0.1, 0.6]),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_each_network_trains_as_in_pytorch(
    bn, activation, hidden, networks, eps, momentum, seed, dtype
):
    """Catches a wrong gradient, a rate given to its neighbour, biased running variances."""
    widths, rates = (5, *hidden, 3), [0.3, 0.1, 0.5][:networks]
    split = toy(40, 5, 3, seed)
    stack = ensemble.networks(
        widths,
        sigma=[0.5, 1.0, 0.2][:networks],
        seeds=[seed + k for k in range(networks)],
        bn=bn,
        activation=activation,
        eps=eps,
        momentum=momentum,
        dtype=dtype,
    )
    shake(stack, seed)
    models = [alone(stack, k, widths) for k in range(networks)]
    rng = np.random.default_rng(seed)
    ensemble.train(stack, split, steps=3, batch_size=8, lr=rates, rng=rng)
    given_stack, logits = ensemble.forward(stack, split.images)
    wide = data.Split(split.images.astype(np.float64), split.labels)
    for k, model in enumerate(models):
        rng = np.random.default_rng(seed)
        training.fit(model, wide, steps=3, batch_size=8, lr=rates[k], rng=rng)
        model.eval()
        with torch.no_grad():
            truth = model(torch.from_numpy(wide.images))
            last_input = model[:-2](torch.from_numpy(wide.images))
        # In float32, BN over nearly equal values magnifies the rounding of three steps.
        tol = 1e-8 if dtype == torch.float64 else 2e-3
        torch.testing.assert_close(logits[k].double(), truth, rtol=tol, atol=tol)
        torch.testing.assert_close(given_stack[-1][k].double(), last_input, rtol=tol, atol=tol)


def test_a_pixel_that_is_never_on_keeps_its_weights():
    split = toy(40, 5, 3, 0)
    stack = ensemble.networks((5, 4, 3), sigma=[1.0, 1.0], seeds=[0, 1], bn=True)
    before = stack.weights[0].clone()
    ensemble.train(
        stack,
        split,
        steps=2,
        batch_size=8,
        lr=0.1,
        rng=np.random.default_rng(0),
        at=[1],
        evaluate=lambda s: s.weights[0].shape,
    )
    assert torch.equal(stack.weights[0][0], before[0])
    assert not torch.equal(stack.weights[0][1:], before[1:])


@pytest.mark.parametrize("bn", [False, True])
def test_an_interrupted_run_goes_on_bitwise(bn):
    """Catches a batch order that starts afresh, and running statistics that are forgotten."""
    split = toy(50, 5, 3, 0)

    def run(*stops):
        stack = ensemble.networks((5, 4, 3), sigma=[1.0, 2.0], seeds=[0, 1], bn=bn)
        for start, steps in zip((0, *stops), (*stops, 23), strict=True):
            rng = np.random.default_rng(3)
            ensemble.train(stack, split, steps=steps, start=start, batch_size=8, lr=0.1, rng=rng)
        return ensemble.forward(stack, split.images)[1]

    assert torch.equal(run(), run(6, 13))


def test_evaluations_see_the_steps_asked_for():
    split = toy(50, 5, 3, 0)
    stack = ensemble.networks((5, 4, 3), sigma=[1.0], seeds=[0], bn=False)
    start = stack.weights[1].clone()
    seen = ensemble.train(
        stack,
        split,
        steps=4,
        batch_size=8,
        lr=0.1,
        rng=np.random.default_rng(0),
        at=[0, 3],
        evaluate=lambda s: s.weights[1].clone(),
    )
    assert [step for step, _ in seen] == [0, 3]
    assert torch.equal(seen[0][1], start)
    assert not torch.equal(seen[1][1], start)


def test_accuracy_counts_every_image(monkeypatch):
    monkeypatch.setattr(ensemble, "CHUNK", 7)
    split = toy(50, 5, 3, 0)
    stack = ensemble.networks((5, 4, 3), sigma=[1.0, 3.0], seeds=[0, 1], bn=False)
    _, logits = ensemble.forward(stack, split.images)
    truth = (logits.argmax(2).numpy() == split.labels).mean(axis=1)
    np.testing.assert_allclose(ensemble.accuracy(stack, split), truth)


def test_a_seed_draws_the_same_weights_at_any_scale():
    one, two = (
        ensemble.networks((5, 4, 3), sigma=[s, 1.0], seeds=[7, 7], bn=False).weights[1]
        for s in (1.0, 0.5)
    )
    torch.testing.assert_close(one[0], 2 * two[0])
    torch.testing.assert_close(one[0], one[1])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="one sigma for each of 2 seeds, got 1"):
        ensemble.networks((5, 4, 3), sigma=[1.0], seeds=[0, 1], bn=False)
    with pytest.raises(ValueError, match="'sigmoid' or 'relu', got 'tanh'"):
        ensemble.networks((5, 4, 3), sigma=[1.0], seeds=[0], bn=False, activation="tanh")
    stack = ensemble.networks((5, 4, 3), sigma=[1.0], seeds=[0], bn=True)
    with pytest.raises(ValueError, match="at least 2 with BN, got 1"):
        ensemble.train(
            stack, toy(9, 5, 3, 0), steps=1, batch_size=1, lr=0.1, rng=np.random.default_rng(0)
        )
