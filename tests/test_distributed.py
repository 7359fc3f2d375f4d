"""Synchronised BatchNorm: three real processes (gloo) against one process with the whole batch.

The processes run this file as a program, once for all tests: each computes every case on its
shards and stores what came out; the tests put the shards together and compare.
"""

from __future__ import annotations

import copy
import datetime
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import distributed as dist
from torch import nn
from torch.autograd import forward_ad

from bn_helpers import convert
from bn_helpers.layers import BatchNorm

pytestmark = pytest.mark.slow
EXACT = {"rtol": 1e-11, "atol": 1e-11}
SHAPES = [(12, 5), (12, 5, 3), (12, 5, 3, 2)]
ORACLE = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
#: How many examples of twelve each process gets: even, uneven, a single one, none.
PARALLEL = [(6, 6), (9, 3)]
SHARDS = [*PARALLEL, (0, 12), (4, 4, 4), (7, 1, 4), (1, 0, 11)]
#: Shape, memory layout, options of the layer.
CASES = {
    "table": ((12, 5), "usual", {}),
    "sequence": ((12, 5, 3), "usual", {}),
    "maps": ((12, 5, 3, 2), "usual", {}),
    "channels_last": ((12, 5, 3, 2), "last", {}),
    "no bias, plain average": ((12, 5, 3, 2), "usual", {"bias": False, "momentum": None}),
    "no gamma": ((12, 5, 3, 2), "usual", {"affine": False}),
}
STEPS, RATE = 3, 0.5


def normal(shape, seed, dtype=torch.float64):
    """Values around channel means that are not 0; examples drift, so that shards differ."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64) + torch.arange(shape[1]).view(
        -1, *(1,) * (len(shape) - 2)
    )
    return (x + torch.linspace(0, 3, shape[0]).view(-1, *(1,) * (len(shape) - 1))).to(dtype)


def layout_of(x, layout):
    return x.contiguous(memory_format=torch.channels_last) if layout == "last" else x


def fill(layer, seed=0):
    """Other parameters than 1 and 0."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.rand(p.shape, generator=g, dtype=torch.float64) + 0.5)
    return layer


def passes(layer, batches):
    """Outputs and input gradients of several steps, summed parameter gradients, the state."""
    ys, dxs = [], []
    for x, dy in batches:
        x = x.detach().requires_grad_()
        y = layer(x)
        y.backward(dy)
        ys.append(y.detach())
        dxs.append(x.grad)
    return {
        "y": ys,
        "dx": dxs,
        "gradients": [p.grad for p in layer.parameters()],
        "state": layer.state_dict(),
    }


def batches_of(shape, layout="usual", dtype=torch.float64, offset=0.0):
    pairs = [(normal(shape, s, dtype) + offset, normal(shape, s + 10, dtype)) for s in (0, 1)]
    return [tuple(layout_of(t, layout) for t in pair) for pair in pairs]


