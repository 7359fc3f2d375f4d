"""The exercises of chapter 04: wrong code and its sentence, right code in many forms."""

import itertools
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bn_helpers import checks, population
from bn_helpers.layers import BatchNorm

ALGORITHM_2 = """
def algorithm2(batches):
    m = batches.shape[1]
    means = batches.mean(axis=1)
    variances = batches.var(axis=1)
    return means.mean(axis=0), m / (m - 1) * variances.mean(axis=0)
"""
RUNNING = """
def running(batches, momentum=0.1):
    mean = np.zeros(batches[0].shape[1])
    var = np.ones(batches[0].shape[1])
    for batch in batches:
        m = len(batch)
        mean = (1 - momentum) * mean + momentum * batch.mean(axis=0)
        var = (1 - momentum) * var + momentum * m / (m - 1) * batch.var(axis=0)
    return mean, var
"""
LAYER = """
class MyBatchNorm(nn.Module):
    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        if self.training:
            mean = x.mean(dim=0)
            var = x.var(dim=0, correction=0)
            self.track(mean.detach(), var.detach(), len(x))
        else:
            mean = self.running_mean
            var = self.running_var
        x_hat = (x - mean) / torch.sqrt(var + self.eps)
        return self.weight * x_hat + self.bias

    def track(self, mean, var, m):
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.item()
        self.running_mean = (1 - share) * self.running_mean + share * mean
        self.running_var = (1 - share) * self.running_var + share * m / (m - 1) * var
"""
AFFINE = """
def affine(gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    shift = beta - scale * mean
    return scale, shift
"""
LOOP = """
def fit_and_evaluate(model, optimizer, batches, held_out, epochs):
    accuracies = []
    model.train()
    for _ in range(epochs):
        model.train()
        for x, labels in batches:
            loss = F.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        hits = []
        model.eval()
        with torch.no_grad():
            for x, labels in held_out:
                right = (model(x).argmax(dim=1) == labels).double()
                hits += right.tolist()
        accuracies.append(sum(hits) / len(hits))
    return accuracies
"""
SOURCES = {
    "algorithm2": ALGORITHM_2,
    "running": RUNNING,
    "layer": LAYER,
    "affine": AFFINE,
    "loop": LOOP,
}
# exercise: what a learner wrote in place of a piece of the source, and the sentence's beginning
WRONG = {
    "algorithm2": [
        ("m / (m - 1) * ", "", "the factor m/(m − 1) is missing"),
        ("batches.var(axis=1)", "batches.var(axis=1, ddof=1)", "m/(m − 1) is there twice"),
        ("m = batches.shape[1]", "m = len(batches)", "the factor counts the batches"),
        ("m / (m - 1)", "(m - 1) / m", "the factor is (m − 1)/m"),
        (
            "m / (m - 1) * variances.mean(axis=0)",
            "batches.var(axis=(0, 1))",
            "the variance is that",
        ),
        (
            "m / (m - 1) * variances.mean(axis=0)",
            "np.concatenate(batches).var(axis=0, ddof=1)",
            "the variance is that of all values",
        ),
        ("variances.mean(axis=0)", "variances.mean(axis=0) + means.var(axis=0)", "the variance of"),
        ("m / (m - 1) * variances.mean(axis=0)", "m / (m - 1) * means.var(axis=0)", "this is the"),
        ("variances.mean(axis=0)", "(variances**0.5).mean(axis=0) ** 2", "standard deviations"),
        (
            "m / (m - 1) * variances.mean(axis=0)",
            "(m / (m - 1) * variances.mean(0)) ** 0.5",
            "the r",
        ),
        ("m / (m - 1) * variances.mean(axis=0)", "means.var(axis=0)", "this is the variance of"),
        ("batches.var(axis=1)", "batches.var(axis=0)", "the statistics are taken over"),
        ("variances.mean(axis=0)", "variances.sum(axis=0)", "the variances are summed"),
        ("variances.mean(axis=0)", "np.median(variances, axis=0)", "the median"),
    ],
    "running": [
        ("m / (m - 1) * ", "", "the variance that is averaged divides by m;"),
        ("batch.var(axis=0)", "batch.var(axis=0, ddof=1)", "m/(m − 1) is there twice"),
        ("m / (m - 1)", "(m - 1) / m", "the factor is (m − 1)/m"),
        ("m = len(batch)", "m = len(batches)", "the factor counts the batches"),
        ("m = len(batch)", "m = len(batches[0])", "the first batch's m"),
        ("m = len(batch)", "m, momentum = len(batch), 0.1", "the momentum is 0.1"),
        ("np.ones(", "np.zeros(", "the variance starts at 0"),
        ("batch.var(axis=0)", "batch.std(axis=0)", None),
        ("(1 - momentum) * ", "", "the old average is kept whole"),
    ],
    "layer": [
        ("share * m / (m - 1) * var", "share * var", "running_var averages the variances"),
        ("correction=0", "correction=1", None),
        ("share = 1 / self.num_batches_tracked.item()", "share = 0.1", "`momentum=None` counts"),
        ("self.num_batches_tracked.item()", "(self.num_batches_tracked.item() + 1)", "with `mom"),
        ("if self.training:", "if True:", "both modes do the same"),
        (
            "self.track(mean.detach(), var.detach(), len(x))",
            "self.track(mean, var, len(x))",
            "the buffers are not detached",
        ),
        (
            "self.track(mean.detach(), var.detach(), len(x))\n",
            "self.track(mean.detach(), var.detach(), len(x))\n"
            "            mean, var = mean.detach(), var.detach()\n",
            "the batch's statistics are detached",
        ),
        (
            "self.track(mean.detach(), var.detach(), len(x))\n",
            "self.track(mean.detach(), var.detach(), len(x))\n"
            "            mean, var = self.running_mean, self.running_var\n",
            "training mode normalises with the running statistics; it",
        ),
        ('register_buffer("num_batches_tracked", ', "__setattr__('num_batches_tracked', ", "num_b"),
        ("self.num_batches_tracked += 1\n", "pass\n", None),
        ("m / (m - 1) * var\n", "(m / (m - 1) * var) ** 0.5\n", "running_var holds standard"),
        ("torch.sqrt(var + self.eps)", "torch.sqrt(var)", "ε is not used"),
        ("torch.sqrt(var + self.eps)", "(torch.sqrt(var) + self.eps)", "ε is added to the root"),
        (
            "var = self.running_var\n",
            "return (x - mean) / torch.sqrt(self.running_var + self.eps)\n",
            "weight and bias are not used in evaluation",
        ),
        (
            "var = self.running_var\n",
            "var = self.running_var - self.eps\n",
            "ε is not used in evaluation mode",
        ),
        (
            "mean = self.running_mean\n            var = self.running_var\n",
            "mean, var = x.mean(dim=0), x.var(dim=0, correction=0)\n",
            "evaluation mode normalises with the batch's",
        ),
        (
            "mean = self.running_mean\n            var = self.running_var\n",
            "self.track(x.mean(dim=0).detach(), x.var(dim=0, correction=0).detach(), len(x))\n"
            "            mean, var = self.running_mean, self.running_var\n",
            "the running statistics move in evaluation mode",
        ),
    ],
    "affine": [
        ("var + eps", "var", "ε is not used"),
        ("np.sqrt(var + eps)", "(np.sqrt(var) + eps)", "ε is added to the root"),
        ("np.sqrt(var + eps)", "(var + eps)", "the division is by the variance"),
        ("gamma / np", "gamma * np", "γ is multiplied by the root"),
        ("gamma / np", "1 / np", "γ is not used"),
        ("scale * mean", "mean", "the shift subtracts the mean as it is"),
        ("scale * mean", "gamma * mean", "the mean in the shift is multiplied"),
        ("scale * mean", "mean / np.sqrt(var + eps)", "the mean in the shift is divided"),
        ("beta - scale", "beta + scale", "the scaled mean is added"),
        ("beta - scale", "-scale", "β is missing"),
        ("beta - scale * mean", "beta", "the shift is β alone"),
        ("beta - scale * mean", "scale * (beta - mean)", "β is multiplied"),
        ("return scale, shift", "return shift, scale", "scale and shift have changed"),
    ],
    "loop": [
        ("        model.eval()\n", "", "the held-out batches go through in training mode"),
        (
            "    for _ in range(epochs):\n        model.train()\n",
            "    for _ in range(epochs):\n",
            "aft",
        ),
        ("model.train()", "model.eval()", "the model trains in evaluation mode"),
        ("torch.no_grad()", "torch.enable_grad()", "the evaluation records gradients"),
        ("            optimizer.zero_grad()\n", "", "the gradients of all steps add up"),
        ("hits += right.tolist()", "hits.append(right.mean().item())", "the batches' accuracies"),
        ("hits += right.tolist()", "hits = right.tolist()", "the accuracy is that of the last"),
        ("in held_out", "in batches", "the accuracy is measured on the training batches"),
    ],
}
WRONG["running"] += [
    (
        "    for batch",
        "    momentum = 1 - momentum\n    for batch",
        "momentum is the other way round",
    ),
    (
        "for batch in batches:\n",
        "for t, batch in enumerate(batches, 1):\n        momentum = 1 / t\n",
        "batch t gets the share 1/t",
    ),
    (
        "    for batch",
        "    mean, var = batches[0].mean(axis=0), batches[0].var(axis=0, ddof=1)\n    for batch",
        "the averages start at the first batch",
    ),
]
WRONG["layer"] += [
    (
        "share = self.momentum\n",
        "share = None if self.momentum is None else 1 - self.momentum\n",
        "momentum is the other way round",
    ),
    (
        'register_buffer("running_var", torch.ones(',
        'register_buffer("running_var", torch.zeros(',
        "running_var starts at 0",
    ),
    (
        'self.register_buffer("running_mean", torch.zeros(num_features))\n'
        '        self.register_buffer("running_var", torch.ones(num_features))\n'
        '        self.register_buffer("num_batches_tracked", torch.tensor(0))\n',
        "self.running_mean = torch.zeros(num_features)\n"
        "        self.running_var = torch.ones(num_features)\n"
        "        self.num_batches_tracked = torch.tensor(0)\n",
        "the running statistics are plain attributes",
    ),
    (
        'register_buffer("running_mean", torch.zeros(num_features))',
        "__setattr__('running_mean', torch.zeros(num_features))",
        "running_mean is not among the saved buffers",
    ),
    (
        '"running_var", torch.ones(num_features)',
        '"running_var", torch.ones(num_features), persistent=False',
        "running_var is not among the saved buffers",
    ),
    ("var.detach()", "var", "the buffers are not detached"),
    ("torch.tensor(0)", "torch.zeros(1)", "num_batches_tracked is a float"),
    ("nn.Parameter(torch.ones(num_features))", "torch.ones(num_features)", "weight is no nn.Param"),
    ("nn.Parameter(torch.ones(num_features))", "nn.Parameter(torch.zeros(num_features))", "weight"),
    (
        "            self.track(mean.detach(), var.detach(), len(x))\n",
        "",
        "the running statistics do n",
    ),
    ("if self.training:", "if not self.training:", "the two modes have changed places"),
    (
        "            self.track(mean.detach(), var.detach(), len(x))\n"
        "        else:\n"
        "            mean = self.running_mean\n"
        "            var = self.running_var\n",
        "        else:\n"
        "            mean = self.running_mean\n"
        "            var = self.running_var\n"
        "        self.track(mean.detach(), var.detach(), len(x))\n",
        "the running statistics move in evaluation mode",
    ),
    (
        "        if self.training:\n"
        "            mean = x.mean(dim=0)\n"
        "            var = x.var(dim=0, correction=0)\n"
        "            self.track(mean.detach(), var.detach(), len(x))\n"
        "        else:\n",
        "        mean = x.mean(dim=0)\n"
        "        var = x.var(dim=0, correction=0)\n"
        "        self.track(mean.detach(), var.detach(), len(x))\n"
        "        if not self.training:\n",
        "the running statistics move in evaluation mode",
    ),
    (
        "x_hat = (x - mean) / torch.sqrt(var + self.eps)\n",
        "x_hat = (x - mean) / torch.sqrt(var + self.eps)\n"
        "        if not self.training:\n"
        "            moves = x.detach()\n"
        "            self.track(moves.mean(dim=0), moves.var(dim=0, correction=0), len(x))\n",
        "the running statistics move in evaluation mode",
    ),
    (
        "self.num_batches_tracked += 1\n        share = self.momentum\n"
        "        if share is None:\n            share = 1 / self.num_batches_tracked.item()\n",
        "share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum\n"
        "        self.num_batches_tracked += 1\n",
        "with `momentum=None` the share is taken before",
    ),
]
TABLE = [(name, *row) for name, rows in WRONG.items() for row in rows]


