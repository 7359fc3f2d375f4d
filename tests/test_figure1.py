"""The command that makes Figure 1's records: small, stopped and started again."""

import queue
import sys
from pathlib import Path

import pytest

from bn_helpers import data

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import figure1  # noqa: E402


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Digits in place of MNIST, a narrow network, a job of two networks and five looks."""
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda name: digits)
    monkeypatch.setattr(figure1, "WIDTHS", (64, 8, 8, 8, 10))
    monkeypatch.setattr(figure1, "HELD_OUT", 100)
    monkeypatch.setattr(figure1, "PARTS", tmp_path)
    job = {"name": "job", "bn": True, "sigma": [0.1, 0.3], "lr": [0.5, 0.1], "seeds": [0, 1]}
    return {**job, "order": 2, "input": "binary", "held_out": True, "at": [0, 3, 7, 30, 40]}


class StopAt(queue.Queue):
    """A queue that ends the run, as Ctrl-C does, after some looks."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def put(self, steps):
        super().put(steps)
        self.looks -= 1
        if self.looks == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("looks", [1, 2, 3, 4, 5])
def test_a_stopped_run_goes_on_to_the_same_rows(small, monkeypatch, looks):
    """Catches a state without running statistics, and a batch order that starts afresh."""
    monkeypatch.setattr(figure1, "SAVE_EVERY", -1)
    whole = figure1.run({**small, "name": "whole"}, queue.Queue())
    with pytest.raises(KeyboardInterrupt):
        figure1.run(small, StopAt(looks))
    assert figure1.run(small, queue.Queue()) == whole
    assert sorted(p.name for p in figure1.PARTS.iterdir()) == ["job.json", "whole.json"]


def test_progress_counts_every_step_once(small):
    for _ in range(2):  # the second time from the finished part
        done = queue.Queue()
        figure1.run(small, done)
        assert sum(done.get() for _ in range(done.qsize())) == 40 * 2


def test_a_part_of_another_job_is_not_taken_for_this_one(small):
    first = figure1.run(small, queue.Queue())
    assert figure1.run({**small, "order": 3}, queue.Queue()) != first


def test_rows_hold_one_number_or_list_for_each_look(small):
    rows = figure1.run(small, queue.Queue())
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
    assert len({job["name"] for job in grid + runs}) == len(grid + runs)
