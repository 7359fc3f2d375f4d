"""Measure speeds as ratios, print them as tables and store them as records (`make bench`).

    python scripts/bench.py [SUITE …] [--device cuda] [--where FOLDER]     (default: all suites)

All implementations of one row take turns, round by round, so that a busy moment of the machine
meets all of them; a ratio is the median of the rounds' ratios. One thread. ``roofline`` and
``training`` run on a GPU where there is one, and store their record under a name of its own.
"""

from __future__ import annotations

import argparse
import shutil
import tracemalloc
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import bench_speed
import numpy as np
import torch
import torch.nn.functional as F
from timing import composed, interleaved, ratio, set_pages
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bn_helpers import convert, data, ensemble, layers, records, reference, whitening
from bn_helpers.training.run import device_name

CASES = [  # layout, shape, pages; "new" first, since malloc never unlearns what it has kept
    ("NCHW", (32, 64, 56, 56), "new"),
    ("NHWC", (32, 64, 56, 56), "new"),
    ("NCHW", (32, 64, 56, 56), "reused"),
    ("NHWC", (32, 64, 56, 56), "reused"),
    ("NC", (256, 1024), "reused"),
    ("NC", (64, 100), "reused"),
]


def bench_layers(rounds=25):
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
    weight, bias = (torch.ones(shape[1], requires_grad=True) for _ in range(2))
    module = layers.BatchNorm(shape[1])
    target = torch.empty_like(x)
    running = torch.zeros(shape[1]), torch.ones(shape[1])
    forwards = {
        "F.batch_norm": lambda: F.batch_norm(x, *running, weight, bias, training=True),
        "ours": lambda: module(x),
        "composed": lambda: composed(x, weight, bias),
    }
    if shutil.which("g++") or shutil.which("clang++"):
        torch._dynamo.reset()
        compiled_module, compiled_function = torch.compile(module), torch.compile(composed)
        forwards["ours compiled"] = lambda: compiled_module(x)
        forwards["composed compiled"] = lambda: compiled_function(x, weight, bias)
    else:
        print("no C++ compiler: the compiled rows are left out")

    def step(forward, parameters):
        return lambda: torch.autograd.grad(forward(), (x, *parameters), dy)

    functions = {
        name: step(f, (module.weight, module.bias) if name.startswith("ours") else (weight, bias))
        for name, f in forwards.items()
    }
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


def bench_whitening(rounds=9, dimensions=(16, 32, 64, 128, 256, 512, 1024)):
    rng, results = np.random.default_rng(0), []
    names = ("standardise", "zca", "cholesky", "newton_schulz")
    print("\nwhitening a batch of m = 2d examples: milliseconds forward, backward")
    print(f"{'d':>6}" + "".join(f"{name:>20}" for name in names))
    for d in dimensions:
        x, dy = rng.normal(size=(2, 2 * d, d))
        forward, backward = _whitening_calls(x, dy)
        ahead, back = interleaved(forward, rounds), interleaved(backward, rounds)
        rows = [
            {
                "d": d,
                "m": 2 * d,
                "method": name,
                "forward_s": median(ahead[name]),
                "backward_s": median(back[name]) if name in back else None,
                "bytes": _peak_bytes(forward[name]),
            }
            for name in names
        ]
        results += rows
        cells = (
            f"{1e3 * r['forward_s']:.2f}, "
            + ("–" if r["backward_s"] is None else f"{1e3 * r['backward_s']:.2f}")
            for r in rows
        )
        print(f"{d:>6}" + "".join(f"{cell:>20}" for cell in cells))
    return {"rounds": rounds, "dtype": "float64", "batch": "m = 2d"}, results


def _whitening_calls(x, dy):
    ones, zeros = np.ones(x.shape[1]), np.zeros(x.shape[1])

    def newton_schulz():
        _, centred, cov = whitening.covariance(x, eps=1e-5)
        return centred @ whitening.newton_schulz(cov, iterations=10).T

    forward = {
        "standardise": partial(reference.batchnorm_forward, x, ones, zeros),
        "zca": partial(whitening.zca, x),
        "cholesky": partial(whitening.cholesky, x),
        "newton_schulz": newton_schulz,
    }
    backward = {
        name: partial(function, dy, forward[name]()[1])
        for name, function in (
            ("standardise", reference.batchnorm_backward),
            ("zca", whitening.zca_backward),
            ("cholesky", whitening.cholesky_backward),
        )
    }
    return forward, backward


