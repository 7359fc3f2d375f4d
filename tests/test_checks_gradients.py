"""The exercises of chapter 03: wrong code and its sentence, right code in many forms."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bn_helpers import checks, gradcheck, reference
from bn_helpers.checks.gradients import NAMES

LINES = """
def backward_lines(dy, v):
    g = SimpleNamespace(y=dy)
    g.beta = g.y.sum(0)
    g.scaled = g.y
    g.gamma = (g.scaled * v.x_hat).sum(0)
    g.x_hat = g.scaled * v.gamma
    g.inv_std = (g.x_hat * v.centred).sum(0)
    g.std = -g.inv_std * v.inv_std**2
    g.var_eps = g.std * 0.5 / v.std
    g.var = g.var_eps
    g.squared = g.var / len(dy)
    g.centred = g.x_hat * v.inv_std + g.squared * 2 * v.centred
    g.mean = -g.centred.sum(0)
    g.x = g.centred + g.mean / len(dy)
    return vars(g)
"""
BACKWARD = """
def backward(dy, x_hat, gamma, inv_std):
    dbeta = dy.sum(axis=0)
    dgamma = (dy * x_hat).sum(axis=0)
    dx = gamma * inv_std * (dy - dy.mean(axis=0) - x_hat * (dy * x_hat).mean(axis=0))
    return dx, dgamma, dbeta
"""
NUMERICAL = """
def numerical_gradient(f, x, h=1e-5):
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + h
        above = f(x)
        x[i] = kept - h
        below = f(x)
        x[i] = kept
        gradient[i] = (above - below) / (2 * h)
    return gradient
"""


# Autograd imports more at its first call: not within a check's seconds.
torch.ones(2, requires_grad=True).backward(torch.ones(2))


def written(source):
    """The function in a learner's source."""
    place = {"np": np, "torch": torch, "SimpleNamespace": SimpleNamespace}
    exec(source, place)
    return place[source.split("def ")[1].split("(")[0]]


def verdict_on(source):
    function = written(source)
    return checks.EXERCISES[function.__name__].judge(function)


def edited(source, right, wrong):
    assert right in source
    return source.replace(right, wrong, 1)


def model(*wrong):
    """The backward pass with these mistakes."""
    return checks.backward.model(frozenset(wrong))


def sentence(verdict):
    """What the verdict names, or nothing."""
    return next((w[9:] for w in verdict.words.splitlines() if w.startswith("Mistake: ")), "")


