"""The exercises of chapter 02: wrong code and its sentence, right code in many forms."""

import itertools

import numpy as np
import pytest
import torch

from bn_helpers import checks

RIGHT = """
def forward(x, gamma, beta, eps):
    mean = x.mean(axis=0)
    var = ((x - mean) ** 2).mean(axis=0)
    x_hat = (x - mean) / np.sqrt(var + eps)
    y = gamma * x_hat + beta
    return y
"""
# What a learner wrote in place of a piece of RIGHT, and how its verdict's second line begins.
WRONG = [
    ("x.mean(axis=0)", "x.mean(axis=1, keepdims=True)", None),
    ("x.mean(axis=0)", "x.mean()", None),
    ("x.mean(axis=0)", "np.median(x, axis=0)", "μ is a mean"),
    ("(x - mean) /", "x /", "the mean is not subtracted"),
    ("((x - mean) ** 2).mean(axis=0)", "(x**2).mean(axis=0)", "the variance is taken around 0"),
    ("((x - mean) ** 2).mean(axis=0)", "x.var(axis=0, ddof=1)", "the variance divides by m − 1"),
    ("((x - mean) ** 2).mean(axis=0)", "((x - mean) ** 2).sum(axis=0)", "the squares are summed"),
    ("((x - mean) ** 2).mean(axis=0)", "abs(x - mean).mean(axis=0) ** 2", "the spread is the mean"),
    ("np.sqrt(var + eps)", "np.sqrt(var)", "ε is not used"),
    ("np.sqrt(var + eps)", "(np.sqrt(var) + eps)", "ε is added to the root"),
    ("np.sqrt(var + eps)", "np.sqrt(var + eps**2)", "ε is squared"),
    ("np.sqrt(var + eps)", "(var + eps)", "the division is by the variance"),
    ("/ np.sqrt", "* np.sqrt", "x − μ is multiplied"),
    ("gamma * x_hat + beta", "beta * x_hat + gamma", "γ and β have changed places"),
    ("gamma * x_hat + beta", "x_hat + beta", "γ is not used"),
    ("gamma * x_hat + beta", "gamma * x_hat", "β is not used"),
    ("gamma * x_hat + beta", "gamma * x_hat - beta", "β is subtracted"),
    ("gamma * x_hat + beta", "gamma * (x_hat + beta)", "β is added before"),
]


def written(source, name="forward", **more):
    """The function of that name in a learner's source."""
    place = {"np": np, "torch": torch, **more}
    exec(source, place)
    return place[name]


@pytest.mark.parametrize(("right", "wrong", "sentence"), WRONG)
def test_wrong_code_gets_its_sentence(right, wrong, sentence):
    assert right in RIGHT
    verdict = checks.forward.judge(written(RIGHT.replace(right, wrong)))
    assert verdict.outcome == "wrong"
    named = [line for line in verdict.words.splitlines() if line.startswith("Mistake: ")]
    assert len(named) == (sentence is not None)
    assert not named or named[0].startswith(f"Mistake: {sentence}")


def test_two_at_once():
    source = RIGHT.replace("(var + eps)", "(var)").replace("gamma * x_hat", "x_hat")
    assert checks.forward.judge(written(source)).mistakes == ("no eps", "no gamma")


MEANS = [
    "x.mean(axis=0)",
    "x.mean(0, keepdims=True)",
    "np.mean(x, axis=0)",
    "x.sum(axis=0) / len(x)",
    "np.ones(len(x)) @ x / len(x)",
    "np.einsum('nc->c', x) / x.shape[0]",
    "sum(row for row in x) / len(x)",
    "np.array([column.sum() / len(column) for column in x.T])",
    "np.sort(x, axis=0).mean(axis=0)",
    "np.add.reduce(x[::-1]) / len(x)",
]
VARIANCES = [
    "((x - mean) ** 2).mean(axis=0)",
    "x.var(axis=0)",
    "np.std(x, axis=0) ** 2",
    "np.square(x - mean).sum(0) / len(x)",
    "np.einsum('nc,nc->c', x - mean, x - mean) / len(x)",
    "np.diag(np.cov(x.T, bias=True))",
    "np.linalg.norm(x - mean, axis=0) ** 2 / len(x)",
    "x.var(axis=0, ddof=1) * (len(x) - 1) / len(x)",
    "((x[:, None] - x[None]) ** 2).mean(axis=(0, 1)) / 2",
]
NORMALISED = [
    "(x - mean) / np.sqrt(var + eps)",
    "(x - mean) * (var + eps) ** -0.5",
    "np.exp(np.log(var + eps) * -0.5) * (x - mean)",
    "x / np.sqrt(var + eps) - mean / np.sqrt(var + eps)",
]
RESULTS = [
    "gamma * x_hat + beta",
    "np.stack([gamma * row for row in x_hat]) + beta",
    "x_hat @ np.diag(gamma) + beta",
    "(gamma * x_hat + beta).astype(np.float32)",
    "torch.from_numpy(gamma * x_hat + beta)",
    "np.asfortranarray(gamma * x_hat + beta)",
    "(x_hat * gamma[None] + beta[None]).tolist()",
    "np.float32(gamma) * np.float32(x_hat) + beta",
]


@pytest.mark.parametrize("mean", MEANS)
def test_right_but_different_is_never_wrong(mean):
    """In all 2,880 combinations of the lines."""
    for var, x_hat, y in itertools.product(VARIANCES, NORMALISED, RESULTS):
        lines = (f"mean = {mean}", f"var = {var}", f"x_hat = {x_hat}", f"return {y}")
        source = "\n    ".join(["def forward(x, gamma, beta, eps):", *lines])
        verdict = checks.forward.judge(written(source))
        assert verdict.outcome == "right", source + verdict.words
        assert verdict.mistakes == () or "x / np.sqrt" in x_hat or "float32" in y, source
