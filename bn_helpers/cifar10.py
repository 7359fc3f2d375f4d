"""The files of CIFAR-10 (Krizhevsky, 2009): found or downloaded, checked, and never unpacked."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zlib
from pathlib import Path

from bn_helpers import data
from bn_helpers.data import DataError

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
WAY_OUT = "delete it and put a good copy there, or unset BN_HELPERS_DATA to have it downloaded"


def read():
    """The content of CIFAR-10's files, checked.

    Returns
    -------
    path : ``Path`` of the archive or folder that was read.
    contents : dict, file name → bytes. From the JPEG archive (``path.name == JPEG``) 60,000 JPEG
        files called ``train/<class>/0000.jpg`` and so on; otherwise the six files of the binary
        version.

    Raises
    ------
    DataError
        neither version is in the folder ``BN_HELPERS_DATA`` (at most the pickled one, which is
        never read) nor, where none is set, to be had; it is truncated, damaged or another one.
    """
    folder = os.environ.get("BN_HELPERS_DATA")
    # A folder that is set is meant: what it lacks is an error, never a reason to download.
    if folder:
        path = _in_folder(Path(folder).expanduser().absolute())
    else:
        path = data.cached("CIFAR-10", BINARY, BINARY_MD5, MIRRORS, BY_HAND)
    try:
        return path, _jpegs(path) if path.name == JPEG else _batches(path)
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{path}: found damaged or unreadable data ({error}), expected the whole of CIFAR-10; "
            f"{WAY_OUT}"
        ) from None


def _in_folder(folder):
    if not folder.is_dir():
        raise DataError(f"BN_HELPERS_DATA is {folder}, which is no folder; {BY_HAND}")
    places = (folder, folder / "cifar10")
    for path in (place / name for name in (BINARY, BATCHES, JPEG) for place in places):
        if path.exists():
            return path
    for path in (place / name for name in PICKLED for place in places):
        if path.exists():
            raise DataError(
                f"{path}: found CIFAR-10 only in its pickled Python version, which is never read "
                f"(loading it can run any code), expected the binary one; {BY_HAND}, or unset it "
                "to have the binary version downloaded"
            )
    raise DataError(
        f"BN_HELPERS_DATA is {folder}, but neither it nor its subfolder cifar10 holds {BINARY}, "
        f"{BATCHES}/ or {JPEG}; {BY_HAND}, or unset it to use the cache or a download"
    )


def _jpegs(path):
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != JPEG_SHA256:
        raise DataError(
            f"{path}: found {len(content):,} bytes with the SHA-256 {sha256}, expected the whole "
            f"archive with {JPEG_SHA256}; {WAY_OUT}"
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {file.name: archive.extractfile(file).read() for file in archive if file.isfile()}


def _batches(path):
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
            raise DataError(f"{path}: found no {name} in it, expected it there; {WAY_OUT}")
        found = hashlib.md5(contents[name], usedforsecurity=False).hexdigest()
        if found != md5:
            raise DataError(
                f"{path}: found in {name} {len(contents[name]):,} bytes with the MD5 "
                f"{found}, expected {BATCH_BYTES:,} with {md5}; {WAY_OUT}"
            )
    return contents