def _peak_bytes(function):
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def bench_folding(rounds=25, shapes=((1, 32, 56, 56), (8, 64, 28, 28), (32, 64, 14, 14))):
    results = []
    print("\nconvolution 3×3 and BN at inference, folded into one: ratio of times")
    for shape in shapes:
        seconds = interleaved(_folding_calls(shape), rounds)
        results.append(
            {
                "shape": list(shape),
                "layer": "conv3x3",
                "separate_s": median(seconds["separate"]),
                "folded_s": median(seconds["folded"]),
                "ratio": ratio(seconds, "folded", "separate"),
            }
        )
        print(f"{shape!s:>20}: {results[-1]['ratio']:.2f}")
    return {"rounds": rounds, "dtype": "float32"}, results


def _folding_calls(shape):
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(shape[1], shape[1], 3, padding=1)
    nn.init.normal_(convolution.weight, std=0.05, generator=generator)
    bn = layers.BatchNorm(shape[1]).eval()
    folded = convert.fold(convolution, bn)
    x = torch.randn(shape, generator=generator)

    @torch.inference_mode()
    def separate():
        return bn(convolution(x))

    @torch.inference_mode()
    def together():
        return folded(x)

    return {"separate": separate, "folded": together}


def bench_sweep(rounds=7, networks=20, steps=100):
    """Figure 1's networks on binary MNIST: a plain loop for one against a stack."""
    grey, labels = data.load("mnist").train
    split, results = data.Split((grey > 0.5).astype(np.float32), labels), []
    print("\nFigure 1's network, seconds for 1,000 steps of one model, and the ratio")
    for bn in (False, True):
        plain = partial(_plain_loop, _plain_network(bn), split, steps)
        stack = ensemble.networks(
            (784, 100, 100, 100, 10), sigma=[0.1] * networks, seeds=range(networks), bn=bn
        )
        together = partial(
            ensemble.train, stack, split, batch_size=60, lr=0.1, rng=np.random.default_rng(0)
        )
        # What train() does once, before its first step, is no part of a step.
        calls = {"plain": plain, "stack": partial(together, steps=steps + 1)}
        calls |= {"set-up": partial(together, steps=1)}
        seconds = interleaved(calls, rounds)
        per_model = [
            (b - c) / networks for b, c in zip(seconds["stack"], seconds["set-up"], strict=True)
        ]
        results.append(
            {
                "bn": bn,
                "networks": networks,
                "plain_s": median(seconds["plain"]) * 1000 / steps,
                "stack_s": median(per_model) * 1000 / steps,
                "ratio": median(a / b for a, b in zip(seconds["plain"], per_model, strict=True)),
            }
        )
        row = results[-1]
        print(
            f"{'with BN' if bn else 'without':>8}: plain {row['plain_s']:.2f}, "
            f"stack {row['stack_s']:.2f}, ratio {row['ratio']:.2f}"
        )
    return {"rounds": rounds, "steps": steps, "batch_size": 60, "dtype": "float32"}, results


def _plain_network(bn):
    def hidden(fan_in):
        linear = nn.Linear(fan_in, 100, bias=not bn)
        return [linear, *([nn.BatchNorm1d(100)] if bn else []), nn.Sigmoid()]

    return nn.Sequential(*hidden(784), *hidden(100), *hidden(100), nn.Linear(100, 10))


def _plain_loop(model, split, steps):
    """What one writes first: DataLoader, Sequential, SGD."""
    pairs = TensorDataset(torch.from_numpy(split.images).flatten(1), torch.from_numpy(split.labels))
    loader = DataLoader(pairs, batch_size=60, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, labels in islice(loader, steps):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


SUITES = {
    "layers": bench_layers,
    "whitening": bench_whitening,
    "folding": bench_folding,
    "sweep": bench_sweep,
}
DEVICE_SUITES = {"roofline": bench_speed.roofline, "training": bench_speed.training}


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Measure speeds and store them as records.")
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join([*SUITES, *DEVICE_SUITES])}"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="of roofline and training (default: a GPU where there is one)",
    )
    parser.add_argument("--where", type=Path, help="folder of the records (default: book/records)")
    options = parser.parse_args(arguments)
    known = {**SUITES, **DEVICE_SUITES}
    if unknown := set(options.suites) - set(known):
        parser.error(f"expected suites among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in options.suites or known:
        record, command, device = f"bench_{name}", f"python scripts/bench.py {name}", None
        if name in SUITES:
            config, results = SUITES[name]()
        else:
            config, results = DEVICE_SUITES[name](options.device)
            command += f" --device {options.device}"
            device = device_name(options.device)
            record += "_cuda" if options.device == "cuda" else ""
        file = records.write(
            record,
            command=command,
            config={**config, "threads": 1},
            results=results,
            device=device,
            where=options.where,
        )
        print(f"stored {file.name}")


if __name__ == "__main__":
    main()