# What a learner wrote in place of a piece of LINES, the line blamed, and how its sentence begins.
WRONG_LINES = [
    ("g.y.sum(0)", "g.y.mean(0)", "beta", "the gradient of β is averaged"),
    ("g.scaled = g.y", "g.scaled = g.y * v.gamma", "scaled", "γ is multiplied in at `scaled`"),
    ("* v.x_hat).sum(0)", "* v.x_hat).mean(0)", "gamma", "the gradient of γ is averaged"),
    ("(g.scaled * v.x_hat).sum(0)", "g.scaled.sum(0)", "gamma", "the gradient of γ lacks"),
    (
        "g.scaled * v.x_hat",
        "g.scaled * v.x",
        "gamma",
        "the other factor of γ's product is x̂, not x:",
    ),
    ("g.scaled * v.x_hat", "g.scaled * v.centred", "gamma", "the other factor of γ's"),
    ("g.scaled * v.gamma", "g.scaled", "x_hat", "the gradient of x̂ lacks"),
    ("g.x_hat * v.centred", "g.x_hat * v.x_hat", "inv_std", "x̂ is `centred` times `inv_std`: the"),
    ("(g.x_hat * v.centred).sum(0)", "g.x_hat * v.centred", "inv_std", "`inv_std` is one number"),
    ("-g.inv_std *", "g.inv_std *", "std", "the derivative of 1/s is −1/s², here without"),
    ("v.inv_std**2", "v.inv_std", "std", "the derivative of 1/s is −1/s², here −1/s"),
    ("* 0.5 / v.std", "/ v.std", "var_eps", "the derivative of a root is 1 / (2 · root)"),
    ("* 0.5 / v.std", "* 0.5 * v.std", "var_eps", "the derivative of a root divides"),
    ("v.inv_std**2", "v.var**-1", "std", "`inv_std` is 1/√(σ² + ε)"),
    ("* 0.5 / v.std", "* 0.5 / v.var**0.5", "var_eps", "`std` is the root of `var_eps`"),
    ("g.var / len(dy)", "g.var", "squared", "the variance is a sum over m"),
    ("g.x_hat * v.inv_std", "g.x_hat", "centred", "x̂ is `centred` times `inv_std`: the factor"),
    ("* 2 * v.centred", "* v.centred", "centred", "the derivative of c² is 2c"),
    ("* 2 * v.centred", "* 2 * v.x", "centred", "the derivative of `centred`² is 2 `centred`"),
    (" + g.squared * 2 * v.centred", "", "centred", "`centred` is used twice"),
    ("g.x_hat * v.inv_std + ", "", "centred", "`centred` is used twice"),
    ("-g.centred.sum(0)", "-g.centred.mean(0)", "mean", "the gradient of the mean is averaged"),
    ("-g.centred.sum(0)", "g.centred.sum(0)", "mean", "the mean is subtracted"),
    ("g.centred + g.mean / len(dy)", "g.centred", "x", "dx is what comes out when the mean"),
    ("g.centred + g.mean / len(dy)", "g.centred + g.mean", "x", "the mean is a sum over m"),
    ("g.centred + g.mean", "g.centred - g.mean", "x", "what comes back to x on its two paths"),
    ("g.var = g.var_eps", "g.var = 3 * g.var_eps", "var", ""),
    ("g.x_hat = g.scaled * v.gamma", "g.x_hat = ...", "x_hat", ""),
    ("g.mean = -g", "mean = -g", "mean", ""),
]


@pytest.mark.parametrize(("right", "wrong", "line", "begins"), WRONG_LINES)
def test_the_first_wrong_line_is_named(right, wrong, line, begins):
    source = edited(LINES, right, wrong)
    if "mean = -g" in wrong and "g.mean" not in wrong:
        source = source.replace("g.mean / len(dy)", "mean / len(dy)")
    if wrong.endswith("..."):
        source = source.replace("(g.x_hat * v.centred)", "(g.scaled * v.gamma * v.centred)")
        source = source.replace("g.x_hat * v.inv_std", "g.scaled * v.gamma * v.inv_std")
    verdict = verdict_on(source)
    assert verdict.outcome == "wrong"
    (marked,) = [row for row in verdict.words.splitlines() if "← the first wrong line" in row]
    assert marked.split()[0] == line
    assert sentence(verdict).startswith(begins)
    assert bool(sentence(verdict)) == bool(begins)


def test_each_line_gets_its_verdict():
    words = verdict_on(edited(LINES, " + g.squared * 2 * v.centred", "")).words.splitlines()
    assert words[0].startswith("Wrong: centred[0, 0] is ")
    assert words[0].endswith("(call 1 of 2).")
    assert words[1:10] == [f"  {name:<8} exact" for name in NAMES[:9]]
    assert words[10] == "  centred  off by 29%  ← the first wrong line"
    assert words[11] == "  mean     approximate"
    assert words[12] == "  x        off by 41%"
    assert words[13].startswith("Mistake: `centred` is used twice and gets back one part only")
    assert words[13].endswith(": chapter 03, Two ways to the input.")


def test_all_lines_right():
    assert verdict_on(LINES).words == "Right. Of 12 lines: 12 exact."
    approximate = edited(LINES, "g.std * 0.5 / v.std", "g.std / 2 * (v.inv_std * (1 + 1e-12))")
    words = verdict_on(approximate).words
    assert words.startswith("Right. Of 12 lines: 6 exact, 6 approximate. Approximate is right too")


