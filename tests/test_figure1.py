"""The command that makes Figure 1's records: small, stopped and started again."""

import sys
from pathlib import Path

import pytest

from bn_helpers import data

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import figure1  # noqa: E402
import runner  # noqa: E402


@pytest.fixture
def small(monkeypatch):
    """Digits in place of MNIST, a narrow network, a job of two networks and five looks."""
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda name: digits)
    monkeypatch.setattr(figure1, "WIDTHS", (64, 8, 8, 8, 10))
    monkeypatch.setattr(figure1, "HELD_OUT", 100)
    job = {"bn": True, "sigma": [0.1, 0.3], "lr": [0.5, 0.1], "seeds": [0, 1]}
    return {**job, "order": 2, "input": "binary", "held_out": True, "at": [0, 3, 7, 30, 40]}


class Progress:
    """Notes the steps it is told of; the time is up, or Ctrl-C comes, after some looks."""

    def __init__(self, looks=None, error=None):
        self.looks, self.error, self.told = looks, error, []

    def __call__(self, steps):
        self.told.append(steps)
        if len(self.told) == self.looks and self.error:
            raise self.error
        return len(self.told) == self.looks


@pytest.mark.parametrize(
    ("looks", "error"),
    [(2, None), (3, None), (4, None), *((looks, KeyboardInterrupt) for looks in range(1, 6))],
)
def test_a_stopped_run_goes_on_to_the_same_rows(small, monkeypatch, tmp_path, looks, error):
    """Catches a state without running statistics, and a batch order that starts afresh."""
    monkeypatch.setattr(figure1, "SAVE_EVERY", -1 if error else 1e9)
    (tmp_path / "whole").mkdir()
    whole = figure1.run(small, tmp_path / "whole", Progress())
    with pytest.raises(error or runner.Stopped):
        figure1.run(small, tmp_path, Progress(looks, error))
    assert (tmp_path / "checkpoint.pt").exists() == (looks > 2 or error is None)
    assert figure1.run(small, tmp_path, Progress()) == whole


def test_progress_counts_networks_and_steps(small, monkeypatch, tmp_path):
    monkeypatch.setattr(figure1, "SAVE_EVERY", 1e9)
    with pytest.raises(runner.Stopped):
        figure1.run(small, tmp_path, Progress(3))
    going_on = Progress()
    figure1.run(small, tmp_path, going_on)
    assert going_on.told == [7 * 2, 30 * 2, 40 * 2]


def test_another_order_gives_other_rows(small, tmp_path):
    first = figure1.run(small, tmp_path, Progress())
    assert figure1.run({**small, "order": 3}, tmp_path, Progress()) != first


def test_rows_hold_one_number_or_list_for_each_look(small, tmp_path):
    rows = figure1.run(small, tmp_path, Progress())
    assert [(r["sigma"], r["lr"], r["seed"]) for r in rows] == [(0.1, 0.5, 0), (0.3, 0.1, 1)]
    for row in rows:
        for key in ("test", "held_out", "unit", "spread", "units"):
            assert len(row[key]) == 5
        assert all(low <= middle <= high for low, middle, high in row["unit"])


def test_what_the_stored_settings_say_is_what_runs():
    grid, runs = list(figure1.grid_jobs()), list(figure1.runs_jobs())
    settings = {(job["bn"], *each) for job in grid for each in zip(job["sigma"], job["lr"])}  # noqa: B905
    assert len(settings) == 2 * len(figure1.GRID["sigma"]) * len(figure1.GRID["lr"])
    assert len({job["order"] for job in grid}) == 5
    seeds = {s for job in runs for s in job["seeds"]}
    assert len(seeds) == 10
    assert len({job["order"] for job in runs}) == 5
    folders = {runner.folder_of(runner.Job(job, 0), Path()) for job in grid + runs}
    assert len(folders) == len(grid + runs)
