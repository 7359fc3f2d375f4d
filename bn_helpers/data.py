"""Real images as arrays: scikit-learn's digits (built in) and MNIST."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """``images`` (N, C, H, W) float32 in [0, 1]; ``labels`` (N,) int64."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A training and a test :class:`Split`."""

    train: Split
    test: Split


def load(name, *, seed=0):
    if name != "digits":
        raise NotImplementedError(name)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:1437], order[1437:]
    labels = bunch.target.astype(np.int64)
    return Dataset(Split(images[train], labels[train]), Split(images[test], labels[test]))