@pytest.mark.parametrize(
    ("right", "other"),
    [
        ("return vars(g)", "return {f'd{name}': value for name, value in vars(g).items()}"),
        ("return vars(g)", "return {k: a.astype(np.float32) for k, a in vars(g).items()}"),
        ("return vars(g)", "return {k: torch.from_numpy(a) for k, a in vars(g).items()}"),
        (
            "return vars(g)",
            "return {k: a.tolist() for k, a in vars(g).items() if k != 'squared'}"
            " | {'squared': np.ones(dy.shape) * g.squared}",
        ),
        ("g.y.sum(0)", "g.y.sum(0, keepdims=True)"),
        ("g.y.sum(0)", "np.einsum('nc->c', dy)"),
        ("g.y.sum(0)", "sum(dy[::-1])"),
        ("g.var / len(dy)", "np.broadcast_to(g.var / len(dy), dy.shape)"),
        ("g.var / len(dy)", "(g.var / len(dy))[None]"),
        ("-g.inv_std * v.inv_std**2", "-g.inv_std / v.var_eps"),
        ("g.std * 0.5 / v.std", "g.std / (2 * v.std)"),
        ("g.std * 0.5 / v.std", "g.std * 0.5 * v.var_eps ** -0.5"),
        ("g.squared * 2 * v.centred", "2 * g.squared * (v.x - v.mean)"),
        ("-g.centred.sum(0)", "-(g.x_hat * v.inv_std).sum(0)"),  # the rest is 0
        ("g.centred + g.mean / len(dy)", "g.centred - g.centred.mean(0)"),
    ],
)
def test_right_lines_in_another_form(right, other):
    verdict = verdict_on(edited(LINES, right, other))
    assert (verdict.outcome, verdict.mistakes) == ("right", ()), verdict.words


@pytest.mark.parametrize("returned", ["g", "g.x", "(g.x, g.gamma)", "'done'", "[]", "None"])
def test_something_else_than_a_dictionary(returned):
    verdict = verdict_on(edited(LINES, "return vars(g)", f"return {returned}"))
    assert verdict.outcome == "wrong"
    assert verdict.mistakes == ()


# What a learner wrote in place of a piece of BACKWARD, and how the sentence begins.
WRONG_BACKWARD = [
    ("dy - dy.mean(axis=0)", "dy", "dx is what comes out when the mean is treated"),
    (" - x_hat * (dy * x_hat).mean(axis=0)", "", "dx is what comes out when the variance"),
    (
        "(dy - dy.mean(axis=0) - x_hat * (dy * x_hat).mean(axis=0))",
        "dy",
        "dx is what comes out when mean and variance",
    ),
    ("gamma * inv_std", "inv_std", "γ is left out of dx"),
    ("gamma * inv_std", "gamma**2 * inv_std", "dx has the factor γ twice"),
    ("gamma * inv_std", "gamma", "`inv_std` is left out"),
    ("gamma * inv_std", "gamma * inv_std**2", "dx is divided by the variance"),
    ("gamma * inv_std", "gamma / inv_std", "dx is divided by `inv_std`"),
    ("dy.mean(axis=0)", "dy.sum(axis=0)", "the sum of dy is subtracted"),
    ("(dy * x_hat).mean(axis=0)", "(dy * x_hat).sum(axis=0)", "x̂ is multiplied by the sum"),
    ("(dy * x_hat).mean(axis=0)", "(dy * x_hat)", "each example pays for its own"),
    ("x_hat * (dy * x_hat).mean", "(dy * x_hat).mean", "the mean of dy · x̂ is subtracted as"),
    ("dy - dy.mean", "dy + dy.mean", "the mean of dy is added"),
    ("- x_hat *", "+ x_hat *", "the variance's term is added"),
    ("gamma * inv_std *", "len(dy) * gamma * inv_std *", "dx is m times too large"),
    ("gamma * inv_std *", "gamma * inv_std / len(dy) *", "dx is m times too small"),
    ("(dy * x_hat).sum(axis=0)", "dy.sum(axis=0)", "the gradient of γ lacks the factor x̂"),
    (
        "(dy * x_hat).sum(axis=0)",
        "(dy * x_hat / inv_std).sum(axis=0)",
        "the gradient of γ has x − μ",
    ),
    ("(dy * x_hat).sum(axis=0)", "(dy * x_hat).mean(axis=0)", "the gradient of γ is averaged"),
    ("dbeta = dy.sum(axis=0)", "dbeta = dy.mean(axis=0)", "the gradient of β is averaged"),
    ("(dy * x_hat).sum(axis=0)", "(gamma * dy * x_hat).sum(axis=0)", "the gradient of γ is mult"),
    ("dbeta = dy.sum(axis=0)", "dbeta = (gamma * dy).sum(axis=0)", "the gradient of β is mult"),
    ("return dx, dgamma, dbeta", "return dx, dbeta, dgamma", "the gradients of γ and β have"),
    ("dy.mean(axis=0)", "dy.mean(axis=1, keepdims=True)", ""),
    ("return dx, dgamma, dbeta", "return dx", ""),
    ("dy.sum(axis=0)", "dy.sum()", ""),
]


