"""The command that makes Figure 1's records: small, stopped and started again."""

import sys
from pathlib import Path

import pytest
import torch

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


def test_a_sigma_by_layer_hangs_on_each_layers_own_inputs():
    """Catches the outputs' number, and a first layer that is scaled like the others."""
    job = {"sigma": [0.3, "4/√n"], "seeds": [0, 0], "bn": False}
    assert figure1.by_layer("4/√n") == pytest.approx([4 / 28, 0.4, 0.4, 0.4])
    stack, each = figure1.fresh(job), [figure1.by_layer(sigma) for sigma in job["sigma"]]
    first = stack.weights[0].view(784, 2, 100).transpose(0, 1)
    for weight, layer in zip([first, *stack.weights[1:]], range(4), strict=True):
        sigmas = weight.std(dim=(1, 2)).tolist()
        assert sigmas == pytest.approx([layers[layer] for layers in each], rel=0.05)
        assert torch.allclose(weight[0] / each[0][layer], weight[1] / each[1][layer], rtol=1e-5)


def grid_rows():
    """Two settings, three seeds, looks at 0, 10, 20: medians 20 and 10 to 90 %; 0.97 and 0.92."""
    slow = [[0.1, 0.8, 0.97], [0.1, 0.91, 0.97], [0.1, 0.5, 0.98]]
    quick = [[0.1, 0.9, 0.92], [0.1, 0.9, 0.91], [0.1, 0.5, 0.93]]
    return [
        {"sigma": sigma, "lr": 0.5, "held_out": seen}
        for sigma, runs in ((0.1, slow), ("4/√n", quick))
        for seen in runs
    ]


@pytest.mark.parametrize(
    ("goal", "best"), [("90 %", "4/√n"), ("95 %", 0.1), (figure1.END, 0.1), ("97 %", 0.1)]
)
def test_the_best_setting_is_the_first_one_there(goal, best):
    assert figure1.best_of(grid_rows(), goal, [0, 10, 20]) == (best, 0.5)


def test_of_settings_that_are_equally_late_the_higher_one_is_best():
    rows = [row | {"held_out": [0.1, 0.2, max(row["held_out"])]} for row in grid_rows()]
    assert figure1.best_of(rows, "90 %", [0, 10, 20]) == (0.1, 0.5)


def test_best_settings_run_with_seeds_and_batches_of_their_own():
    choice = {
        "90 %": {"without BN": [0.1, 1.0], "with BN": ["4/√n", 3.0]},
        "95 %": {"without BN": [0.1, 1.0], "with BN": [0.2, 3.0]},
    }
    jobs = list(figure1.best_jobs(choice, 0))
    assert {job["order"] for job in jobs} == set(range(10, 20))
    assert {job["order"] for job in figure1.best_jobs(choice, 100)} == set(range(110, 120))
    without, with_bn = jobs[0], jobs[1]
    assert (without["sigma"], without["lr"], without["seeds"]) == ([0.1], [1.0], [10])
    assert (with_bn["sigma"], with_bn["bn"]) == (["4/√n", 0.2], True)


def test_what_the_stored_settings_say_is_what_runs():
    grid, runs = list(figure1.grid_jobs()), list(figure1.runs_jobs())
    settings = {(job["bn"], *each) for job in grid for each in zip(job["sigma"], job["lr"])}  # noqa: B905
    rates, sigmas = len(figure1.GRID["lr"]), len(figure1.GRID["sigma"])
    assert len([s for s in settings if s[0]]) == rates * sigmas
    assert len([s for s in settings if not s[0]]) == (rates - 1) * (sigmas - 1)
    assert len({job["order"] for job in grid}) == 5
    seeds = {s for job in runs for s in job["seeds"]}
    assert len(seeds) == 10
    assert len({job["order"] for job in runs}) == 10
    folders = {runner.folder_of(runner.Job(job, 0), Path()) for job in grid + runs}
    assert len(folders) == len(grid + runs)