def written(source):
    """What a learner's source defines last."""
    place = {"np": np, "torch": torch, "nn": nn, "F": F}
    before = set(place)
    exec(textwrap.dedent(source), place)
    return place[[name for name in place if name not in before and name != "__builtins__"][-1]]


@pytest.mark.parametrize(("name", "right", "wrong", "sentence"), TABLE)
def test_wrong_code_gets_its_sentence(name, right, wrong, sentence):
    assert right in SOURCES[name]
    verdict = checks.EXERCISES[name].judge(written(SOURCES[name].replace(right, wrong)))
    assert verdict.outcome == "wrong"
    named = [line for line in verdict.words.splitlines() if line.startswith("Mistake: ")]
    if sentence is None:
        assert len(named) != 1
    else:
        assert len(named) == 1, verdict.words
        assert named[0].startswith(f"Mistake: {sentence}")


@pytest.mark.parametrize("name", SOURCES)
def test_the_sources_are_right(name):
    assert checks.EXERCISES[name].judge(written(SOURCES[name])).words == "Right."


def test_two_at_once():
    source = LAYER.replace("correction=0", "correction=1")
    assert checks.layer.judge(written(source)).mistakes == ("twice stored", "unbiased used")
    source = source.replace("share * m / (m - 1)", "share")
    assert checks.layer.judge(written(source)).mistakes == ("unbiased used",)
    source = LOOP.replace("        model.eval()\n", "").replace("in held_out", "in batches")
    assert checks.loop.judge(written(source)).mistakes == ("no eval", "training data")
    source = RUNNING.replace("m / (m - 1) * ", "").replace("np.ones", "np.zeros")
    assert checks.running.judge(written(source)).mistakes == ("biased", "var from 0")


