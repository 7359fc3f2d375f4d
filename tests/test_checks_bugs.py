"""The exercises of "Find the bug": their symptoms, wrong mends and their sentence, right mends."""

import itertools
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bn_helpers import checks, data, training

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import exercises  # noqa: E402

CELLS = nbformat.read(ROOT / "book" / "find_the_bug.ipynb", as_version=4).cells
#: Number of a bug → its task, the code as it is handed out, the solution without its comments.
TASKS = [cell.source for cell in CELLS if "exercise" in cell.metadata.get("tags", [])]
SOLUTIONS = [
    exercises.untitled(cell.source) for cell in CELLS if "solution" in cell.metadata.get("tags", [])
]
NAMES = {
    1: "normalize",
    2: "statistics",
    3: "backward",
    4: "BatchNorm1d",
    5: "batch_norm",
    6: "BatchNorm",
    7: "batch_norm_2d",
    8: "fold",
}


def code(number, planted=False):
    """The function or class of an exercise, as handed out or mended, without the call."""
    source = SOLUTIONS[number - 1]
    source = exercises.stub(source) if planted else source
    lines = [exercises.MENDED.sub("", line) for line in source.splitlines()]
    return "\n".join(line for line in lines if not line.startswith("checks."))


def written(number, source):
    place = {"np": np, "torch": torch, "nn": nn, "F": F}
    exec(source, place)
    return place[NAMES[number]]


def judged(number, source):
    return checks.EXERCISES[f"bug_{number}"].judge(written(number, source))


@pytest.mark.parametrize("number", NAMES)
def test_the_code_as_it_is_handed_out(number):
    verdict = judged(number, code(number, planted=True))
    assert (verdict.outcome, verdict.mistakes) == ("not attempted", ("planted",))
    assert judged(number, code(number)).words == "Right."


@pytest.mark.parametrize("number", NAMES)
def test_nothing_on_the_way_gives_it_away(number):
    """Neither the task nor what is said of code that still has the bug shows the mended line."""
    check = checks.EXERCISES[f"bug_{number}"]
    lines = set(code(number).splitlines()) - set(code(number, planted=True).splitlines())
    for line in lines:
        assert line.strip() not in TASKS[number - 1]
        assert line.strip() not in " ".join([*check.hints, check.mistakes["planted"].sentence])
    assert check.mistakes["planted"].read == ""


# Wrong mends: what stood in the mended code, what somebody wrote instead, the verdict's sentence.

