import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bn_helpers import data, training


@given(n=st.integers(1, 40), m=st.integers(1, 40), epochs=st.integers(1, 3))
def test_each_epoch_uses_each_example_at_most_once(n, m, epochs):
    """Catches drawing with replacement, and an order that is not reshuffled."""
    if m > n:
        with pytest.raises(ValueError, match=f"between 1 and {n}"):
            next(training.minibatches(n, m, 1, np.random.default_rng(0)))
        return
    per_epoch = n // m
    batches = list(training.minibatches(n, m, per_epoch * epochs, np.random.default_rng(0)))
    assert all(batch.shape == (m,) for batch in batches)
    for epoch in range(epochs):
        seen = np.concatenate(batches[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(set(seen)) == len(seen)


def test_epochs_are_shuffled_anew():
    first, second = training.minibatches(50, 50, 2, np.random.default_rng(0))
    assert (first != second).any()


def linear():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_the_loop_is_plain_sgd():
    """Catches a missing zero_grad, another loss, a step before the gradient."""
    split = data.load("digits").train
    model, other = linear(), linear()
    losses, looks = training.fit(
        model,
        split,
        steps=3,
        batch_size=60,
        lr=0.5,
        rng=np.random.default_rng(7),
        every=2,
        evaluate=lambda m: training.accuracy(m, split),
    )
    weight, bias = (p.detach().clone().requires_grad_() for p in other[1].parameters())
    for step, batch in enumerate(training.minibatches(1437, 60, 3, np.random.default_rng(7))):
        x = torch.from_numpy(split.images[batch]).flatten(1)
        log_p = (x @ weight.T + bias).log_softmax(dim=1)
        loss = -log_p[torch.arange(60), torch.from_numpy(split.labels[batch])].mean()
        assert losses[step] == pytest.approx(loss.item(), rel=1e-5)
        for p, g in zip((weight, bias), torch.autograd.grad(loss, (weight, bias)), strict=True):
            p.data -= 0.5 * g
    torch.testing.assert_close(model[1].weight, weight)
    assert [step for step, _ in looks] == [0, 2]
    assert looks[1][1] > looks[0][1]
    assert model.training


def test_evaluation_happens_in_eval_mode_and_training_goes_on():
    split = data.load("digits").train
    modes = []
    model = linear()
    training.fit(
        model,
        split,
        steps=2,
        batch_size=10,
        lr=0.1,
        rng=np.random.default_rng(0),
        every=1,
        evaluate=lambda m: modes.append((m.training, torch.is_grad_enabled())),
    )
    assert modes == [(False, False)] * 3
    assert model.training


def test_over_seeds_is_the_loop_once_a_seed():
    """Catches one rng for all seeds, a judge asked in training mode, seeds and judges swapped."""
    digits = data.load("digits")
    how = {"steps": 4, "batch_size": 60, "lr": 0.5}
    built = []

    def build(seed):
        built.append(nn.Sequential(*linear(), nn.BatchNorm1d(10)))
        return built[-1]

    judges = digits.train, digits.test, digits.test
    losses, accuracies = training.over_seeds(build, digits.train, judges, seeds=(3, 4), **how)
    assert losses.shape == (2, 4)
    assert accuracies.shape == (3, 2)
    for i, seed in enumerate((3, 4)):
        model = nn.Sequential(*linear(), nn.BatchNorm1d(10))
        rng = np.random.default_rng(seed)
        np.testing.assert_array_equal(
            training.fit(model, digits.train, rng=rng, **how)[0], losses[i]
        )
        model.eval()
        assert accuracies[1, i] == accuracies[2, i] == training.accuracy(model, digits.test)
        assert not built[i].training
