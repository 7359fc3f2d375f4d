"""The layer, forward and backward, beside PyTorch's, textbook code, and itself before."""

from __future__ import annotations

import subprocess
import types
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from bench.timing import compiles, composed, interleaved, ratio, set_pages
from bn_helpers import layers

#: The commit whose layer is measured beside today's.
BEFORE = "5ad16604aab4"
CASES = [  # layout, shape, pages; "new" first, since malloc never unlearns what it has kept
    ("NCHW", (32, 64, 56, 56), "new"),
    ("NHWC", (32, 64, 56, 56), "new"),
    ("NCHW", (32, 64, 56, 56), "reused"),
    ("NHWC", (32, 64, 56, 56), "reused"),
    ("NC", (256, 1024), "reused"),
    ("NC", (64, 100), "reused"),
]


def measure(rounds=51):
    results = []
    for layout, shape, pages in CASES:
        set_pages(pages)
        results += _layers_of_one_case(shape, layout, pages, rounds)
    set_pages("reused")
    names = list(dict.fromkeys(row["implementation"] for row in results))
    print("\nforward + backward, ratio to F.batch_norm (lower is faster)")
    print(f"{'layout, shape, pages':<32}" + "".join(f"{name:>19}" for name in names))
    for layout, shape, pages in CASES:
        case = {"layout": layout, "shape": list(shape), "pages": pages}
        found = {r["implementation"]: r["ratio"] for r in results if case.items() <= r.items()}
        cells = (f"{found[name]:.2f}" if name in found else "–" for name in names)
        print(f"{f'{layout} {shape} {pages}':<32}" + "".join(f"{cell:>19}" for cell in cells))
    return {"rounds": rounds, "dtype": "float32"}, results


def _layers_of_one_case(shape, layout, pages, rounds):
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=generator) for _ in range(2))
    if layout == "NHWC":
        x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    x.requires_grad_()
    count = torch.tensor(0)
    weight, bias = (nn.Parameter(torch.ones(shape[1])) for _ in range(2))
    module, before = layers.BatchNorm(shape[1]), _layer_before(shape[1])
    target = torch.empty_like(x)
    running = torch.zeros(shape[1]), torch.ones(shape[1])
    plain = {
        "F.batch_norm": lambda: F.batch_norm(x, *running, weight, bias, training=True),
        "composed": lambda: composed(x, weight, bias),
    }
    modules = {"ours": module} | ({"ours before": before} if before else {})
    if x.dim() == 2:
        plain["bare function"] = lambda: _bare(x, weight, bias, *running, count)
    if compiles():
        torch._dynamo.reset()
        compiled_function = torch.compile(composed)
        plain["composed compiled"] = lambda: compiled_function(x, weight, bias)
        modules |= {f"{name} compiled": torch.compile(made) for name, made in modules.items()}
    else:
        print("no C++ compiler: the compiled rows are left out")

    def step(forward, parameters):
        return lambda: torch.autograd.grad(forward(), (x, *parameters), dy)

    functions = {name: step(call, (weight, bias)) for name, call in plain.items()}
    for name, made in modules.items():
        functions[name] = step(partial(made, x), list(made.parameters()))
    functions["copy"] = lambda: target.copy_(x.detach())
    seconds = interleaved(functions, rounds)
    return [
        {
            "shape": list(shape),
            "layout": layout,
            "pages": pages,
            "implementation": name,
            "seconds": median(seconds[name]),
            "ratio": ratio(seconds, name, "F.batch_norm"),
        }
        for name in functions
    ]


def _layer_before(channels):
    """The layer of the commit BEFORE, or None where git does not have it."""
    command = ["git", "-C", Path(__file__).parent, "show", f"{BEFORE}:bn_helpers/layers.py"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        print(f"no commit {BEFORE}: the layer before is left out")
        return None
    module = types.ModuleType("layers_before")
    exec(found.stdout, vars(module))
    return module.BatchNorm(channels)


class _Bare(torch.autograd.Function):
    """The arithmetic of a table's batch normalization, and nothing around it."""

    @staticmethod
    def forward(ctx, x, gamma, beta, eps):
        mean = x.mean(0)
        centred = x - mean
        var = centred.square().mean(0)
        inv_std = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, gamma, mean, inv_std)
        ctx.mark_non_differentiable(mean, var)
        return centred * inv_std * gamma + beta, mean, var

    @staticmethod
    def backward(ctx, dy, *_):
        x, gamma, mean, inv_std = ctx.saved_tensors
        m = len(x)
        x_hat = (x - mean) * inv_std
        dbeta = dy.sum(0)
        dgamma = (dy * x_hat).sum(0)
        dx = gamma * inv_std * (dy - dbeta / m - x_hat * (dgamma / m))
        return dx, dgamma, dbeta, None


def _bare(x, gamma, beta, running_mean, running_var, count, momentum=0.1):
    y, mean, var = _Bare.apply(x, gamma, beta, 1e-5)
    count.add_(1)
    running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
    running_var.mul_(1 - momentum).add_(var, alpha=momentum * len(x) / (len(x) - 1))
    return y
