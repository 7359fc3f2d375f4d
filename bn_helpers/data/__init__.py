"""Real images as arrays, by one call: scikit-learn's digits, MNIST, CIFAR-10 or a folder."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from bn_helpers.data import cifar10, mnist
from bn_helpers.data.files import DataError
from bn_helpers.data.splits import Dataset, Split, content_hash, hold_out

__all__ = ["NAMES", "DataError", "Dataset", "Split", "checksum", "content_hash", "hold_out", "load"]

NAMES = ("digits", "mnist", "cifar10")
_TEN = list("0123456789")


def load(
    name: str | os.PathLike,
    *,
    seed: int = 0,
    dtype: Any = np.float32,
    size: int | None = None,
    workers: int = 0,
    in_memory: int = 2**31,
) -> Dataset:
    """Training and test images of ``name``, with their labels and classes.

    Parameters
    ----------
    name : ``"digits"``, 1,437 + 360 grey images of 8×8, which come with scikit-learn; ``"mnist"``
        (LeCun et al., 1998), 60,000 + 10,000 grey images of 28×28; ``"cifar10"`` (Krizhevsky,
        2009), 50,000 + 10,000 colour images of 32×32; or the path of a folder with
        ``train/<class>/*.jpg`` and, beside train, ``test/`` or ``val/`` with the same classes
        (test, if both have any). Without either, a tenth of train is set aside, and the set's name
        says so. Other image formats and nested folders count too; other files, and names that
        begin with a dot, are passed over.

        MNIST and CIFAR-10 are read from the folder in the environment variable ``BN_HELPERS_DATA``
        (or its subfolder ``mnist`` or ``cifar10``): MNIST's four IDX files, gzip-compressed or
        not; CIFAR-10's official binary version, packed or not, or one of JPEG files. Where the
        variable is unset or empty they come from the cache (``pooch.os_cache("bn_helpers")``, or
        the folder in ``BN_HELPERS_CACHE``), into which missing files are downloaded: 11 MB and
        170 MB, once, with a progress bar on stderr. All content is checked, wherever it comes from.
    seed : int, draws the split of the digits and the tenth that is set aside. The others come split
        and ignore it.
    dtype : ``float32``, grey level / 16 in the digits and / 255 elsewhere; or ``uint8``, 0 to 255.
    size : int, H = W of the result: the largest square in the middle of each image, brought to
        that size. Whole multiples of it are averaged block by block, others interpolated
        bilinearly with antialiasing, in bytes. Default: the images' own size, which must then be
        the same for all.
    workers : int, processes that decode files. 0: this one does.
    in_memory : int, bytes. Images of a folder that would take more stay on the disk, as
        ``image_files.Files``, and are decoded when they are used; uint8 only.

    Returns
    -------
    dataset : :class:`~bn_helpers.data.splits.Dataset` of new, writable arrays; C is 1 for the
        digits and MNIST, 3 for all others. Classes are in alphabetical order, files in that of
        class and name.

    Raises
    ------
    ValueError
        another dtype; size below 1; a name that is neither text nor a path; a folder's images that
        do not fit into memory as float32.
    DataError
        MNIST or CIFAR-10 is neither in the folder nor, where none is set, to be had from cache or
        mirrors, or there only in a pickled version; the cache cannot be written; a file is
        truncated, damaged or another one. No folder of this name; in it no train, fewer than two
        classes, a class without images, other classes in test than in train; an image that is
        damaged or, without ``size``, not as large as the first.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.uint8):
        raise ValueError(f"expected dtype float32 or uint8, got {dtype}")
    if size is not None and size < 1:
        raise ValueError(f"expected size of at least 1, got {size}")
    if not name or not isinstance(name, (str, os.PathLike)):
        raise ValueError(f"expected one of {NAMES} or a folder's path, got {name!r}")
    white, sha256 = 255, None
    if name == "digits":
        splits, classes, title, white = _digits(seed), _TEN, "digits", 16
    elif name == "mnist":
        splits, classes, title = mnist.read(), _TEN, "MNIST"
    elif name == "cifar10":
        *splits, title = cifar10.read(size, workers)
        classes = list(cifar10.CLASSES)
    else:
        from bn_helpers.data import folder

        splits, classes, title, sha256 = folder.read(
            name, seed, size, workers, in_memory // dtype.itemsize
        )
        if sha256:  # images that stay on the disk, decoded to bytes
            if dtype != np.uint8:
                raise ValueError(
                    f"expected images that fit into {in_memory:,} bytes as float32; give "
                    "dtype='uint8', a smaller size or a larger in_memory"
                )
            train, test = splits
            return Dataset(train, test, classes, title, sha256)
    train, test = (
        Split(_converted(images, white, size, dtype), np.array(labels, np.int64))
        for images, labels in splits
    )
    return Dataset(train, test, list(classes), title, content_hash([*train, *test]))


def checksum(name: str) -> str:
    """SHA-256 (hex) of the images and labels of :func:`load`'s ``name``, as records state it."""
    return load(name).sha256


def _digits(seed):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images[:, None], bunch.target
    order = np.random.default_rng(seed).permutation(len(images))
    return [(images[part], labels[part]) for part in (order[:1437], order[1437:])]


def _converted(images, white, size, dtype):
    """Grey levels from 0 to ``white`` as ``dtype``, brought to ``size``; a new array."""
    if white != 255 and (size or dtype == np.uint8):
        images, white = np.rint(images * (255 / white)).astype(np.uint8), 255
    if size and images.shape[2:] != (size, size):
        from bn_helpers.data.image_files import resized

        images = resized(images, size)
    if dtype == np.uint8:
        return np.require(images, requirements=["C", "W"])
    return np.divide(images, white, dtype=np.float32)
