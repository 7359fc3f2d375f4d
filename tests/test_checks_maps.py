"""The exercises of chapter 05: wrong code and its sentence, right code in many forms."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bn_helpers import checks, convert
from bn_helpers.layers import BatchNorm

FORWARD = """
def forward_maps(x, gamma, beta, eps):
    mean = x.mean(axis=(0, 2, 3), keepdims=True)
    var = ((x - mean) ** 2).mean(axis=(0, 2, 3), keepdims=True)
    x_hat = (x - mean) / np.sqrt(var + eps)
    y = gamma[:, None, None] * x_hat + beta[:, None, None]
    return y
"""
#: The same on a table.
TABLE = """
def forward_maps(x, gamma, beta, eps):
    N, C, H, W = x.shape
    table = x.transpose(0, 2, 3, 1).reshape(-1, C)
    table = (table - table.mean(axis=0)) / np.sqrt(table.var(axis=0) + eps)
    y = gamma * table + beta
    return y.reshape(N, H, W, C).transpose(0, 3, 1, 2)
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
        places = x.movedim(1, -1)
        x = places.flatten(0, 2)
        if self.training:
            mean = x.mean(dim=0)
            var = x.var(dim=0, correction=0)
            self.track(mean.detach(), var.detach(), len(x))
        else:
            mean = self.running_mean
            var = self.running_var
        x_hat = (x - mean) / torch.sqrt(var + self.eps)
        y = self.weight * x_hat + self.bias
        return y.view(places.shape).movedim(-1, 1)

    def track(self, mean, var, m):
        self.num_batches_tracked += 1
        share = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.item()
        self.running_mean = (1 - share) * self.running_mean + share * mean
        self.running_var = (1 - share) * self.running_var + share * m / (m - 1) * var
"""
FOLD = """
def fold_maps(weight, bias, gamma, beta, mean, var, eps):
    scale = gamma / np.sqrt(var + eps)
    new_weight = scale[:, None, None, None] * weight
    new_bias = scale * (bias - mean) + beta
    return new_weight, new_bias
"""
SWAP = """
def swap(model, old, new):
    for name, child in model.named_children():
        if isinstance(child, old):
            layer = new(len(child.weight), eps=child.eps, momentum=child.momentum)
            layer.to(child.weight)
            layer.load_state_dict(child.state_dict())
            layer.train(child.training)
            setattr(model, name, layer)
        else:
            swap(child, old, new)
    return model
