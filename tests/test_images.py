"""Images as bytes: bn_helpers.data's digits, CIFAR-10 and folders, without network.

CIFAR-10 is stood in for by archives of a few made-up images, whose checksums replace the real ones;
the JPEG archive itself is read where BN_HELPERS_DATA holds it.
"""

import functools
import gzip
import hashlib
import io
import itertools
import multiprocessing
import os
import pickle
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pooch  # here and not in a test, so that its logger holds no test's captured stderr  # noqa: F401
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from bn_helpers import data
from bn_helpers.data import cifar10, image_files
from bn_helpers.data.image_files import batches

load = functools.partial(data.load, dtype=np.uint8)

GIVEN = os.environ.get("BN_HELPERS_DATA")  # before it is sealed off
pytestmark = [
    pytest.mark.usefixtures("sealed"),
    # More workers than a small machine has cores; Python 3.12 warns of every fork.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def noise(count, height=32, width=32, seed=0):
    """Made-up images (N, 3, H, W) uint8."""
    shape = (count, 3, height, width)
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def packed(image, kind="PNG"):
    """An array (3, H, W) as the content of an image file."""
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, kind)
    return file.getvalue()


def write(path, image, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(image, kind))


@pytest.fixture
def folder(tmp_path):
    """Two classes, three training images and one test image in each, of 8×6 (width × height)."""
    root = tmp_path / "pets"
    pictures = iter(noise(8, 6, 8))
    for name in ("cat", "dog"):
        for number in range(3):
            write(root / "train" / name / f"{number}.png", next(pictures))
        write(root / "test" / name / "0.png", next(pictures))
    return root


TRAIN, TEST = [0, 1, 2, 4, 5, 6], [3, 7]  # where they are in noise(8, 6, 8)


def refusal(*words, source="cifar10", **options):
    """Load ``source``, which must end in one clear line that has all ``words``; return it."""
    with pytest.raises(data.DataError) as caught:
        load(source, **options)
    return clear(caught.value, *words)


def clear(error, *words):
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    message = str(error)
    assert "\n" not in message
    assert "Traceback" not in message
    for word in ("found", "expected", *words):
        assert str(word) in message
    return message


def same(one, other):
    """Two image sets are equal in all that they hold."""
    for mine, yours in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine.images[:], yours.images[:])
        np.testing.assert_array_equal(mine.labels, yours.labels)
    assert (one.classes, one.name, one.sha256) == (other.classes, other.name, other.sha256)


# ---- digits and sizes


def test_digits():
    """Catches: another split or scale than data.load's; truncation instead of rounding."""
    found, wanted = load("digits"), data.load("digits")
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine.images.dtype, mine.labels.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(np.rint(theirs.images * 255), mine.images)
        np.testing.assert_array_equal(theirs.labels, mine.labels)
    assert np.unique(found.train.images).tolist() == [round(16 * k - k / 16) for k in range(17)]
    assert (found.classes, found.name) == (list("0123456789"), "digits")


def test_digits_in_other_sizes():
    """Catches: size not used, channels lost; a mean over the wrong axis."""
    whole = load("digits").train.images
    small = load("digits", size=4).train.images
    exact = whole.reshape(-1, 1, 4, 2, 4, 2).mean((3, 5))
    assert np.abs(small - exact).max() <= 0.5
    assert load("digits", size=11).test.images.shape == (360, 1, 11, 11)


@pytest.mark.parametrize("size", [0, -1])
def test_size_below_one(size):
    with pytest.raises(ValueError, match=f"size of at least 1, got {size}"):
        load("digits", size=size)


def test_sha256_sees_every_pixel_label_and_split(monkeypatch):
    """Catches: a checksum of a part; one that changes from call to call."""
    before = load("digits").sha256
    splits = data._digits(0)
    monkeypatch.setattr(data, "_digits", lambda seed: splits)
    for (images, labels), place in itertools.product(splits, (0, -1)):
        labels[place] += 1
        assert load("digits").sha256 != before
        labels[place] -= 1
        images[place, 0, 4, 4] = 16 - images[place, 0, 4, 4] / 2
        assert load("digits").sha256 != before
        images[place, 0, 4, 4] = (16 - images[place, 0, 4, 4]) * 2
    assert load("digits").sha256 == before