CENTRED = "x.var(dim=0, unbiased=False)"
AFTERWARDS = "(x - running_mean) / np.sqrt(running_var + eps)"
WRONG = [
    (1, CENTRED, "x.var(dim=0) * len(x) / (len(x) - 1)", "the variance is multiplied by m/(m − 1)"),
    (1, CENTRED, "x.var(unbiased=False)", "one variance serves all features"),
    (1, CENTRED, "((x - mean) ** 2).sum(dim=0)", "the squares are summed and not divided by m"),
    (1, CENTRED, "(x**2).mean(dim=0)", "the variance is taken around 0"),
    (1, "torch.sqrt(var + eps)", "torch.sqrt(var)", "ε is gone"),
    (1, "torch.sqrt(var + eps)", "(x.std(dim=0, unbiased=False) + eps)", "ε is added to the root"),
    (1, "torch.sqrt(var + eps)", "(var + eps)", "the division is by the variance"),
    (
        1,
        "torch.sqrt(var + eps)",
        "torch.sqrt(x.var(dim=0) + eps) * (len(x) / (len(x) - 1)) ** 0.5",
        "x̂ is stretched afterwards",
    ),
    (
        2,
        "((x - mean) ** 2).mean(axis=0)",
        "np.maximum((x**2).mean(axis=0) - mean**2, 0)",
        "no variance is negative any more",
    ),
    (
        2,
        "((x - mean) ** 2).mean(axis=0)",
        "abs((x**2).mean(axis=0) - mean**2)",
        "the sign is gone, the error is not",
    ),
    (2, "((x - mean) ** 2).mean(axis=0)", "x.var(axis=0, ddof=1)", "the variance divides by m − 1"),
    (
        2,
        "((x - mean) ** 2).mean(axis=0)",
        "((x - mean) ** 2).sum(axis=0)",
        "the squares are summed",
    ),
    (2, "((x - mean) ** 2).mean(axis=0)", "x.var() + 0 * mean", "one variance serves all features"),
    (2, "((x - mean) ** 2).mean(axis=0)", "x.std(axis=0)", "the root is taken"),
    (2, "mean = ", "x = x - x[0]\n    mean = ", "x was shifted to compute the variance"),
    (3, "m = len(dy)", "m = len(dy)\n    dy = gamma * dy\n    gamma = 1", "dy is multiplied by γ"),
    (3, "gamma * inv_std * rest", "inv_std * (gamma * dy - dy + rest)", "γ multiplies what comes"),
    (3, "gamma * inv_std * rest", "inv_std * (dy + gamma * (rest - dy))", "γ multiplies the ways"),
    (3, "gamma * inv_std * rest", "gamma**2 * inv_std * rest", "γ is there twice"),
    (3, "gamma * inv_std * rest", "inv_std * rest / gamma", "dx is divided by γ"),
    (3, " - dbeta / m", "", "the way through the mean is gone"),
    (3, " - x_hat * dgamma / m", "", "the way through the variance is gone"),
    (3, "return dx, dgamma, dbeta", "return dx, dgamma / m, dbeta / m", "∂γ and ∂β are averaged"),
    (4, "with torch.no_grad():", "if True:", "the running averages hold on to the graphs"),
    (4, CENTRED, f"{CENTRED}.detach()", "the mean has its gradient now"),
    (4, "x.mean(dim=0)", "x.mean(dim=0).detach()", "the variance has its gradient now"),
    (4, "var * len(x) / (len(x) - 1)", "var", "running_var no longer gets the m/(m − 1)"),
    (4, ".lerp_(", ".lerp(", "the running averages no longer move"),
    (4, CENTRED, "x.var(dim=0)", "x̂ divides by the root of a variance with m − 1"),
    (4, "if self.training:", "if True:", "both modes do the same"),
    (4, "self.running_mean.lerp_", "torch.lerp", None),
    (5, "= keep * running_", "= running_", "the past is kept whole"),
    (5, "+ eps)", "+ eps) if training else np.sqrt(var)", None),
    (5, "(x - mean) / np.sqrt(var + eps)", AFTERWARDS, "training mode normalises with the running"),
    (5, "(1 - keep) * unbiased", "(1 - keep) * var", "running_var no longer gets the m/(m − 1)"),
    (5, "keep * running_var + (1 - keep)", "(1 - keep) * running_var + keep", "the mean's average"),
    (5, "keep * running_mean + (1 - keep)", "(1 - keep) * running_mean + keep", "the variance's"),
    (5, "momentum=0.1", "momentum=0.9", "the update is right, and the default"),
    (5, "if training:", "if True:", "both modes do the same"),
    (
        6,
        'self.register_buffer("running_var", ones)',
        "self.running_var = ones",
        "running_mean comes",
    ),
    (
        6,
        'self.register_buffer("running_mean", zeros)',
        "self.running_mean = zeros",
        "running_var co",
    ),
    (6, 'running_var", ones', 'running_var", zeros.clone()', "running_var starts at 0"),
    (6, "if self.training:", "if True:", "both modes do the same"),
    (6, ", zeros)", ", zeros, persistent=False)", None),
    (6, "var.detach() * len(x) / (len(x) - 1)", "var.detach()", "running_var no longer gets"),
    (7, "axes = (0, 2, 3)", "axes = (2, 3)", "each image has its own statistics (instance"),
    (7, "axes = (0, 2, 3)", "axes = (1, 2, 3)", "each image has one mean and variance"),
    (7, "axes = (0, 2, 3)", "axes = (0, 1, 2, 3)", "one mean and one variance serve all"),
    (7, "axes = (0, 2, 3)", "axes = (0, 3)", "each row of a map"),
    (7, "axes = (0, 2, 3)", "axes = (0, 2)", "each column of a map"),
    (7, "x.var(axis=axes,", "x.var(axis=0,", "the mean is mended, the variance is taken"),
    (7, "x.mean(axis=axes,", "x.mean(axis=0,", "the variance is mended, the mean is taken"),
    (
        7,
        "x.var(axis=axes, keepdims=True)",
        "x.var(axis=0, keepdims=True).mean(axis=(2, 3), keepdims=True)",
        "the variances of the places are averaged",
    ),
    (
        7,
        "x.var(axis=axes, keepdims=True)",
        "x.var(axis=(2, 3), keepdims=True).mean(axis=0)",
        "the variances of the images are averaged",
    ),
    (7, "x.var(axis=axes, keep", "x.var(axis=axes, ddof=1, keep", "the variance divides by m′ − 1"),
    (8, "scale * bias + shift", "shift", "the convolution's own bias is gone"),
    (8, "scale * bias + shift", "scale * (bias - running_mean + beta)", "β is scaled, too"),
    (8, "scale * bias + shift", "scale * bias + beta - running_mean", "running_mean is subtracted"),
    (8, "beta - scale * running_mean", "beta + scale * running_mean", "running_mean is added"),
    (8, "scale * bias + shift", "scale**2 * (bias - running_mean) + beta", "the bias is scaled tw"),
    (8, "scale[:, None, None, None] * weight", "weight", "the weight has lost its scale"),
    (8, "running_var + eps", "running_var", "ε is gone"),
    (8, "np.sqrt(running_var + eps)", "(running_var + eps)", "the scale divides by the variance"),
    (8, "scale[:, None, None, None]", "scale[None, :, None, None]", None),
]


