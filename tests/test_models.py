import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bn_helpers import data, models
from bn_helpers.training.recipes import ENSEMBLE, RECIPES, Settings
from bn_helpers.training.run import build

#: Figure 5: 1×1; 3×3 reduce, 3×3; double 3×3 reduce, double 3×3; pool, projection; H = W after the
#: module, output channels as printed.
TABLE = {
    "3a": ((64,), (64, 64), (64, 96), "avg", 32, 28, 256),
    "3b": ((64,), (64, 96), (64, 96), "avg", 64, 28, 320),
    "3c": ((), (128, 160), (64, 96), "max", 0, 14, 576),
    "4a": ((224,), (64, 96), (96, 128), "avg", 128, 14, 576),
    "4b": ((192,), (96, 128), (96, 128), "avg", 128, 14, 576),
    "4c": ((160,), (128, 160), (128, 160), "avg", 128, 14, 576),
    "4d": ((96,), (128, 192), (160, 192), "avg", 128, 14, 576),
    "4e": ((), (128, 192), (192, 256), "max", 0, 7, 1024),
    "5a": ((352,), (192, 320), (160, 224), "avg", 128, 7, 1024),
    "5b": ((352,), (192, 320), (192, 224), "max", 128, 7, 1024),
}
WIDTHS = st.integers(1, 6)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def of_kind(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.fixture(scope="module", params=["printed", "repaired"])
def inception(request):
    """Reading, network and the shape that each of its modules returns for an image of 224×224."""
    model = models.Inception(request.param, lrn=True, dropout=0.4)
    shapes = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda _, __, y, name=name: shapes.update({name: tuple(y.shape[1:])})
        )
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    return request.param, model, shapes


@pytest.mark.parametrize("name", TABLE)
def test_each_module_is_a_row_of_figure_5(inception, name):
    """Catches a wrong width, a kernel, stride or pooling, and branches in series."""
    reading, model, shapes = inception
    one, three, double, pool, projection, size, printed = TABLE[name]
    if reading == "repaired" and name in ("4c", "4d"):
        projection = 96
    last = (projection,) if projection else ()
    branches = model.modules_by_name[name].branches
    assert [[conv.out_channels for conv in of_kind(b, nn.Conv2d)] for b in branches] == [
        list(widths) for widths in (one, three, (*double, double[1])) if widths
    ] + [list(last)]
    kernels = [[1]] * len(one) + [[1, 3], [1, 3, 3], [1] * len(last)]
    assert [[conv.kernel_size[0] for conv in of_kind(b, nn.Conv2d)] for b in branches] == kernels
    strides = [math.prod(conv.stride[0] for conv in of_kind(b, nn.Conv2d)) for b in branches[:-1]]
    (pooling,) = of_kind(branches[-1], {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}[pool])
    assert {*strides, pooling.stride} == {1 if projection else 2}
    assert pooling.kernel_size == 3
    before = shapes[
        "stem" if name == "3a" else f"modules_by_name.{list(TABLE)[list(TABLE).index(name) - 1]}"
    ]
    output = sum((*one, three[1], double[1])) + (projection or before[0])
    assert shapes[f"modules_by_name.{name}"] == (output, size, size)
    if reading == "repaired":
        assert output == printed
    else:
        assert output == {"4c": 608, "4d": 608, "4e": 1056}.get(name, printed)


def test_the_stem_is_that_of_figure_5(inception):
    _, model, shapes = inception
    convolutions = of_kind(model.stem, nn.Conv2d)
    assert [(c.out_channels, c.kernel_size[0], c.stride[0], c.groups) for c in convolutions] == [
        (24, 7, 2, 3),
        (64, 1, 1, 1),
        (64, 1, 1, 1),
        (192, 3, 1, 1),
    ]
    assert shapes["stem.1"] == (64, 112, 112)
    assert shapes["stem.2"] == (64, 56, 56)
    assert shapes["stem"] == (192, 28, 28)


def test_neither_reading_has_the_stated_number_of_parameters(inception):
    """The paper states 13.6·10⁶."""
    reading, model, _ = inception
    count = models.count_weights(model)
    assert round(count / 1e6, 2) == {"printed": 11.26, "repaired": 11.17}[reading]
    convolutions = of_kind(model, nn.Conv2d)
    others = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert count + others == sum(p.numel() for p in model.parameters())
    assert others == 2 * sum(c.out_channels for c in convolutions[1:]) + 1000


def network(kind, **changes):
    if kind == "inception":
        return models.Inception(classes=7, **changes)
    small = {"small": models.SmallInception, "plain": models.PlainConv}[kind]
    return small(3, 7, (2, 3, 3, 4), **changes)


