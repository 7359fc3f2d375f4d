"""What `scripts/fresh.py` changes in a notebook's process: its chance, or how closely it looks."""

from __future__ import annotations

import inspect
from numbers import Integral
from pathlib import Path

import numpy as np
import torch

from bn_helpers import records, training

# Which images are trained on is no chance of a run, nor is what a check tries.
FIXED = ("bn_helpers.data", "bn_helpers.checks")


def apply(variant, stored):
    """Draw from other streams, or look half as often; ``stored``: records that take the place of
    the book's with the first other seeds.
    """
    kind, _, number = variant.rpartition(" ")
    if kind == "other seeds":
        other_seeds(int(number))
        if number == "1":
            other_records(Path(stored))
    else:
        second_looks()


def other_seeds(number):
    """Let each seed stand for another stream, in NumPy and in PyTorch."""
    default_rng, manual_seed = np.random.default_rng, torch.manual_seed

    def rng(seed=None):
        caller = inspect.currentframe().f_back.f_globals["__name__"]
        if caller.startswith(FIXED) or not isinstance(seed, Integral | list | tuple | np.ndarray):
            return default_rng(seed)
        return default_rng([1000 + number, *np.atleast_1d(seed).tolist()])

    class Generator(torch.Generator):
        def manual_seed(self, seed):
            return super().manual_seed(seed + 1_000_000 * number)

    np.random.default_rng = rng
    torch.Generator = Generator
    torch.manual_seed = lambda seed: manual_seed(seed + 1_000_000 * number)
    records.verify = lambda *_, **__: None  # a slice of a record comes out with its own seeds only


def other_records(stored):
    read = records.read

    def of_other_seeds(name, where=None):
        there = where is None and (stored / f"{name}.json").is_file()
        return read(name, stored if there else where)

    records.read = of_other_seeds


def second_looks():
    """Let :func:`training.first` see the second, the fourth, … look."""
    first = training.first
    training.first = lambda at, there: first(at[1::2], np.asarray(there)[..., 1::2])