def test_bytes_and_floats_are_the_same_images(binary, place, folder):
    """Catches: a dtype that is ignored, another scale, size or split in one of them."""
    (place / cifar10.BINARY).write_bytes(in_batches(binary))
    for name, size in itertools.product(("cifar10", folder), (6, 3)):
        found = data.load(name, size=size)
        for mine, theirs in zip(found, load(name, size=size), strict=True):
            assert mine.images.dtype == np.float32
            np.testing.assert_array_equal(mine.images, theirs.images / np.float32(255))
            np.testing.assert_array_equal(mine.labels, theirs.labels)
    small = data.load("digits", size=4).train.images
    np.testing.assert_array_equal(small, load("digits", size=4).train.images / np.float32(255))
    with pytest.raises(ValueError, match=r"fit into 100 bytes as float32; give dtype='uint8'"):
        data.load(folder, in_memory=100)
    total = 8 * 3 * 6 * 8
    assert data.load(folder, in_memory=4 * total).train.images.dtype == np.float32
    with pytest.raises(ValueError, match="as float32"):
        data.load(folder, in_memory=4 * total - 1)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(0, 9))
def test_whole_multiples_are_averaged_exactly(size, factor, margin, wide, seed):
    """Catches: rounding twice, a crop that is off the middle, Pillow's bilinear for averages;
    files and arrays treated differently. (Pillow divides by 9 with an error of 1e-7, so that a
    mean just below a half may be rounded to the wrong side.)"""
    short = size * factor
    height, width = (short, short + margin) if wide else (short + margin, short)
    picture = noise(1, height, width, seed)
    left, top = (width - short) // 2, (height - short) // 2
    middle = picture[0, :, top : top + short, left : left + short]
    exact = middle.reshape(3, size, factor, size, factor).mean((2, 4))
    found = image_files.resized(picture, size)
    assert np.abs(found[0] - exact).max() <= (0.5 if factor != 3 else 5 / 9 + 1e-9)
    file = image_files.Files(Path("."), ["x"], size, [packed(picture[0])])
    np.testing.assert_array_equal(file[:], found)


@pytest.mark.parametrize("shape", [(20, 30), (45, 40), (400, 300), (10, 12)])
def test_other_sizes_are_smoothed(shape):
    """Catches: nearest neighbours (aliasing), a stretched image, a crop beside the middle. A plane
    of grey levels stays one; stripes as fine as a pixel become their mean."""
    height, width = shape
    y, x = np.mgrid[:height, :width] + 0.5
    plane = 128 + 60 * (x - width / 2) / max(shape) + 60 * (y - height / 2) / max(shape)
    files = image_files.Files(
        Path("."), ["x"], 16, [packed(np.stack([plane.round()] * 3).astype("u1"))]
    )
    step = min(shape) / 16
    v, u = (np.mgrid[:16, :16] - 7.5) * step
    assert (
        np.abs(files[0][:, 1:-1, 1:-1] - (128 + 60 * (u + v) / max(shape))[1:-1, 1:-1]).max() < 2.5
    )
    if min(shape) > 32:
        stripes = np.broadcast_to(np.where(np.arange(width) % 2, 255, 0), (3, height, width))
        files = image_files.Files(Path("."), ["x"], 16, [packed(stripes.astype("u1"))])
        assert np.abs(files[0][:, :, 1:-1] - 127.5).max() < 40


def test_large_jpegs_come_out_as_other_files_do(tmp_path, monkeypatch):
    """Catches: a JPEG decoded at an eighth where that is smaller than the result, or always in
    full, which takes several times as long."""
    resize, sizes = Image.Image.resize, []

    def noted(self, *args):
        sizes.append(self.size)
        return resize(self, *args)

    monkeypatch.setattr(Image.Image, "resize", noted)
    y, x = np.mgrid[:513, :700]
    picture = np.stack([128 + 100 * np.sin(x / 40), 128 + 100 * np.cos(y / 30), (x + y) / 6])
    picture = picture.astype(np.uint8)
    contents = [packed(picture), packed(picture, "JPEG")]
    png, jpeg = image_files.Files(tmp_path, ["a", "b"], 100, contents)[:].astype(int)
    assert np.abs(png - jpeg).mean() < 1.5
    assert sizes == [(700, 513), (350, 257)]


# ---- CIFAR-10