"""
MEAN = "x.mean(axis=(0, 2, 3), keepdims=True)"
SQUARES = "((x - mean) ** 2).mean(axis=(0, 2, 3), keepdims=True)"
# What a learner wrote in place of a piece, and how the sentence that names the mistake begins.
WRONG = [
    (FORWARD, "(0, 2, 3)", "0", "each place has a mean and a variance of its own"),
    (FORWARD, "(0, 2, 3)", "(2, 3)", "each image has its own statistics"),
    (FORWARD, "(0, 2, 3)", "1", "the statistics are taken over the maps of a place"),
    (FORWARD, "(0, 2, 3)", "(1, 2, 3)", "the statistics are taken over all maps of an image"),
    (FORWARD, "(0, 2, 3)", "None", "one mean and one variance serve all maps"),
    (FORWARD, "(0, 2, 3)", "(0, 3)", "the rows of a map"),
    (FORWARD, "(0, 2, 3)", "(0, 2)", "the columns of a map"),
    (FORWARD, "(0, 2, 3)", "(0, 1, 2)", "the last axis is taken for the maps"),
    (FORWARD, "[:, None, None]", "", "γ and β run along the width"),
    (FORWARD, "gamma[:, None, None]", "gamma", "γ runs along the width"),
    (FORWARD, "beta[:, None, None]", "beta", "β runs along the width"),
    (FORWARD, "[:, None, None]", "[:, None]", "γ and β run along the height"),
    (
        FORWARD,
        SQUARES,
        "x.var(axis=(2, 3), keepdims=True).mean(axis=0, keepdims=True)",
        "the variance is the mean of the images' own variances",
    ),
    (
        FORWARD,
        SQUARES,
        "((x - mean) ** 2).sum(axis=(0, 2, 3), keepdims=True) / len(x)",
        "the squares are divided by the number of images m",
    ),
    (
        FORWARD.replace(MEAN, "x.sum(axis=(0, 2, 3), keepdims=True) / len(x)"),
        SQUARES,
        "((x - mean) ** 2).sum(axis=(0, 2, 3), keepdims=True) / len(x)",
        "both sums are divided by the number of images m",
    ),
    (
        FORWARD,
        SQUARES,
        "x.var(axis=(0, 2, 3), keepdims=True, ddof=1)",
        "the variance divides by m′ − 1",
    ),
    (FORWARD, "(x - mean) /", "x /", "the mean is not subtracted"),
    (FORWARD, "var + eps", "var", "ε is not used"),
    (FORWARD, "np.sqrt(var + eps)", "(np.sqrt(var) + eps)", "ε is added to the root"),
    (FORWARD, "np.sqrt(var + eps)", "(var + eps)", "the division is by the variance"),
    (FORWARD, "gamma[:, None, None] * x_hat", "x_hat", "γ is not used"),
    (FORWARD, " + beta[:, None, None]", "", "β is not used"),
    (
        FORWARD,
        "gamma[:, None, None] * x_hat + beta[:, None, None]",
        "beta[:, None, None] * x_hat + gamma[:, None, None]",
        "γ and β have changed places",
    ),
    (
        TABLE.replace(".reshape(N, H, W, C).transpose(0, 3, 1, 2)", ".reshape(x.shape)"),
        ".transpose(0, 2, 3, 1)",
        "",
        "`reshape(-1, C)` without a transpose",
    ),
    (TABLE, ".reshape(N, H, W, C).transpose(0, 3, 1, 2)", ".reshape(x.shape)", "the way back"),
    (
        LAYER.replace("places.flatten(0, 2)", "x"),
        "y.view(places.shape).movedim(-1, 1)",
        "y",
        "this is still chapter 4's layer",
    ),
    (
        LAYER.replace("places.flatten(0, 2)", "x.reshape(-1, x.shape[1])"),
        "y.view(places.shape).movedim(-1, 1)",
        "y.view(len(places), -1, *places.shape[1:3])",
        "`reshape(-1, C)` on (N, C, H, W)",
    ),
    (
        LAYER.replace("x.movedim(1, -1)", "x"),
        ".movedim(-1, 1)",
        "",
        "the width is taken for the maps",
    ),
    (
        LAYER,
        "y.view(places.shape).movedim(-1, 1)",
        "y.reshape(places.movedim(-1, 1).shape)",
        "the way back is a `reshape` alone",
    ),
    (LAYER, ".movedim(-1, 1)", "", "the maps stay on the last axis"),
    (LAYER, "y.view(places.shape).movedim(-1, 1)", "y", "the table itself is returned"),
    (LAYER, "x.movedim(1, -1)", "x.transpose(1, -1)", "`transpose(1, -1)` exchanges"),
    (LAYER, "len(x)", "len(places)", "the factor m/(m − 1) of the stored variance"),
    (LAYER, "share * m / (m - 1)", "share", "running_var averages the variances"),
    (LAYER, "if self.training:", "if True:", None),
    (FOLD, "bias - mean", "-mean", "the convolution's own bias is forgotten"),
    (FOLD, "scale * (bias - mean)", "bias - scale * mean", "the convolution's bias is not scaled"),
    (FOLD, "bias - mean", "bias + mean", "the mean is added to the bias"),
    (FOLD, "bias - mean", "bias", "the mean is not used"),
    (FOLD, "[:, None, None, None]", "[:, None, None]", "the scale runs along the input maps"),
    (FOLD, "[:, None, None, None]", "[:, None]", "the scale runs along the filters' height"),
    (FOLD, "[:, None, None, None]", "", "the scale runs along the filters' width"),
    (FOLD, "var + eps", "var", "ε is not used"),
    (FOLD, "np.sqrt(var + eps)", "(np.sqrt(var) + eps)", "ε is added to the root"),
    (FOLD, "np.sqrt(var + eps)", "(var + eps)", "the division is by the variance"),
    (FOLD, "/ np.sqrt", "* np.sqrt", "γ is multiplied by the root"),
    (FOLD, "gamma / np.sqrt", "1 / np.sqrt", "γ is not used"),
    (FOLD, " + beta", "", "β is not used"),
    (FOLD, "scale * (bias - mean) + beta", "scale * (bias - mean + beta)", "β is scaled"),
    (FOLD, "scale[:, None, None, None] * weight", "weight", "the filters are not scaled"),
    (FOLD, "scale * (bias - mean) + beta", "bias", "the bias is the convolution's own"),
    (SWAP, "            swap(child, old, new)", "            pass", "a layer inside a block"),
    (SWAP, "name, layer)", "name, layer)\n            break", "the search ends"),
    (SWAP, "layer.load_state_dict(child.state_dict())", "pass", "the new layers start afresh"),
    (
        SWAP,
        "layer.load_state_dict(child.state_dict())",
        "layer.load_state_dict(dict(child.named_parameters()), strict=False)",
        "the running statistics start afresh",
    ),
    (
        SWAP,
        "layer.load_state_dict(child.state_dict())",
        "layer.load_state_dict(dict(child.named_buffers()), strict=False)",
        "γ and β",
    ),
    (SWAP, "eps=child.eps, ", "", "ε is the default"),
    (SWAP, ", momentum=child.momentum", "", "`momentum` is the default"),
    (SWAP, "layer.train(child.training)", "pass", "a frozen layer is in training mode"),
    (SWAP, "layer.to(child.weight)", "pass", "the new layer is float32"),
]


def written(source):
    """The last function or class in a learner's source, and its check."""
    place = {"np": np, "torch": torch, "nn": nn, "F": F}
    exec(source, place)
    names = {"MyBatchNorm": checks.layer2d}
    name = next(n for n in ("forward_maps", "MyBatchNorm", "fold_maps", "swap") if n in place)
    return names.get(name) or checks.EXERCISES[name], place[name]