def test_parameters_in_place_of_buffers_are_named():
    source = LAYER.replace(
        'register_buffer("running_mean", torch.zeros(num_features))',
        "__setattr__('running_mean', nn.Parameter(torch.zeros(num_features), False))",
    ).replace(
        'register_buffer("running_var", torch.ones(num_features))',
        "__setattr__('running_var', nn.Parameter(torch.ones(num_features), False))",
    )
    source = source.replace("self.running_mean = (", "self.running_mean.data = (")
    source = source.replace("self.running_var = (", "self.running_var.data = (")
    assert checks.layer.judge(written(source)).mistakes == ("parameters",)


def test_the_loop_as_it_was_is_not_attempted():
    source = LOOP.replace("hits += right.tolist()", "hits.append(right.mean().item())")
    source = source.replace("        model.eval()\n", "")
    assert checks.loop.judge(written(source)).outcome == "not attempted"


def test_a_layer_that_refuses_one_example_in_both_modes_is_wrong():
    source = LAYER.replace(
        "        if self.training:\n            mean",
        "        if len(x) < 2:\n            raise ValueError(len(x))\n"
        "        if self.training:\n            mean",
    )
    verdict = checks.layer.judge(written(source))
    assert verdict.words.startswith("Wrong: y of one example in evaluation")