@pytest.mark.parametrize(("number", "right", "wrong", "sentence"), WRONG)
def test_a_wrong_mend_gets_its_sentence(number, right, wrong, sentence):
    source = code(number)
    assert right in source
    verdict = judged(number, source.replace(right, wrong))
    assert verdict.outcome == "wrong", verdict.words
    named = [line for line in verdict.words.splitlines() if line.startswith("Mistake: ")]
    if sentence is not None:
        assert len(named) == 1, verdict.words
        assert named[0].startswith(f"Mistake: {sentence}")


def test_wrong_mends_that_take_two_lines():
    source = code(5, planted=True).replace("momentum=0.1", "momentum=0.9")
    assert judged(5, source).mistakes == ("default",)

    source = code(6).replace(", zeros)", ", zeros, persistent=False)")
    source = source.replace(", ones)", ", ones, persistent=False)")
    assert judged(6, source).mistakes == ("not persistent",)

    source = code(6).replace('register_buffer("running_mean", ', "running_mean = nn.Parameter(")
    source = source.replace('register_buffer("running_var", ', "running_var = nn.Parameter(")
    source = source.replace("self.running_mean = keep", "self.running_mean.data = keep")
    source = source.replace("self.running_var = keep", "self.running_var.data = keep")
    assert judged(6, source).mistakes == ("parameters",)


def test_a_wrong_mend_beside_the_bug_gets_both_sentences():
    source = code(1, planted=True).replace("torch.sqrt(var + eps)", "torch.sqrt(var)")
    verdict = judged(1, source)
    assert verdict.mistakes == ("planted", "no eps")
    assert "\nMistake: the smaller the batch, the more y's variance falls short" in verdict.words


# Right mends: for each bug a template and what may stand in its places.

