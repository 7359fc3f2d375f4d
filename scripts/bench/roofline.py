"""BN in per cent of a copy at the memory's speed."""

from __future__ import annotations

from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from bench.timing import CLOCK, compiled, compiles, composed, interleaved, set_pages, speed
from bn_helpers import convert, kernels, layers, memory

#: How often a perfect implementation reads or writes a tensor of x's size. A copy does it twice.
PASSES = {"forward": 3, "forward + backward": 8, "inference": 2}
SHAPES = {
    "cpu": [(32, 64, 56, 56), (128, 64, 32, 32), (256, 1024)],
    "cuda": [(32, 64, 56, 56), (256, 64, 112, 112), (512, 256, 32, 32), (65536, 1024)],
}
HALF = {"cpu": [(32, 64, 56, 56)], "cuda": SHAPES["cuda"]}  # the shapes tried in bfloat16
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices whose product says what the arithmetic can do


def measure(device, rounds=9):
    """BN in per cent of a copy of the same tensor, and what the machine can do at best."""
    if device == "cpu":
        set_pages("reused")
    if not compiles(device):
        print("no C++ compiler: the compiled rows are left out")
    results = _peaks(device, rounds)
    print(f"\nBN, per cent of the bandwidth of a copy ({device}; higher is faster)")
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES[device] if dtype == torch.float32 else HALF[device]:
            for layout in LAYOUTS if len(shape) == 4 else ["NC"]:
                x = _tensor(shape, layout, dtype, device)
                case = {"shape": list(shape), "layout": layout, "dtype": str(dtype)[6:]}
                rows = [case | row for row in _batch_norms(x, device, rounds)]
                if len(shape) == 4 and shape == SHAPES[device][0]:
                    rows += [case | row for row in _foldings(x, device, rounds)]
                _print(rows)
                results += rows
    return {"rounds": rounds, "passes": PASSES, "side": SIDE[device], **CLOCK[device]}, results


def _tensor(shape, layout, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    return x.contiguous(memory_format=LAYOUTS.get(layout, torch.contiguous_format))


def _peaks(device, rounds):
    """Operations a second of dense kernels in their fastest round; the best of them is the roof.

    One kernel is not enough: the matrix product of PyTorch's library for Intel's processors does
    less than half of what its convolution does on a processor of AMD with AVX-512.
    """
    rows, side = [], SIDE[device]
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (_tensor((side, side), None, dtype, device, seed) for seed in (0, 1))
        x = _tensor((8 if device == "cpu" else 256, 256, 28, 28), "NHWC", dtype, device)
        convolution = _convolution(256, x, bias=False, padding=0)  # padding is not computed
        calls = {
            "matrix product": partial(torch.matmul, a, b),
            "convolution 3×3": partial(convolution, x),
        }
        with torch.no_grad():
            outputs = convolution(x).numel()
            seconds = interleaved(calls, rounds, device)
        operations = {"matrix product": 2 * side**3, "convolution 3×3": 2 * 9 * 256 * outputs}
        for name in calls:
            row = {"peak": name, "dtype": str(dtype)[6:]}
            rows.append(row | {"per_second": operations[name] / min(seconds[name])})
    return rows


def _convolution(channels, x, padding=1, **options):
    layer = nn.Conv2d(channels, channels, 3, padding=padding, **options)
    nn.init.normal_(layer.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    return layer.to(x.device, x.dtype).to(memory_format=torch.channels_last)


def _batch_norms(x, device, rounds):
    """A row for each pass and implementation, and one for the copy."""
    dy, target = x.flip(0).contiguous(memory_format=memory.layout(x)), torch.empty_like(x)
    x.requires_grad_()
    channels = x.shape[1]
    weight, bias = (torch.ones(channels, device=device, requires_grad=True) for _ in range(2))
    stored = torch.zeros(channels, device=device), torch.ones(channels, device=device)
    modules = {
        mode: layers.BatchNorm(channels, device=device).train(mode) for mode in (True, False)
    }

    def textbook(x):
        return composed(x.float(), weight, bias).to(x.dtype)

    def native(x, training=True):
        return F.batch_norm(x, *stored, weight, bias, training=training)

    def linear(x):
        mean, var, gamma, beta = (
            v.view(-1, *(1,) * (x.dim() - 2)) for v in (*stored, weight, bias)
        )
        return ((x - mean) / torch.sqrt(var + 1e-5) * gamma + beta).to(x.dtype)

    trained = {"native": native, "ours": modules[True], "composed": textbook}
    fixed = {"native": lambda x: native(x, False), "ours": modules[False], "composed": linear}
    if compiles(device):
        torch._dynamo.reset()
        trained |= {f"{name} compiled": compiled(trained[name]) for name in ("ours", "composed")}
        fixed["composed compiled"] = compiled(linear)
    if device == "cuda":
        trained["fused"] = lambda x: kernels.batch_norm(x, weight, bias)[0]

    def both(name):
        parameters = modules[True].parameters() if name.startswith("ours") else (weight, bias)
        inputs = (x, *parameters)
        return lambda: torch.autograd.grad(trained[name](x), inputs, dy)

    @torch.no_grad()
    def infer(name):
        return fixed[name](x)

    calls = {("inference", name): partial(infer, name) for name in fixed}
    for name in trained:
        calls["forward + backward", name] = both(name)
        calls["forward", name] = partial(trained[name], x)
    calls["copy", "copy"] = lambda: target.copy_(x.detach())
    seconds = interleaved(calls, rounds, device)
    rows = []
    for what, name in calls:
        row = {"pass": what, "implementation": name, "seconds": median(seconds[what, name])}
        found = speed(seconds, (what, name), ("copy", "copy"))
        share = 100 * PASSES.get(what, 2) / 2  # a pass as fast as the copy's is 100 %
        row["percent"] = share * found["speed"]
        rows.append(row | {"quartiles": [share * quartile for quartile in found["quartiles"]]})
    x.requires_grad_(False)
    return rows


def _foldings(x, device, rounds):
    """A 3×3 convolution alone, with BN behind it, and with BN folded into it, at inference."""
    channels = x.shape[1]
    convolution = _convolution(channels, x)
    bn = nn.BatchNorm2d(channels).to(device).eval()
    folded = convert.fold(convolution, bn)
    kinds = {"convolution": convolution, "folded": folded}
    kinds["with BN"] = nn.Sequential(convolution, bn)

    @torch.inference_mode()
    def infer(model):
        return model(x)

    calls = {name: partial(infer, model) for name, model in kinds.items()}
    seconds = interleaved(calls, rounds, device)
    about = {"pass": "convolution 3×3, inference"}
    return [
        about
        | {"implementation": name, "seconds": median(seconds[name])}
        | speed(seconds, name, "with BN")
        for name in calls
    ]


def _print(rows):
    print(f"  {rows[0]['layout']} {tuple(rows[0]['shape'])} {rows[0]['dtype']}")
    for what in dict.fromkeys(row["pass"] for row in rows):
        found = [row for row in rows if row["pass"] == what]
        cells = ", ".join(
            f"{row['implementation']} "
            + (f"{row['percent']:.0f} %" if "percent" in row else f"{row['speed']:.2f} ×")
            for row in found
        )
        print(f"    {what:<28}{cells}")