@pytest.mark.parametrize(("right", "wrong", "begins"), WRONG_BACKWARD)
def test_wrong_backward_gets_its_sentence(right, wrong, begins):
    verdict = verdict_on(edited(BACKWARD, right, wrong))
    assert verdict.outcome == "wrong"
    assert sentence(verdict).startswith(begins)
    assert bool(sentence(verdict)) == bool(begins)


def test_means_that_are_neither():
    divided = BACKWARD.replace("dy.mean(axis=0)", "dy.sum(axis=0) / (len(dy) - 1)").replace(
        "(dy * x_hat).mean(axis=0)", "(dy * x_hat).sum(axis=0) / (len(dy) - 1)"
    )
    assert verdict_on(divided).mistakes == ("m - 1",)
    together = BACKWARD.replace("dy.mean(axis=0)", "dy.mean()").replace(
        "(dy * x_hat).mean(axis=0)", "(dy * x_hat).mean()"
    )
    assert verdict_on(together).mistakes == ("whole batch",)


@pytest.mark.parametrize(
    ("edits", "mistakes"),
    [
        ([("gamma * inv_std", "inv_std"), ("- x_hat *", "+ x_hat *")],
         ("no gamma", "sign of the variance")),
        ([("dbeta = dy.sum(axis=0)", "dbeta = dy.mean(axis=0)"),
          ("(dy * x_hat).sum(axis=0)", "(dy * x_hat).mean(axis=0)")],
         ("dgamma averaged", "dbeta averaged")),
        ([("dy - dy.mean(axis=0)", "dy"), ("gamma * inv_std", "gamma")],
         ("mean detached", "no inv_std")),
    ],
)  # fmt: skip
def test_two_mistakes_at_once(edits, mistakes):
    source = BACKWARD
    for right, wrong in edits:
        source = edited(source, right, wrong)
    assert verdict_on(source).mistakes == mistakes


@pytest.mark.parametrize("returned", ["dx", "torch.from_numpy(dx)", "np.asfortranarray(dx)"])
def test_dx_alone(returned):
    verdict = verdict_on(edited(BACKWARD, "return dx, dgamma, dbeta", f"return {returned}"))
    assert verdict.words.startswith("Wrong: dgamma is missing")


def test_backward_leaves_its_arguments_alone():
    source = edited(BACKWARD, "dx = gamma", "dy *= gamma; dx = ")
    source = source.replace("dx =  * inv_std", "dx = inv_std")
    verdict = verdict_on(source)
    assert "changes its argument number 1 in place" in verdict.words