RIGHT = {
    1: (
        """
def normalize(x, gamma, beta, eps=1e-5):
    mean = {}
    var = {}
    x_hat = {}
    return gamma * x_hat + beta
""",
        [
            "x.mean(dim=0)",
            "x.mean(0, keepdim=True)",
            "x.sum(dim=0) / len(x)",
            "sum(x) / x.shape[0]",
        ],
        [
            "x.var(dim=0, unbiased=False)",
            "x.var(dim=0, correction=0)",
            "torch.var(x, 0, False)",
            "x.var(dim=0) * (len(x) - 1) / len(x)",
            "((x - mean) ** 2).mean(dim=0)",
            "(x - mean).square().sum(0) / x.shape[0]",
            "x.std(dim=0, unbiased=False) ** 2",
            "torch.from_numpy(x.numpy().var(axis=0))",
            "(x**2).mean(dim=0) - x.mean(dim=0) ** 2",
            "torch.var_mean(x, dim=0, unbiased=False)[0]",
        ],
        [
            "(x - mean) / torch.sqrt(var + eps)",
            "(x - mean) * torch.rsqrt(var + eps)",
            "(x - mean).float() / (var + eps).float().sqrt()",
        ],
    ),
    2: (
        """
def statistics(x):
    mean = {}
    var = {}
    return {}
""",
        ["x.mean(axis=0)", "x.mean(0, dtype=np.float64)", "x.sum(axis=0) / len(x)"],
        [
            "((x - mean) ** 2).mean(axis=0)",
            "x.var(axis=0)",
            "np.square(x - mean).sum(axis=0) / len(x)",
            "np.var(x.astype(np.float64), axis=0)",
            "((x - x[0]) ** 2).mean(axis=0) - (x - x[0]).mean(axis=0) ** 2",
            "x.std(axis=0) ** 2",
            "np.cov(x.T, bias=True).diagonal()",
            "((x[:, None] - x[None]) ** 2).mean(axis=(0, 1)) / 2",
            "(x.astype(float) ** 2).mean(axis=0) - x.astype(float).mean(axis=0) ** 2",
        ],
        ["mean, var", "[mean, var]", "mean.tolist(), var.tolist()"],
    ),
    3: (
        """
def backward(dy, x_hat, gamma, inv_std):
    m = len(dy)
    dbeta = {}
    dgamma = {}
    dx_hat = gamma * dy
    rest = dy - dbeta / m - x_hat * dgamma / m
    return {}, dgamma, dbeta
""",
        ["dy.sum(axis=0)", "np.ones(m) @ dy"],
        ["(dy * x_hat).sum(axis=0)", "np.einsum('nc,nc->c', dy, x_hat)", "np.diag(dy.T @ x_hat)"],
        [
            "gamma * inv_std * rest",
            "gamma * inv_std / m * (m * dy - dbeta - x_hat * dgamma)",
            "inv_std * (dx_hat - dx_hat.mean(0) - x_hat * (dx_hat * x_hat).mean(0))",
            "inv_std * (dx_hat - gamma * dbeta / m - x_hat * gamma * dgamma / m)",
            "(rest @ np.diag(gamma * inv_std)).astype(np.float32)",
        ],
    ),
    4: (
        """
class BatchNorm1d(nn.Module):
    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.gamma = nn.Parameter(torch.ones(num_features))
        self.beta = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    @torch.no_grad()
    def update(self, mean, var):
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)

    def forward(self, x):
        a = self.momentum
        if self.training:
            mean = {}
            var = {}
            unbiased = var * len(x) / (len(x) - 1)
            {}
        else:
            mean = self.running_mean
            var = self.running_var
        x_hat = (x - mean) / torch.sqrt(var + self.eps)
        return self.gamma * x_hat + self.beta
""",
        ["x.mean(dim=0)", "x.sum(0) / len(x)"],
        ["x.var(dim=0, unbiased=False)", "((x - mean) ** 2).mean(dim=0)"],
        [
            "self.update(mean, unbiased)",
            "self.update(mean.detach(), unbiased.detach())",
            "self.update(mean, x.var(dim=0))",
            "self.running_mean.lerp_(mean.detach(), a);"
            " self.running_var.lerp_(unbiased.detach(), a)",
            "self.running_mean = (1 - a) * self.running_mean + a * mean.detach();"
            " self.running_var = (1 - a) * self.running_var + a * unbiased.detach()",
            "self.running_mean.data.lerp_(mean.data, a);"
            " self.running_var.data.lerp_(unbiased.data, a)",
            "self.running_mean.copy_((1 - a) * self.running_mean + a * mean.detach());"
            " self.running_var.mul_(1 - a).add_(unbiased.detach(), alpha=a)",
            "F.batch_norm(x.detach(), self.running_mean, self.running_var,"
            " training=True, momentum=a)",
        ],
    ),
    5: (
        """
def batch_norm(x, gamma, beta, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    mean = running_mean
    var = running_var
    if training:
        m = len(x)
        mean = x.mean(axis=0)
        var = x.var(axis=0)
        unbiased = {}
        running_mean = {}
        running_var = {}
    x_hat = (x - mean) / np.sqrt(var + eps)
    y = gamma * x_hat + beta
    return y, running_mean, running_var
""",
        ["var * m / (m - 1)", "x.var(axis=0, ddof=1)"],
        [
            "(1 - momentum) * running_mean + momentum * mean",
            "running_mean + momentum * (mean - running_mean)",
            "momentum * mean - (momentum - 1) * running_mean",
            "np.average([running_mean, mean], axis=0, weights=[1 - momentum, momentum])",
        ],
        [
            "(1 - momentum) * running_var + momentum * unbiased",
            "running_var - momentum * (running_var - unbiased)",
            "torch.lerp(*map(torch.from_numpy, (running_var, unbiased)), momentum).numpy()",
        ],
    ),
    6: (
        """
class BatchNorm(nn.Module):
    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        zeros = torch.zeros(num_features)
        ones = torch.ones(num_features)
        self.eps = eps
        self.momentum = momentum
        self.gamma = nn.Parameter(ones.clone())
        self.beta = nn.Parameter(zeros.clone())
        {}
        {}

    def forward(self, x):
        mean = self.running_mean
        var = self.running_var
        if self.training:
            mean = x.mean(dim=0)
            var = x.var(dim=0, unbiased=False)
            unbiased = var.detach() * len(x) / (len(x) - 1)
            {}
        x_hat = (x - mean) / torch.sqrt(var + self.eps)
        return self.gamma * x_hat + self.beta
""",
        [
            'self.register_buffer("running_mean", zeros)',
            'self.register_buffer("running_mean", torch.zeros(num_features), persistent=True)',
            "self.running_mean = nn.Buffer(zeros)",
            "self.running_mean = nn.Parameter(zeros, requires_grad=False)",
        ],
        [
            'self.register_buffer("running_var", ones)',
            "self.running_var = nn.Buffer(ones.clone())",
            "self.running_var = nn.Parameter(ones, requires_grad=False)",
        ],
        [
            "self.running_mean.lerp_(mean.detach(), self.momentum);"
            " self.running_var.lerp_(unbiased, self.momentum)",
            "self.running_mean.data = torch.lerp(self.running_mean, mean.detach(), self.momentum);"
            " self.running_var.data = torch.lerp(self.running_var, unbiased, self.momentum)",
        ],
    ),
    7: (
        """
def batch_norm_2d(x, gamma, beta, eps=1e-5):
    columns = [x[:, c].ravel() for c in range(x.shape[1])]
    mean = {}
    var = {}
    x_hat = (x - mean) / np.sqrt(var + eps)
    return {}
""",
        [
            "x.mean(axis=(0, 2, 3), keepdims=True)",
            "x.mean(axis=0).mean(axis=(1, 2), keepdims=True)",
            "np.array([column.mean() for column in columns])[:, None, None]",
            "x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1]).mean(axis=0)[:, None, None]",
        ],
        [
            "x.var(axis=(0, 2, 3), keepdims=True)",
            "((x - mean) ** 2).mean(axis=(0, 2, 3), keepdims=True)",
            "np.array([np.var(column) for column in columns]).reshape(1, -1, 1, 1)",
            "(x**2).mean(axis=(0, 2, 3), keepdims=True) - mean**2",
        ],
        [
            "gamma[:, None, None] * x_hat + beta[:, None, None]",
            "(gamma * np.moveaxis(x_hat, 1, -1) + beta).transpose(0, 3, 1, 2)",
            "np.float32(gamma[:, None, None] * x_hat + beta[:, None, None])",
        ],
    ),
    8: (
        """
def fold(weight, bias, gamma, beta, running_mean, running_var, eps=1e-5):
    inv_std = (running_var + eps) ** -0.5
    scale = {}
    new_weight = {}
    return new_weight, {}
""",
        [
            "gamma * inv_std",
            "gamma / np.sqrt(running_var + eps)",
            "np.exp(np.log(inv_std)) * gamma",
        ],
        [
            "scale[:, None, None, None] * weight",
            "np.einsum('o,oikl->oikl', scale, weight)",
            "(np.diag(scale) @ weight.reshape(len(weight), -1)).reshape(weight.shape)",
            "np.stack([s * w for s, w in zip(scale, weight)])",
        ],
        [
            "scale * bias + beta - scale * running_mean",
            "scale * (bias - running_mean) + beta",
            "beta - (running_mean - bias) * gamma * inv_std",
            "np.diag(scale) @ (bias - running_mean) + beta",
        ],
    ),
}