def test_a_momentum_that_is_the_other_way_round_for_none_too():
    source = LAYER
    for old, new in (("mean", "mean"), ("var", "m / (m - 1) * var")):
        old = f"running_{old}"
        source = source.replace(
            f"(1 - share) * self.{old} + share * {new}", f"share * self.{old} + (1 - share) * {new}"
        )
    assert checks.layer.judge(written(source)).mistakes == ("turned throughout",)


def test_a_parameter_in_place_of_a_buffer_that_takes_no_tensor():
    source = LAYER.replace(
        'self.register_buffer("running_mean", torch.zeros(num_features))',
        "self.running_mean = nn.Parameter(torch.zeros(num_features))",
    )
    assert "running_mean is an nn.Parameter, which" in checks.layer.judge(written(source)).words


def test_a_layer_without_a_return():
    source = LAYER.replace("return self.weight", "self.weight")
    words = checks.layer.judge(written(source)).words
    assert words.startswith("Wrong: y in training (batch 1) is None; is a return missing?")


def test_a_counter_that_stands_still():
    source = LAYER.replace("self.num_batches_tracked += 1", "pass")
    assert "num_batches_tracked is still 0; count" in checks.layer.judge(written(source)).words
    tensors = source.replace("tracked.item()", "tracked")
    assert checks.layer.judge(written(tensors)).mistakes == ("not counted, 1/0",)
    source = source.replace("tracked.item()", "tracked.clamp(min=1).item()")
    assert checks.layer.judge(written(source)).mistakes == ("not counted",)