def verdict_on(source):
    check, attempt = written(source)
    return check.judge(attempt)


@pytest.mark.parametrize(("source", "right", "wrong", "sentence"), WRONG)
def test_wrong_code_gets_its_sentence(source, right, wrong, sentence):
    assert right in source
    verdict = verdict_on(source.replace(right, wrong))
    assert verdict.outcome == "wrong"
    named = [line for line in verdict.words.splitlines() if line.startswith("Mistake: ")]
    if sentence is None:
        assert len(named) == 2
    else:
        assert [line.startswith(f"Mistake: {sentence}") for line in named] == [True], verdict.words


@pytest.mark.parametrize("source", [FORWARD, TABLE, LAYER, FOLD, SWAP])
def test_the_sources_of_the_wrong_code_are_right(source):
    assert verdict_on(source) == ("right", "Right.", ())


def test_two_at_once():
    source = FORWARD.replace("(0, 2, 3)", "0").replace("[:, None, None]", "")
    assert verdict_on(source).mistakes == ("activation", "along width")


def test_sizes_that_differ_are_asked_for_too():
    """Right only where height and width are equal."""
    source = TABLE.replace(".reshape(N, H, W, C)", ".reshape(N, W, H, C)")
    verdict = verdict_on(source)
    assert verdict.outcome == "wrong"
    assert "(call 3 of 3)" in verdict.words
    source = TABLE.replace("x.shape\n", "x.shape\n    H = C\n")
    assert "it runs where all sizes differ is 0, expected 1" in verdict_on(source).words


def test_a_layer_without_a_forward_pass_is_not_attempted():
    source = (
        LAYER[: LAYER.index("        places")]
        + "        ...\n\n"
        + LAYER[LAYER.index("    def track") :]
    )
    assert verdict_on(source).outcome == "not attempted"