@pytest.fixture
def binary(monkeypatch):
    """Three images in each of six files: the contents by file name."""
    rng = np.random.default_rng(0)
    contents = {}
    for name in cifar10.BATCH_MD5:
        rows = rng.integers(256, size=(3, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        contents[name] = rows.tobytes()
        monkeypatch.setitem(cifar10.BATCH_MD5, name, hashlib.md5(contents[name]).hexdigest())
    monkeypatch.setattr(cifar10, "BATCH_BYTES", 3 * 3073)
    return contents


@pytest.fixture
def jpegs(monkeypatch):
    """Two training images and one test image per class: the archive's bytes, and the pictures."""
    pictures = noise(30)
    names = [f"train/{name}/{i:04}.jpg" for name in cifar10.CLASSES for i in range(2)]
    names += [f"test/{name}/0000.jpg" for name in cifar10.CLASSES]
    contents = dict(zip(names, (packed(picture, "JPEG") for picture in pictures), strict=True))
    # Not in order, as an archive may be.
    archive = archived({"train/": None, **dict(sorted(contents.items(), reverse=True))})
    monkeypatch.setattr(cifar10, "JPEG_SHA256", hashlib.sha256(archive).hexdigest())
    return archive, contents


def archived(contents):
    """A tar.gz of the contents by name; None makes a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return gzip.compress(file.getvalue(), mtime=0)


def in_batches(contents):
    meta = "\n".join(cifar10.CLASSES).encode()
    inside = {f"{cifar10.BATCHES}/{name}": content for name, content in contents.items()}
    return archived({cifar10.BATCHES: None, f"{cifar10.BATCHES}/batches.meta.txt": meta, **inside})


def check_binary(found, contents):
    """``found`` is what the six files hold, by the format's description: label, then R, G, B."""
    assert (found.name, found.classes) == ("CIFAR-10 (binary)", list(cifar10.CLASSES))
    for split, names in zip(found, (list(contents)[:5], list(contents)[5:]), strict=True):
        joined = b"".join(contents[name] for name in names)
        assert split.images.shape == (len(joined) // 3073, 3, 32, 32)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
        assert all(array.flags.c_contiguous and array.flags.writeable for array in split)
        for i, (image, label) in enumerate(zip(*split, strict=True)):
            assert label == joined[3073 * i]
            assert image[2, 5, 7] == joined[3073 * i + 1 + 2 * 1024 + 5 * 32 + 7]


@pytest.fixture
def place(monkeypatch, tmp_path):
    """BN_HELPERS_DATA, which is set to an empty folder."""
    path = tmp_path / "data"
    path.mkdir()
    monkeypatch.setenv("BN_HELPERS_DATA", str(path))
    return path


@pytest.mark.parametrize("sub", ["", "cifar10"])
@pytest.mark.parametrize("form", ["archive", "folder"])
def test_binary(sub, form, binary, place):
    """Catches: subfolder or unpacked files not looked for; train and test swapped; label left in
    the pixels; rows and columns or channels swapped; the archive unpacked."""
    (place / sub).mkdir(exist_ok=True)
    if form == "archive":
        (place / sub / cifar10.BINARY).write_bytes(in_batches(binary))
    else:
        (place / sub / cifar10.BATCHES).mkdir()
        for name, content in binary.items():
            (place / sub / cifar10.BATCHES / name).write_bytes(content)
    before = sorted(place.rglob("*"))
    check_binary(load("cifar10"), binary)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_jpeg_archive(workers, jpegs, place, monkeypatch):
    """Catches: labels out of step with images, files in the archive's order, names without the
    word JPEG; workers not used, or another result with them; the archive unpacked."""
    archive, contents = jpegs
    used = []
    monkeypatch.setattr(
        image_files, "batches", lambda *args: used.append(args[2]) or batches(*args)
    )
    (place / cifar10.JPEG).write_bytes(archive)
    found = load("cifar10", workers=workers)
    assert (found.name, found.classes) == ("CIFAR-10 (JPEG)", list(cifar10.CLASSES))
    for split, part in zip(found, ("train", "test"), strict=True):
        names = sorted(name for name in contents if name.startswith(part))
        assert [cifar10.CLASSES[label] for label in split.labels] == [
            n.split("/")[1] for n in names
        ]
        for image, name in zip(split.images, names, strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(contents[name])))
            np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))
    assert [path.name for path in place.iterdir()] == [cifar10.JPEG]
    assert used == [workers, workers]


def test_both_versions_in_a_smaller_size(binary, jpegs, place):
    """Catches: size lost on one of the two ways; the lossy version taken where the other is."""
    (place / cifar10.JPEG).write_bytes(jpegs[0])
    for name in ("CIFAR-10 (JPEG)", "CIFAR-10 (binary)"):
        whole = load("cifar10")
        assert whole.name == name
        for size, factor in ((16, 2), (8, 4)):
            small = load("cifar10", size=size)
            assert (small.name, small.sha256 == whole.sha256) == (name, False)
            exact = whole.train.images.reshape(-1, 3, size, factor, size, factor).mean((3, 5))
            assert np.abs(small.train.images - exact).max() <= 0.5
        (place / cifar10.BINARY).write_bytes(in_batches(binary))


