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


def measure(rounds=15):
    """Seconds of each round for each size, so that sizes can be compared round by round."""
    set_pages("reused")
    calls = {
        "Figure 1's network": partial(_gradient, plain_network(bn=False), (784,)),
        "small Inception": partial(_gradient, _small_inception(), (3, 16, 16)),
        "matrix product, 784 × 100": _product,
    }
    results = []
    print("\none example's time, forward and backward, in units of the time at m = 1")
    for what, sizes in SIZES.items():
        seconds = interleaved({m: calls[what](m) for m in sizes}, rounds)
        print(f"  {what}")
        for m, found in seconds.items():
            each = [total / m for total in found]
            results.append({"what": what, "batch_size": m, "seconds_per_example": each})
            share = median(a / b for a, b in zip(each, seconds[1], strict=True))
            print(f"    m = {m:<6}{share:.3f}")
    return {"rounds": rounds, "dtype": "float32", **CLOCK["cpu"]}, results


def _small_inception():
    model = models.SmallInception(norm=None)
    models.initialize(model, generator=torch.Generator().manual_seed(0))
    return model.to(memory_format=torch.channels_last)


def _gradient(model, shape, m):
    """A call that computes the gradient of the loss on ``m`` examples, each of ``shape``."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(m, *shape, generator=generator)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (m,), generator=generator)
    weights = list(model.parameters())
    return lambda: torch.autograd.grad(F.cross_entropy(model(x), labels), weights)


def _product(m):
    """A call of the first layer's matrix product alone: no loss, no gradient, no network."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(m, 784, generator=generator)
    weights = torch.rand(784, 100, generator=generator)
    out = torch.empty(m, 100)
    return lambda: torch.mm(x, weights, out=out)