def test_a_missing_return_is_said():
    assert "is a return missing?" in verdict_on(LAYER.replace("return y.view", "y.view")).words
    assert "is a return missing?" in verdict_on(FORWARD.replace("return y", "y")).words


def test_a_swap_has_to_return_the_model():
    """Without it, `mine = swap(…)` is None, which shows far from here."""
    words = verdict_on(SWAP.replace("    return model\n", "")).words
    assert words.startswith("Wrong: what swap returns is None; is a return missing?")
    assert "Mistake" not in words
    assert verdict_on(SWAP.replace("return model", "return [model]")).outcome == "wrong"


def test_folding_has_to_give_two_results():
    assert verdict_on(FOLD.replace("new_weight, new_bias\n", "new_weight\n")).outcome == "wrong"


def test_digits_lost_far_from_zero_are_right_on_paper():
    source = FORWARD.replace(SQUARES, "(x**2).mean(axis=(0, 2, 3), keepdims=True) - mean**2")
    verdict = verdict_on(source)
    assert (verdict.outcome, verdict.mistakes) == ("right", ("floats",))


MEANS = [
    MEAN,
    "np.mean(x, (0, 2, 3))[None, :, None, None]",
    "x.sum((0, 2, 3), keepdims=True) / (x.size / x.shape[1])",
    "x.mean(axis=(2, 3)).mean(axis=0)[:, None, None]",
    "np.einsum('nchw->c', x)[:, None, None] / (x.shape[0] * x.shape[2] * x.shape[3])",
    "np.array([x[:, c].mean() for c in range(x.shape[1])]).reshape(1, -1, 1, 1)",
    "x.swapaxes(0, 1).reshape(x.shape[1], -1).mean(axis=1)[:, None, None]",
]
VARIANCES = [
    SQUARES,
    "x.var(axis=(0, 2, 3), keepdims=True)",
    "np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]).var(axis=0)[:, None, None]",
    "np.array([x[:, c].std() ** 2 for c in range(x.shape[1])])[:, None, None]",
    "x.var(axis=(2, 3)).mean(0)[:, None, None] + x.mean(axis=(2, 3)).var(0)[:, None, None]",
    "np.einsum('nchw,nchw->c', x - mean, x - mean)[:, None, None] / (x.size / x.shape[1])",
]
RESULTS = [
    "gamma[:, None, None] * x_hat + beta[:, None, None]",
    "x_hat * gamma.reshape(1, -1, 1, 1) + beta.reshape(1, -1, 1, 1)",
    "(np.moveaxis(x_hat, 1, -1) * gamma + beta).transpose(0, 3, 1, 2)",
    "np.stack([gamma[c] * x_hat[:, c] + beta[c] for c in range(len(gamma))], axis=1)",
    "np.einsum('c,nchw->nchw', gamma, x_hat) + np.expand_dims(beta, (1, 2))",
    "torch.from_numpy(gamma[:, None, None] * x_hat + beta[:, None, None])",
    "(gamma[:, None, None] * x_hat + beta[:, None, None]).astype(np.float32)",
    "np.asfortranarray(gamma[:, None, None] * x_hat + beta[:, None, None])",
    "(gamma[:, None, None] * x_hat + beta[:, None, None]).tolist()",
]
NORMALISED = [
    "(x - mean) / np.sqrt(var + eps)",
    "(x - mean) * (var + eps) ** -0.5",
    "np.divide(x - mean, np.sqrt(eps + var))",
]


@pytest.mark.parametrize("mean", MEANS)
def test_right_but_different_is_never_wrong(mean):
    """In all 1,134 combinations of the lines."""
    for var, x_hat, y in itertools.product(VARIANCES, NORMALISED, RESULTS):
        lines = (f"mean = {mean}", f"var = {var}", f"x_hat = {x_hat}", f"return {y}")
        source = "\n    ".join(["def forward_maps(x, gamma, beta, eps):", *lines])
        verdict = verdict_on(source)
        assert verdict.outcome == "right", source + verdict.words
        assert verdict.mistakes == () or "float32" in y, source + verdict.words