def test_download_then_cache(binary, served, monkeypatch, tmp_path, capfd):
    """Catches: no progress bar, the cache not used, a download that is not checked, another name
    on the mirror, half a file kept."""
    archive = in_batches(binary)
    monkeypatch.setattr(cifar10, "MIRRORS", (f"{served.url}/",))
    monkeypatch.setattr(cifar10, "BINARY_MD5", hashlib.md5(archive).hexdigest())
    path = "/cifar-10-binary.tar.gz"
    for served.files[path], served.cut in ((archive, True), (b"<html>", False)):
        with pytest.raises(data.DataError, match=r"CIFAR-10's .* holds no copy") as caught:
            load("cifar10")
        assert "BN_HELPERS_DATA" in str(caught.value)
        assert list((tmp_path / "cache").iterdir()) == []
    served.files[path] = archive
    capfd.readouterr()
    check_binary(load("cifar10"), binary)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%" in err
    asked = len(served.asked)
    check_binary(load("cifar10"), binary)
    assert (len(served.asked), capfd.readouterr().err) == (asked, "")


def test_official_source():
    """Catches: a mirror or a checksum changed by accident (as the CIFAR-10 page states them)."""
    assert cifar10.MIRRORS == ("https://www.cs.toronto.edu/~kriz/",)
    assert cifar10.BINARY_MD5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert cifar10.BATCH_BYTES == 30_730_000


def changed(content, at):
    damaged = bytearray(content)
    damaged[at] ^= 0xFF
    return bytes(damaged)


def broken_off(content):
    """``content``, compressed, and then a block of a type that does not exist."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 9000


# What is wrong → file name, its bytes from (contents of the six, the JPEG archive), words.
BAD_ARCHIVES = {
    "jpeg cut short": (cifar10.JPEG, lambda c, z: z[:-9], "SHA-256"),
    "jpeg with a byte changed": (cifar10.JPEG, lambda c, z: changed(z, 500), "whole archive"),
    "jpeg empty": (cifar10.JPEG, lambda c, z: b"", "found 0 bytes"),
    "another archive as jpeg": (cifar10.JPEG, lambda c, z: in_batches(c), "SHA-256"),
    "binary cut short": (cifar10.BINARY, lambda c, z: in_batches(c)[:-900], "damaged"),
    "binary with a byte changed": (
        cifar10.BINARY,
        lambda c, z: changed(in_batches(c), 12),
        "damaged",
    ),
    "binary damaged in its middle": (
        cifar10.BINARY,
        lambda c, z: broken_off(gzip.decompress(in_batches(c))[:30000]),
        "damaged",
    ),
    "a web page as binary": (cifar10.BINARY, lambda c, z: b"<!DOCTYPE html>", "damaged"),
    "jpeg called binary": (cifar10.BINARY, lambda c, z: z, "no data_batch_1.bin"),
    "one batch missing": (
        cifar10.BINARY,
        lambda c, z: in_batches({name: c[name] for name in c if "4" not in name}),
        "no data_batch_4.bin",
    ),
    "one pixel changed": (
        cifar10.BINARY,
        lambda c, z: in_batches({**c, "data_batch_2.bin": changed(c["data_batch_2.bin"], 77)}),
        "in data_batch_2.bin 9,219 bytes",
    ),
    "test called train": (
        cifar10.BINARY,
        lambda c, z: in_batches({**c, "data_batch_5.bin": c["test_batch.bin"]}),
        "in data_batch_5.bin",
    ),
    "a batch cut short": (
        cifar10.BINARY,
        lambda c, z: in_batches({**c, "test_batch.bin": c["test_batch.bin"][:-3073]}),
        "in test_batch.bin 6,146 bytes",
    ),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_bad_archive(case, binary, jpegs, place):
    """Catches: a checksum, a guard, or the name in the message removed."""
    name, damage, words = BAD_ARCHIVES[case]
    (place / name).write_bytes(damage(binary, jpegs[0]))
    refusal(place / name, words, "delete it and put a good copy there", "BN_HELPERS_DATA")


def test_unreadable_archive(place, monkeypatch):
    """Catches: a bare PermissionError (made up, since root may read anything)."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (place / cifar10.JPEG).write_bytes(b"")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    refusal(place / cifar10.JPEG, "Permission denied", "BN_HELPERS_DATA")


def test_bad_unpacked_batches(binary, place):
    """Catches: unpacked files trusted without a check; a missing one that ends in a KeyError."""
    (place / cifar10.BATCHES).mkdir()
    for name, content in binary.items():
        (place / cifar10.BATCHES / name).write_bytes(content)
    (place / cifar10.BATCHES / "data_batch_3.bin").write_bytes(
        changed(binary["data_batch_3.bin"], 9)
    )
    refusal(place / cifar10.BATCHES, "in data_batch_3.bin 9,219 bytes")
    (place / cifar10.BATCHES / "data_batch_3.bin").unlink()
    refusal(place / cifar10.BATCHES, "no data_batch_3.bin")


