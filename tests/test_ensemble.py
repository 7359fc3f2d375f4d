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


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("bn", "running"), [(False, False), (True, False), (True, True)])
def test_jacobians_are_those_of_autograd(activation, bn, running):
    """Catches a missing gamma, a transposed W, an example without its part in the statistics."""
    split = toy(20, 6, 3, 0)
    kind = {"bn": bn, "activation": activation, "dtype": torch.float64, "eps": 1e-2}
    stack = ensemble.networks((6, 5, 5, 5, 3), sigma=[0.7, 1.0], seeds=[0, 1], **kind)
    shake(stack, 0)
    ensemble.train(stack, split, steps=3, batch_size=8, lr=0.1, rng=np.random.default_rng(0))
    found = ensemble.jacobians(stack, split.images, examples=4, running=running)
    assert [tuple(j.shape) for j in found] == [(2, 4, 5, 5)] * 2
    k, example = 1, 3

    def normalised(z, layer):
        if not bn:
            return z
        moments = (stack.running_mean, stack.running_var) if running else ()
        fixed = [t[layer][k, 0] for t in moments] or [None, None]
        return torch.nn.functional.batch_norm(z, *fixed, training=not running, eps=stack.eps)

    first = stack.weights[0].view(6, 2, 5)[:, k]
    x_hat = normalised(torch.from_numpy(split.images).flatten(1).double() @ first, 0)
    for layer, jacobian in enumerate(found):

        def following(x_hat, layer=layer):
            gamma = stack.gamma[layer][k, 0] if bn else 1.0
            a = ACTIVATIONS[activation]()(gamma * x_hat + stack.shift[layer][k, 0])
            return normalised(a @ stack.weights[layer + 1][k], layer + 1)

        def own(row, x_hat=x_hat, following=following):
            moved = torch.cat([x_hat[:example], row[None], x_hat[example + 1 :]])
            return following(moved)[example]

        truth = torch.autograd.functional.jacobian(own, x_hat[example])
        torch.testing.assert_close(jacobian[k, example], truth)
        x_hat = following(x_hat)


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


# --- networks of any layers, side by side ----------------------------------------------------


def side_by_side(networks, bn, seed=0, size=None):
    """M networks 4 → 5 → 3; weights drawn anew for each seed, in float64."""
    generator = torch.Generator().manual_seed(seed)
    w, last = (
        torch.randn(networks, *shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 5), (5, 3))
    )
    norm = [ensemble.Ghost(5 * networks, size).double()] if bn else []
    return nn.Sequential(ensemble.Linear(w, not bn), *norm, nn.ReLU(), ensemble.Linear(last))


def one_of(model, k, bn):
    """Network k of :func:`side_by_side`, as PyTorch builds it."""
    parts = []
    for layer in (model[0], model[-1]):
        linear = nn.Linear(*layer.weight.shape[1:], layer.bias is not None, dtype=torch.float64)
        linear.weight.data = layer.weight[k].detach().T.clone()
        if layer.bias is not None:
            linear.bias.data.zero_()
        parts.append(linear)
    norm = [nn.BatchNorm1d(5, dtype=torch.float64)] if bn else []
    return nn.Sequential(parts[0], *norm, nn.ReLU(), parts[1])