AXES = LAYER.replace("places = x.movedim(1, -1)", "shape = (1, -1, 1, 1)")
for before, after in {
    "        x = places.flatten(0, 2)\n": "",
    "dim=0": "dim=(0, 2, 3)",
    "len(x)": "x.numel() / x.shape[1]",
    "(x - mean) / torch.sqrt(var + self.eps)": (
        "(x - mean.view(shape)) / torch.sqrt(var.view(shape) + self.eps)"
    ),
    "self.weight * x_hat + self.bias": "self.weight.view(shape) * x_hat + self.bias.view(shape)",
    "y.view(places.shape).movedim(-1, 1)": "y",
}.items():
    assert before in AXES
    AXES = AXES.replace(before, after)

LAYERS = [
    LAYER,
    AXES,
    LAYER.replace("x.movedim(1, -1)", "x.permute(0, 2, 3, 1)").replace(
        ".movedim(-1, 1)", ".permute(0, 3, 1, 2)"
    ),
    LAYER.replace("x.movedim(1, -1)", "x.movedim(1, -1).contiguous()"),
    LAYER.replace(".movedim(-1, 1)", ".movedim(-1, 1).contiguous()"),
    LAYER.replace("x.var(dim=0, correction=0)", "((x - mean) ** 2).mean(dim=0)"),
    LAYER.replace("y.view(places.shape)", "y.unflatten(0, places.shape[:3])"),
]


@pytest.mark.parametrize("source", LAYERS, ids=range(len(LAYERS)))
def test_right_layers_in_many_forms(source):
    assert verdict_on(source).words == "Right."


class Functional(nn.BatchNorm2d):
    def forward(self, x):
        if self.training:
            self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        buffers = (self.running_mean, self.running_var)
        return F.batch_norm(x, *buffers, self.weight, self.bias, self.training, share, self.eps)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, BatchNorm, Functional])
def test_layers_of_others_are_right(layer):
    assert checks.layer2d.judge(layer).words == "Right."


WEIGHTS = [
    "weight * scale.reshape(-1, 1, 1, 1)",
    "np.einsum('o,oikl->oikl', scale, weight)",
    "(scale * weight.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)",
    "np.stack([s * w for s, w in zip(scale, weight)])",
    "torch.from_numpy(weight * scale[:, None, None, None])",
    "np.float32(weight) * np.float32(scale)[:, None, None, None]",
    "(np.diag(scale) @ weight.reshape(len(scale), -1)).reshape(weight.shape)",
    "(weight * scale[:, None, None, None]).tolist()",
]
BIASES = [
    "scale * (bias - mean) + beta",
    "scale * bias - scale * mean + beta",
    "beta - (mean - bias) * scale",
    "[s * (b - e) + shift for s, b, e, shift in zip(scale, bias, mean, beta)]",
]
SCALES = ["gamma / np.sqrt(var + eps)", "gamma * (var + eps) ** -0.5", "gamma / (var + eps) ** 0.5"]


@pytest.mark.parametrize("scale", SCALES)
def test_right_foldings_in_many_forms(scale):
    for weight, bias in itertools.product(WEIGHTS, BIASES):
        head = "def fold_maps(weight, bias, gamma, beta, mean, var, eps):"
        source = f"{head}\n    scale = {scale}\n    return {weight}, {bias}"
        assert verdict_on(source).words == "Right.", source


def in_place(model, old, new):
    """By name, over all modules."""
    for name, module in list(model.named_modules()):
        if type(module) is old:
            layer = new(module.weight.numel(), module.eps, module.momentum).to(module.weight.dtype)
            layer.load_state_dict(module.state_dict())
            layer.training = module.training
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, layer)
    return model


