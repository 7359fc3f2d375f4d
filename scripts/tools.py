"""What PyTorch's own tools do with nn.BatchNorm2d and with layers.BatchNorm: the same?

Each use is a function of ``make``, which constructs the layer. It returns what comes out, values
and side effects, for the native layer and for ours alike. tests/test_tools.py compares, and
scripts/api.py puts the table on the API page.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    replace_all_batch_norm_modules_,
    stack_module_state,
    vjp,
    vmap,
)
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

#: In the table's order: (title, the use).
USES = []


def use(title):
    return lambda function: USES.append((title, function)) or function


def ours(*arguments, **options):
    from bn_helpers.layers import BatchNorm

    return BatchNorm(*arguments, **options)


class Textbook(nn.BatchNorm2d):
    """Algorithm 1 in operations that PyTorch differentiates one by one."""

    def forward(self, x):
        mean = x.mean((0, 2, 3), keepdim=True)
        var = (x - mean).square().mean((0, 2, 3), keepdim=True)
        x_hat = (x - mean) / (var + self.eps).sqrt()
        return self.weight.view(-1, 1, 1) * x_hat + self.bias.view(-1, 1, 1)


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def layer(make, seed=0, **options):
    """A layer in float64 whose parameters and running statistics are none of them 0 or 1."""
    made = make(3, dtype=torch.float64, **options)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if name != "num_batches_tracked":
                value.copy_(numbers(3, seed=seed + len(name)).abs() + 0.5)
    return made


def network(make, seed=0):
    convolution = nn.Conv2d(2, 3, 2, dtype=torch.float64)
    model = nn.Sequential(convolution, layer(make, seed), nn.ReLU(inplace=True))
    with torch.no_grad():
        convolution.weight.copy_(numbers(3, 2, 2, 2, seed=seed))
        convolution.bias.zero_()
    return model


def batches(count=3):
    return [numbers(4, 2, 4, 4, seed=i) + i for i in range(count)]


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


MAPS = numbers(4, 3, 2, 2, seed=7)
SEED = numbers(4, 3, 2, 2, seed=8)


# --- tools that look for batch normalization ---------------------------------------------------


@use("`swa_utils.update_bn`")
def updates(make):
    model = network(make)
    update_bn(batches(), model)
    return state(model), model[1].momentum


@use("`AveragedModel`, with and without `use_buffers`")
def averages(make):
    found = []
    for use_buffers in (True, False):
        model = network(make)
        averaged = AveragedModel(model, use_buffers=use_buffers)
        for x in batches():
            model(x)
            averaged.update_parameters(model)
        update_bn(batches(), averaged) if not use_buffers else None
        found.append(state(averaged))
    return found


@use("`SyncBatchNorm.convert_sync_batchnorm`")
def synchronised(make):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network(make))
    return state(model), type(model[1]).__name__


@use("weight decay and freezing by `isinstance(…, _BatchNorm)`")
def filtered(make):
    model = network(make)
    found = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    for name in found:
        model.get_submodule(name).eval().requires_grad_(False)
    model(batches()[0]).sum().backward()
    return found, state(model), [p.grad is None for p in model.parameters()]


# --- torch.func ----------------------------------------------------------------------------------


@use("`torch.func.replace_all_batch_norm_modules_`")
def replaced(make):
    model = network(make)
    replace_all_batch_norm_modules_(model)
    return state(model), model(batches()[0]), model[1].track_running_stats


@use("`torch.func.functional_call`, buffers handed in")
def called(make):
    model = layer(make)
    handed = {name: value.clone() for name, value in model.state_dict().items()}
    y = functional_call(model, handed, (MAPS,))
    return y, handed, state(model)


def of_x(make, training=True):
    """The layer as a function of its input, without tracked statistics in training mode."""
    made = layer(make, track_running_stats=not training).train(training)
    return lambda x: made(x)


@use("`torch.func.grad`")
def gradient(make):
    model = layer(make, track_running_stats=False)

    def loss(parameters, x):
        return (functional_call(model, parameters, (x,)) * SEED).pow(2).sum()

    return grad(loss, argnums=(0, 1))(dict(model.named_parameters()), MAPS)


@use("`vjp` and `jvp`")
def products(make):
    found = []
    for training in (True, False):
        y, back = vjp(of_x(make, training), MAPS)
        found += [y, back(SEED), jvp(of_x(make, training), (MAPS,), (SEED,))]
    return found


@use("`jacrev` and `jacfwd`")
def jacobians(make):
    return [
        jacobian(of_x(make, training))(MAPS)
        for jacobian in (jacrev, jacfwd)
        for training in (True, False)
    ]


@use("`hessian`")
def second(make):
    normalise = of_x(make)
    return hessian(lambda x: normalise(x).pow(3).sum())(MAPS[:3])


@use("`vmap` over inputs, over parameters, over both")
def mapped(make):
    many = torch.stack([MAPS, 2 * MAPS + 1])
    model = layer(make, track_running_stats=False)
    parameters = dict(model.named_parameters())
    both = {name: torch.stack([p, p + 1]) for name, p in parameters.items()}

    def call(parameters, x):
        return functional_call(model, parameters, (x,))

    return [
        vmap(call, in_dims=dims)(*arguments)
        for dims, arguments in (
            ((None, 0), (parameters, many)),
            ((0, None), (both, MAPS)),
            ((0, 0), (both, many)),
            ((0, 2), (both, many.movedim(0, 2))),
        )
    ]


@use("`vmap(grad)`, and the gradient of a `vmap`")
def mapped_gradients(make):
    many = torch.stack([MAPS, 2 * MAPS + 1])
    model = layer(make, track_running_stats=False)
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        return functional_call(model, parameters, (x,)).pow(3).sum()

    inside = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0))(parameters, many)
    outside = grad(lambda x: vmap(loss, in_dims=(None, 0))(parameters, x).sum())(many)
    return inside, outside


@use("per-example gradients in eval mode")
def per_example(make):
    model = network(make).eval()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(parameters, x):
        return functional_call(model, (parameters, buffers), (x[None],)).pow(2).sum()

    return vmap(grad(loss), in_dims=(None, 0))(parameters, batches()[0])


@use("ensembles by `stack_module_state`, running statistics included")
def ensembles(make):
    models = [network(make, seed) for seed in range(3)]
    found = []
    for training in (True, False):
        parameters, buffers = stack_module_state([model.train(training) for model in models])
        x = batches()[0]

        def call(parameters, buffers):
            return functional_call(models[0], (parameters, buffers), (x,))  # noqa: B023

        y = vmap(call)(parameters, buffers)
        found += [y, buffers, torch.autograd.grad(y.pow(2).sum(), list(parameters.values()))]
    return found


@use("`vmap` over one network's tracked statistics")
def tracked(make):
    model = layer(make)
    before = state(model)
    try:
        return vmap(model)(torch.stack([MAPS, MAPS]))
    finally:
        for name, value in model.state_dict().items():
            if make is ours:  # PyTorch's has counted the batch by then
                assert torch.equal(value, before[name])


# --- automatic differentiation -------------------------------------------------------------------


@use("forward mode (`torch.autograd.forward_ad`)")
def dual_numbers(make):
    found = []
    for training in (True, False):
        model = layer(make).train(training)
        with forward_ad.dual_level():
            y = F.relu(model(forward_ad.make_dual(MAPS, SEED)), inplace=True)
            found += [*forward_ad.unpack_dual(y), state(model)]
    return found


@use("Hessian-vector products, forward over reverse")
def over_reverse(make):
    model = layer(make)
    x = MAPS.clone().requires_grad_()
    with forward_ad.dual_level():
        y = model(forward_ad.make_dual(x, SEED))
        (dx,) = torch.autograd.grad(y.pow(3).sum(), x)
        plain = forward_ad.unpack_dual(dx)
    functional = jvp(grad(lambda x: of_x(make)(x).pow(3).sum()), (MAPS,), (SEED,))
    return *plain, *functional


@use("Hessian-vector products, reverse over forward")
def over_forward(make):
    normalise = of_x(make)

    def directional(x):
        return jvp(lambda x: normalise(x).pow(3).sum(), (x,), (SEED,))[1]

    return grad(directional)(MAPS), jacrev(jacfwd(lambda x: normalise(x).pow(3).sum()))(MAPS[:2])


@use("batched gradients (`is_grads_batched`, `vectorize`)")
def batched_gradients(make):
    model, x = layer(make), MAPS.clone().requires_grad_()
    y = model(x)
    several = torch.stack([SEED, SEED.square()])
    batched = torch.autograd.grad(y, (x, *model.parameters()), several, is_grads_batched=True)
    return batched, torch.autograd.functional.jacobian(model, MAPS, vectorize=True)


@use("gradients of gradients")
def penalty(make):
    model, x = layer(make), MAPS.clone().requires_grad_()
    (dx,) = torch.autograd.grad(model(x).pow(3).sum(), x, create_graph=True)
    return torch.autograd.grad(dx.square().sum(), (x, model.weight))


@use("activation checkpointing: the second forward counts too")
def checkpointed(make):
    found = []
    for use_reentrant in (True, False):
        # Alone the layer ends the second forward, which stops when it has what it needs.
        for model, x in ((network(make), batches()[0]), (layer(make), MAPS.clone())):
            y = checkpoint(model, x.requires_grad_(), use_reentrant=use_reentrant)
            y.pow(2).sum().backward()
            found += [y, x.grad, state(model)]
    return found


# --- tracing and exporting -----------------------------------------------------------------------


@use("`fx.symbolic_trace`")
def traced_symbolically(make):
    model = network(make)
    traced = fx.symbolic_trace(model)
    y = traced(batches()[0])
    return [node.op for node in traced.graph.nodes], y, state(model), state(traced)


@use("`torch.export`, in both modes")
def exported(make):
    found = []
    for training in (True, False):
        model = network(make).train(training)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (batches()[0],)).module()
        x = batches()[1].requires_grad_()
        y = program(x)
        y.sum().backward()
        found += [y, x.grad, state(program), state(model)]
    return found


@use("`torch.jit.trace`, in both modes")
def traced(make):
    found = []
    for training in (True, False):
        model = network(make).train(training)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored = io.BytesIO()
            torch.jit.save(torch.jit.trace(model, batches()[0], check_trace=False), stored)
            stored.seek(0)
            program = torch.jit.load(stored)
        found.append([buffer.requires_grad for buffer in model.buffers()])
        x = batches()[1].requires_grad_()
        y = program(x)
        y.sum().backward()
        found += [y, x.grad, state(program), state(model)]
    return found


@use("`torch.jit.script`")
def scripted(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(network(make))(batches()[0])


@use("`fuse_conv_bn_eval`")
def fused(make):
    convolution, bn, _ = network(make).eval()
    return state(fuse_conv_bn_eval(convolution, bn))


@use("fusing by `torch.fx.experimental.optimization.fuse`")
def fused_by_fx(make):
    from torch.fx.experimental.optimization import fuse

    return [type(module).__name__ for module in fuse(network(make).eval()).children()]


@use("`isinstance(…, nn.BatchNorm2d)`, on which quantisation rests")
def exact_type(make):
    return isinstance(layer(make), nn.BatchNorm2d)


# --- a module among modules ----------------------------------------------------------------------


@use("meta device, `to_empty`, `reset_parameters`")
def from_meta(make):
    with torch.device("meta"):
        model = make(3)
    shapes = {name: (value.shape, value.device.type) for name, value in model.state_dict().items()}
    model = model.to_empty(device="cpu")
    model.reset_parameters()
    return shapes, model(MAPS.float()), state(model)


@use("`load_state_dict(assign=True)`")
def assigned(make):
    given = state(layer(make, seed=5))
    model = make(3, device="meta")
    model.load_state_dict(given, assign=True)
    same = [value is given[name] for name, value in model.named_buffers()]
    return model.double()(MAPS), state(model), same


@use("forward and backward hooks")
def hooked(make):
    model, seen = layer(make), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    model.register_full_backward_hook(lambda module, *gradients: seen.append(gradients))
    model(MAPS.clone().requires_grad_()).pow(2).sum().backward()
    return seen


@use("copies and pickles")
def copied(make):
    model = layer(make)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.copy(model)]
    return [(twin(MAPS), state(twin)) for twin in twins]


@use("`half`, `bfloat16`, autocast")
def halves(make):
    found = []
    for dtype in (torch.float16, torch.bfloat16):
        for parameters in (dtype, torch.float32):
            model = layer(make).to(parameters)
            x = MAPS.to(dtype).requires_grad_()
            y = model(x)
            y.backward(SEED.to(dtype))
            found += [y.dtype, x.grad.dtype, model.weight.grad.dtype, model.running_var.dtype]
    with torch.autocast("cpu", torch.bfloat16):
        convolution = nn.Conv2d(3, 3, 1)
        y = layer(make).float()(convolution(MAPS.float()))
    return *found, y.dtype


@use("in-place operations on the result")
def in_place(make):
    x = MAPS.clone().requires_grad_()
    y = F.relu(layer(make)(x), inplace=True)
    y.sum().backward()
    return y, x.grad


#: Where PyTorch's own derivative (2.12 to 2.15) is not the function's: the judge is the textbook.
AGAINST_TEXTBOOK = {
    "Hessian-vector products, reverse over forward": "equals textbook operations, differentiated "
    "one by one; PyTorch's layer does not",
}
#: What ours refuses or leaves out although PyTorch's layer does not, and the way round.
WAYS_ROUND = {
    "`torch.jit.script`": "`torch.export`, `torch.jit.trace`, or `convert.to_native(model)`",
    "fusing by `torch.fx.experimental.optimization.fuse`": "`convert.to_native(model)` first, "
    "or `convert.fold`",
    "`isinstance(…, nn.BatchNorm2d)`, on which quantisation rests": "`convert.to_native(model)`",
}


def outcome(function, make):
    """What a use returns, or its exception."""
    try:
        return function(make)
    except Exception as error:
        return error


def table():
    """(tool, what came out) for each use; tests/test_tools.py holds ours to it."""
    rows = []
    for title, function in USES:
        native = outcome(function, torch.nn.BatchNorm2d)
        if title in WAYS_ROUND:
            refused = isinstance(outcome(function, ours), Exception)
            verdict = f"{'refused' if refused else 'left as it is'}; {WAYS_ROUND[title]}"
        elif title in AGAINST_TEXTBOOK:
            verdict = AGAINST_TEXTBOOK[title]
        else:
            verdict = "refused, as PyTorch's" if isinstance(native, Exception) else "the same"
        rows.append((title, verdict))
    return rows