@given(bn=st.booleans(), own=st.booleans(), decay=st.sampled_from([0.0, 0.3]))
def test_sgd_trains_each_network_as_pytorch_does_alone(bn, own, decay):
    """Catches: networks that see each other, one rate for all, another one's batches or decay, and
    decay of biases, of BN's parameters or of the last layer."""
    split = toy(40, 4, 3, seed=1)
    images, labels = torch.from_numpy(split.images).flatten(1).double(), torch.tensor(split.labels)
    rng, rates = np.random.default_rng(2), [0.1, 0.5, 0.9]
    batches = rng.integers(40, size=(4, 8, 3) if own else (4, 8))
    model = side_by_side(3, bn)
    singles = [one_of(model, k, bn) for k in range(3)]
    seen = list(ensemble.sgd(model, images, labels, batches, rates, decay=[decay, 0.1, 0.2]))
    for k, (single, lr) in enumerate(zip(singles, rates, strict=True)):
        hidden, *others = single.parameters()
        groups = [{"params": [hidden], "weight_decay": (decay, 0.1, 0.2)[k]}, {"params": others}]
        optimizer = torch.optim.SGD(groups, lr=lr)
        for index, (losses, right) in zip(batches[..., k] if own else batches, seen, strict=True):
            logits = single(images[index])
            loss = nn.functional.cross_entropy(logits, labels[index])
            assert losses[k] == pytest.approx(loss.item(), rel=1e-10)
            assert right[k] == (logits.argmax(1) == labels[index]).double().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ours = model.eval()(images).unflatten(1, (3, 3))[:, k]
        torch.testing.assert_close(ours, single.eval()(images), rtol=1e-9, atol=1e-9)


def test_a_growing_rate_does_what_decay_does():
    """With BN, eps aside. Catches a factor too few, and a rate that grows for other parameters."""
    split = toy(40, 4, 3, seed=1)
    images, labels = torch.from_numpy(split.images).flatten(1).double(), torch.tensor(split.labels)
    batches, found = np.random.default_rng(2).integers(40, size=(20, 8)), []
    for grow in (False, True):
        model = side_by_side(2, bn=True)
        model[1].eps = 1e-30
        steps = ensemble.sgd(model, images, labels, batches, [0.1, 0.3], decay=0.4, grow=grow)
        found.append([losses for losses, _ in steps])
    np.testing.assert_allclose(*found, rtol=1e-9)
    assert np.abs(np.diff(found[0], axis=1)).min() > 1e-3


def test_frozen_parameters_stay():
    model = side_by_side(2, bn=False)
    model[0].bias.requires_grad_(False)
    images, labels = torch.ones(4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    list(ensemble.sgd(model, images, labels, [[0, 1], [2, 3]], 0.1))
    assert not model[0].bias.any()
    assert model[-1].bias.any()


def test_ghost_batches_have_statistics_of_their_own():
    x = torch.from_numpy(np.random.default_rng(0).normal(2, 3, (10, 6)))
    ghost = ensemble.Ghost(6, 4).double()
    parts = [nn.functional.batch_norm(part, None, None, training=True) for part in x.split(4)]
    torch.testing.assert_close(ghost(x), torch.cat(parts))
    assert ghost.num_batches_tracked == 3
    whole = nn.BatchNorm1d(6).double()
    whole.load_state_dict(ghost.state_dict())
    torch.testing.assert_close(ghost.eval()(x), whole.eval()(x))
    torch.testing.assert_close(ensemble.Ghost(6).double()(x), whole.train()(x))


def test_accuracy_of_networks_side_by_side():
    """Shared images, each network's own images and labels, and the mode that stays."""
    model, rng = side_by_side(2, bn=True), np.random.default_rng(0)
    shared, own = rng.standard_normal((9, 4)), rng.standard_normal((9, 2, 4))
    singles = [one_of(model, k, bn=True) for k in range(2)]
    for mode in (True, False):
        model.train(mode)
        for images in (shared, own):
            each = [images if images.ndim == 2 else images[:, k] for k in range(2)]
            with torch.no_grad():
                logits = [net.train(mode)(torch.tensor(x)) for net, x in zip(singles, each)]  # noqa: B905
            predicted = np.stack([found.argmax(1) for found in logits], axis=1)
            labels = predicted.copy()
            labels[:3, 1] = (labels[:3, 1] + 1) % 3
            assert ensemble.accuracy(model, (images, labels)).tolist() == [1, 6 / 9]
            of_first = (predicted == predicted[:, :1]).mean(axis=0)
            assert (ensemble.accuracy(model, (images, predicted[:, 0])) == of_first).all()
        assert model.training == mode