@pytest.mark.parametrize("number", RIGHT)
def test_a_right_mend_is_never_called_wrong(number):
    """Over 400 in all."""
    template, *choices = RIGHT[number]
    for parts in itertools.product(*choices):
        source = template.format(*parts)
        verdict = judged(number, source)
        assert verdict.outcome == "right", source + verdict.words
        assert verdict.mistakes == () or (number == 2 and "float" in "".join(parts)), source


def test_there_are_many_right_mends():
    counts = [np.prod([len(c) for c in choices]) for _, *choices in RIGHT.values()]
    assert sum(counts) > 400


def test_more_digits_only_move_the_place_where_they_run_out():
    source = """
def statistics(x):
    x = x.astype(np.float64)
    mean = x.mean(axis=0)
    return mean, (x**2).mean(axis=0) - mean**2
"""
    verdict = judged(2, source)
    assert (verdict.outcome, verdict.mistakes) == ("right", ("floats",))


def test_the_printed_table_says_what_the_question_asks():
    """And on fresh layers B.3 and B.8 pass, as the text says."""
    outputs = [o.text for cell in CELLS for o in cell.get("outputs", []) if "shape" in o.text]
    drawn, fresh = ([line.split() for line in text.splitlines()] for text in outputs)
    tests = drawn[0]
    for table, passes in ((drawn, ()), (fresh, ("B.3", "B.8"))):
        for bug, *words in table[1:]:
            caught = [test for test, word in zip(tests, words, strict=True) if word == "caught"]
            answer = "none" if bug in passes else checks.bug_tests.answers[bug]
            assert caught == [answer] or (caught, answer) == ([], "none")