def test_backward_without_a_batch_norm_idea():
    """Real numbers of the right shapes that are no known mistake get no name."""
    verdict = verdict_on(edited(BACKWARD, "gamma * inv_std", "gamma**3 * inv_std"))
    assert verdict.mistakes == ()
    assert verdict.words.startswith("Wrong: dx[0, 0] is ")


BRACKETS = [
    "gamma * inv_std * (dy - dy.mean(axis=0) - x_hat * (dy * x_hat).mean(axis=0))",
    "gamma * inv_std / m * (m * dy - dbeta - x_hat * dgamma)",
    "gamma * inv_std * (dy - dbeta / m - x_hat * dgamma / m)",
    "gamma * (inv_std * dy) - gamma * inv_std * (dy.mean(0) + x_hat * dgamma / m)",
    "(lambda g: g - g.mean(0) - x_hat * (g * x_hat).mean(0))(gamma * inv_std * dy)",
    "(lambda c: gamma * inv_std * (c - x_hat * (c * x_hat).mean(0)))(dy - dy.mean(0))",
    "np.stack([gamma[c] * inv_std[c] * (np.eye(m) - 1 / m - np.outer(x_hat[:, c], x_hat[:, c]) / m)"
    " @ dy[:, c] for c in range(len(gamma))], axis=1)",
    "np.array([[gamma[c] * inv_std[c] * (dy[i, c] - sum(dy[:, c]) / m - x_hat[i, c]"
    " * sum(dy[:, c] * x_hat[:, c]) / m) for c in range(len(gamma))] for i in range(m)])",
    "(lambda dh, c, s: dh * s + (dh * c).sum(0) * -0.5 * s**3 * 2 * c / m - (dh * s).sum(0) / m)"
    "(dy * gamma, x_hat / inv_std, inv_std)",
    "gamma * inv_std * (dy - np.average(dy, axis=0) - x_hat * np.diag(x_hat.T @ dy) / m)",
]  # fmt: skip
DGAMMAS = [
    "(dy * x_hat).sum(axis=0)",
    "np.einsum('nc,nc->c', dy, x_hat)",
    "np.diag(dy.T @ x_hat)",
    "m * np.mean(x_hat * dy, axis=0)",
    "np.array([dy[:, c] @ x_hat[:, c] for c in range(dy.shape[1])])",
    "(dy[::-1] * x_hat[::-1]).sum(0, keepdims=True)",
]
DBETAS = ["dy.sum(0)", "np.ones(m) @ dy", "sum(dy)", "np.add.reduce(dy)", "m * dy.mean(0)"]
RETURNS = [
    "dx, dgamma, dbeta",
    "[dx.tolist(), dgamma, list(dbeta)]",
    "dx.astype(np.float32), dgamma, dbeta",
    "np.asfortranarray(dx), dgamma[..., None].squeeze(-1), dbeta",
    "torch.from_numpy(dx), torch.tensor(dgamma), torch.tensor(dbeta)",
    "dx.T.copy().T, dgamma, dbeta",
    "np.float32(dx), np.float32(dgamma), np.float32(dbeta)",
]


@pytest.mark.parametrize("dx", BRACKETS)
def test_right_backward_in_another_form(dx):
    """In all combinations of the lines, 2,100 in all."""
    for dgamma, dbeta, returned in itertools.product(DGAMMAS, DBETAS, RETURNS):
        lines = ("m = len(dy)", f"dgamma = {dgamma}", f"dbeta = {dbeta}", f"dx = {dx}")
        source = "\n    ".join(["def backward(dy, x_hat, gamma, inv_std):", *lines])
        verdict = verdict_on(f"{source}\n    return {returned}\n")
        assert (verdict.outcome, verdict.mistakes) == ("right", ()), source + verdict.words