@pytest.mark.parametrize("name", cifar10.PICKLED)
def test_pickled_version_is_never_read(name, place, monkeypatch):
    """Catches: an unpickler, or a message that says only that nothing was found."""
    for loader in ("load", "loads"):
        monkeypatch.setattr(pickle, loader, lambda *args, **kwargs: pytest.fail("unpickled"))
    (place / name).write_bytes(b"")
    refusal(place / name, "pickled", "never read", cifar10.BINARY)


def test_set_folder_is_meant(served, monkeypatch, place):
    """Catches: a download where a folder is set that lacks the files, or is none."""
    monkeypatch.setattr(cifar10, "MIRRORS", (f"{served.url}/",))
    for path, words in ((place, "neither it nor its subfolder"), (place / "no", "is no folder")):
        monkeypatch.setenv("BN_HELPERS_DATA", str(path))
        with pytest.raises(data.DataError, match=words) as caught:
            load("cifar10")
        for word in (str(path), cifar10.BINARY, cifar10.BATCHES, cifar10.JPEG):
            assert word in str(caught.value)
    assert served.asked == []


@pytest.mark.slow
def test_real_jpeg_archive(monkeypatch):
    """Catches: a wrong checksum of the real archive, classes or splits mixed up in it."""
    if not GIVEN:
        pytest.skip("BN_HELPERS_DATA is not set")
    monkeypatch.setenv("BN_HELPERS_DATA", GIVEN)
    if not any((Path(GIVEN) / sub / cifar10.JPEG).exists() for sub in ("", "cifar10")):
        pytest.skip(f"BN_HELPERS_DATA holds no {cifar10.JPEG}")
    found = load("cifar10")
    for split, each in zip(found, (5000, 1000), strict=True):
        assert split.images.shape == (10 * each, 3, 32, 32)
        assert np.bincount(split.labels).tolist() == [each] * 10
    # The means that CIFAR-10 is known by; JPEG moves them a little.
    mean = found.train.images.mean((0, 2, 3))
    np.testing.assert_allclose(mean, [125.3, 123.0, 113.9], atol=0.2)
    blue = found.train.images[:, 2].mean((1, 2))
    by_class = [blue[found.train.labels == label].mean() for label in range(10)]
    assert sorted(np.argsort(by_class)[-2:]) == [0, 8]  # airplane and ship: sky and sea


# ---- folders


def test_folder(folder):
    """Catches: classes or files out of order, labels out of step, test taken from train, planes of
    colour swapped, the path in the name."""
    found = load(str(folder))
    assert (found.classes, found.name) == (["cat", "dog"], "folder pets")
    np.testing.assert_array_equal(found.train.images, noise(8, 6, 8)[TRAIN])
    np.testing.assert_array_equal(found.test.images, noise(8, 6, 8)[TEST])
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.test.labels.tolist() == [0, 1]
    assert (found.train.images.dtype, found.train.labels.dtype) == (np.uint8, np.int64)


@pytest.mark.parametrize("size", [None, 3, 4, 9])
@pytest.mark.parametrize("workers", [0, 2])
def test_files_equal_arrays(folder, size, workers):
    """Catches: a lazy image that differs from a loaded one; order lost among workers; a wrong
    shape, or indexing that is not ndarray's."""
    loaded = load(folder, size=size, workers=workers)
    lazy = load(folder, size=size, workers=workers, in_memory=0)
    for mine, theirs in zip(loaded, lazy, strict=True):
        assert isinstance(theirs.images, image_files.Files)
        assert (len(theirs.images), theirs.images.shape) == (len(mine.images), mine.images.shape)
        assert theirs.images.dtype == np.uint8
        np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert (loaded.classes, loaded.name) == (lazy.classes, lazy.name)
    for index in (2, -1, slice(1, 4), [5, 0, 0], np.array([], int), np.arange(6) % 2 == 0):
        np.testing.assert_array_equal(lazy.train.images[index], loaded.train.images[index])
    with pytest.raises(IndexError):
        lazy.train.images[[6]]
    order = [np.array(part) for part in ([5, 0], [1, 1, 2], [4], [0, 1, 2, 3, 4, 5], [3])] * 3
    one = list(batches(loaded.train.images, order))
    two = list(batches(lazy.train.images, iter(order), workers))
    assert len(one) == len(two) == len(order)
    for index, (first, mine), (second, theirs) in zip(order, one, two, strict=True):
        assert first.tolist() == second.tolist() == index.tolist()
        assert (mine.dtype, theirs.dtype) == (torch.uint8, torch.uint8)
        assert torch.equal(mine, theirs)
        np.testing.assert_array_equal(mine, loaded.train.images[index])