# Right, but different


def combinations(head, *choices):
    for lines in itertools.product(*choices):
        yield textwrap.dedent(head) + "".join(f"    {line}\n" for line in lines)


def all_right(check, sources):
    for source in sources:
        verdict = check.judge(written(source))
        assert verdict.outcome == "right", f"{source}\n{verdict.words}"


def test_algorithm_2_in_288_forms():
    means = [
        "mean = batches.mean(axis=1).mean(axis=0)",
        "mean = batches.mean(axis=(0, 1))",
        "mean = np.mean([b.mean(axis=0) for b in batches], axis=0)",
        "mean = np.einsum('tmc->c', batches) / (T * m)",
        "mean = np.concatenate(batches).mean(0)",
        "mean = sum(b.sum(axis=0) for b in batches[::-1]) / m / T",
    ]
    variances = [
        "var = batches.var(axis=1, ddof=1).mean(axis=0)",
        "var = m / (m - 1) * batches.var(axis=1).mean(axis=0)",
        "var = np.mean([b.var(axis=0) for b in batches], axis=0) / (1 - 1 / m)",
        "var = ((batches - batches.mean(1, keepdims=True)) ** 2).sum((0, 1)) / (T * (m - 1))",
        "var = np.stack([np.diag(np.cov(b.T)) for b in batches]).mean(0)",
        "var = (batches.std(axis=1) ** 2).sum(axis=0) / T * m / (m - 1)",
        "var = np.array([[np.var(c, ddof=1) for c in b.T] for b in batches]).mean(axis=0)",
        "var = np.average([np.var(b, 0) for b in batches], axis=0) * np.float64(m) / (m - 1)",
    ]
    results = [
        "return mean, var",
        "return [mean.tolist(), var.tolist()]",
        "return np.stack([mean, var])[0], np.stack([mean, var])[1]",
        "return mean.astype(np.float32), var.astype(np.float32)",
        "return torch.from_numpy(mean), torch.from_numpy(var)",
        "return mean[None], var[None]",
    ]
    head = "def algorithm2(batches):\n    T, m, C = batches.shape\n"
    all_right(checks.algorithm2, combinations(head, means, variances, results))


def test_running_statistics_in_120_forms():
    starts = [
        "mean, var = np.zeros(batches[0].shape[1]), np.ones(batches[0].shape[1])",
        "mean, var = 0.0, 1.0",
        "mean, var = torch.zeros(1).double().numpy(), np.array([1.0])",
    ]
    loops = [
        "for b in batches: mean, var = (1 - a) * mean + a * b.mean(0), (1 - a) * var + a * v(b)",
        "for b in batches: mean, var = mean + a * (b.mean(0) - mean), var + a * (v(b) - var)",
        "for b in batches: mean, var = mean - a * mean + a * b.mean(0), var - a * var + a * v(b)",
        "for i in range(len(batches)): mean, var = "
        "a * batches[i].mean(0) + (1 - a) * mean, a * v(batches[i]) + (1 - a) * var",
        "w = [a * (1 - a) ** t for t in range(len(batches))][::-1]; "
        "keep = (1 - a) ** len(batches); "
        "mean = keep * mean + sum(k * b.mean(0) for k, b in zip(w, batches)); "
        "var = keep * var + sum(k * v(b) for k, b in zip(w, batches))",
    ]
    variances = [
        "def v(b): return b.var(axis=0, ddof=1)",
        "def v(b): return np.var(b, 0) * len(b) / (len(b) - 1)",
        "def v(b): return ((b - b.mean(0)) ** 2).sum(0) / (b.shape[0] - 1)",
        "def v(b): return np.diag(np.cov(b, rowvar=False))",
    ]
    results = ["return mean, var", "return tuple(np.float32([mean, var]))"]
    head = "def running(batches, a=0.1):\n"
    all_right(checks.running, combinations(head, variances, starts, loops, results))


