"""Sets of images as bytes: the digits, CIFAR-10 and folders of image files, ImageNet's included."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from bn_helpers import cifar10, data
from bn_helpers.data import DataError
from bn_helpers.image_files import Files, resized

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
LAYOUT = "train/<class>/*.jpg and, beside train, test/ or val/ with the same classes"


class ImageSplit(NamedTuple):
    """``images`` (N, C, H, W) uint8, an ndarray or ``Files``; ``labels`` (N,) int64."""

    images: np.ndarray | Files
    labels: np.ndarray


class ImageSet(NamedTuple):
    """``classes[label]`` names a class; ``name`` is to be stated with results; ``sha256`` is of all
    images and labels or, for ``Files``, of the sorted relative paths, sizes and labels."""

    train: ImageSplit
    test: ImageSplit
    classes: list[str]
    name: str
    sha256: str


def load_images(source, *, size=None, workers=0, in_memory=2**31):
    """Training and test images of ``source``, with their labels and classes.

    Parameters
    ----------
    source : ``"digits"``, scikit-learn's 1,437 + 360 grey images of 8×8, split as by
        :func:`bn_helpers.data.load`; ``"cifar10"``, 50,000 + 10,000 colour images of 32×32; or the
        path of a folder with ``train/<class>/*.jpg`` and, beside train, ``test/`` or ``val/`` with
        the same classes (test, if both have any). Without either, a seeded tenth of train is set
        aside, and the set's name says so. Other image formats and nested folders count too; other
        files, and names that begin with a dot, are passed over.
        CIFAR-10 is read from the folder in ``BN_HELPERS_DATA`` or its subfolder ``cifar10``: the
        official binary version, packed or not, or one of JPEG files. Where the variable is unset it
        comes from the cache, into which the binary version is downloaded: 170 MB, once, with a
        progress bar on stderr.
    size : int, H = W of the result: the largest square in the middle of each image, brought to
        that size. Whole multiples of it are averaged block by block, others interpolated
        bilinearly with antialiasing. Default: the images' own size, which must then be the same
        for all.
    workers : int, processes that decode files. 0: this one does.
    in_memory : int, bytes. Images of a folder that would take more stay on the disk, as
        ``Files``, and are decoded when they are used.

    Returns
    -------
    image_set : :class:`ImageSet`; C is 1 for the digits and 3 for all others. Classes are in
        alphabetical order, files in that of class and name.

    Raises
    ------
    ValueError
        size below 1.
    DataError
        no such folder; no train, fewer than two classes, a class without images, other classes in
        test than in train; an image that is damaged or, without ``size``, not as large as the
        first; CIFAR-10 damaged, not to be had, or only in its pickled version.
    """
    if size is not None and size < 1:
        raise ValueError(f"expected size of at least 1, got {size}")
    if source == "digits":
        splits = (
            ImageSplit(resized(np.rint(images * 255).astype(np.uint8), size), labels)
            for images, labels in data.load("digits")
        )
        return _in_memory(*splits, [str(digit) for digit in range(10)], "digits")
    if source == "cifar10":
        return _cifar10(size, workers)
    try:
        return _folder(Path(source).expanduser().absolute(), size, workers, in_memory)
    except OSError as error:
        raise DataError(
            f"found something that cannot be read ({error}), expected a folder {LAYOUT}; mend or "
            "remove it"
        ) from None


def batches(images, order, workers=0):
    """Yield the images of each index array in ``order``, in that order.

    Parameters
    ----------
    images : ndarray or ``Files``, (N, C, H, W) uint8.
    order : iterable of int arrays (B,), indices of images. It may be endless; it is read at most
        two arrays per worker ahead of what is yielded.
    workers : int, processes that decode ``Files`` ahead of use. No global random state is
        used or changed: the same is yielded with any number of them.

    Yields
    ------
    batch : uint8 tensor (B, C, H, W).

    Raises
    ------
    DataError
        an image cannot be decoded or is not as large as the first; a worker was killed.
    """
    order = map(np.asarray, order)
    if isinstance(images, np.ndarray):
        yield from (torch.from_numpy(images[index]) for index in order)
        return
    # Each index is a whole batch. Workers' seeds, unused here, would come from the global state.
    loader = DataLoader(
        _Returning(images),
        batch_size=None,
        sampler=order,
        num_workers=workers,
        generator=torch.Generator(),
    )
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise DataError(
            f"found a process that decodes images dead ({error}), expected memory for {workers} of "
            "them; use fewer workers, or 0"
        ) from None


class _Returning:
    """``files`` as a DataLoader's data set: an error raised in a worker would come back with its
    traceback in its text, so it is returned."""

    def __init__(self, files):
        self.files = files

    def __getitem__(self, index):
        try:
            return self.files[index]
        except DataError as error:
            return error


def _decoded(split, workers):
    """``split`` with its ``Files`` as an array."""
    images = np.empty(split.images.shape, np.uint8)
    parts = np.array_split(np.arange(len(images)), len(images) // 256 + 1)
    for part, batch in zip(parts, batches(split.images, parts, workers), strict=True):
        images[part] = batch
    return ImageSplit(images, split.labels)


def _in_memory(train, test, classes, name):
    return ImageSet(train, test, classes, name, data.content_hash([*train, *test]))


def _cifar10(size, workers):
    path, contents = cifar10.read()
    classes = list(cifar10.CLASSES)
    if path.name == cifar10.JPEG:
        splits = []
        for part in ("train", "test"):
            names = sorted(name for name in contents if name.startswith(f"{part}/"))
            files = Files(path, names, size, [contents[name] for name in names])
            labels = np.array([classes.index(name.split("/")[1]) for name in names], np.int64)
            splits.append(_decoded(ImageSplit(files, labels), workers))
        return _in_memory(*splits, classes, "CIFAR-10 (JPEG)")
    splits = []
    for part in ("data", "test"):
        joined = b"".join(contents[name] for name in cifar10.BATCH_MD5 if name.startswith(part))
        rows = np.frombuffer(joined, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        images = np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, 32, 32)
        splits.append(ImageSplit(resized(images, size), rows[:, 0].astype(np.int64)))
    return _in_memory(*splits, classes, "CIFAR-10 (binary)")


def _folder(root, size, workers, in_memory):
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing there"
        raise DataError(
            f"{root}: found {found}, expected 'digits', 'cifar10' or a folder with {LAYOUT}"
        )
    if not (root / "train").is_dir():
        raise DataError(f"{root}: found no folder called train in it, expected {LAYOUT}")
    classes = _classes(root / "train")
    if len(classes) < 2:
        raise DataError(
            f"{root / 'train'}: found {len(classes)} class folders ({_few(classes)}), expected at "
            f"least 2: {LAYOUT}"
        )
    train, name = _files(root, "train", classes, size), f"folder {root.name}"
    # ImageNet's test folder has no classes; its val is what results are reported on.
    others = [part for part in ("test", "val") if (root / part).is_dir()]
    others.sort(key=lambda part: not _classes(root / part))
    if others:
        test = _files(root, others[0], classes, size)
        # Without a size the first image sets it, for test as well.
        test.images.shape = (len(test.labels), *train.images.shape[1:])
    else:
        train, test = data.hold_out(train, max(1, len(train.labels) // 10))
        name += " (a tenth of train set aside as test)"
    splits = (train, test)
    if sum(math.prod(split.images.shape) for split in splits) > in_memory:
        return ImageSet(*splits, classes, name, _listing_hash(root, splits))
    return _in_memory(*(_decoded(split, workers) for split in splits), classes, name)


def _listing_hash(root, splits):
    """SHA-256 of the sorted relative paths, sizes and labels; on the way, extents are compared."""
    lines = []
    for images, labels in splits:
        for number, label in enumerate(labels):
            images.check(number)
            path = images.path(number)
            lines.append(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0{label}\n")
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _classes(folder):
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )


def _files(root, part, classes, size):
    """:class:`ImageSplit` of the images in ``root / part``, which must have these ``classes``."""
    found = _classes(root / part)
    if found != classes:
        raise DataError(
            f"{root / part}: found other classes than in train, expected the same (only here: "
            f"{_few(set(found) - set(classes))}; only in train: "
            f"{_few(set(classes) - set(found))}); rename what is mislabelled, add what is missing"
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = []
        for where, folders, names in os.walk(root / part / name):
            folders[:] = [folder for folder in folders if folder[0] != "."]
            near = Path(where).relative_to(root).as_posix()
            names = [n for n in names if n[0] != "." and n.lower().endswith(SUFFIXES)]
            found += [f"{near}/{n}" for n in names]
        if not found:
            raise DataError(
                f"{root / part / name}: found no image in this class, expected files that end in "
                f"{', '.join(SUFFIXES)}; add some, or remove the folder in train, test and val"
            )
        paths += sorted(found)
        labels += [label] * len(found)
    return ImageSplit(Files(root, paths, size), np.array(labels, np.int64))


def _few(names):
    names = sorted(names)
    return ", ".join(names[:5] + ["…"] * (len(names) > 5)) or "none"