def test_backward_by_autograd():
    """x is x̂ / inv_std up to its mean: running PyTorch's own layer is a right answer too."""

    def backward(dy, x_hat, gamma, inv_std):
        x = torch.tensor(x_hat / inv_std, requires_grad=True)
        scale = torch.tensor(gamma, requires_grad=True)
        shift = torch.zeros(len(gamma), dtype=torch.float64, requires_grad=True)
        centred = x - x.mean(0)
        var = (centred**2).mean(0)
        eps = torch.tensor(inv_std**-2) - var.detach()
        y = scale * centred / (var + eps).sqrt() + shift
        return torch.autograd.grad(y, (x, scale, shift), torch.tensor(dy))

    assert checks.backward.judge(backward).outcome == "right"


def test_the_package_is_right():
    def backward(dy, x_hat, gamma, inv_std):
        cache = reference.Cache(x_hat, 0 * gamma, 0 * gamma, inv_std, gamma, (0,))
        return reference.batchnorm_backward(dy, cache)

    assert checks.backward.judge(backward).outcome == "right"
    assert checks.numerical_gradient.judge(gradcheck.central_difference).outcome == "right"
    assert checks.numerical_gradient.judge(gradcheck.complex_step).outcome == "right"


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(2, 8),
    channels=st.integers(1, 4),
    eps=st.floats(1e-6, 1),
    seed=st.integers(0, 2**16),
)
def test_the_models_are_what_the_specification_says(m, channels, eps, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, channels))
    gamma = rng.normal(size=channels)
    dy = rng.normal(size=(m, channels))
    _, cache = reference.batchnorm_forward(x, gamma, gamma, eps)
    ours = model()(dy, cache.x_hat, gamma, cache.inv_std)
    for mine, theirs in zip(ours, reference.batchnorm_backward(dy, cache), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-10 * np.abs(theirs).max())


def in_torch(v):
    """The forward pass of the trial ``v``, line by line, with all gradients kept."""
    t = SimpleNamespace()
    for name in ("x", "gamma", "beta"):
        setattr(t, name, torch.tensor(getattr(v, name), requires_grad=True))
    t.mean = t.x.mean(0)
    t.centred = t.x - t.mean
    t.squared = t.centred**2
    t.var = t.squared.mean(0)
    t.var_eps = t.var + torch.tensor(v.var_eps - v.var)
    t.std = t.var_eps.sqrt()
    t.inv_std = 1 / t.std
    t.x_hat = t.centred * t.inv_std
    t.scaled = t.x_hat * t.gamma
    t.y = t.scaled + t.beta
    for value in vars(t).values():
        value.retain_grad()
    np.testing.assert_allclose(t.y.detach(), v.y)
    return t


def test_the_lines_model_is_autograd():
    for dy, v in checks.backward_lines.trials():
        values = in_torch(v)
        values.y.backward(torch.tensor(dy))
        for name, ours in checks.backward_lines.model(frozenset())(dy, v).items():
            truth = getattr(values, name).grad.numpy()
            np.testing.assert_allclose(ours, truth, atol=1e-13 * np.abs(truth).max() + 1e-13)


# What a learner wrote in place of a piece of NUMERICAL, and the mistake's switch.
WRONG_NUMERICAL = [
    ("x[i] = kept - h", "x[i] = kept", "one-sided by 2h"),
    ("(above - below) / (2 * h)", "(above - f(x)) / h", "one-sided"),
    ("(above - below) / (2 * h)", "(f(x) - below) / h", "one-sided, behind"),
    ("/ (2 * h)", "/ h", "no factor 2"),
    ("/ (2 * h)", "/ 2 * h", "precedence"),
    ("(above - below) / (2 * h)", "above - below", "not divided"),
    ("above - below", "below - above", "sign"),
    ("        x[i] = kept\n", "", "not put back"),
    ("    gradient = np", "    h = 1e-5\n    gradient = np", "h ignored"),
    ("    gradient = np", "    h = 1e-6\n    gradient = np", "h ignored"),
    ("    gradient = np", "    h = 1e-4\n    gradient = np", "h ignored"),
    ("h=1e-5", "h=1e-12", "tiny step"),
    ("h=1e-5", "h=1e-14", "tiny step"),
    ("h=1e-5", "h=1e-13", "tiny step"),
    ("h=1e-5", "h=0.01", "large step"),
    ("h=1e-5", "h=1.0", "large step"),
    ("    gradient = np", "    x = x.astype(np.float32)\n    gradient = np", "float32"),
]


