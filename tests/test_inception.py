"""The command that makes the Inception records, and a slice of what it made."""

import json
import os
import sys
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bn_helpers import data, records
from bn_helpers.training import run

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import inception  # noqa: E402
import runner  # noqa: E402

GIVEN = os.environ.get("BN_HELPERS_DATA")
SCALE = inception.SCALES["cpu"]


@pytest.mark.parametrize("part", inception.PARTS)
def test_five_seeds_and_no_network_twice(part):
    """Catches a seed that two networks of an ensemble share, and a change that changes nothing."""
    jobs = inception.networks(part, SCALE)
    assert len({json.dumps(row) + str(s.seed) for row, s in jobs}) == len(jobs)
    assert len({s for _, s in jobs}) == len(jobs)
    if part != "map":
        assert len({s.seed for _, s in jobs}) >= 5
    if part == "ensemble":
        assert len({s.seed for _, s in jobs}) == len(jobs)


def test_each_change_is_switched_alone():
    jobs = inception.networks("changes", SCALE)
    plain = {"bn-baseline": inception.RECIPES["bn-baseline"], "bn-x5": inception.RECIPES["bn-x5"]}
    for row, settings in jobs:
        name = row.get("on") or row.get("off")
        fields = set(inception.CHANGES.get(name, ()))
        base = plain[row["from"]]
        same = replace(settings.recipe, **{f: getattr(base, f) for f in (*fields, "about")})
        assert same == base
        assert all(getattr(settings.recipe, f) != getattr(base, f) for f in fields)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Digits, six narrow networks of nine steps, in a folder of the test's own."""
    digits = data.load("digits", dtype="uint8")
    monkeypatch.setattr(inception, "RUNS", tmp_path)
    monkeypatch.setattr(inception, "_images", digits)
    monkeypatch.setattr(inception, "SEEDS", range(1))
    monkeypatch.setattr(inception, "FEWER", range(1))
    scale = SCALE | {"width": 0.25, "size": None}
    scale["steps"] = {"long": 9, "short": 9, "tuning": 9, "ensemble": 9, "map": 9}
    monkeypatch.setitem(inception.SCALES, "cpu", scale)
    monkeypatch.setattr(records, "_CLONE", tmp_path)
    return digits


@pytest.mark.slow
def test_a_record_waits_for_its_last_network(tiny, tmp_path):
    """Catches a record of what happens to be there, and a result that is not found again."""
    jobs = [
        inception.job_of(settings, tiny.sha256)
        for _, settings in inception.networks("ensemble", inception.SCALES["cpu"])
    ]
    for i, job in enumerate(jobs):
        assert inception.write("ensemble", "cpu", tiny, "cpu") == 6 - i
        assert not (tmp_path / "inception_ensemble.json").exists()
        folder = runner.folder_of(job, tmp_path)
        folder.mkdir()
        result = inception.work(*job.arguments, folder, lambda step: False)
        (folder / "result.json").write_text(json.dumps(result))
    assert inception.write("ensemble", "cpu", tiny, "cpu") == 0
    (together,) = (
        row for row in records.read("inception_ensemble", tmp_path)["results"] if "of each" in row
    )
    alone = [1 - runner.result_of(job, tmp_path)["test_accuracy"] for job in jobs]
    # Probabilities are kept in half precision: a tie may fall the other way.
    assert np.allclose([top for top, _ in together["of each"]], alone, atol=0.01)
    assert len(together["networks"]) == 6


class Pool:
    """In place of the pool of processes: does its work at once, here."""

    def __init__(self, workers, context, initializer, initargs):
        initializer(*initargs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, call, *arguments):
        future = Future()
        future.set_result(call(*arguments))
        return future


