"""MNIST (LeCun et al., 1998): four IDX files, gzip-compressed or not."""

from __future__ import annotations

import gzip
import hashlib
import math
from typing import Any, NamedTuple

import numpy as np

from bn_helpers.data.files import bad, find, reading


class IdxFile(NamedTuple):
    """What is known of one file: MD5 of the mirrors' .gz, SHA-256 and sizes of the content."""

    md5: str
    sha256: str
    shape: tuple[int, ...]


FILES = {
    "train-images-idx3-ubyte": IdxFile(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        (60000, 28, 28),
    ),
    "train-labels-idx1-ubyte": IdxFile(
        "d53e105ee54ea40749a09fcbcd1e9432",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        (60000,),
    ),
    "t10k-images-idx3-ubyte": IdxFile(
        "9fb629c4189551a2d022fa330f9573f3",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        (10000, 28, 28),
    ),
    "t10k-labels-idx1-ubyte": IdxFile(
        "ec29112dd5afa0611ce80d1b7f02629c",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        (10000,),
    ),
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
BY_HAND = "set BN_HELPERS_DATA to a folder that holds the four MNIST files (.gz or not)"


def read() -> Any:
    """(images (N, 1, 28, 28), labels (N,)) of the training and of the test set, uint8, read-only.

    Raises DataError: see :func:`bn_helpers.data.load`.
    """
    return tuple(
        (_array(f"{part}-images-idx3-ubyte")[:, None], _array(f"{part}-labels-idx1-ubyte"))
        for part in ("train", "t10k")
    )


def _array(stem):
    """The array in the file ``stem``, of the shape in FILES."""
    file = FILES[stem]
    path = find(
        "MNIST",
        (stem, f"{stem}.gz"),
        subfolder="mnist",
        download=(f"{stem}.gz", file.md5),
        mirrors=MIRRORS,
        by_hand=BY_HAND,
    )
    with reading(path, f"{stem}, plain or gzip-compressed"):
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":  # gzip's mark, whatever the file is called
            content = gzip.decompress(content)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        raise bad(path, *_difference(content, sha256, stem))
    return np.frombuffer(content, np.uint8)[4 + 4 * len(file.shape) :].reshape(file.shape)


def _difference(content, sha256, stem):
    """What ``content`` is and what ``stem`` should be, in words: the first thing that differs."""
    for other, file in FILES.items():
        if sha256 == file.sha256:
            return f"the content of {other}", f"that of {stem}"
    shape = FILES[stem].shape
    # Big-endian; the magic number's third byte 8 says unsigned bytes, its fourth how many sizes.
    wanted = [2048 + len(shape), *shape]
    start = 4 * len(wanted)
    header = [int.from_bytes(content[i : i + 4], "big") for i in range(0, start, 4)]
    if len(content) >= start and header != wanted:
        return f"the IDX header {header} (magic number, sizes)", f"{wanted}"
    size = start + math.prod(shape)
    if len(content) != size:
        return f"{len(content):,} bytes", f"{size:,}"
    return f"other values (SHA-256 {sha256})", f"MNIST's ({FILES[stem].sha256})"