@pytest.mark.parametrize(("right", "wrong", "switch"), WRONG_NUMERICAL)
def test_wrong_numerical_gradient(right, wrong, switch):
    verdict = verdict_on(edited(NUMERICAL, right, wrong))
    assert verdict.mistakes == (switch,), verdict.words


POINTS = """
def numerical_gradient(f, x, h=1e-5):
    gradient = np.zeros(x.shape)
    step = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        up = x.copy()
        down = x.copy()
        up[i] += h
        down[i] -= h
        gradient[i] = (f(up) - f(down)) / (2 * h)
    return gradient
"""


@pytest.mark.parametrize(
    ("edits", "switch"),
    [
        ([(".copy()", ""), (".copy()", "")], "one point"),
        ([("= x.copy()", "= x.view()"), ("= x.copy()", "= x.view()")], "one point"),
        ([("down = x.copy()", "down = up")], "one point"),
        ([("        up = x.copy()\n        down = x.copy()\n", ""),
          ("    for i", "    up = x.copy()\n    down = x.copy()\n    for i")], "not reset"),
        ([("up[i] += h", "step[i] = h"), ("        down[i] -= h\n", ""),
          ("f(up) - f(down)", "f(x + step) - f(x - step)")], "not reset"),
    ],
)  # fmt: skip
def test_points_that_are_not_two(edits, switch):
    assert verdict_on(POINTS).outcome == "right"
    source = POINTS
    for right, wrong in edits:
        source = edited(source, right, wrong)
    assert verdict_on(source).mistakes == (switch,), source


def test_zeros_that_have_another_reason():
    source = "def numerical_gradient(f, x, h=1e-5):\n    return np.zeros(x.shape)\n"
    assert verdict_on(source).mistakes == ()
    source = edited(NUMERICAL, "return gradient", "return 0 * gradient")
    assert verdict_on(source).mistakes == ()


def test_all_entries_at_once():
    source = NUMERICAL.replace("kept = x[i]", "kept = x.copy()").replace("x[i] = ", "x[...] = ")
    assert verdict_on(source).mistakes == ("all at once",)


def test_one_sided_and_the_wrong_way_round():
    source = edited(NUMERICAL, "(above - below) / (2 * h)", "(f(x) - above) / h")
    assert set(verdict_on(source).mistakes) == {"one-sided", "sign"}


@pytest.mark.parametrize(
    "body",
    [
        NUMERICAL,
        NUMERICAL.replace("h=1e-5", "h=1e-6"),
        NUMERICAL.replace("h=1e-5", "h=2e-5"),
        NUMERICAL.replace("        x[i] = kept\n", "        x[i] += h\n"),  # but for rounding
        NUMERICAL.replace("x[i] = kept + h", "x[i] += h")
        .replace("x[i] = kept - h", "x[i] -= 2 * h")
        .replace("x[i] = kept\n", "x[i] += h\n"),
        """
def numerical_gradient(f, x, h=1e-5):
    steps = h * np.eye(x.size).reshape(-1, *x.shape)
    return np.array([(f(x + s) - f(x - s)) / 2 / h for s in steps]).reshape(x.shape)
""",
        """
def numerical_gradient(f, x, h=1e-5):
    found = []
    flat = x.reshape(-1)
    for k in range(flat.size):
        up, down = flat.copy(), flat.copy()
        up[k] += h
        down[k] -= h
        found.append(0.5 * (f(up.reshape(x.shape)) - f(down.reshape(x.shape))) / h)
    return np.reshape(found, x.shape).tolist()
""",
        """
def numerical_gradient(f, x, h=1e-4):
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        s = np.zeros(x.shape)
        s[i] = h
        gradient[i] = (8 * (f(x + s) - f(x - s)) - f(x + 2 * s) + f(x - 2 * s)) / (12 * h)
    return gradient
""",
        """
def numerical_gradient(f, x, h=1e-5):
    gradient = np.empty_like(x)
    it = np.nditer(x, flags=["multi_index"])
    for value in it:
        i = it.multi_index
        z = np.array(x)
        z[i] = value + h
        gradient[i] = f(z)
        z[i] = value - h
        gradient[i] -= f(z)
    return gradient / (2 * h)
""",
        """
def numerical_gradient(f, x, h=1e-20):
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        z = x.astype(complex)
        z[i] += 1j * h
        gradient[i] = f(z).imag / h
    return gradient
""",
    ],
)
def test_right_numerical_gradient_in_another_form(body):
    verdict = verdict_on(body)
    assert (verdict.outcome, verdict.mistakes) == ("right", ()), verdict.words


