"""Real images as arrays: scikit-learn's digits (built in) and MNIST."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path
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


class DataError(RuntimeError):
    """Data could not be had, or a file or folder of it is not what it should be.

    The message names the file, what was found, what was expected and the way out.
    """


class IdxFile(NamedTuple):
    """What is known of one file: MD5 of the mirrors' .gz, SHA-256 and sizes of the content."""

    md5: str
    sha256: str
    shape: tuple[int, ...]


MNIST_FILES = {
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


def load(name, *, seed=0):
    """Training and test images of ``name``, with their labels.

    Parameters
    ----------
    name : ``"digits"``, 1,437 + 360 images of 1×8×8, which come with scikit-learn; or ``"mnist"``
        (LeCun et al., 1998), 60,000 + 10,000 images of 1×28×28. Its four IDX files, gzip-compressed
        or not, are read from the folder in the environment variable ``BN_HELPERS_DATA`` (or its
        subfolder ``mnist``). Where that is unset or empty they come from the cache
        (``pooch.os_cache("bn_helpers")``, or the folder in ``BN_HELPERS_CACHE``), into which
        missing ones are downloaded: 11 MB, once, with a progress bar on stderr. Each file's content
        is checked against its SHA-256, wherever it comes from.
    seed : int, draws the split of the digits. MNIST comes split and ignores it.

    Returns
    -------
    dataset : :class:`Dataset` of new, writable arrays. Pixels are grey level / 16 in the digits and
        / 255 in MNIST.

    Raises
    ------
    ValueError
        a name other than these two: CIFAR-10 and folders of images are loaded by
        :func:`bn_helpers.images.load_images`.
    DataError
        MNIST is neither in the folder nor, where none is set, to be had from cache or
        mirrors; the cache cannot be written; a file is truncated, damaged or another one.
    """
    if name == "digits":
        return _digits(seed)
    if name == "mnist":
        splits = []
        for stem in ("train", "t10k"):
            images = _idx(f"{stem}-images-idx3-ubyte")[:, None]
            labels = _idx(f"{stem}-labels-idx1-ubyte").astype(np.int64)
            splits.append(Split(np.divide(images, 255, dtype=np.float32), labels))
        return Dataset(*splits)
    raise ValueError(
        f"unknown data {name!r}; expected 'digits' or 'mnist' (for CIFAR-10 or a folder of images "
        f"call bn_helpers.images.load_images)"
    )


def checksum(name):
    """SHA-256 (hex) of the images and labels of :func:`load`'s ``name``, as records state it."""
    return content_hash(array for split in load(name) for array in split)


def content_hash(arrays):
    """SHA-256 (hex) of the bytes of ``arrays``, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(memoryview(np.ascontiguousarray(array)).cast("B"))
    return digest.hexdigest()


def hold_out(split, count, *, seed=0):
    """Divide ``split`` at random: all but ``count`` examples to train on, ``count`` to choose by.

    Learning rates, settings and checkpoints are chosen on the second part, never on test images.

    Returns
    -------
    train, held_out : two of ``split``'s type; lazy images (``images.Files``) stay lazy.

    Raises
    ------
    ValueError
        count below 1 or leaving nothing to train on.
    """
    if not 1 <= count < len(split.labels):
        raise ValueError(f"expected count between 1 and {len(split.labels) - 1}, got {count}")
    order = np.random.default_rng(seed).permutation(len(split.labels))
    return tuple(
        type(split)(split.images.take(part, axis=0), split.labels[part])
        for part in (order[count:], order[:count])
    )


def _digits(seed):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[:1437], order[1437:]
    labels = bunch.target.astype(np.int64)
    return Dataset(Split(images[train], labels[train]), Split(images[test], labels[test]))


def _idx(stem):
    """The array in MNIST's file ``stem``: uint8, read-only, of the shape in MNIST_FILES."""
    folder = os.environ.get("BN_HELPERS_DATA")
    # A folder that is set is meant: what it lacks is an error, never a reason to download.
    path = _in_folder(Path(folder).expanduser(), stem) if folder else _cached(stem)
    shape = MNIST_FILES[stem].shape
    return np.frombuffer(_verified(path, stem), np.uint8)[4 + 4 * len(shape) :].reshape(shape)


def _in_folder(folder, stem):
    if not folder.is_dir():
        raise DataError(f"BN_HELPERS_DATA is {folder.absolute()}, which is no folder; {BY_HAND}")
    for path in (f / n for f in (folder, folder / "mnist") for n in (stem, f"{stem}.gz")):
        if path.is_file():
            return path
    raise DataError(
        f"BN_HELPERS_DATA is {folder.absolute()}, but neither it nor its subfolder mnist holds "
        f"{stem} or {stem}.gz; {BY_HAND}, or unset it to use the cache or a download"
    )


def _cached(stem):
    return cached("MNIST", f"{stem}.gz", MNIST_FILES[stem].md5, MIRRORS, BY_HAND)


def cached(whose, name, md5, mirrors, by_hand):
    """Path of the mirrors' file in the cache, downloaded if it is missing or damaged there.

    Parameters
    ----------
    whose : str, what the file is of, for the messages: ``"MNIST"``.
    name, md5 : of the file, as the mirrors have it.
    mirrors : URLs that ``name`` is appended to, tried in turn.
    by_hand : str, how to do without the download, for the messages.

    Raises
    ------
    DataError
        no mirror gives the file; the cache cannot be written.
    """
    import pooch
    from requests import RequestException

    failures = []
    for mirror in mirrors:
        cache = pooch.create(
            path=pooch.os_cache("bn_helpers"),
            base_url=mirror,
            env="BN_HELPERS_CACHE",
            registry={name: f"md5:{md5}"},
        )
        try:
            return Path(cache.fetch(name, progressbar=True))
        except (RequestException, ValueError) as error:  # ValueError: pooch, the checksum is wrong
            failures.append(f"\n- {mirror}{name}: {error}")
        except OSError as error:  # RequestException is an OSError too: what remains is the disk
            raise DataError(
                f"the cache folder {cache.abspath} cannot be used for {name} ({error}); set "
                f"BN_HELPERS_CACHE to a folder that can be written, or {by_hand}"
            ) from None
    state = "a damaged copy" if (cache.abspath / name).exists() else "no copy"
    raise DataError(
        f"{whose}'s {name} is not to be had: BN_HELPERS_DATA is not set, the cache folder "
        f"{cache.abspath} holds {state}, and the download failed:{''.join(failures)}\n"
        f"Connect to the network and try again, or {by_hand}"
    ) from None


def _verified(path, stem):
    """Uncompressed content of ``path``, which is the one of ``stem`` or a DataError."""
    way_out = "delete it and put a good copy there, or unset BN_HELPERS_DATA to have it downloaded"
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":  # gzip's mark, whatever the file is called
            content = gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path}: found damaged or unreadable data ({error}), expected the whole of {stem}, "
            f"plain or gzip-compressed; {way_out}"
        ) from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != MNIST_FILES[stem].sha256:
        found, expected = _difference(content, sha256, stem)
        raise DataError(f"{path}: found {found}, expected {expected}; {way_out}")
    return content


def _difference(content, sha256, stem):
    """What ``content`` is and what ``stem`` should be, in words: the first thing that differs."""
    for other, file in MNIST_FILES.items():
        if sha256 == file.sha256:
            return f"the content of {other}", f"that of {stem}"
    shape = MNIST_FILES[stem].shape
    # Big-endian; the magic number's third byte 8 says unsigned bytes, its fourth how many sizes.
    wanted = [2048 + len(shape), *shape]
    start = 4 * len(wanted)
    header = [int.from_bytes(content[i : i + 4], "big") for i in range(0, start, 4)]
    if len(content) >= start and header != wanted:
        return f"the IDX header {header} (magic number, sizes)", f"{wanted}"
    size = start + math.prod(shape)
    if len(content) != size:
        return f"{len(content):,} bytes", f"{size:,}"
    return f"other values (SHA-256 {sha256})", f"MNIST's ({MNIST_FILES[stem].sha256})"
