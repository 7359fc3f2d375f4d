"""bn_helpers.data and the rules of conftest.py: no test touches the network.

MNIST is stood in for by files of a few made-up images (`small`), the mirrors by a server on
127.0.0.1 (`mirror`); the real files come through the fixture `mnist`.
"""

import gzip
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pooch  # here and not in a test, so that its logger holds no test's captured stderr
import pytest

from bn_helpers import data
from bn_helpers.data import mnist as source

ROOT = Path(__file__).resolve().parent.parent
STEMS = tuple(source.FILES)


pytestmark = pytest.mark.usefixtures("sealed")


def idx(array):
    """An array of unsigned bytes as the content of an IDX file."""
    header = np.array([2048 + array.ndim, *array.shape], dtype=">u4")
    return header.tobytes() + array.tobytes()


@pytest.fixture
def small(monkeypatch):
    """Six training and four test images of 5×3 under MNIST's names: the contents by file name."""
    rng = np.random.default_rng(0)
    contents = {}
    for stem, file in source.FILES.items():
        shape = (6 if stem.startswith("train") else 4, 5, 3)[: len(file.shape)]
        contents[stem] = idx(rng.integers(10 if len(shape) == 1 else 256, size=shape, dtype="u1"))
        md5 = hashlib.md5(gzip.compress(contents[stem], mtime=0)).hexdigest()
        sha256 = hashlib.sha256(contents[stem]).hexdigest()
        monkeypatch.setitem(source.FILES, stem, source.IdxFile(md5, sha256, shape))
    return contents


def check_small(dataset, contents):
    """``dataset`` holds what ``contents`` says, in the promised form."""
    for split, n, stem in zip(dataset, (6, 4), ("train", "t10k"), strict=True):
        pixels = np.frombuffer(contents[f"{stem}-images-idx3-ubyte"][16:], np.uint8)
        labels = np.frombuffer(contents[f"{stem}-labels-idx1-ubyte"][8:], np.uint8)
        assert split.images.shape == (n, 1, 5, 3)
        assert split.images.dtype == np.float32
        assert split.labels.dtype == np.int64
        np.testing.assert_array_equal(split.images.ravel(), pixels.astype(np.float32) / 255)
        np.testing.assert_array_equal(split.labels, labels)
        for array in split:
            assert array.flags.c_contiguous
            assert array.flags.writeable


def put(folder, contents, suffix=".gz"):
    folder.mkdir(parents=True)
    for stem, content in contents.items():
        packed = gzip.compress(content, mtime=0) if suffix == ".gz" else content
        (folder / f"{stem}{suffix}").write_bytes(packed)
    return folder


@pytest.fixture
def mirror(small, served, monkeypatch):
    """Two mirrors on the local server, with all four files each."""
    for place in ("first", "second"):
        for stem, content in small.items():
            served.files[f"/{place}/{stem}.gz"] = gzip.compress(content, mtime=0)
    served.urls = (f"{served.url}/first/", f"{served.url}/second/")
    monkeypatch.setattr(source, "MIRRORS", served.urls)
    return served


def refusal(*words):
    """Load MNIST, which must end in one clear error that has all the ``words``; return its text."""
    with pytest.raises(data.DataError) as caught:
        data.load("mnist")
    # One error: no gzip, requests or pooch traceback above it.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    message = str(caught.value)
    for word in (*words, "BN_HELPERS_DATA"):
        assert str(word) in message
    return message


# ---- digits and names


def test_digits_keep_their_split():
    """Catches: another size, order or generator of the split; pixels not divided by 16."""
    from sklearn.datasets import load_digits

    train, test = data.load("digits")
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert train.labels[:10].tolist() == [6, 6, 6, 2, 5, 6, 6, 2, 2, 1]
    assert test.labels[:10].tolist() == [0, 8, 8, 9, 8, 3, 7, 5, 0, 6]
    for split in (train, test):
        assert (split.images.dtype, split.labels.dtype) == (np.float32, np.int64)
        assert (split.images.min(), split.images.max()) == (0, 1)
    # Each image once, with its own label.
    whole = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    np.testing.assert_array_equal(
        np.concatenate([train.images, test.images])[:, 0], (whole.images / 16)[order]
    )
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), whole.target[order])


def test_digits_follow_the_seed():
    """Catches: a split that ignores seed."""
    assert not np.array_equal(
        data.load("digits", seed=1).train.labels, data.load("digits").train.labels
    )


@pytest.mark.parametrize("name", ["", None, ["mnist"]])
def test_no_name(name):
    """Catches: the current folder loaded for an empty name; a message without the known names."""
    known = "'digits', 'mnist', 'cifar10'"
    with pytest.raises(ValueError, match=rf"{known}.* got {re.escape(repr(name))}"):
        data.load(name)


