"""Whitening against standardising: seconds forward and backward, and memory."""

from __future__ import annotations

import tracemalloc
from functools import partial
from statistics import median

import numpy as np

from bench.timing import interleaved
from bn_helpers import reference, whitening


def measure(rounds=9, dimensions=(16, 32, 64, 128, 256, 512, 1024)):
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
