"""Sets of images as bytes: the digits, CIFAR-10 and folders of image files, ImageNet's included."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from bn_helpers import cifar10, data
from bn_helpers.data import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # no format that starts a program
LAYOUT = "train/<class>/*.jpg and, beside train, test/ or val/ with the same classes"


class ImageSplit(NamedTuple):
    """``images`` (N, C, H, W) uint8, an ndarray or :class:`Files`; ``labels`` (N,) int64."""

    images: np.ndarray | Files
    labels: np.ndarray


class ImageSet(NamedTuple):
    """``classes[label]`` names a class; ``name`` is to be stated with results; ``sha256`` is of all
    images and labels or, for :class:`Files`, of the sorted relative paths, sizes and labels."""

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
        that size. Whole multiples of it are averaged exactly, other sizes interpolated bilinearly
        with antialiasing. Default: the images' own size, which must then be the same for all.
    workers : int, processes that decode files. 0: this one does.
    in_memory : int, bytes. Images of a folder that would take more stay on the disk, as
        :class:`Files`, and are decoded when they are used.

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
            ImageSplit(_resized(np.rint(images * 255).astype(np.uint8), size), labels)
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
    images : ndarray or :class:`Files`, (N, C, H, W) uint8.
    order : iterable of int arrays (B,), indices of images. It may be endless; it is read at most
        two arrays per worker ahead of what is yielded.
    workers : int, processes that decode :class:`Files` ahead of use. No global random state is
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
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"found a process that decodes images dead ({error}), expected memory for {workers} of "
            "them; use fewer workers, or 0"
        ) from None


class Files:
    """Image files that are decoded when they are indexed, like a uint8 array (N, 3, H, W).

    Parameters
    ----------
    root : ``Path`` that ``paths`` are relative to.
    paths : N strings.
    size : int or None, as in :func:`load_images`.
    contents : N bytes objects, the files' contents if they are not on the disk.

    Raises
    ------
    DataError
        here or when indexed: an image cannot be decoded or is not as large as the first.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, root, paths, size=None, contents=None):
        # One array of bytes: a million strings would be copied into each worker, bit by bit.
        self.root, self.paths = root, np.array([os.fsencode(path) for path in paths])
        self.size, self.contents = size, contents
        width, height = (size, size) if size else self._read(0, lambda image: image.size)
        self.shape = (len(paths), 3, height, width)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        """ndarray of the images at an int, a slice, an int or a bool array."""
        index = np.arange(len(self))[index]
        if index.ndim == 0:
            return self._decoded(index)
        batch = np.empty((len(index), *self.shape[1:]), np.uint8)
        for place, number in enumerate(index):
            batch[place] = self._decoded(number)
        return batch

    def take(self, index, axis=0):
        """:class:`Files` of the images at an int array; nothing is decoded."""
        part = copy.copy(self)
        part.paths = self.paths[index]
        part.shape = (len(part.paths), *self.shape[1:])
        return part

    def path(self, number):
        return self.root / os.fsdecode(self.paths[number])

    def check(self, number):
        """Raise DataError if image ``number`` is too large or too small, by the file's header."""
        if not self.size:
            self._check(number, self._read(number, lambda image: image.size))

    def _check(self, number, found):
        height, width = self.shape[2:]
        if found != (width, height):
            raise DataError(
                f"{self.path(number)}: found {found[0]}×{found[1]} pixels, expected {width}×{height} "
                "as in the first image; choose one size for all (--image-size, size=)"
            )

    def _decoded(self, number):
        image = self._read(number, self._fitted)
        self._check(number, image.size)
        return np.asarray(image).transpose(2, 0, 1)

    def _fitted(self, image):
        if self.size and min(image.size) % self.size:
            # A far too large JPEG is decoded at 1/2, 1/4 or 1/8, still twice too large: faster.
            image.draft("RGB", (2 * self.size, 2 * self.size))
        return _square(image.convert("RGB"), self.size)

    def _read(self, number, work):
        path = self.path(number)
        try:
            with Image.open(
                io.BytesIO(self.contents[number]) if self.contents else path, formats=FORMATS
            ) as image:
                return work(image)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, …
            raise DataError(
                f"{path}: found no image that can be decoded ({error}), expected a whole "
                f"{', '.join(FORMATS)} file; replace or remove it"
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


def _square(image, size):
    """The square in the middle of a Pillow image (mode L or RGB), brought to size × size."""
    if size is None:
        return image
    short = min(image.size)
    left, top = ((side - short) // 2 for side in image.size)
    box = (left, top, left + short, top + short)
    if short % size == 0:
        return image.reduce(short // size, box)
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


def _resized(images, size):
    """An array (N, C, H, W) uint8, brought to (N, C, size, size) as files are."""
    if size is None:
        return images
    result = np.empty((*images.shape[:2], size, size), np.uint8)
    for place, image in enumerate(images):
        image = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        result[place] = np.atleast_3d(np.asarray(_square(image, size))).transpose(2, 0, 1)
    return result


def _decoded(split, workers):
    """``split`` with its :class:`Files` as an array."""
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
        splits.append(ImageSplit(_resized(images, size), rows[:, 0].astype(np.int64)))
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
            f"{root / 'train'}: found {len(classes)} folders of classes{_list(classes)}, expected "
            f"at least 2: {LAYOUT}"
        )
    train, name = _files(root, "train", classes, size), f"folder {root.name}"
    # ImageNet's test folder has no classes; its val is what results are reported on.
    others = [part for part in ("test", "val") if (root / part).is_dir()]
    others.sort(key=lambda part: not _classes(root / part))
    if others:
        found = _classes(root / others[0])
        if found != classes:
            raise DataError(
                f"{root / others[0]}: found other classes than in train, expected the same: only "
                f"here{_list(set(found) - set(classes))}, only in train"
                f"{_list(set(classes) - set(found))}; rename mislabelled folders, or add or remove "
                "what differs"
            )
        test = _files(root, others[0], classes, size)
    else:
        train, test = data.hold_out(train, max(1, len(train.labels) // 10))
        name += " (a tenth of train set aside as test)"
    splits = (train, test)
    if sum(math.prod(split.images.shape) for split in splits) <= in_memory:
        return _in_memory(*(_decoded(split, workers) for split in splits), classes, name)
    lines = []
    for images, labels in splits:
        for number, label in enumerate(labels):
            images.check(number)
            path = images.path(number)
            lines.append(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0{label}\n")
    sha256 = hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape"))
    return ImageSet(*splits, classes, name, sha256.hexdigest())


def _classes(folder):
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )


def _files(root, part, classes, size):
    """:class:`ImageSplit` of the images in the class folders of ``root / part``."""
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


def _list(names):
    names = sorted(names)
    return f" ({', '.join(names[:5])}{', …' * (len(names) > 5)})" if names else ""