def penalty(layer, x, total):
    """Gradients of the squared gradients: the second derivatives. ``total`` sums the processes'."""
    x = x.detach().requires_grad_()
    (dx,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    second = torch.autograd.grad(dx.square().sum(), (x, *layer.parameters()), allow_unused=True)
    return [second[0], *(total(g) for g in second[1:] if g is not None)]


def network(seed=0):
    """A small convolutional network in float64 with PyTorch's batch normalization."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 3),
    ).double()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64))
        model[-1].bias.zero_()
    return model


def images():
    return normal((12, 1, 8, 8), 5), torch.arange(12) % 3


def train(model, x, labels, scale):
    """``scale`` turns the sum of an example's losses into this process's loss."""
    for _ in range(STEPS):
        model.zero_grad()
        (scale * F.cross_entropy(model(x), labels, reduction="sum")).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= RATE * p.grad
    return model.state_dict()


# --- what each process does ------------------------------------------------------------------


def work(rank, processes, folder):
    torch.set_num_threads(1)
    minutes = datetime.timedelta(minutes=2)
    address = (folder / "meeting").as_uri()
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=processes, timeout=minutes
    )
    groups = {2: dist.new_group([0, 1]), 3: dist.group.WORLD}
    found = {}
    for sizes in SHARDS:
        if rank < len(sizes):
            group = groups[len(sizes)]
            found.update(on_shards(sizes, rank, group))
            if sizes in PARALLEL:
                found.update(in_parallel(sizes, rank, group))
            if torch.cuda.is_available():
                found.update(on_cuda(sizes, rank, group))
    if rank < 2:
        found.update(unusual(rank, groups[2]))
    else:
        with pytest.raises(TypeError, match="process group that this process belongs to"):
            BatchNorm(5, process_group=groups[2])
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def on_shards(sizes, rank, group):
    def mine(batches):
        return [tuple(t.split(sizes)[rank] for t in pair) for pair in batches]

    def total(gradient):
        dist.all_reduce(gradient, group=group)
        return gradient

    found = {}
    for case, (shape, layout, options) in CASES.items():
        layer = fill(BatchNorm(5, dtype=torch.float64, process_group=group, **options))
        found[case, sizes] = passes(layer, mine(batches_of(shape, layout)))
    for shape in SHAPES:
        layer = fill(BatchNorm(5, dtype=torch.float64, process_group=group))
        x = normal(shape, 3).split(sizes)[rank]
        found["penalty", sizes, shape] = penalty(layer, x, total)
        if 0 not in sizes and 1 not in sizes:
            layer = fill(BatchNorm(5, dtype=torch.float64))
            found["own", sizes, shape] = passes(layer, mine(batches_of(shape)))
    for dtype in (torch.float32, torch.bfloat16):
        offset = 1e4 if dtype == torch.float32 else 0.0
        layer = fill(BatchNorm(5, process_group=group))
        whole = batches_of((12, 5, 3, 2), dtype=dtype, offset=offset)
        found[dtype, sizes] = passes(layer, mine(whole))
    return found


def in_parallel(sizes, rank, group):
    """DistributedDataParallel, with synchronised statistics and without."""
    found, scale = {}, len(sizes) / sum(sizes)
    x, labels = (t.split(sizes)[rank] for t in images())
    for shared in (True, False):
        model = network()
        if shared:
            convert.synchronize(model, group)
        # Buffers that are not sent around: otherwise those of rank 0 would hide the others'.
        model = nn.parallel.DistributedDataParallel(
            model, process_group=group, broadcast_buffers=False
        )
        train(model, x, labels, scale)
        found["parallel", sizes, shared] = model.module.state_dict()
    return found


def unusual(rank, group):
    """Two processes: nothing at all; one value in all; a compiled layer."""
    found, layer = {}, fill(BatchNorm(5, dtype=torch.float64, process_group=group))
    nothing = torch.empty(0, 5, 2, dtype=torch.float64)
    found["nothing"] = passes(layer, [(nothing, nothing)])
    one = normal((2, 5), 0)[:1] if rank else nothing[..., 0]
    try:
        layer(one)
    except ValueError as error:
        found["one value"] = str(error), layer.state_dict()
    layer = fill(BatchNorm(5, dtype=torch.float64, process_group=group))
    compiled = torch.compile(layer, backend="aot_eager")
    pairs = batches_of((12, 5, 3, 2), "last")
    mine = [tuple(t.split((9, 3))[rank] for t in pair) for pair in pairs]
    found["compiled"] = passes(compiled, mine) | {"state": layer.state_dict()}
    return found


def on_cuda(sizes, rank, group):
    """Ours and nn.SyncBatchNorm; gloo, because NCCL refuses two processes on one GPU."""
    found, device = {}, torch.device("cuda", rank % torch.cuda.device_count())
    for dtype in (torch.float32, torch.float16):
        whole = batches_of((12, 5, 3, 2), "last", dtype)
        mine = [tuple(t.split(sizes)[rank].to(device) for t in pair) for pair in whole]
        for kind in (BatchNorm, nn.SyncBatchNorm):
            layer = fill(kind(5, process_group=group)).to(device)
            results = passes(layer, mine)
            results = {name: _on_cpu(value) for name, value in results.items()}
            found["cuda", sizes, dtype, kind.__name__] = results
    return found


def _on_cpu(values):
    if isinstance(values, dict):
        return {name: value.cpu() for name, value in values.items()}
    return [value.cpu() for value in values]


if __name__ == "__main__":
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))


# --- the tests -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the three processes stored, a list of dicts."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = []
    for rank in range(3):
        log = (folder / f"{rank}.log").open("w")
        command = [sys.executable, __file__, str(rank), "3", str(folder)]
        workers.append(
            subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        )
        log.close()
    try:
        codes = [worker.wait(timeout=500) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    logs = "\n".join((folder / f"{rank}.log").read_text() for rank in range(3))
    assert codes == [0, 0, 0], logs
    return [torch.load(folder / f"{rank}.pt") for rank in range(3)]


def together(found, key):
    """The shards' results as those of one batch; the state has to be the same everywhere."""
    parts = [results[key] for results in found if key in results]
    for part in parts[1:]:
        for name, value in parts[0]["state"].items():
            if name.startswith(("running", "num")):  # bitwise
                assert torch.equal(part["state"][name], value), name
    return {
        "y": [torch.cat(step) for step in zip(*(p["y"] for p in parts), strict=True)],
        "dx": [torch.cat(step) for step in zip(*(p["dx"] for p in parts), strict=True)],
        "gradients": [sum(gs) for gs in zip(*(p["gradients"] for p in parts), strict=True)],
        "state": parts[0]["state"],
    }


def assert_same(got, expected, **tolerance):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            got[name], expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", SHARDS)
def test_equals_one_process_with_the_whole_batch(found, case, sizes):
    # caught: shards weighted equally; the variance of the means left out; a process's own m in
    # dx or in the unbiased variance; sums of dy left local; gamma's gradient summed twice
    shape, layout, options = CASES[case]
    whole = fill(ORACLE[len(shape)](5, dtype=torch.float64, **options))
    expected = passes(whole, batches_of(shape))
    assert_same(together(found, (case, sizes)), expected, **EXACT)
    if layout == "last" and 0 not in sizes:
        for part in (results[case, sizes] for results in found[: len(sizes)]):
            for t in (*part["y"], *part["dx"]):
                assert t.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", SHARDS)
def test_gradients_of_gradients(found, shape, sizes):
    # caught: statistics or sums that are constants in the second derivative; a process without
    # examples that takes no part, so that the others wait for ever
    layer = fill(ORACLE[len(shape)](5, dtype=torch.float64))
    expected = penalty(layer, normal(shape, 3), lambda gradient: gradient)
    parts = [results["penalty", sizes, shape] for results in found[: len(sizes)]]
    got = [torch.cat([part[0] for part in parts]), *parts[0][1:]]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", SHARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_and_a_large_mean(found, sizes, dtype):
    # caught: E[x²] − E[x]² across processes; statistics sent in the half type
    offset = 1e4 if dtype == torch.float32 else 0.0
    whole = batches_of((12, 5, 3, 2), dtype=dtype, offset=offset)
    layer = fill(nn.BatchNorm2d(5, dtype=torch.float64))
    expected = passes(layer, [tuple(t.double() for t in pair) for pair in whole])
    got = together(found, (dtype, sizes))
    rounding = 2e-2  # of bfloat16; and a last bit at 1e4 is 1e-3
    for name in ("y", "dx"):
        for value, true in zip(got[name], expected[name], strict=True):
            assert value.dtype == dtype
            torch.testing.assert_close(value.double(), true, rtol=rounding, atol=rounding)
    torch.testing.assert_close(
        got["state"]["running_var"].double(), expected["state"]["running_var"], rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", [(6, 6), (9, 3), (4, 4, 4)])
def test_without_a_group_each_process_has_ghost_batches(found, shape, sizes):
    # caught: statistics shared although nobody asked for it
    for rank, results in enumerate(found[: len(sizes)]):
        mine = [tuple(t.split(sizes)[rank] for t in pair) for pair in batches_of(shape)]
        layer = fill(ORACLE[len(shape)](5, dtype=torch.float64))
        assert_same(results["own", sizes, shape], passes(layer, mine), **EXACT)
    means = [r["own", sizes, shape]["state"]["running_mean"] for r in found[: len(sizes)]]
    assert not torch.allclose(means[0], means[1], atol=0.05)


@pytest.mark.parametrize("sizes", PARALLEL)
def test_data_parallel_training_equals_one_process(found, sizes):
    # caught: synchronize that leaves a layer out or resets weights; gradients that
    # DistributedDataParallel's average does not turn into the whole batch's
    x, labels = images()
    expected = train(network(), x, labels, 1 / len(x))
    states = {
        shared: [r["parallel", sizes, shared] for r in found[: len(sizes)]]
        for shared in (True, False)
    }
    for state in states[True]:
        torch.testing.assert_close(state, expected, rtol=1e-9, atol=1e-9)
    own = states[False]
    assert all(torch.equal(own[0]["7.weight"], state["7.weight"]) for state in own)
    assert (own[0]["7.weight"] - expected["7.weight"]).abs().max() > 1e-3
    assert (own[0]["1.running_mean"] - own[1]["1.running_mean"]).abs().max() > 1e-3


def test_nothing_at_all_is_counted_and_no_more(found):
    # caught: 0 / 0 where all processes' batches are empty
    layer = fill(nn.BatchNorm1d(5, dtype=torch.float64))
    nothing = torch.empty(0, 5, 2, dtype=torch.float64)
    expected = passes(layer, [(nothing, nothing)])
    for results in found[:2]:
        assert_same(results["nothing"], expected, rtol=0, atol=0)


def test_one_value_in_all_is_refused_by_every_process(found):
    # caught: a process that goes on while another raises; buffers changed before the check
    for results in found[:2]:
        message, state = results["one value"]
        assert "at least 2 values per channel" in message
        assert state["num_batches_tracked"] == 1  # of the call before


def test_a_compiled_layer_gives_the_same(found):
    # caught: a collective that the compiler drops or reorders
    layer = fill(nn.BatchNorm2d(5, dtype=torch.float64))
    expected = passes(layer, batches_of((12, 5, 3, 2)))
    assert_same(together(found, "compiled"), expected, **EXACT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nn.SyncBatchNorm needs a CUDA device")
@pytest.mark.parametrize("sizes", SHARDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equals_syncbatchnorm_on_cuda(found, sizes, dtype):
    # caught: another share of gamma's gradient or another running variance than PyTorch's
    ours, theirs = (
        together(found, ("cuda", sizes, dtype, kind)) for kind in ("BatchNorm", "SyncBatchNorm")
    )
    rounding = 1e-4 if dtype == torch.float32 else 1e-2
    assert_same(ours, theirs, rtol=rounding, atol=rounding)


# --- a group of one process, here ------------------------------------------------------------


@pytest.fixture
def group(tmp_path):
    dist.init_process_group(
        "gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1
    )
    yield dist.group.WORLD
    if dist.is_initialized():
        dist.destroy_process_group()


def test_evaluation_sends_nothing(group, monkeypatch):
    # caught: a collective in eval mode, where processes may have different numbers of batches
    layers_ = [BatchNorm(5, process_group=group), BatchNorm(5, track_running_stats=False)]
    layers_[1].process_group = group
    monkeypatch.delattr(dist, "all_reduce")
    for layer in layers_:
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
        layer.eval()(x).sum().backward()
    with pytest.raises(AttributeError, match="all_reduce"):
        layers_[0].train()(x)


def test_copies_keep_the_group_and_pickles_lose_it(group):
    # caught: deepcopy that fails on a process group; a state dict with something new in it
    layer = fill(BatchNorm(5, process_group=group))
    layer(normal((4, 5), 0, torch.float32))
    model = nn.Sequential(layer)
    twin, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert twin[0].process_group is group
    assert loaded[0].process_group is None
    assert list(layer.state_dict()) == list(nn.BatchNorm1d(5).state_dict())
    assert repr(layer).endswith(", synchronized)")
    assert "synchronized" not in repr(loaded)
    for other in (twin, loaded):
        torch.testing.assert_close(other.state_dict(), model.state_dict())
        other(normal((4, 5), 1, torch.float32))
        assert int(other[0].num_batches_tracked) == 1 + int(layer.num_batches_tracked)
    shared = nn.ModuleList([layer, layer])
    assert (twins := copy.deepcopy(shared))[0] is twins[1]


def test_synchronize_changes_every_layer_and_keeps_what_it_holds(group):
    # caught: a layer in a container, the model itself or a shared layer left out; parameters
    # replaced under an optimiser; buffers reset; the mode changed
    shared = nn.BatchNorm1d(3, eps=1e-3, momentum=None)
    model = nn.ModuleDict(
        {
            "native": nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm3d(3))),
            "cuda only": nn.SyncBatchNorm(3),
            "shared": nn.ModuleList([shared, shared, nn.BatchNorm1d(3, affine=False)]),
            "ours": BatchNorm(3, bias=False),
            "none": nn.GroupNorm(1, 3),
        }
    )
    shared.eval()
    shared.running_mean.fill_(7)
    parameters, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    assert convert.synchronize(model) is model
    changed = [m for m in model.modules() if isinstance(m, BatchNorm)]
    assert len(changed) == 6
    assert all(m.process_group is group for m in changed)
    left = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {type(m) for m in left} == {BatchNorm}
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model.state_dict(), state)
    assert (shared.eps, shared.momentum, shared.training) == (1e-3, None, False)
    alone = convert.synchronize(nn.BatchNorm1d(3), group)
    assert type(alone) is BatchNorm
    x = normal((4, 3), 0, torch.float32)
    torch.testing.assert_close(alone(x), nn.BatchNorm1d(3)(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch.jit
def test_forward_mode_with_a_group_equals_that_without(group):
    # caught: sums of tangents that stay on their process; statistics whose tangents are lost
    x, direction = normal((6, 3), 0).requires_grad_(), normal((6, 3), 1)
    found = []
    for shared in (None, group):
        layer = BatchNorm(3, dtype=torch.float64, process_group=shared)
        with forward_ad.dual_level():
            y = layer(forward_ad.make_dual(x, direction))
            (dx,) = torch.autograd.grad(y.pow(3).sum(), x)  # over it, for products with Hessians
            found.append([*forward_ad.unpack_dual(y), *forward_ad.unpack_dual(dx)])
    torch.testing.assert_close(found[1], found[0])


def test_what_cannot_be_synchronised_is_said(group):
    # caught: a subclass's own forward thrown away in silence; a group of another kind taken
    class Own(nn.BatchNorm1d):
        pass

    model = nn.Sequential(nn.BatchNorm1d(3), Own(3))
    with pytest.raises(TypeError, match="got Own; replace it"):
        convert.synchronize(model)
    assert type(model[0]) is nn.BatchNorm1d
    for wrong in ("gloo", -100):
        with pytest.raises(TypeError, match=f"belongs to, or None, got {wrong!r}; use torch"):
            BatchNorm(3, process_group=wrong)
    layer = BatchNorm(3, process_group=group)
    dist.destroy_process_group()
    with pytest.raises(RuntimeError, match="init_process_group"):
        layer(torch.zeros(4, 3))
    assert int(layer.num_batches_tracked) == 0
    assert layer.eval()(torch.zeros(4, 3)).shape == (4, 3)


def test_without_torch_distributed_started_there_is_a_clear_error():
    # caught: dist's own message about a default group, or none
    with pytest.raises(RuntimeError, match=r"start with torchrun and call .*init_process_group"):
        convert.synchronize(nn.BatchNorm1d(3))
    with pytest.raises(RuntimeError, match="init_process_group"):
        BatchNorm(3, process_group="WORLD")