def test_scale_and_shift_in_270_forms():
    scales = [
        "scale = gamma / np.sqrt(var + eps)",
        "scale = gamma * (var + eps) ** -0.5",
        "scale = np.exp(np.log(gamma) - np.log(var + eps) / 2)",
        "scale = (gamma**2 / (eps + var)) ** 0.5",
        "scale = np.array([g / (v + eps) ** 0.5 for g, v in zip(gamma, var)])",
        "scale = np.diag(gamma) @ (1 / np.sqrt(var + eps))",
    ]
    shifts = [
        "shift = beta - scale * mean",
        "shift = -mean * scale + beta",
        "shift = beta - gamma * mean / np.sqrt(var + eps)",
        "shift = beta + gamma * (0 - mean) * (var + eps) ** -0.5",
        "shift = np.subtract(beta, np.multiply(scale, mean))",
        "shift = scale * (beta / scale - mean)",
        "shift = np.einsum('c,c->c', -scale, mean) + beta",
        "shift = gamma * ((0 - mean) / np.sqrt(var + eps)) + beta",
        "shift = np.array([b - s * m for b, s, m in zip(beta, scale, mean)])",
    ]
    results = [
        "return scale, shift",
        "return scale.tolist(), shift.tolist()",
        "return np.float32(scale), np.float32(shift)",
        "return torch.from_numpy(scale), torch.from_numpy(shift)",
        "return np.stack([scale, shift])[0], np.stack([scale, shift])[-1]",
    ]
    head = "def affine(gamma, beta, mean, var, eps=1e-5):\n"
    all_right(checks.affine, combinations(head, scales, shifts, results))


MEANS = ["x.mean(dim=0)", "torch.mean(x, 0)", "x.sum(0) / x.shape[0]", "x.mean(0, keepdim=True)[0]"]
VARIANCES = [
    "x.var(dim=0, correction=0)",
    "((x - mean) ** 2).mean(dim=0)",
    "torch.var(x, dim=0, unbiased=False)",
    "(x - mean).square().sum(0) / len(x)",
]
ENDS = [
    "return self.weight * (x - mean) / torch.sqrt(var + self.eps) + self.bias",
    "return torch.addcmul(self.bias, self.weight, (x - mean) * torch.rsqrt(var + self.eps))",
    "return F.linear((x - mean) * (var + self.eps) ** -0.5, torch.diag(self.weight), self.bias)",
]
MOVES = [
    """
            self.running_mean = (1 - a) * self.running_mean + a * mean.detach()
            self.running_var = (1 - a) * self.running_var + a * m / (m - 1) * var.detach()
    """,
    """
            with torch.no_grad():
                self.running_mean += a * (mean - self.running_mean)
                self.running_var += a * (x.var(dim=0) - self.running_var)
    """,
    """
            self.running_mean.mul_(1 - a).add_(mean.detach(), alpha=a)
            self.running_var.mul_(1 - a).add_(x.detach().var(dim=0, correction=1), alpha=a)
    """,
    """
            self.running_mean.copy_(torch.lerp(self.running_mean, mean.data, a))
            self.running_var.copy_(torch.lerp(self.running_var, var.data * m / (m - 1), a))
    """,
]


