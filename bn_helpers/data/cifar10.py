"""CIFAR-10 (Krizhevsky, 2009): the binary version, or one of JPEG files; never unpacked."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from bn_helpers.data.files import bad, find, reading

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
JPEG, BINARY, BATCHES = "cifar10-jpeg.tar.gz", "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
PICKLED = ("cifar-10-python.tar.gz", "cifar-10-batches-py")
JPEG_SHA256 = "a53062b11fa33bfeec4e3e698555a32f7df9825641dfc4c93ad80af81a59250b"
BINARY_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
BATCH_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
BATCH_BYTES = 10_000 * (1 + 3 * 32 * 32)  # per image its label, then three planes of pixels
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
BY_HAND = f"set BN_HELPERS_DATA to a folder that holds {BINARY}, {BATCHES}/ or {JPEG}"


def read(size: int | None = None, workers: int = 0) -> tuple[Any, Any, str]:
    """Training and test set as (images, labels), and the name of the version.

    ``images`` are (N, 3, 32, 32) uint8, read-only, from the binary version; from the JPEG files
    they are (N, 3, size, size), decoded by ``workers`` processes.

    Raises
    ------
    DataError
        neither version is in the folder ``BN_HELPERS_DATA`` (at most the pickled one, which is
        never read) nor, where none is set, to be had; it is truncated, damaged or another one.
    """
    path = find(
        "CIFAR-10",
        (BINARY, f"{BATCHES}/", JPEG),
        subfolder="cifar10",
        download=(BINARY, BINARY_MD5),
        mirrors=MIRRORS,
        by_hand=BY_HAND,
        pickled=PICKLED,
    )
    if path.name == JPEG:
        return *_jpegs(path, size, workers), "CIFAR-10 (JPEG)"
    return *_batches(path), "CIFAR-10 (binary)"


def _jpegs(path, size, workers):
    from bn_helpers.data.image_files import Files, decoded

    with reading(path, "CIFAR-10"):
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != JPEG_SHA256:
            found = f"{len(content):,} bytes with the SHA-256 {sha256}"
            raise bad(path, found, f"the whole archive with {JPEG_SHA256}")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            jpegs = {f.name: archive.extractfile(f).read() for f in archive if f.isfile()}
    for part in ("train", "test"):
        names = sorted(name for name in jpegs if name.startswith(f"{part}/"))
        labels = [CLASSES.index(name.split("/")[1]) for name in names]
        yield decoded(Files(path, names, size, [jpegs[name] for name in names]), workers), labels


def _batches(path):
    with reading(path, "CIFAR-10"):
        if path.is_dir():
            files = {name: path / name for name in BATCH_MD5 if (path / name).is_file()}
            contents = {name: file.read_bytes() for name, file in files.items()}
        else:
            with tarfile.open(path, "r:gz") as archive:
                contents = {
                    Path(file.name).name: archive.extractfile(file).read()
                    for file in archive
                    if file.isfile() and Path(file.name).name in BATCH_MD5
                }
    for name, md5 in BATCH_MD5.items():
        if name not in contents:
            raise bad(path, f"no {name} in it", "it there")
        found = hashlib.md5(contents[name], usedforsecurity=False).hexdigest()
        if found != md5:
            found = f"in {name} {len(contents[name]):,} bytes with the MD5 {found}"
            raise bad(path, found, f"{BATCH_BYTES:,} with {md5}")
    for part in ("data", "test"):
        joined = b"".join(contents[name] for name in BATCH_MD5 if name.startswith(part))
        rows = np.frombuffer(joined, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        yield rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]
