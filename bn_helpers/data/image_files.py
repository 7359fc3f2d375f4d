"""From image files and arrays to bytes of one size, batch by batch."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from bn_helpers.data.files import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # none that starts a program


class Files:
    """Image files that are decoded when they are indexed, like a uint8 array (N, 3, H, W).

    Parameters
    ----------
    root : ``Path`` that ``paths`` are relative to.
    paths : N strings.
    size : int or None, as in :func:`bn_helpers.data.load`.
    contents : N bytes objects, the files' contents if they are not on the disk.

    Raises
    ------
    DataError
        here or when indexed: an image cannot be decoded or is not as large as the first.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, root: Path, paths: Sequence[str], size: int | None = None, contents: Any = None
    ) -> None:
        # One array of bytes: a million strings would be copied into each worker, bit by bit.
        self.root, self.paths = root, np.array([os.fsencode(path) for path in paths])
        self.contents = None if contents is None else np.array(contents, dtype=object)
        self.size = size
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

    def take(self, index: np.ndarray, axis: int = 0) -> Files:
        """:class:`Files` of the images at an int array; nothing is decoded."""
        part = copy.copy(self)
        part.paths = self.paths[index]
        part.contents = None if self.contents is None else self.contents[index]
        part.shape = (len(part.paths), *self.shape[1:])
        return part

    def path(self, number: int) -> Path:
        return self.root / os.fsdecode(self.paths[number])

    def check(self, number: int) -> None:
        """Raise DataError if image ``number`` is too large or too small, by the file's header."""
        if not self.size:
            self._check(number, self._read(number, lambda image: image.size))

    def _check(self, number, found):
        height, width = self.shape[2:]
        if found != (width, height):
            raise DataError(
                f"{self.path(number)}: found {found[0]}×{found[1]} pixels, expected {width}×"
                f"{height} as in the first image; give --image-size (size=…) to bring all to one"
            )

    def _decoded(self, number):
        image = self._read(number, self._fitted)
        self._check(number, image.size)
        return np.asarray(image).transpose(2, 0, 1)

    def _fitted(self, image):
        if self.size and min(image.size) % self.size:
            # A far too large JPEG is decoded at 1/2, 1/4 or 1/8, still twice too large: faster.
            image.draft("RGB", (2 * self.size, 2 * self.size))
        if image.mode[0] in "IF":  # which convert would clip at 255
            raise ValueError("its pixels have more than 8 bits")
        return square(image.convert("RGB"), self.size)

    def _read(self, number, work):
        path = self.path(number)
        try:
            file = path if self.contents is None else io.BytesIO(self.contents[number])
            with Image.open(file, formats=FORMATS) as image:
                return work(image)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, …
            raise DataError(
                f"{path}: found no image that can be decoded ({error}), expected a whole "
                f"{', '.join(FORMATS)} file; replace or remove it"
            ) from None


def square(image: Image.Image, size: int) -> Image.Image:
    """The square in the middle of a Pillow image (mode L or RGB), brought to size × size."""
    if size is None:
        return image
    short = min(image.size)
    left, top = ((side - short) // 2 for side in image.size)
    box = (left, top, left + short, top + short)
    if short % size == 0:
        return image.reduce(short // size, box)
    return image.resize((size, size), Image.Resampling.BILINEAR, box)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """An array (N, C, H, W) uint8, brought to (N, C, size, size) as files are."""
    result = np.empty((*images.shape[:2], size, size), np.uint8)
    for place, image in enumerate(images):
        image = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        result[place] = np.atleast_3d(np.asarray(square(image, size))).transpose(2, 0, 1)
    return result


def batches(
    images: Any, order: Iterable[np.ndarray], workers: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each index array in ``order`` with its images, in that order.

    Parameters
    ----------
    images : ndarray or ``Files``, (N, C, H, W) uint8.
    order : iterable of int arrays (B,), indices of images. It may be endless; it is read at most
        two arrays per worker ahead of what is yielded.
    workers : int, processes that decode ``Files`` ahead of use. No global random state is
        used or changed: the same is yielded with any number of them.

    Yields
    ------
    index, batch : int tensor (B,), uint8 tensor (B, C, H, W).

    Raises
    ------
    DataError
        an image cannot be decoded or is not as large as the first; a worker was killed.
    """
    order = map(np.asarray, order)
    if isinstance(images, np.ndarray):
        yield from ((torch.from_numpy(i), torch.from_numpy(images[i])) for i in order)
        return
    # Each index is a whole batch. Workers' seeds, unused here, would come from the global state.
    loader: Any = DataLoader(
        _Returning(images),  # type: ignore[arg-type]
        batch_size=None,
        sampler=order,
        num_workers=workers,
        generator=torch.Generator(),
    )
    try:
        for found in loader:
            if isinstance(found, DataError):
                raise found
            yield found
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
            return index, self.files[index]
        except DataError as error:
            return error


def decoded(files: Files, workers: int) -> np.ndarray:
    """``files`` as an array (N, 3, H, W) uint8, decoded by so many processes."""
    images = np.empty(files.shape, np.uint8)
    parts = np.array_split(np.arange(len(images)), len(images) // 256 + 1)
    for part, batch in batches(files, parts, workers):
        images[part] = batch
    return images
