"""A folder of image files with a subfolder for each class, ImageNet's included."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from bn_helpers.data.files import DataError
from bn_helpers.data.image_files import Files, decoded
from bn_helpers.data.splits import Split, hold_out

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
LAYOUT = "train/<class>/*.jpg and, beside train, test/ or val/ with the same classes"


def read(
    source: str | os.PathLike, seed: int, size: int | None, workers: int, in_memory: int
) -> tuple[Any, ...]:
    """Two splits, uint8; classes; name; the SHA-256 of the list of files if they stay on the disk.

    Parameters and errors are those of :func:`bn_helpers.data.load`.
    """
    try:
        return _read(Path(source).expanduser().absolute(), seed, size, workers, in_memory)
    except OSError as error:
        raise DataError(
            f"found something that cannot be read ({error}), expected a folder {LAYOUT}; mend or "
            "remove it"
        ) from None


def _read(root, seed, size, workers, in_memory):
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing there"
        raise DataError(
            f"{root}: found {found}, expected 'digits', 'mnist', 'cifar10' or a folder with "
            f"{LAYOUT}"
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
        train, test = hold_out(train, max(1, len(train.labels) // 10), seed=seed)
        name += " (a tenth of train set aside as test)"
    splits = (train, test)
    if sum(math.prod(split.images.shape) for split in splits) > in_memory:
        return splits, classes, name, _listing_hash(root, splits)
    splits = [Split(decoded(split.images, workers), split.labels) for split in splits]
    return splits, classes, name, None


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
    """:class:`Split` of the images in ``root / part``, which must have these ``classes``."""
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
    return Split(Files(root, paths, size), np.array(labels, np.int64))


def _few(names):
    names = sorted(names)
    return ", ".join(names[:5] + ["…"] * (len(names) > 5)) or "none"