@pytest.mark.parametrize("returned", ["1.0", "'a'", "gradient.sum()", "f", "None"])
def test_something_else_than_a_gradient(returned):
    verdict = verdict_on(edited(NUMERICAL, "return gradient", f"return {returned}"))
    assert verdict.outcome == "wrong"


@pytest.mark.parametrize("name", ["backward_lines", "backward", "numerical_gradient"])
def test_a_stub_is_not_attempted(name):
    source = {"backward_lines": LINES, "backward": BACKWARD, "numerical_gradient": NUMERICAL}[name]
    head = source.strip().splitlines()[0]
    for body in ("...", '"""What it does."""\n    ...', "pass", "raise NotImplementedError"):
        verdict = verdict_on(f"\n{head}\n    {body}\n")
        assert verdict.outcome == "not attempted", body


def test_which_test_notices_which_bug():
    """The quiz's answers, from the numbers; and a half-done answer."""
    dy, v = checks.backward_lines.trials()[1]
    rules = {"mean detached": "mean detached", "wrong sign": "sign of the variance"}
    rules["gamma left out"] = "no gamma"
    for bug, switch in rules.items():
        dx, _, _ = model(switch)(dy, v.x_hat, v.gamma, v.inv_std)
        size = np.abs(dx).sum(0)
        total = np.abs(dx.sum(0) / size).max() > 1e-9
        along = np.abs((dx * v.x_hat).sum(0) / size).max() > 0.1  # ε is large here
        answer = "sum" if total else "x_hat" if along else "neither"
        assert checks.detectors.answers[bug] == answer
    half = checks.detectors.judge({"mean detached": "sum", "wrong sign": ...})
    assert half.outcome == "not attempted"
    assert half.words.startswith("So far right.")


def test_by_hand_is_what_the_formula_gives():
    x = np.array([1.0, 1, 1, 1, 6])[:, None]
    dy = np.array([2.0, 1, 0, -1, 3])[:, None]
    x_hat = (x - x.mean()) / x.std()
    gamma, inv_std = np.array([8.0]), 1 / x.std(0)
    dx, _, _ = model()(dy, x_hat, gamma, inv_std)
    assert list(checks.dx_by_hand.answers.values()) == pytest.approx(dx[:, 0].tolist())
    for switch, wrong in {
        "mean": "mean detached",
        "bracket": ("no gamma", "no inv_std"),
        "variance": "variance detached",
        "both": "both detached",
        "gamma": "no gamma",
        "no root": "inv_std squared",
        "no division": "no inv_std",
        "sign": "sign of the variance",
    }.items():
        switches = (wrong,) if isinstance(wrong, str) else wrong
        dx, _, _ = model(*switches)(dy, x_hat, gamma, inv_std)
        answer = dict(zip(checks.dx_by_hand.answers, dx[:, 0].round(9).tolist(), strict=True))
        assert checks.dx_by_hand.judge(answer).mistakes == (switch,)
