"""What is loaded: images and labels, divided into training and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """``images`` (N, C, H, W), an array or ``image_files.Files``; ``labels`` (N,) int64.

    Arrays are float32 in [0, 1] or uint8 from 0 to 255; ``Files`` are decoded to the latter.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A training and a test :class:`Split`; ``train, test = dataset`` unpacks them.

    ``classes[label]`` names a class; ``name`` is to be stated with results; ``sha256`` is of all
    images and labels or, for ``Files``, of the sorted relative paths, sizes and labels.
    """

    train: Split
    test: Split
    classes: list[str]
    name: str
    sha256: str

    def __iter__(self):
        return iter((self.train, self.test))


def content_hash(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 (hex) of the bytes of ``arrays``, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return digest.hexdigest()


def hold_out(split: Split, count: int, *, seed: int = 0) -> tuple[Split, Split]:
    """Divide ``split`` at random: all but ``count`` examples to train on, ``count`` to choose by.

    Learning rates, settings and checkpoints are chosen on the second part, never on test images.

    Returns
    -------
    train, held_out : two of ``split``'s type; lazy images (``image_files.Files``) stay lazy.

    Raises
    ------
    ValueError
        count below 1 or leaving nothing to train on.
    """
    if not 1 <= count < len(split.labels):
        raise ValueError(f"expected count between 1 and {len(split.labels) - 1}, got {count}")
    order = np.random.default_rng(seed).permutation(len(split.labels))
    train, held_out = (
        type(split)(split.images.take(part, axis=0), split.labels[part])
        for part in (order[count:], order[:count])
    )
    return train, held_out