# The symptoms, as the tasks tell them.


def test_symptom_1():
    normalize = written(1, code(1, planted=True))
    for m, said in ((1000, "0.999"), (8, "0.875"), (4, "0.75")):
        x = torch.from_numpy(np.random.default_rng(0).normal(size=(m, 1)))
        y = normalize(x, torch.ones(1), torch.zeros(1))
        assert f"{y.numpy().var():.3f}".rstrip("0") == said
        assert said in TASKS[0]


def test_symptom_2():
    x = np.random.default_rng(24).integers(-4, 5, size=(12, 5)) + 10_000
    assert (x.min(), x.max()) == (9_996, 10_004)
    assert (round(x.var(axis=0).min(), 1), round(x.var(axis=0).max(), 1)) == (4.2, 6.0)
    _, var = written(2, code(2, planted=True))(x.astype(np.float32))
    assert var.tolist() == [0, 24, 8, -8, -8]
    assert "0, 24, 8, −8 and −8" in TASKS[1]


def test_symptom_3():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4))
    dy = rng.normal(size=(16, 4))
    gamma = np.array([0.5, 1.2, 2, 3])
    inv_std = 1 / np.sqrt(x.var(axis=0) + 1e-5)
    arguments = dy, (x - x.mean(axis=0)) * inv_std, gamma, inv_std
    right, *_ = written(3, code(3))(*arguments)
    wrong, *_ = written(3, code(3, planted=True))(*arguments)
    assert abs(wrong - right).max() == pytest.approx(2 / 3 * abs(right).max())