@pytest.mark.slow
def test_a_command_that_is_stopped_goes_on_to_the_same_record(tiny, tmp_path, monkeypatch, capsys):
    """Before the first network, within the second, then not at all; then from the record alone."""
    monkeypatch.setattr(runner, "ProcessPoolExecutor", Pool)
    arguments = ["inception.py", "batch", "--data", "digits", "--device", "cpu"]
    real, trained = run.train, []

    def train(settings, *rest, **options):
        trained.append(settings)
        if len(trained) == 2:
            options["stop"] = lambda step: True  # after its first step
        return real(settings, *rest, **options)

    def record(*more):
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        inception.main()
        assert capsys.readouterr().out.startswith("batch: ")
        return records.read("inception_batch", tmp_path)

    def results(record):
        assert record["config"]["still missing"] == 0
        return [{k: v for k, v in row.items() if k != "seconds"} for row in record["results"]]

    with pytest.raises(records.RecordError, match="expected a record named"):
        record("--minutes", "1e-9")
    capsys.readouterr()
    monkeypatch.setattr(run, "train", train)
    incomplete = record()
    assert (incomplete["config"]["networks"], incomplete["config"]["still missing"]) == (3, 1)
    assert [row["recipe"] for row in incomplete["results"]] == ["inception", "bn-x5"]
    (left,) = tmp_path.glob("*/checkpoint.pt")
    stopped = results(record())
    assert len(trained) == 3 + 1  # none of the finished ones again
    assert not left.exists()
    monkeypatch.setattr(inception, "RUNS", tmp_path / "elsewhere")
    assert results(record()) == stopped
    assert len(trained) == 3 + 1  # the record has them
    (tmp_path / "inception_batch.json").unlink()
    monkeypatch.setattr(inception, "RUNS", tmp_path / "whole")
    assert results(record()) == stopped
    assert len(trained) == 4 + 3


def test_a_network_is_known_by_what_is_not_usual_about_it():
    """Catches two networks taken for one, and a description that makes two of one."""
    recipe = inception.RECIPES["bn-x5"]
    usual = inception.Settings(recipe, 10)

    def name(settings, data="x"):
        return runner.folder_of(inception.job_of(settings, data), inception.RUNS).name

    assert name(replace(usual, recipe=replace(recipe, about="other words"))) == name(usual)
    assert name(replace(usual, every=100)) == name(usual)
    changed = [
        replace(usual, seed=1),
        replace(usual, every=99),
        replace(usual, lr=0.1),
        replace(usual, recipe=replace(recipe, half_life=499.0)),
        replace(usual, recipe=replace(recipe, bn=False)),
    ]
    assert len({name(settings) for settings in changed} | {name(usual), name(usual, "y")}) == 7


def test_the_mean_of_probabilities_decides(monkeypatch, tiny):
    """Catches a vote, a mean of logits, and errors that are accuracies."""
    labels = np.array([0, 1])
    split = tiny.test._replace(labels=labels)
    one = [[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]]
    two = [[0.4, 0.6, 0.0], [0.0, 0.7, 0.3]]
    files = iter([inception.torch.tensor(one), inception.torch.tensor(two)])
    monkeypatch.setattr(inception.torch, "load", lambda *_, **__: next(files))
    jobs = inception.networks("ensemble", SCALE)[:2]
    settings = [s for _, s in jobs]
    (row,) = inception.ensembles(jobs, settings, replace(tiny, test=split))
    assert row["of each"] == [[0.5, 0.0], [0.5, 0.0]]
    assert row["top-1 and top-2 error"] == [0.0, 0.0]


@pytest.mark.skipif(not GIVEN, reason="BN_HELPERS_DATA is not set: no CIFAR-10")
@pytest.mark.parametrize("arm", ["plain", "BN-x5"])
@pytest.mark.slow
def test_the_first_steps_of_a_record_come_out_again(arm):
    """Catches an edit of models, recipes, augmentation or run that the records do not have."""
    record = records.read("inception_arms")
    cifar = data.load("cifar10", dtype="uint8", size=SCALE["size"])
    assert record["data"] == {cifar.name: cifar.sha256}
    settings = next(s for row, s in inception.networks("arms", SCALE) if row["arm"] == arm)
    stored = next(r for r in record["results"] if r["arm"] == arm and r["seed"] == settings.seed)
    again = run.train(settings, cifar, stop=lambda step: step == 150)
    for (step, loss, accuracy), was in zip(again.curve, stored["curve"], strict=False):
        assert step == was[0]
        # Another processor rounds otherwise; 150 steps carry that to some 1e-3.
        assert loss == pytest.approx(was[1], abs=0.02)
        assert accuracy == pytest.approx(was[2], abs=0.04)
    assert again.curve[-1][0] == 150