@pytest.mark.parametrize("kind", ["inception", "small", "plain"])
def test_bn_stands_between_convolution_and_activation_or_there_are_biases(kind):
    with_bn, without = (
        network(kind),
        network(kind, norm=None, activation="sigmoid", dropout=0.4),
    )
    for unit in of_kind(with_bn, models.Unit):
        assert [type(layer) for layer in unit] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        assert unit[0].bias is None
        assert unit[1].num_features == unit[0].out_channels
    for unit in of_kind(without, models.Unit):
        assert [type(layer) for layer in unit] == [nn.Conv2d, nn.Sigmoid]
        assert unit[0].bias is not None
    assert not of_kind(without, (nn.BatchNorm2d, nn.ReLU))
    separable = kind == "inception"  # its first half has neither bias, BN nor activation
    for model in (with_bn, without):
        assert len(of_kind(model, nn.Conv2d)) == len(of_kind(model, models.Unit)) + separable
        assert not of_kind(model, nn.LocalResponseNorm)
        assert model.classifier.bias is not None
    assert with_bn.dropout.p == 0
    assert without.dropout.p == 0.4


@pytest.mark.parametrize(("kind", "count"), [("inception", 2), ("small", 1)])
def test_lrn_stands_where_it_stood(kind, count):
    """After the first pooling and, in the paper's network, before the second."""
    model = network(kind, lrn=True)
    assert len(of_kind(model, nn.LocalResponseNorm)) == count
    layers = list(model.stem if kind == "inception" else model.features)
    kinds = [type(layer) for layer in layers]
    first = kinds.index(nn.LocalResponseNorm)
    assert kinds[first - 1] is nn.MaxPool2d
    if count == 2:
        assert kinds[-2:] == [nn.LocalResponseNorm, nn.MaxPool2d]


@settings(max_examples=30)
@given(
    channels=st.sampled_from((1, 3)),
    classes=st.integers(2, 9),
    widths=st.tuples(WIDTHS, WIDTHS, WIDTHS, WIDTHS),
    size=st.integers(1, 4).map(lambda n: 4 * n),
    bn=st.booleans(),
    per_activation=st.booleans(),
)
def test_the_small_inception_takes_all_sizes(channels, classes, widths, size, bn, per_activation):
    model = models.SmallInception(
        channels,
        classes,
        widths,
        norm=nn.BatchNorm2d if bn else None,
        lrn=True,
        per_activation=size if bn and per_activation else None,
    )
    assert model(torch.zeros(5, channels, size, size)).shape == (5, classes)
    branches = of_kind(model, models.Branches)
    for module, width in zip(branches, widths, strict=True):
        kernels = [[c.kernel_size[0] for c in of_kind(b, nn.Conv2d)] for b in module.branches]
        assert kernels == [[1], [1, 3], [1, 3, 3]]
        assert {c.out_channels for c in of_kind(module, nn.Conv2d)} == {width}
    norms = of_kind(branches[-1], models.PerActivation)
    assert len(norms) == (6 if bn and per_activation else 0)
    assert len(norms) == len(of_kind(model, models.PerActivation))
    assert not norms or norms[0].norm.num_features == widths[-1] * (size // 4) ** 2


@settings(max_examples=30)
@given(
    widths=st.lists(WIDTHS, min_size=1, max_size=3),
    depth=st.integers(1, 3),
    extra=st.integers(0, 5),
    bn=st.booleans(),
)
def test_the_plain_network_takes_all_sizes(widths, depth, extra, bn):
    size = 2 ** len(widths) + extra
    model = models.PlainConv(3, 4, widths, depth, norm=nn.BatchNorm2d if bn else None)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 4)
    found = [conv.out_channels for conv in of_kind(model, nn.Conv2d)]
    assert found == [width for width in widths for _ in range(depth)]


@pytest.mark.parametrize(
    "model",
    [
        network("inception", lrn=True, dropout=0.1),
        network("small", lrn=True, dropout=0.1, per_activation=16),
        network("plain", norm=None),
    ],
    ids=["inception", "small", "plain"],
)
def test_every_parameter_has_a_part_in_the_output(model):
    """Catches a branch that is built and not used; DistributedDataParallel would wait for it."""
    models.initialize(model, generator=generator())
    size = 32 if isinstance(model, models.Inception) else 16
    model(torch.randn(4, 3, size, size, generator=generator())).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_per_activation_bn_is_bn_over_each_place_of_each_map():
    x = torch.randn(6, 3, 4, 4, generator=generator(), dtype=torch.float64) * 3 + 1
    bn = models.PerActivation(3, 4).double()
    with torch.no_grad():
        for parameter in bn.parameters():
            parameter.copy_(torch.randn(48, generator=generator(1), dtype=torch.float64))
    gamma, beta = (p.detach().view(3, 4, 4) for p in bn.parameters())
    mean, var = x.mean(0), x.var(0, unbiased=False)
    torch.testing.assert_close(bn(x).detach(), gamma * (x - mean) / (var + 1e-5).sqrt() + beta)
    torch.testing.assert_close(bn.norm.running_mean.view(3, 4, 4), 0.1 * mean)
    whole = nn.BatchNorm1d(48).double()
    whole.load_state_dict(bn.norm.state_dict())
    bn.eval(), whole.eval()
    torch.testing.assert_close(bn(x).flatten(1), whole(x.flatten(1)), rtol=0, atol=0)