def digits_net(norm, depth, seed):
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for size in [64, *[50] * (depth - 1)]:
        layers += [nn.Linear(size, 50, bias=False), norm(50), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(50, 10))


@pytest.mark.slow
def test_symptom_4():
    digits = data.load("digits")
    ours = written(4, code(4, planted=True))
    for norm, low, high in ((nn.BatchNorm1d, 0.95, 1), (ours, 0, 0.65)):
        for seed in range(3):
            net = digits_net(norm, 6, seed)
            rng = np.random.default_rng(seed)
            training.fit(net, digits.train, steps=200, batch_size=60, lr=0.5, rng=rng)
            assert low <= training.accuracy(net.eval(), digits.test) <= high


def test_symptom_5():
    ours = written(5, code(5, planted=True))
    rng = np.random.default_rng(0)
    running = np.zeros(1), np.ones(1)
    layer = nn.BatchNorm1d(1, dtype=torch.float64)
    seen = []
    for _ in range(100):
        x = rng.normal(3, 2, size=(8, 1))
        _, *running = ours(x, np.ones(1), np.zeros(1), *running, True)
        layer(torch.from_numpy(x))
        right = layer.running_mean.item(), layer.running_var.item()
        seen.append([*right, running[0].item(), running[1].item()])
    seen = np.array(seen[50:])
    low = seen.min(axis=0)
    high = seen.max(axis=0)
    assert (low > [2.75, 3.35, 1.5, 1.05]).all()
    assert (high < [3.25, 4.95, 4.6, 10.7]).all()
    assert (low[2:] < [1.7, 1.2]).all()
    assert (high[2:] > [4.4, 10]).all()


@pytest.mark.slow
def test_symptom_6():
    digits = data.load("digits")
    norm = written(6, code(6, planted=True))
    for seed in range(3):
        net = digits_net(norm, 2, seed)
        rng = np.random.default_rng(seed)
        training.fit(net, digits.train, steps=200, batch_size=60, lr=0.3, rng=rng)
        loaded = digits_net(norm, 2, seed + 9)
        assert str(loaded.load_state_dict(net.state_dict())) == "<All keys matched successfully>"
        assert training.accuracy(net.eval(), digits.test) > 0.98
        assert 0.7 < training.accuracy(loaded.eval(), digits.test) < 0.9


def test_symptom_7():
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8))
    y = written(7, code(7, planted=True))(x, np.ones(3), np.zeros(3))
    assert (abs(abs(y) - 1) < 0.05).mean() > 0.95


def test_symptom_8():
    fold = written(8, code(8, planted=True))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 9, 9, generator=generator)
    torch.manual_seed(0)
    for bias, low, high in ((False, 0, 1e-5), (True, 0.1, 0.25)):
        conv = nn.Conv2d(3, 8, 3, bias=bias)
        norm = nn.BatchNorm2d(8, momentum=1)
        norm(conv(x))
        y = norm.eval()(conv(x))
        own = conv.bias if bias else torch.zeros(8)
        parts = conv.weight, own, norm.weight, norm.bias, norm.running_mean, norm.running_var
        folded = fold(*(part.detach().numpy() for part in parts))
        error = abs(F.conv2d(x, *map(torch.from_numpy, folded)) - y).max().item()
        assert low <= error < high
        assert y.std().item() == pytest.approx(1, abs=0.01)
