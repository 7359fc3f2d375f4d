"""BatchNorm against nn.BatchNorm1d, 2d and 3d (the oracle) and against the NumPy reference."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from bn_helpers import layers, memory, reference
from bn_helpers.layers import BatchNorm

ORACLE = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
SEEDS = st.integers(0, 2**32 - 1)
MOMENTA = st.sampled_from([0.1, 0.0, 1.0, 0.37, None])
EXACT = {"rtol": 1e-10, "atol": 1e-10}
SHAPES = [(5, 3), (4, 3, 2), (2, 3, 3, 2), (2, 3, 2, 1, 2)]


def shapes(min_values=2):
    sizes = st.integers(2, 5).flatmap(
        lambda rank: st.lists(st.integers(1, 5), min_size=rank, max_size=rank)
    )
    return sizes.map(tuple).filter(lambda s: np.prod(s) // s[1] >= min_values)


def normal(shape, seed, layout="contiguous", dtype=torch.float64):
    """Values around channel means that are not 0, in one of five memory layouts."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    channel = (-1, *(1,) * (len(shape) - 2))
    x = x * (0.5 + torch.rand(shape[1], generator=g)).view(channel)
    x = (x + 3 * torch.randn(shape[1], generator=g).view(channel)).to(dtype)
    if layout == "channels_last" and len(shape) in LAST:
        return x.contiguous(memory_format=LAST[len(shape)])
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        wide = torch.zeros(*shape[:-1], 2 * shape[-1], dtype=dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "expanded":
        return x[:, :, :1].expand(shape) if len(shape) > 2 else x
    return x


LAYOUTS = st.sampled_from(["contiguous", "channels_last", "transposed", "sliced", "expanded"])


def pair(shape, dtype=torch.float64, seed=0, **options):
    """Ours and PyTorch's layer with the same random parameters and running statistics."""
    ours = BatchNorm(shape[1], dtype=dtype, **options)
    theirs = ORACLE[len(shape)](shape[1], dtype=dtype, **options)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if name != "num_batches_tracked":
                value.copy_(torch.rand(value.shape, generator=g, dtype=torch.float64) + 0.5)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@contextlib.contextmanager
def tile_size(values):
    """Tiles of so many values; below the real size also what is done with large tensors only."""
    kept = memory.TILE, memory.SMALL
    memory.TILE = values
    memory.SMALL = 0 if values < kept[0] else kept[1]
    try:
        yield
    finally:
        memory.TILE, memory.SMALL = kept


def assert_same_state(ours, theirs, **tolerance):
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(
            value, expected[name], equal_nan=True, msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )


def run(layer, x, dy):
    """Output, and the gradients of x and of the parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return y, *torch.autograd.grad(y, (x, *layer.parameters()), dy)


# --- the interface ---------------------------------------------------------------------------


@pytest.mark.parametrize("oracle", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_constructor_and_repr_are_pytorchs(oracle):
    # caught: an argument renamed, reordered, or with another default or annotation
    ours, theirs = inspect.signature(BatchNorm), inspect.signature(oracle)
    *same, group = ours.parameters.values()
    assert ours.replace(parameters=same) == theirs
    assert (group.name, group.default, group.kind) == ("process_group", None, group.KEYWORD_ONLY)
    for options in ({}, {"affine": False}, {"bias": False, "momentum": None, "eps": 1e-3}):
        ours, theirs = BatchNorm(4, **options), oracle(4, **options)
        assert ours.extra_repr() == theirs.extra_repr()
        assert_same_state(ours, theirs)
        assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
        assert [n for n, _ in ours.named_buffers()] == [n for n, _ in theirs.named_buffers()]


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_state_dicts_are_interchangeable(options):
    # caught: a buffer renamed or reordered; _version forgotten; running_var starting at 0
    ours, theirs = pair((4, 3), **options)
    ours(normal((4, 3), 1))
    ours_new, theirs_new = BatchNorm(3, **options).double(), nn.BatchNorm1d(3, **options).double()
    theirs_new.load_state_dict(ours.state_dict(), strict=True)
    ours_new.load_state_dict(theirs_new.state_dict(), strict=True)
    assert_same_state(ours_new, ours)
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata


@pytest.mark.parametrize("version", [None, 1, 2])
def test_checkpoints_without_a_count_load_as_in_pytorch(version):
    # caught: the count required of old checkpoints, or not required of new ones, or reset to 0
    results = []
    for layer in pair((4, 3)):
        layer(normal((4, 3), 1))
        state = layer.state_dict()
        del state["num_batches_tracked"]
        state._metadata[""]["version"] = version
        result = layer.load_state_dict(state, strict=False)
        results.append((result.missing_keys, int(layer.num_batches_tracked)))
    assert results[0] == results[1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent_and_equal(copied):
    # caught: state kept outside parameters, buffers and plain attributes
    layer, x = pair((4, 3))[0], normal((4, 3), 1)
    twin = copied(layer)
    torch.testing.assert_close(twin(x), layer(x))
    assert_same_state(twin, layer)
    twin(x)
    assert int(twin.num_batches_tracked) == int(layer.num_batches_tracked) + 1


def test_meta_device_and_reset():
    # caught: device not passed on to a parameter or buffer; reset that forgets one of them
    assert {v.device.type for v in BatchNorm(3, device="meta").state_dict().values()} == {"meta"}
    ours, theirs = pair((4, 3))
    ours.reset_parameters()
    theirs.reset_parameters()
    assert_same_state(ours, theirs)


# --- values and gradients --------------------------------------------------------------------


@given(
    shape=shapes(),
    seed=SEEDS,
    layout=LAYOUTS,
    dy_layout=LAYOUTS,
    training=st.booleans(),
    momentum=MOMENTA,
    options=st.sampled_from([{}, {"bias": False}, {"affine": False}]),
    track=st.booleans(),
    tile=st.sampled_from([1, 7, 30, memory.TILE]),
)
@settings(max_examples=300, deadline=None)
def test_equals_pytorch(shape, seed, layout, dy_layout, training, momentum, options, track, tile):
    # caught: m − 1 for m; eps dropped; a sign or a term of dx; the biased variance tracked;
    # tiles weighted equally; a permuted gradient; another memory layout or dtype of y or dx
    ours, theirs = pair(shape, momentum=momentum, track_running_stats=track, **options)
    x, dy = normal(shape, seed, layout), normal(shape, seed + 1, dy_layout)
    with tile_size(tile):
        got = run(ours.train(training), x, dy)
    # Copies: PyTorch's CPU backward is wrong for some pairs of layouts with axes of size 1.
    expected = run(theirs.train(training), x.contiguous(), dy.contiguous())
    for ours_value, value in zip(got, expected, strict=True):
        torch.testing.assert_close(ours_value, value, **EXACT)
    assert_same_state(ours, theirs, **EXACT)
    if min(shape) > 1:  # otherwise strides have more than one reading
        for ours_value, value in zip(got[:2], run(theirs, x, dy)[:2], strict=True):
            assert ours_value.stride() == value.stride()


@given(
    calls=st.lists(st.tuples(st.booleans(), shapes(2), SEEDS), min_size=1, max_size=6),
    momentum=MOMENTA,
    track=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_sequences_of_calls_leave_the_same_buffers(calls, momentum, track):
    # caught: statistics updated in eval mode; the count after the cumulative average's factor
    ours, theirs = pair((2, 3), momentum=momentum, track_running_stats=track)
    theirs._check_input_dim = lambda x: None  # any rank, as ours
    for training, shape, seed in calls:
        x = normal((shape[0], 3, *shape[2:]), seed)
        if x.numel() > 3:
            got, expected = ours.train(training)(x), theirs.train(training)(x)
            torch.testing.assert_close(got, expected, **EXACT)
            assert_same_state(ours, theirs, **EXACT)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=SEEDS,
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_numpy_reference_over_any_axes(sizes, seed, data):
    # caught: layers and reference drifting apart in eps, the variance or a gradient's term
    axes = data.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1).map(sorted).map(tuple))
    if np.prod([sizes[a] for a in axes]) < 2:
        return
    rest = [a for a in range(len(sizes)) if a not in axes]
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(2, 3, sizes), rng.normal(size=sizes)
    gamma, beta = rng.normal(size=(2, *(sizes[a] for a in rest)))

    def matrix(array):  # (values, statistics)
        return torch.from_numpy(array.transpose(*axes, *rest).reshape(-1, gamma.size))

    parameters = (torch.from_numpy(np.ravel(v)) for v in (gamma, beta))
    leaves = [t.requires_grad_() for t in (matrix(x), *parameters)]
    y, mean, var = layers.batch_norm(*leaves)
    dx, dgamma, dbeta = torch.autograd.grad(y, leaves, matrix(dy))
    y_np, cache = reference.batchnorm_forward(x, gamma, beta, axes=axes)
    dx_np, dgamma_np, dbeta_np = reference.batchnorm_backward(dy, cache)
    for ours, truth in ((y, matrix(y_np)), (dx, matrix(dx_np))):
        torch.testing.assert_close(ours.detach(), truth, **EXACT)
    vectors = ((mean, cache.mean), (var, cache.var), (dgamma, dgamma_np), (dbeta, dbeta_np))
    for ours, truth in vectors:
        np.testing.assert_allclose(ours.numpy().ravel(), np.ravel(truth), **EXACT)


def test_tiles_of_their_real_size():
    # caught: a tile's rows counted wrongly once the batch exceeds the cache (393,216 values)
    for layout in ("contiguous", "channels_last"):
        ours, theirs = pair((3, 8, 128, 128))
        x, dy = normal((3, 8, 128, 128), 0, layout), normal((3, 8, 128, 128), 1)
        assert x.numel() > memory.TILE
        for got, expected in zip(run(ours, x, dy), run(theirs, x, dy), strict=True):
            torch.testing.assert_close(got, expected, **EXACT)
        assert_same_state(ours, theirs, **EXACT)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"affine": False}])
def test_first_and_second_derivatives(shape, training, options):
    # caught: mean or variance detached in the gradient's gradient; an out= on that path
    layer = pair(shape, momentum=0.0, **options)[0].train(training)
    names = [name for name, _ in layer.named_parameters()]
    x = normal(shape, 0, "channels_last").requires_grad_()

    def f(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    leaves = (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert gradcheck(f, leaves)
    assert gradgradcheck(f, leaves)


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5, 5)])
def test_gradient_penalty_equals_pytorchs(shape):
    # caught: a second derivative that differs from PyTorch's although it is self-consistent
    results = []
    for layer in pair(shape):
        x = normal(shape, 0).requires_grad_()
        (dx,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), (x, *layer.parameters())[:2]))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("needed", list(itertools.product([True, False], repeat=3)))
def test_only_the_gradients_asked_for(training, needed):
    # caught: needs_input_grad ignored, or a sum skipped that another gradient needs
    results = []
    for layer in pair((6, 3, 4)):
        layer.train(training)
        x = normal((6, 3, 4), 0)
        leaves = (x, layer.weight, layer.bias)
        for leaf, wanted in zip(leaves, needed, strict=True):
            leaf.requires_grad_(wanted)
        y = layer(x)
        assert y.requires_grad == any(needed)
        if any(needed):
            y.backward(normal((6, 3, 4), 1))
        results.append([leaf.grad for leaf in leaves])
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, **EXACT)


def test_no_native_batch_norm_runs():
    # caught: any shortcut through F.batch_norm and its relatives, forwards or backwards
    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(str(func))
            return func(*args, **(kwargs or {}))

    seen = set()
    layer, x = BatchNorm(3), torch.randn(4, 3, 2, 2, requires_grad=True)
    with Recorder():
        for training in (True, False):
            layer.train(training)(x).sum().backward()
    assert "aten.sub.Tensor" in seen
    assert not [name for name in seen if "norm" in name]


def test_only_the_input_is_kept_for_the_backward_pass():
    # caught: x_hat or centred values saved beside x
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    x = torch.randn(8, 3, 5, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        BatchNorm(3)(x)
    assert [t.data_ptr() for t in kept if t.numel() >= x.numel()] == [x.data_ptr()]


def test_an_in_place_activation_may_follow():
    # caught: an output that is a view, or is saved for the backward pass
    results = []
    for layer in pair((4, 3, 5, 5)):
        x = normal((4, 3, 5, 5), 0).requires_grad_()
        F.relu(layer(x), inplace=True).square().sum().backward()
        results.append(x.grad)
    torch.testing.assert_close(*results, **EXACT)


def test_training_between_forward_and_backward_in_eval_mode():
    # caught: the running mean itself kept for the backward pass, which training then moves
    ours, x = pair((4, 3))[0], normal((4, 3), 0)
    expected = run(copy.deepcopy(ours).eval(), x, x)[1:]
    leaves = (x.requires_grad_(), *ours.parameters())
    y = ours.eval()(x)
    ours.train()(normal((4, 3), 1))
    for got, value in zip(torch.autograd.grad(y, leaves, x.detach()), expected, strict=True):
        torch.testing.assert_close(got, value, **EXACT)


def test_switches_turned_after_construction():
    # caught: buffers consulted in training although tracking is off; one mode for both
    ours, theirs = pair((4, 3))
    for switch in (
        {"track_running_stats": False},
        {"track_running_stats": True, "num_batches_tracked": None},
        {"momentum": None},
        {"running_mean": None, "running_var": None},
    ):
        for training in (True, False):
            results = []
            for layer in (ours, theirs):
                for name, value in switch.items():
                    setattr(layer, name, value)
                results.append(layer.train(training)(normal((4, 3), 5)))
            torch.testing.assert_close(*results, **EXACT)
            assert_same_state(ours, theirs, **EXACT)


# --- dtypes and precision --------------------------------------------------------------------

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("shape", [(40, 3), (8, 3, 5), (4, 3, 4, 3), (4, 3, 2, 3, 2)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("training", [True, False])
def test_float32_equals_pytorch(shape, layout, training):
    # caught: a detour through float64 or a half type
    ours, theirs = pair(shape, torch.float32)
    x, dy = normal(shape, 0, layout, torch.float32), normal(shape, 1, layout, torch.float32)
    results = [run(layer.train(training), x, dy) for layer in (ours, theirs)]
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert_same_state(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "parameters"), list(itertools.product(DTYPES, DTYPES)))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_mixed_dtypes_work_where_pytorchs_do(dtype, parameters, training, affine):
    # caught: a mixture that PyTorch refuses taken silently, or one that it takes refused
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    ours, theirs = pair((4, 3), parameters, affine=affine)
    before = copy.deepcopy(ours.state_dict())
    try:
        expected = theirs.train(training)(x)
    except RuntimeError:
        with pytest.raises(TypeError, match=r"expected parameters and buffers .*convert"):
            ours.train(training)(x)
        assert_unchanged(ours, before)
    else:
        assert ours.train(training)(x).dtype == expected.dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("float32_parameters", [True, False])
@pytest.mark.parametrize("shape", [(32, 3), (4, 3, 5, 5)])
@pytest.mark.parametrize("tile", [16, memory.TILE])
def test_half_precision_is_computed_in_float32(dtype, float32_parameters, shape, tile):
    # caught: statistics, x_hat or sums rounded to the half type on the way
    parameters = torch.float32 if float32_parameters else dtype
    ours, theirs = pair(shape, parameters)
    truth = copy.deepcopy(ours).double()
    x, dy = normal(shape, 0, dtype=dtype), normal(shape, 1, dtype=dtype)
    with tile_size(tile):
        got = run(ours, x, dy)
    exact = run(truth, x.double(), dy.double())
    for value, true, like in zip(got, exact, (x, x, *ours.parameters()), strict=True):
        assert value.dtype == like.dtype
        rounding = torch.finfo(like.dtype).eps if like.dtype != torch.float32 else 1e-5
        torch.testing.assert_close(value.double(), true, rtol=rounding, atol=rounding / 10)
    assert_same_state(ours, truth.to(parameters), rtol=1e-2, atol=1e-2)
    if float32_parameters:  # PyTorch rounds more where the parameters are halves too
        theirs(x)
        assert_same_state(ours, theirs, rtol=1e-5, atol=1e-5)


def test_float16_sums_do_not_overflow():
    # caught: a mean accumulated in float16, whose largest number is 65,504
    x = (torch.arange(4096 * 2, dtype=torch.float32).reshape(4096, 2) % 7 + 100).half()
    layer = BatchNorm(2, momentum=1.0)
    assert layer(x).isfinite().all()
    torch.testing.assert_close(layer.running_mean, x.float().mean(0))
    torch.testing.assert_close(layer.running_var, x.float().var(0))


@pytest.mark.parametrize("mean", [0.0, 1e4])
@pytest.mark.parametrize("shape", [(256, 4), (16, 4, 12, 12)])
@pytest.mark.parametrize("tile", [2000, memory.TILE])
def test_a_large_mean_costs_no_more_digits_than_in_pytorch(mean, shape, tile):
    # caught: E[x²] − E[x]²; a variance around anything but the mean. Half a digit is left to the
    # mean's own rounding: its last bit is 1e-3 here.
    x, dy = normal(shape, 0, dtype=torch.float32), normal(shape, 1, dtype=torch.float32)
    x = x + mean
    x = x + torch.linspace(0, 1, len(x)).view(-1, *(1,) * (x.dim() - 1))  # tiles of other means
    ours, theirs = pair(shape, torch.float32)
    truth = run(copy.deepcopy(ours).double(), x.double(), dy.double())
    with tile_size(tile):
        got = run(ours, x, dy)
    for value, native, true in zip(got, run(theirs, x, dy), truth, strict=True):
        error, native_error = ((v.double() - true).abs().max().item() for v in (value, native))
        assert error <= 4 * native_error + 1e-6 * true.abs().max().item()


@pytest.mark.parametrize("training", [True, False])
def test_autocast_changes_nothing(training):
    # caught: an operation inside that autocast turns to bfloat16
    ours, theirs = pair((8, 3), torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        x, dy = normal((8, 3), 0, dtype=dtype), normal((8, 3), 1, dtype=dtype)
        plain = run(copy.deepcopy(ours).train(training), x, dy)
        with torch.autocast("cpu", torch.bfloat16):
            results = [run(layer.train(training), x, dy) for layer in (ours, theirs)]
        for got, same, expected in zip(results[0], plain, results[1], strict=True):
            assert torch.equal(got, same)
            assert got.dtype == expected.dtype


# --- unusual values and shapes ---------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", [(9, 3), (4, 3, 2, 2)])
@pytest.mark.parametrize("tile", [6, memory.TILE])
def test_nan_and_infinity_pass_through_as_in_pytorch(bad, shape, tile):
    # caught: lerp_ for the running mean; nan_to_num; a bad channel that spoils its neighbours
    ours, theirs = pair(shape)
    for step, training in enumerate((True, True, False, True)):
        x, dy = normal(shape, step), normal(shape, 9)
        if step != 1:  # step 1 is clean: what became of the running statistics?
            x[(2, 1, *(0,) * (len(shape) - 2))] = bad
        with tile_size(tile):
            got = run(ours.train(training), x, dy)
        for value, expected in zip(got, run(theirs.train(training), x, dy), strict=True):
            torch.testing.assert_close(value, expected, equal_nan=True, **EXACT)
        assert_same_state(ours, theirs, **EXACT)
        assert got[0][:, 0].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0, 4), (1, 3, 0, 1), (0, 3, 1, 1, 1)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_empty_batch_is_counted_and_nothing_else(shape, training, momentum):
    # caught: NaN from 0 / 0 in the buffers or the gradients; the count left out
    ours, theirs = pair(shape, momentum=momentum)
    x = torch.empty(shape, dtype=torch.float64)
    results = [run(layer.train(training), x, x) for layer in (ours, theirs)]
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)
    assert_same_state(ours, theirs)


def test_no_channels():
    # caught: a division by the channel count
    layer = BatchNorm(0)
    assert layer(torch.empty(4, 0)).shape == (4, 0)
    assert layer.eval()(torch.empty(4, 0, 2)).shape == (4, 0, 2)


# --- bad input -------------------------------------------------------------------------------


def assert_unchanged(layer, before):
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def with_attribute(name, value):
    layer = BatchNorm(3)
    if isinstance(value, torch.Tensor):
        value = nn.Parameter(value) if name in ("weight", "bias") else value
    setattr(layer, name, value)
    return layer


#: layer, input, error, and what its message says: the value, what was expected, the way out
BAD_BATCHES = {
    "one value per channel": (
        lambda: BatchNorm(16),
        lambda: torch.ones(1, 16),
        ValueError,
        ["(1, 16)", "at least 2 values per channel", ".eval() or use a larger batch"],
    ),
    "one position of one image": (
        lambda: BatchNorm(3, track_running_stats=False).eval(),
        lambda: torch.ones(1, 3, 1, 1),
        ValueError,
        ["(1, 3, 1, 1)", "at least 2 values per channel", "larger batch"],
    ),
    "wrong channel count": (
        lambda: BatchNorm(3),
        lambda: torch.ones(4, 5),
        ValueError,
        ["got 5", "expected 3 channels", "BatchNorm(5)"],
    ),
    "channels at the end, in eval mode": (
        lambda: BatchNorm(3).eval(),
        lambda: torch.ones(2, 8, 8, 3),
        ValueError,
        ["(2, 8, 8, 3)", "expected 3 channels on axis 1", "x.movedim(-1, 1)"],
    ),
    "wrong channel count, no values": (
        lambda: BatchNorm(3),
        lambda: torch.ones(0, 5),
        ValueError,
        ["got 5", "expected 3 channels", "BatchNorm(5)"],
    ),
    "rank 1": (
        lambda: BatchNorm(3),
        lambda: torch.ones(3),
        ValueError,
        ["(3,)", "rank 2 to 5", "x.unsqueeze(0)"],
    ),
    "rank 6": (
        lambda: BatchNorm(3),
        lambda: torch.ones(2, 3, 1, 1, 1, 1),
        ValueError,
        ["(2, 3, 1, 1, 1, 1)", "rank 2 to 5", "x.flatten(2)"],
    ),
    "integers": (
        lambda: BatchNorm(3),
        lambda: torch.ones(4, 3, dtype=torch.int64),
        TypeError,
        ["torch.int64", "expected floating input", "x.float()"],
    ),
    "booleans": (
        lambda: BatchNorm(3).eval(),
        lambda: torch.ones(4, 3, dtype=torch.bool),
        TypeError,
        ["torch.bool", "expected floating input", "x.float()"],
    ),
    "complex numbers": (
        lambda: BatchNorm(3),
        lambda: torch.ones(4, 3, dtype=torch.complex64),
        TypeError,
        ["torch.complex64", "expected floating input", "x.float()"],
    ),
    "an array": (
        lambda: BatchNorm(3),
        lambda: np.ones((4, 3)),
        TypeError,
        ["ndarray", "expected a tensor", "torch.as_tensor(x)"],
    ),
    "float64 input, float32 layer": (
        lambda: BatchNorm(3),
        lambda: torch.ones(4, 3, dtype=torch.float64),
        TypeError,
        ["running_var torch.float32", "the input's dtype torch.float64", ".to(dtype)"],
    ),
    "eps set to 0": (
        lambda: with_attribute("eps", 0.0),
        lambda: torch.ones(4, 3),
        ValueError,
        ["got 0.0", "expected eps > 0", "1e-5"],
    ),
    "negative eps in eval mode": (
        lambda: with_attribute("eps", -1e-5).eval(),
        lambda: torch.ones(4, 3),
        ValueError,
        ["got -1e-05", "expected eps > 0", "1e-5"],
    ),
    "momentum set to 1.5": (
        lambda: with_attribute("momentum", 1.5),
        lambda: torch.ones(4, 3),
        ValueError,
        ["got 1.5", "between 0 and 1", "Keras"],
    ),
    "mismatched gamma": (
        lambda: with_attribute("weight", torch.ones(4)),
        lambda: torch.ones(4, 3),
        ValueError,
        ["got (4,)", "expected weight of shape (3,)", "one value per channel"],
    ),
    "mismatched beta of rank 2": (
        lambda: with_attribute("bias", torch.ones(3, 1)),
        lambda: torch.ones(4, 3),
        ValueError,
        ["got (3, 1)", "expected bias of shape (3,)", "one value per channel"],
    ),
    "mismatched running variance": (
        lambda: with_attribute("running_var", torch.ones(4)).eval(),
        lambda: torch.ones(4, 3),
        ValueError,
        ["got (4,)", "expected running_var of shape (3,)", "one value per channel"],
    ),
    "another device": (
        lambda: BatchNorm(3, device="meta"),
        lambda: torch.ones(4, 3),
        ValueError,
        ["on meta", "on cpu", "on the input's device"],
    ),
    "half of the running statistics": (
        lambda: with_attribute("running_var", None),
        lambda: torch.ones(4, 3),
        ValueError,
        ["got one of them", "expected running_mean and running_var, or neither", "set both"],
    ),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_bad_batch_is_refused_and_changes_nothing(case):
    # caught: a check left out or after the update; a message without value, expectation, way out
    make_layer, make_input, error, parts = BAD_BATCHES[case]
    layer = make_layer()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(error) as raised:
        layer(make_input())
    for part in parts:
        assert part in str(raised.value)
    if case != "another device":  # the meta device has no values to compare
        assert_unchanged(layer, before)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"eps": 0.0}, ["got 0.0", "expected eps > 0", "1e-5"]),
        ({"eps": -1.0}, ["got -1.0", "expected eps > 0", "1e-5"]),
        ({"eps": float("nan")}, ["got nan", "expected eps > 0", "1e-5"]),
        ({"momentum": -0.1}, ["got -0.1", "between 0 and 1, or None", "Keras' 0.99 is 0.01"]),
        ({"momentum": 1.1}, ["got 1.1", "between 0 and 1, or None", "Keras' 0.99 is 0.01"]),
        ({"momentum": float("nan")}, ["got nan", "between 0 and 1", "Keras"]),
    ],
)
def test_bad_settings_are_refused_at_construction(options, parts):
    # caught: a comparison that NaN passes
    with pytest.raises(ValueError) as raised:  # noqa: PT011 (the message is checked below)
        BatchNorm(3, **options)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(1, 3),), ValueError, r"at least 2 values per channel .*\(1, 3\)"),
        ((torch.ones(3),), ValueError, r"rank 2 to 5.*\(3,\)"),
        ((torch.ones(4, 3).long(),), TypeError, r"floating input, got torch.int64"),
        ((torch.ones(4, 3), torch.ones(4)), ValueError, r"weight of shape \(3,\).*got \(4,\)"),
        ((torch.ones(4, 3), None, None, 0.0), ValueError, r"eps > 0, got 0.0"),
    ],
)
def test_the_function_refuses_the_same(arguments, error, message):
    # caught: checks that only the module makes
    with pytest.raises(error, match=message):
        layers.batch_norm(*arguments)