def test_unknown_name():
    """Catches: any other name taken for MNIST; a message without the known names."""
    with pytest.raises(data.DataError, match="'digits', 'mnist', 'cifar10' or a folder"):
        data.load("MNIST")


@pytest.mark.parametrize("dtype", ["float64", "int64", bool])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="expected dtype float32 or uint8, got"):
        data.load("digits", dtype=dtype)


def test_import_is_light(small, tmp_path):
    """Catches: pooch, requests, scikit-learn, Pillow or torch imported at the top of the module;
    the latter two in order to load digits or MNIST."""
    put(tmp_path / "data", small)
    files = [(stem, tuple(file)) for stem, file in source.FILES.items()]
    code = f"""if True:
        import sys
        from bn_helpers import data
        from bn_helpers.data import mnist
        print({{"pooch", "requests", "sklearn", "torch", "PIL"}} & set(sys.modules))
        mnist.FILES = {{name: mnist.IdxFile(*file) for name, file in {files}}}
        data.load("digits"), data.load("mnist"), data.load("mnist", dtype="uint8")
        print({{"torch", "PIL"}} & set(sys.modules))"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BN_HELPERS_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["set()", "set()"]


# ---- from a folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("place", ["", "mnist"])
def test_folder(small, monkeypatch, tmp_path, suffix, place):
    """Catches: .gz or subfolder not looked for; train and test swapped; header left in the data;
    pixels not divided by 255; a read-only array."""
    put(tmp_path / "data" / place, small, suffix)
    monkeypatch.setenv("BN_HELPERS_DATA", str(tmp_path / "data"))
    check_small(data.load("mnist"), small)


def test_folder_may_mix_forms(small, monkeypatch, tmp_path):
    """Catches: one place or form taken for all files because the first had it; a .gz that a
    browser has unpacked without renaming it; ~ not expanded."""
    folder = put(tmp_path / "data", small)
    (folder / "mnist").mkdir()
    (folder / f"{STEMS[0]}.gz").rename(folder / "mnist" / f"{STEMS[0]}.gz")
    (folder / f"{STEMS[1]}.gz").write_bytes(small[STEMS[1]])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BN_HELPERS_DATA", "~/data")
    check_small(data.load("mnist"), small)


def other(contents, stem):
    return gzip.compress(contents[stem])


def changed(packed, at, by=0xFF):
    damaged = bytearray(packed)
    damaged[at] ^= by
    return bytes(damaged)


IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = STEMS
# What is damaged → the file, its new bytes made from (contents, its .gz), words of the message.
BAD_FILES = {
    "gzip cut short": (IMAGES, lambda c, z: z[:-9], "ended before"),
    "gzip's first two bytes": (LABELS, lambda c, z: z[:2], "ended before"),
    "gzip with a byte changed": (IMAGES, lambda c, z: changed(z, 14), "damaged"),
    "gzip with a wrong checksum": (TEST_IMAGES, lambda c, z: changed(z, -8), "CRC"),
    "gzip with bytes after its end": (TEST_LABELS, lambda c, z: z + b"more", "damaged"),
    "images called labels": (
        LABELS,
        lambda c, z: other(c, IMAGES),
        f"found the content of {IMAGES}, expected that of {LABELS}",
    ),
    "labels called images": (TEST_IMAGES, lambda c, z: other(c, TEST_LABELS), TEST_LABELS),
    "train called test": (TEST_IMAGES, lambda c, z: other(c, IMAGES), f"content of {IMAGES}"),
    "test called train": (LABELS, lambda c, z: other(c, TEST_LABELS), f"content of {TEST_LABELS}"),
    "wrong magic": (
        TEST_LABELS,
        lambda c, z: changed(c[TEST_LABELS], 2),
        "found the IDX header [63233, 4] (magic number, sizes), expected [2049, 4]",
    ),
    "wrong count": (
        IMAGES,
        lambda c, z: changed(c[IMAGES], 7, 1),
        "found the IDX header [2051, 7, 5, 3] (magic number, sizes), expected [2051, 6, 5, 3]",
    ),
    "sizes in little-endian": (
        LABELS,
        lambda c, z: c[LABELS][:4] + c[LABELS][7:3:-1] + c[LABELS][8:],
        "[2049, 100663296]",
    ),
    "plain file cut short": (IMAGES, lambda c, z: c[IMAGES][:-1], "found 105 bytes, expected 106"),
    "plain file with more": (LABELS, lambda c, z: c[LABELS] + b"\0", "found 15 bytes, expected 14"),
    "an empty file": (TEST_IMAGES, lambda c, z: b"", "found 0 bytes, expected 76"),
    "a web page": (LABELS, lambda c, z: b"<!DOCTYPE html>", "IDX header"),
    "one pixel changed": (IMAGES, lambda c, z: changed(c[IMAGES], 40), "SHA-256"),
    "one label changed": (TEST_LABELS, lambda c, z: changed(c[TEST_LABELS], -1), "SHA-256"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file(case, small, monkeypatch, tmp_path):
    """Catches: the checksum, the gzip guard, or the header, size or name in the message removed."""
    stem, damage, words = BAD_FILES[case]
    folder = put(tmp_path / "data", small)
    path = folder / f"{stem}.gz"
    path.write_bytes(damage(small, path.read_bytes()))
    monkeypatch.setenv("BN_HELPERS_DATA", str(folder))
    refusal(path, "found", "expected", words, "delete it and put a good copy there")


def test_unreadable_file(small, monkeypatch, tmp_path):
    """Catches: an OSError of reading (here: permission) that gets past the guard."""
    folder = put(tmp_path / "data", small)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setenv("BN_HELPERS_DATA", str(folder))
    refusal(folder / f"{IMAGES}.gz", "Permission denied")


@pytest.mark.parametrize("missing", STEMS)
def test_file_missing_from_a_folder_that_is_set(missing, mirror, small, monkeypatch, tmp_path):
    """Catches: falling back to a full cache or a mirror that works where the folder is set."""
    folder = put(tmp_path / "data", small)
    put(tmp_path / "cache", small)
    (folder / f"{missing}.gz").unlink()
    monkeypatch.setenv("BN_HELPERS_DATA", str(folder))
    refusal(folder, f"holds {missing} or {missing}.gz", "unset it")
    assert mirror.asked == []


@pytest.mark.parametrize("kind", ["nothing", "a file"])
def test_folder_that_is_none(kind, mirror, monkeypatch, tmp_path):
    """Catches: the same fallback, where the folder itself is missing or a file."""
    folder = tmp_path / "data"
    if kind == "a file":
        folder.write_text("")
    monkeypatch.setenv("BN_HELPERS_DATA", str(folder))
    refusal(folder, "no folder", "set BN_HELPERS_DATA to a folder")
    assert mirror.asked == []


# ---- from the cache and the mirrors


def in_cache(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_download_then_cache(mirror, small, tmp_path, capfd):
    """Catches: no progress bar; the cache not used; the second mirror asked without need."""
    check_small(data.load("mnist"), small)
    assert mirror.asked == [
        f"/first/{stem}.gz" for stem in (IMAGES, LABELS, TEST_IMAGES, TEST_LABELS)
    ]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("100%") >= 4
    assert in_cache(tmp_path) == sorted(f"{stem}.gz" for stem in STEMS)
    check_small(data.load("mnist"), small)
    assert len(mirror.asked) == 4
    assert capfd.readouterr().err == ""


def test_empty_variable_means_unset(small, monkeypatch, tmp_path):
    """Catches: BN_HELPERS_DATA="" read as the current folder."""
    put(tmp_path / "cache", small)
    monkeypatch.setenv("BN_HELPERS_DATA", "")
    check_small(data.load("mnist"), small)


@pytest.mark.parametrize("failure", ["not found", "other bytes"])
def test_second_mirror(failure, mirror, small):
    """Catches: only one mirror tried; a download that is not checked; giving up on a bad one."""
    for stem in STEMS:
        if failure == "not found":
            del mirror.files[f"/first/{stem}.gz"]
        else:
            mirror.files[f"/first/{stem}.gz"] = b"<html>a login page</html>"
    check_small(data.load("mnist"), small)
    assert len(mirror.asked) == 8


def test_wrong_bytes_from_every_mirror(mirror, tmp_path):
    """Catches: a download kept, or loaded, in spite of its checksum."""
    for place in ("first", "second"):
        mirror.files[f"/{place}/{LABELS}.gz"] = gzip.compress(b"something else")
    wanted = source.FILES[LABELS].md5
    refusal(*mirror.urls, f"{LABELS}.gz", "MD5", f"expected md5:{wanted}", "holds no copy")
    assert in_cache(tmp_path) == [f"{IMAGES}.gz"]


def test_damaged_cache_is_mended(mirror, small, tmp_path):
    """Catches: a cached file trusted without its checksum; the other three downloaded again."""
    path = put(tmp_path / "cache", small) / f"{LABELS}.gz"
    path.write_bytes(path.read_bytes()[:-5])
    check_small(data.load("mnist"), small)
    assert mirror.asked == [f"/first/{LABELS}.gz"]


def test_damaged_cache_and_no_network(small, tmp_path):
    """Catches: a damaged file loaded, deleted, or reported as missing, when offline."""
    path = put(tmp_path / "cache", small) / f"{LABELS}.gz"
    path.write_bytes(path.read_bytes()[:-5])
    refusal(tmp_path / "cache", "a damaged copy", *source.MIRRORS)
    assert in_cache(tmp_path) == sorted(f"{stem}.gz" for stem in STEMS)


def test_no_network_and_no_cache(tmp_path):
    """Catches: requests' own traceback; a message that leaves out what was tried or the way out."""
    assert len(source.MIRRORS) == 2
    message = refusal(tmp_path / "cache", "holds no copy", *source.MIRRORS, f"{IMAGES}.gz")
    assert "set BN_HELPERS_DATA to a folder that holds the four MNIST files" in message