@pytest.mark.parametrize("how", ["he", "xavier", 0.01])
@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_initial_weights_have_their_standard_deviation(how, gain):
    """Within five standard errors; catches fan_out for fan_in, σ² for σ, gain on the classifier."""
    model = models.SmallInception(3, 10, (8, 16, 16, 24), norm=None)
    models.initialize(model, how, generator=generator(), gain=gain)
    for layer in of_kind(model, (nn.Conv2d, nn.Linear)):
        weight = layer.weight.detach().double()
        place = weight[0, 0].numel()  # kernel height × width
        fan_in, fan_out = place * weight.shape[1], place * weight.shape[0]
        std = {"he": (2 / fan_in) ** 0.5, "xavier": (2 / (fan_in + fan_out)) ** 0.5}.get(how, how)
        std *= gain if isinstance(layer, nn.Conv2d) else 1
        n = weight.numel()
        assert abs(weight.square().mean().sqrt() / std - 1) < 5 / (2 * n) ** 0.5
        assert abs(weight.mean()) < 5 * std / n**0.5
        assert not layer.bias.any()


def test_initialising_uses_the_generator_and_leaves_bn_alone():
    def weights(seed):
        model = models.PlainConv(3, 4, (5, 6))
        before, state = torch.get_rng_state(), model.features[0][1].weight.clone()
        models.initialize(model, generator=generator(seed))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(model.features[0][1].weight, state)
        return model.features[0][0].weight

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.Inception("mended"), "reading to be one of .*'mended'"),
        (lambda: models.PlainConv(activation="tanh"), "activation to be one of .*'tanh'"),
        (lambda: models.SmallInception(widths=(1, 2)), "four widths"),
        (lambda: models.SmallInception(norm=None, per_activation=8), "expected BN"),
        (lambda: models.initialize(nn.Linear(2, 2), "hi", generator=generator()), "'he', 'xavier'"),
        (lambda: models.initialize(nn.Linear(2, 2), -1.0, generator=generator()), "float > 0"),
    ],
)
def test_what_there_is_not_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", [*RECIPES, *ENSEMBLE])
def test_each_recipe_builds_the_network_that_it_describes(name):
    recipe = RECIPES.get(name) or replace(RECIPES["bn-x30"], **ENSEMBLE[name])
    digits = data.Dataset(
        data.Split(torch.empty(1, 1, 8, 8), None), None, list("0123456789"), "", ""
    )
    model = build(Settings(recipe, 1, width=0.5), digits, 8)
    assert model(torch.randn(3, 1, 8, 8, generator=generator())).shape == (3, 10)
    kinds = {type(module) for module in model.modules()}
    assert (nn.BatchNorm2d in kinds) == recipe.bn
    assert (models.PerActivation in kinds) == recipe.per_activation
    assert (nn.Sigmoid in kinds) == (recipe.activation == "sigmoid")
    assert (nn.LocalResponseNorm in kinds) == recipe.lrn
    assert model.dropout.p == recipe.dropout
    plain = replace(recipe, gain=1.0)
    other = build(Settings(plain, 1, width=0.5), digits, 8)
    first, its = (next(m.parameters()) for m in (model, other))
    torch.testing.assert_close(first, recipe.gain * its)


def test_the_sigmoid_net_puts_norm_before_each_sigmoid_in_place_of_the_bias():
    # caught: BN after the sigmoid, a bias that stays, a layer too many, BN on the classifier
    plain = models.sigmoid_net(3, 5, inputs=4, classes=2)
    kinds = ["Flatten", *["Linear", "Sigmoid"] * 3, "Linear"]
    assert [type(module).__name__ for module in plain] == kinds
    normed = models.sigmoid_net(3, 5, nn.BatchNorm1d, inputs=4, classes=2)
    kinds = ["Flatten", *["Linear", "BatchNorm1d", "Sigmoid"] * 3, "Linear"]
    assert [type(module).__name__ for module in normed] == kinds
    shapes = [(4, 5), (5, 5), (5, 5), (5, 2)]
    for net, biases in ((plain, [True] * 4), (normed, [False] * 3 + [True])):
        linear = of_kind(net, nn.Linear)
        assert [(layer.in_features, layer.out_features) for layer in linear] == shapes
        assert [layer.bias is not None for layer in linear] == biases
    assert normed(torch.zeros(6, 1, 2, 2)).shape == (6, 2)