def test_in_memory_limit_counts_both_splits(folder):
    """Catches: the limit compared with the number of images, or with the training set alone."""
    total = 8 * 3 * 6 * 8
    assert isinstance(load(folder, in_memory=total).train.images, np.ndarray)
    lazy = load(folder, in_memory=total - 1)
    assert not any(isinstance(split.images, np.ndarray) for split in lazy)
    assert isinstance(load(folder, size=3, in_memory=total // 4).test.images, np.ndarray)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_leave_random_state_and_no_process_behind(folder, workers):
    """Catches: workers' seeds drawn from the global state, which would make a run depend on their
    number; workers that outlive a loop that was left; an endless order read to its end."""
    files = load(folder, in_memory=0).train.images
    state = torch.get_rng_state()
    endless = itertools.repeat(np.array([3, 1]))
    for count, (_, batch) in enumerate(batches(files, endless, workers)):
        assert batch.shape == (2, 3, 6, 8)
        if count == 5:
            break
    assert torch.equal(state, torch.get_rng_state())
    del batch
    assert multiprocessing.active_children() == []


def test_order_is_read_little_ahead(folder):
    """Catches: a prefetch without bound, or an order read twice."""
    read = []
    files = load(folder, in_memory=0).train.images
    feed = batches(files, (read.append(i) or np.array([i % 6]) for i in range(100)), 2)
    next(feed)
    assert read == list(range(len(read)))
    assert len(read) <= 6
    feed.close()


def test_worker_that_is_killed(folder):
    """Catches: torch's RuntimeError of several lines and without a way out."""

    class Killed(image_files.Files):
        def __getitem__(self, index):
            os._exit(1)

    files = Killed(folder, ["train/cat/0.png"])
    with pytest.raises(data.DataError) as caught:
        list(batches(files, [np.array([0])], 1))
    clear(caught.value, "fewer workers")


def test_error_that_is_no_data_error(folder):
    """Catches: an error of our own called a killed worker."""

    class Wrong(image_files.Files):
        def __getitem__(self, index):
            raise RuntimeError("our mistake")

    with pytest.raises(RuntimeError, match=r"^our mistake$"):
        list(batches(Wrong(folder, ["train/cat/0.png"]), [np.array([0])]))


def test_what_counts_as_an_image(folder):
    """Catches: suffixes in capitals, ImageNet's JPEG or nested folders not seen; stray or hidden
    files decoded; links not followed."""
    before = load(folder, size=3)
    for place in (folder, folder / "train", folder / "train" / "cat", folder / "test" / "dog"):
        for name in (".DS_Store", "README.md", "Thumbs.db", "._0.png"):
            (place / name).write_text("stray")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    write(folder / "train" / "cat" / ".thumbnails" / "0.png", noise(1)[0])
    (folder / "train" / "cat" / "deeper").mkdir()
    (folder / "train" / "cat" / "deeper" / "notes.txt").write_text("stray")
    same(load(folder, size=3), before)

    more = noise(4, 9, 9)
    write(folder / "train" / "cat" / "4.JPEG", more[0], "JPEG")
    write(folder / "train" / "cat" / "deeper" / "5.JPG", more[1], "PNG")  # as in ImageNet
    write(folder / "elsewhere" / "6.bmp", more[2], "BMP")
    (folder / "train" / "dog" / "6.bmp").symlink_to(folder / "elsewhere" / "6.bmp")
    (folder / "train" / "elsewhere").symlink_to(folder / "elsewhere")
    (folder / "test" / "elsewhere").symlink_to(folder / "elsewhere")
    found = load(folder, size=3)
    assert found.classes == ["cat", "dog", "elsewhere"]
    assert np.bincount(found.train.labels).tolist() == [5, 4, 1]
    exact = more[2].reshape(3, 3, 3, 3, 3).mean((2, 4))
    for place in (-2, -1):
        assert np.abs(found.train.images[place] - exact).max() < 0.6


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK"])
def test_other_modes_become_rgb(folder, mode):
    """Catches: grey or palette images stacked as they are; an average over palette indices."""
    picture = Image.fromarray(noise(1, 6, 8)[0].transpose(1, 2, 0)).convert(mode)
    kind = "JPEG" if mode == "CMYK" else "PNG"
    picture.save(folder / "train" / "cat" / "0.png", kind)
    with Image.open(folder / "train" / "cat" / "0.png") as stored:
        wanted = np.asarray(stored.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(load(folder).train.images[0], wanted)
    exact = wanted[:, :, 1:7].reshape(3, 3, 2, 3, 2).mean((2, 4))
    assert np.abs(load(folder, size=3).train.images[0] - exact).max() <= 0.5


def test_val_in_place_of_test(folder):
    """Catches: val not looked for; ImageNet's test folder, which has no classes, preferred."""
    found = load(folder)
    (folder / "test").rename(folder / "val")
    np.testing.assert_array_equal(load(folder).test.images, found.test.images)
    write(folder / "test" / "ILSVRC2012_test_00000001.JPEG", noise(1)[0], "JPEG")
    np.testing.assert_array_equal(load(folder).test.images, found.test.images)


@pytest.mark.parametrize("in_memory", [0, 2**31])
def test_tenth_set_aside(folder, in_memory):
    """Catches: an image in both parts or in none, a draw that changes, a name that hides it; a
    checksum that depends on the draw, or without labels."""
    shutil.rmtree(folder / "test")
    pictures = noise(30, 6, 8, seed=1)
    for i in range(14):
        write(folder / "train" / "cat" / f"x{i:02}.png", pictures[i])
    whole = load(folder, in_memory=in_memory)
    assert whole.name == "folder pets (a tenth of train set aside as test)"
    assert (len(whole.train.labels), len(whole.test.labels)) == (18, 2)
    found = [image.tobytes() for split in whole for image in split.images[:]]
    labels = [label for split in whole for label in split.labels]
    wanted = {picture.tobytes(): 0 for picture in [*noise(8, 6, 8)[:3], *pictures[:14]]}
    wanted |= {picture.tobytes(): 1 for picture in noise(8, 6, 8)[4:7]}
    assert dict(zip(found, labels, strict=True)) == wanted
    same(load(folder, in_memory=in_memory), whole)
    if in_memory == 0:
        paths = [
            (path, label)
            for label, name in enumerate(("cat", "dog"))
            for path in (folder / "train" / name).iterdir()
        ]
        lines = sorted(
            f"train/{path.parent.name}/{path.name}\0{path.stat().st_size}\0{label}\n"
            for path, label in paths
        )
        assert whole.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_hold_out_keeps_files_lazy(folder, monkeypatch):
    """Catches: data.hold_out decoding every image, or turning the split into another type."""
    split = load(folder, in_memory=0).train
    wanted = data.hold_out(load(folder).train, 2, seed=3)
    with monkeypatch.context() as patch:
        patch.setattr(image_files.Files, "__getitem__", lambda self, index: pytest.fail("decoded"))
        found = data.hold_out(split, 2, seed=3)
    for mine, theirs in zip(found, wanted, strict=True):
        assert type(mine) is data.Split
        np.testing.assert_array_equal(mine.images[:], theirs.images)
        np.testing.assert_array_equal(mine.labels, theirs.labels)


def test_sha256_of_files(folder, tmp_path):
    """Catches: a checksum that depends on where the folder is, or misses a name, a size, a class
    or on which side a file is."""

    def now(root=folder):
        return load(root, in_memory=0, size=3).sha256

    before = now()
    assert before == now()
    shutil.copytree(folder, tmp_path / "copy")
    assert now(tmp_path / "copy") == before
    edits = [
        ("train/cat/0.png", "train/cat/9.png"),
        ("train/cat/0.png", "train/dog/9.png"),
        ("train/cat/2.png", "test/cat/2.png"),
    ]
    for old, new in edits:
        (folder / old).rename(folder / new)
        assert now() != before
        (folder / new).rename(folder / old)
    assert now() == before
    with (folder / "test" / "dog" / "0.png").open("ab") as file:
        file.write(b"\0")
    assert now() != before


def test_home_and_relative_paths(folder, monkeypatch):
    """Catches: ~ not expanded, "." named nothing."""
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load("~/pets").name == "folder pets"
    monkeypatch.chdir(folder)
    assert load(".").name == "folder pets"


# What is wrong → how to make it so from a good folder, words of the message.
BAD_FOLDERS = {
    "missing": (shutil.rmtree, "nothing there", "'digits', 'mnist', 'cifar10' or a folder"),
    "no train": (lambda root: (root / "train").rename(root / "training"), "train/<class>/*.jpg"),
    "empty train": (
        lambda root: shutil.rmtree(root / "train") or (root / "train").mkdir(),
        "0 class",
    ),
    "flat train": (
        lambda root: [
            shutil.rmtree(root / "train"),
            write(root / "train" / "cat.1.png", noise(1)[0]),
        ],
        "found 0 class folders",
    ),
    "one class": (
        lambda root: shutil.rmtree(root / "train" / "dog"),
        "1 class folders (cat)",
        "least 2",
    ),
    "a class without images": (
        lambda root: [
            (root / which / "eel").mkdir() or (root / which / "eel" / "notes.txt").write_text("")
            for which in ("train", "test")
        ],
        "train/eel",
        "no image",
    ),
    "a test class without images": (
        lambda root: (root / "test" / "dog" / "0.png").unlink(),
        "test/dog",
        "no image",
    ),
    "a class misspelt": (
        lambda root: (root / "test" / "dog").rename(root / "test" / "dgo"),
        "only here: dgo; only in train: dog",
        "mislabelled",
    ),
    "a class missing in test": (
        lambda root: shutil.rmtree(root / "test" / "dog"),
        "only here: none; only in train: dog",
    ),
    "an empty test": (
        lambda root: [shutil.rmtree(root / "test"), (root / "test").mkdir()],
        "only in train: cat, dog",
    ),
    "many classes differ": (
        lambda root: [write(root / "test" / f"c{i}" / "0.png", noise(1)[0]) for i in range(9)],
        "only here: c0, c1, c2, c3, c4, …; only in train: none",
    ),
    "a broken link": (
        lambda root: (root / "train" / "cat" / "5.png").symlink_to(root / "gone.png"),
        "train/cat/5.png",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
@pytest.mark.parametrize("in_memory", [0, 2**31])
def test_bad_folder(case, in_memory, folder):
    """Catches: a check left out, which ends in a traceback or in training on wrong labels."""
    spoil, *words = BAD_FOLDERS[case]
    spoil(folder)
    refusal(folder, *words, source=folder, in_memory=in_memory, size=3)


@pytest.mark.parametrize("source", ["cifar100", "digitz"])
def test_unknown_name(source, monkeypatch, tmp_path):
    """Catches: a misspelt name ending in an error that does not list the names."""
    monkeypatch.chdir(tmp_path)
    refusal(source, "'digits', 'mnist', 'cifar10' or a folder", source=source)


def test_a_file_for_a_folder(folder):
    path = folder / "train" / "cat" / "0.png"
    refusal(path, "found a file", source=path)


def test_folder_that_may_not_be_read(folder, monkeypatch):
    """Catches: a bare PermissionError (made up, since root may read anything)."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    refusal("Permission denied", folder / "train", source=folder)


@pytest.mark.parametrize("in_memory", [0, 2**31])
@pytest.mark.parametrize("names", [["train/dog/0.png"], ["test/cat/0.png", "test/dog/0.png"]])
def test_unequal_sizes(names, in_memory, folder):
    """Catches: sizes compared within a part only, or in mid-training; width called height."""
    for name in names:
        write(folder / name, noise(1, 5, 9)[0])
    path = folder / names[0]
    refusal(path, "found 9×5", "expected 8×6", "--image-size", source=folder, in_memory=in_memory)
    assert load(folder, size=3, in_memory=in_memory).train.images.shape == (6, 3, 3, 3)


def cut(kind):
    return lambda: packed(noise(1)[0], kind)[:-40]


BAD_IMAGES = {
    "empty": lambda: b"",
    "text": lambda: b"<!DOCTYPE html>",
    "jpeg cut short": cut("JPEG"),
    "png cut short": cut("PNG"),
    "gif cut short": cut("GIF"),
    "ppm cut in its header": lambda: b"P6\n32",
    "png with a byte changed": lambda: changed(packed(noise(1)[0]), 400),
    "png header changed": lambda: changed(packed(noise(1)[0]), 18),
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EOF\n",
}


@pytest.mark.parametrize("case", BAD_IMAGES)
@pytest.mark.parametrize("workers", [0, 1])
def test_bad_image(case, workers, folder, monkeypatch):
    """Catches: a decoder's own error let through, the name left out, a traceback from a worker; an
    image filled up with grey; Ghostscript started by a file's content."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: pytest.fail("started"))
    path = folder / "train" / "dog" / "1.png"
    path.write_bytes(BAD_IMAGES[case]())
    refusal(path, "decoded", "replace or remove it", source=folder, size=3, workers=workers)
    files = load(folder, size=3, in_memory=0).train.images
    feed = batches(files, [np.array([0, 1]), np.array([4])], workers)
    assert next(feed)[1].shape == (2, 3, 3, 3)
    with pytest.raises(data.DataError) as caught:
        next(feed)
    clear(caught.value, path)


def test_sixteen_bits_are_refused(folder):
    """Catches: deep pixels clipped at 255, which makes white pictures without a word."""
    path = folder / "train" / "cat" / "1.png"
    Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000).save(path)
    refusal(path, "more than 8 bits", source=folder)


def test_too_little_memory_is_no_damaged_image(folder, monkeypatch):
    """Catches: MemoryError reported as a bad file, which the reader would then delete."""

    def refuse(self, mode):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", refuse)
    with pytest.raises(MemoryError):
        load(folder)