def test_interrupted_download(mirror, small, tmp_path):
    """Catches: half a file left in the cache, or one that keeps the next call from loading."""
    mirror.cut = True
    refusal(*mirror.urls, "holds no copy")
    assert in_cache(tmp_path) == []
    mirror.cut = False
    check_small(data.load("mnist"), small)


def test_download_stopped_by_hand(mirror, small, monkeypatch, tmp_path):
    """Catches: Ctrl-C swallowed as one more failure of a mirror; half a file left behind."""

    def stopped(self, url, output_file, pooch):
        Path(output_file).write_bytes(b"\x1f\x8b half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pooch.HTTPDownloader, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            data.load("mnist")
    assert in_cache(tmp_path) == []
    check_small(data.load("mnist"), small)


def test_cache_below_a_file(mirror, monkeypatch, tmp_path):
    """Catches: an unwritable cache ending in a bare OSError, or blamed on the mirrors."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BN_HELPERS_CACHE", str(tmp_path / "file" / "cache"))
    refusal(tmp_path / "file" / "cache", "cannot be used", "set BN_HELPERS_CACHE to a folder")
    assert mirror.asked == []


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "full")])
def test_cache_that_cannot_be_written(error, mirror, monkeypatch, tmp_path):
    """Catches: the same for a folder that exists (root may write anywhere, so the refusal is made
    up) and for a disk that is full, which PermissionError alone does not cover."""

    def refuse(*args, **kwargs):
        raise error

    (tmp_path / "cache").mkdir()
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    refusal(
        tmp_path / "cache", "cannot be used", error.strerror, "set BN_HELPERS_CACHE to a folder"
    )
    assert mirror.asked == []


def test_full_cache_need_not_be_writable(small, monkeypatch, tmp_path):
    """Catches: a check of writability where nothing is to be written: a shared, read-only cache."""
    put(tmp_path / "cache", small)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    monkeypatch.setattr(os, "makedirs", refuse)
    check_small(data.load("mnist"), small)


# ---- the real files


def test_mnist(mnist):
    """Catches: train and test swapped, a wrong scale, images turned, labels out of step."""
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test_counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    for split, n, expected in zip(mnist, (60000, 10000), (counts, test_counts), strict=True):
        assert split.images.shape == (n, 1, 28, 28)
        assert (split.images.dtype, split.labels.dtype) == (np.float32, np.int64)
        assert (split.images.min(), split.images.max()) == (0, 1)
        assert np.bincount(split.labels).tolist() == expected
        assert all(array.flags.c_contiguous and array.flags.writeable for array in split)
    images = mnist.train.images
    assert images.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert images.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)
    # A 1 is tall: its ink spreads over more rows than columns; a 0 has a hole in its middle.
    ones = images[mnist.train.labels == 1, 0].mean(axis=0)
    zeros = images[mnist.train.labels == 0, 0].mean(axis=0)
    assert (ones.sum(axis=1) > 1).sum() > 1.5 * (ones.sum(axis=0) > 1).sum()
    assert ones[14, 14] > 4 * zeros[14, 14]


# ---- conftest.py: what is skipped without MNIST


@pytest.fixture
def project(tmp_path):
    """A project with our conftest.py, a test that takes ``mnist`` and two notebooks."""
    root = tmp_path / "parent" / "project"
    (root / "book").mkdir(parents=True)
    shutil.copy(ROOT / "conftest.py", root)
    (root / "test_needs.py").write_text("def test_needs(mnist):\n    pass\n")
    for name, needs, code in (
        ("with", {"needs": ["mnist"]}, "from bn_helpers import data\n_ = data.load('mnist')"),
        ("without", {}, "1 + 1"),
    ):
        cell = nbformat.v4.new_code_cell(code, metadata={"tags": ["nbval-ignore-output"]})
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nb = nbformat.v4.new_notebook(cells=[cell], metadata={"bn": needs, "kernelspec": kernel})
        nbformat.write(nb, root / "book" / f"{name}.ipynb")
    return root


def run_pytest(root, *arguments, **variables):
    """Run pytest in ``root`` with every download refused by a proxy that is none: its output."""
    proxies = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *arguments],
        cwd=root,
        env={**os.environ, **proxies, "no_proxy": "", "NO_PROXY": "", **variables},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_skipped_where_there_is_no_mnist(project, tmp_path):
    """Catches: a failure, or a skip without the reason, of what needs MNIST; a skip of the rest."""
    output = run_pytest(project, "--nbval")
    assert "1 passed, 2 skipped" in output
    assert re.search(r"SKIPPED \[\d\] conftest.py:\d+: MNIST's train-images", output)
    assert str(tmp_path / "cache") in output


@pytest.mark.slow
def test_failing_where_the_data_folder_is_set(project):
    """Catches: a skip where the folder is set; a relative folder lost on kernels in book/."""
    (project / "empty").mkdir()
    output = run_pytest(
        project, "--nbval", "test_needs.py", "book/with.ipynb", BN_HELPERS_DATA="empty"
    )
    assert "1 failed, 1 error" in output
    assert f"{project / 'empty'}, but neither" in output
    assert str(project / "book" / "empty") not in output


@pytest.mark.slow
def test_a_data_folder_beside_the_clone_is_the_runs_alone(project):
    """Catches: tests that know of it; a run that does not set it, or sets it over another."""
    beside = project.parent / "shared" / "data"
    put(beside / "mnist", dict.fromkeys(STEMS, b"damaged"))
    assert "1 skipped" in run_pytest(project, "test_needs.py")
    output = run_pytest(project, "test_needs.py", BN_HELPERS_DATA=str(beside))
    assert "1 error" in output
    assert "found 7 bytes, expected 47,040,016" in output

    (project / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", project / ".ci")
    (project / "bin").mkdir()
    (project / "bin" / "make").write_text('#!/bin/sh\necho "$1: $BN_HELPERS_DATA"\n')
    (project / "bin" / "make").chmod(0o755)
    environment = {**os.environ, "PATH": f"{project / 'bin'}:{os.environ['PATH']}"}
    for given, wanted in ((None, beside), ("/else", Path("/else"))):
        environment |= {"BN_HELPERS_DATA": given} if given else {}
        done = subprocess.run(
            ["bash", project / ".ci" / "run"], env=environment, capture_output=True, text=True
        )
        target, folder = done.stdout.splitlines()[0].split(": ")
        assert (target, Path(folder).resolve()) == ("test", wanted.resolve())


def test_hold_out_divides_the_split_and_keeps_labels_with_their_images():
    split = data.Split(np.arange(50, dtype=np.float32).reshape(50, 1, 1, 1), np.arange(50))
    train, held_out = data.hold_out(split, 20, seed=3)
    assert (len(train.labels), len(held_out.labels)) == (30, 20)
    assert sorted([*train.labels, *held_out.labels]) == list(range(50))
    for part in (train, held_out):
        np.testing.assert_array_equal(part.images.ravel(), part.labels)
    assert list(held_out.labels) != sorted(held_out.labels)  # drawn, not cut off
    again = data.hold_out(split, 20, seed=3)[1]
    np.testing.assert_array_equal(again.labels, held_out.labels)


@pytest.mark.parametrize("count", [0, 50])
def test_hold_out_leaves_something_on_both_sides(count):
    split = data.Split(np.zeros((50, 1, 1, 1), np.float32), np.arange(50))
    with pytest.raises(ValueError, match=f"between 1 and 49, got {count}"):
        data.hold_out(split, count)


def test_checksum_sees_every_pixel_and_label(monkeypatch):
    before = data.checksum("digits")
    (images, labels), test = data._digits(0)
    monkeypatch.setattr(data, "_digits", lambda seed: [test, (images, labels)])
    swapped = data.checksum("digits")
    monkeypatch.setattr(data, "_digits", lambda seed: [(images, labels), test])
    assert data.checksum("digits") == before != swapped
    for array, place in itertools.product((images, labels, *test), (0, -1)):
        array.flat[place] += 1
        assert data.checksum("digits") != before
        array.flat[place] -= 1
    assert data.checksum("digits") == before == data.load("digits").sha256
