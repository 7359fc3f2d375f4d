"""Figure 1's networks: a plain loop for one of them against many trained at once."""

from __future__ import annotations

from functools import partial
from itertools import islice
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench.timing import interleaved
from bn_helpers import data, ensemble


def measure(rounds=7, networks=20, steps=100):
    """Figure 1's networks on binary MNIST: a plain loop for one against a stack."""
    grey, labels = data.load("mnist").train
    split, results = data.Split((grey > 0.5).astype(np.float32), labels), []
    print("\nFigure 1's network, seconds for 1,000 steps of one model, and the ratio")
    for bn in (False, True):
        plain = partial(_plain_loop, plain_network(bn), split, steps)
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


def plain_network(bn):
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
