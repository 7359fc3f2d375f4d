"""Runs of the command line, shared by the tests that start and compare them."""

from __future__ import annotations

import torch

from bn_helpers import records


def command(folder, *changes, data="digits", recipe="bn-baseline", steps=12):
    """The arguments of a small run that leaves its files in ``folder``."""
    small = ["--device", "cpu", "--width", "0.25"]
    return [
        recipe,
        *map(str, (*small, "--data", data, "--steps", steps, "--out", folder, *changes)),
    ]


def row(folder):
    """What is compared of a run: its row in its only record, without the seconds."""
    (file,) = folder.glob("*.json")
    (found,) = records.read(file.stem, folder)["results"]
    return {key: found[key] for key in ("status", "diverged_at", "curve", "test_accuracy")}


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(one, two):
    """The records and, to the bit, all that the last checkpoints hold."""
    assert row(one) == row(two)
    ours, theirs = checkpoint(one), checkpoint(two)
    assert ours.pop("seconds") > 0
    assert theirs.pop("seconds") > 0
    _compare(ours, theirs, "")


def _compare(a, b, name):
    assert type(a) is type(b), name
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), name
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            _compare(a[key], b[key], f"{name} {key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _compare(x, y, f"{name} {i}")
    else:
        assert a == b, name
