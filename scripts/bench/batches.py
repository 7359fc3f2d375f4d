"""Forward and backward of one training step: the time for an example, by the batch it is in."""

from __future__ import annotations

from functools import partial
from statistics import median

import torch
import torch.nn.functional as F

from bench.networks import plain_network
from bench.timing import CLOCK, interleaved, set_pages
from bn_helpers import models

#: What is computed → the sizes of the mini-batch. A lone example has no statistics: no BN here.
SIZES = {
    "Figure 1's network": (1, 2, 4, 8, 16, 30, 60, 120),
    "small Inception": (1, 2, 4, 8, 16, 32, 64),
    "matrix product, 784 × 100": (1, 2, 4, 8, 16, 30, 60, 120),
}


def measure(device, rounds=15):
    """Seconds of each round for each size, so that sizes can be compared round by round."""
    if device == "cpu":
        set_pages("reused")
    calls = {
        "Figure 1's network": partial(_gradient, plain_network(bn=False).to(device), (784,)),
        "small Inception": partial(_gradient, _small_inception().to(device), (3, 16, 16)),
        "matrix product, 784 × 100": partial(_product, device),
    }
    results = []
    print(f"\none example's time, in units of its time at m = 1 ({device})")
    for what, sizes in SIZES.items():
        seconds = interleaved({m: calls[what](m) for m in sizes}, rounds, device)
        print(f"  {what}")
        for m, found in seconds.items():
            each = [total / m for total in found]
            results.append({"what": what, "batch_size": m, "seconds_per_example": each})
            share = median(a / b for a, b in zip(each, seconds[1], strict=True))
            print(f"    m = {m:<6}{share:.3f}")
    return {"rounds": rounds, "dtype": "float32", **CLOCK[device]}, results


def _small_inception():
    model = models.SmallInception(norm=None)
    models.initialize(model, generator=torch.Generator().manual_seed(0))
    return model.to(memory_format=torch.channels_last)


def _gradient(model, shape, m):
    """A call that computes the gradient of the loss on ``m`` examples, each of ``shape``."""
    generator = torch.Generator().manual_seed(0)
    weights = list(model.parameters())
    x = torch.rand(m, *shape, generator=generator).to(weights[0].device)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (m,), generator=generator).to(x.device)
    return lambda: torch.autograd.grad(F.cross_entropy(model(x), labels), weights)


def _product(device, m):
    """A call of the first layer's matrix product alone: no loss, no gradient, no network."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(m, 784, generator=generator).to(device)
    weights = torch.rand(784, 100, generator=generator).to(device)
    out = torch.empty(m, 100, device=device)
    return lambda: torch.mm(x, weights, out=out)