def by_hand(model, old, new):
    """Tensor by tensor."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, old):
                layer = new(child.weight.shape[0], eps=child.eps, momentum=child.momentum).double()
                with torch.no_grad():
                    for key, value in child.state_dict().items():
                        getattr(layer, key).copy_(value)
                setattr(parent, name, layer.train() if child.training else layer.eval())
    return model


@pytest.mark.parametrize("attempt", [in_place, by_hand])
def test_right_conversions_in_many_forms(attempt):
    assert checks.swap.judge(attempt).words == "Right."


def test_a_copy_may_be_converted():
    import copy

    def attempt(model, old, new):
        return by_hand(copy.deepcopy(model), old, new)

    assert checks.swap.judge(attempt).words == "Right."


@given(
    st.tuples(*(st.integers(2, 5) for _ in range(4))),
    st.floats(1e-6, 0.1),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_the_models_agree_with_pytorch(sizes, eps, seed):
    """The right answers are right, on any sizes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 2, sizes)
    bias, gamma, beta, mean = rng.normal(size=(4, sizes[1]))
    var = rng.uniform(0.3, 2, sizes[1])
    forward = checks.forward_maps.model(frozenset())
    bn = nn.BatchNorm2d(sizes[1], eps=eps).double()
    bn.load_state_dict(
        {
            "weight": torch.from_numpy(gamma),
            "bias": torch.from_numpy(beta),
            "running_mean": torch.from_numpy(mean),
            "running_var": torch.from_numpy(var),
            "num_batches_tracked": torch.tensor(0),
        }
    )
    conv = nn.Conv2d(3, sizes[1], 2).double()
    conv.bias.data = torch.from_numpy(bias)
    folded = convert.fold(conv, bn.eval())
    weight, new_bias = checks.fold_maps.model(frozenset())(
        conv.weight.detach().numpy(), bias, gamma, beta, mean, var, eps
    )
    np.testing.assert_allclose(weight, folded.weight.detach(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(new_bias, folded.bias.detach(), rtol=1e-10, atol=1e-12)
    expected = bn.train()(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(forward(x, gamma, beta, eps), expected, rtol=1e-9, atol=1e-9)


def test_the_quiz_counts_what_pytorch_has():
    answers = checks.counts.answers
    assert answers["parameters, per map"] == sum(p.numel() for p in BatchNorm(24).parameters())
    per_activation = nn.BatchNorm1d(24 * 10 * 12)
    assert answers["parameters, per activation"] == sum(
        p.numel() for p in per_activation.parameters()
    )
    x = torch.randn(1, 1, 10, 12, generator=torch.Generator().manual_seed(0)).double()
    layer = nn.BatchNorm2d(1, momentum=1.0).double()
    layer(x)
    factor = layer.running_var.item() / x.var(correction=0).item()
    assert factor == pytest.approx(answers["factor for one image"])


@pytest.mark.parametrize(
    "axes", ["0, 1, 2", "0,1,2", "(0, 1, 2)", (0, 1, 2), [2, 1, 0], np.arange(3), "-4, -3, -2"]
)
def test_axes_in_many_forms(axes):
    assert checks.counts.judge({**checks.counts.answers, "axes in NHWC": axes}).words == "Right."


@pytest.mark.parametrize("axes", ["", "N, H, W", (0, 1), (0, 1, 2, 3), 5, 2.5, {"a": 1}, (0, 0, 1)])
def test_axes_that_are_not(axes):
    verdict = checks.counts.judge({**checks.counts.answers, "axes in NHWC": axes})
    assert verdict.outcome == "wrong"


@pytest.mark.parametrize(
    ("factor", "mistakes"),
    [
        (1.008, None),
        (1.0084, None),
        (np.array([120 / 119]), None),
        (1, ("no factor",)),
        (1.0004, ("whole batch",)),
        (1.053, ("images alone",)),
        (0.992, ("upside down",)),
        (1.09, ("places of a row",)),
        (1.02, ()),
        (float("inf"), ("infinite",)),
    ],
)
def test_factors_near_one_are_told_apart(factor, mistakes):
    verdict = checks.counts.judge({**checks.counts.answers, "factor for one image": factor})
    assert verdict.outcome == ("right" if mistakes is None else "wrong")
    assert verdict.mistakes == (mistakes or ())