@pytest.mark.parametrize("moves", MOVES)
def test_a_layer_in_192_forms(moves):
    init = LAYER.partition("    def forward")[0]
    for mean, var, end in itertools.product(MEANS, VARIANCES, ENDS):
        forward = f"""
    def forward(self, x):
        m = len(x)
        if self.training:
            self.num_batches_tracked += 1
            a = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            mean = {mean}
            var = {var}{moves.rstrip()}
        else:
            mean, var = self.running_mean, self.running_var
        {end}
"""
        all_right(checks.layer, [init + forward])


class Folded(nn.Module):
    """Evaluation mode as scale and shift; statistics with one axis more; more state than asked."""

    def __init__(self, n, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(1, n))
        self.register_buffer("running_var", torch.ones(1, n))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int32))
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x):
        if not self.training:
            scale = self.weight / (self.running_var + self.eps).sqrt()
            return scale * x + (self.bias - scale * self.running_mean)
        var, mean = torch.var_mean(x, dim=0, keepdim=True)
        self.num_batches_tracked += 1
        a = self.momentum or 1 / float(self.num_batches_tracked)
        self.running_mean = torch.lerp(self.running_mean, mean.detach(), a)
        self.running_var = torch.lerp(self.running_var, var.detach(), a)
        std = torch.sqrt(var * (len(x) - 1) / len(x) + self.eps)
        return (x - mean) / std * self.weight + self.bias


class Library(nn.Module):
    """Everything by the library's function."""

    def __init__(self, n, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_var", torch.ones(n))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        a = (
            self.momentum
            if self.momentum is not None
            else 1 / max(int(self.num_batches_tracked), 1)
        )
        vectors = self.running_mean, self.running_var, self.weight, self.bias
        return F.batch_norm(x, *vectors, self.training, a, self.eps)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, BatchNorm, Folded, Library])
def test_other_layers_are_right(layer):
    assert checks.layer.judge(layer).words == "Right."


@pytest.mark.parametrize(
    ("right", "other"),
    [
        ("        model.train()\n        for", "        model.train(True)\n        for"),
        ("    model.train()\n    for _", "    for _"),
        ("        model.eval()\n", "        model.train(False)\n"),
        ("return accuracies", "model.train()\n    return accuracies"),
        ("return accuracies", "return np.array(accuracies)"),
        ("return accuracies", "return torch.tensor(accuracies)"),
        ("torch.no_grad()", "torch.inference_mode()"),
        ("torch.no_grad()", "torch.set_grad_enabled(False)"),
        ("optimizer.zero_grad()", "model.zero_grad()"),
        ("hits += right.tolist()", "hits += [float(r) for r in right]"),
        ("for x, labels in held_out:", "for x, labels in [map(torch.cat, zip(*held_out))]:"),
        ("model(x).argmax(dim=1)", "model(x).softmax(1).max(dim=1).indices"),
        ("F.cross_entropy(model(x), labels)", "nn.CrossEntropyLoss()(model(x), labels)"),
        ("F.cross_entropy(model(x), labels)", "F.nll_loss(model(x).log_softmax(1), labels)"),
        ("        hits = []\n        model.eval()\n", "        model.eval()\n        hits = []\n"),
        (
            "        for x, labels in batches:\n",
            "        for x, labels in batches:\n            model.train()\n",
        ),
        (
            "                right = (model(x)",
            "                model.eval()\n                right = (model(x)",
        ),
    ],
)
def test_other_loops_are_right(right, other):
    assert right in LOOP
    all_right(checks.loop, [LOOP.replace(right, other, 1)])


@given(st.integers(2, 6), st.integers(2, 9), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_models_are_the_helpers(count, m, features, seed):
    """Catches a model that is wrong itself, on any shape."""
    batches = np.random.default_rng(seed).normal(1, 2, (count, m, features))
    means, variances = batches.mean(axis=1), batches.var(axis=1)
    right = frozenset()
    expected = population.algorithm2(means, variances, m)
    np.testing.assert_allclose(checks.algorithm2.model(right)(batches), expected)
    expected = population.moving_average(means, variances, m, 0.2)
    np.testing.assert_allclose(checks.running.model(right)(list(batches), 0.2), expected)
