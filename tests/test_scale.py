"""The command that makes chapter 07's record, on a small grid."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import scale  # noqa: E402


def searched(lr, steps, at_900=200, at_3600=220, **changes):
    ends = {"right at 900": [at_900] * 2, "right at 3600": [at_3600] * 2}
    return {"bn": True, "sigma": 1.0, "lr": lr, "steps": steps, **ends, **changes}


def test_the_best_rate_gets_there_in_the_fewest_steps_of_the_limit():
    rows = [searched(0.1, [600, 700]), searched(1.0, [300, 400]), searched(3.0, [1000, 1000])]
    assert scale.best_rate(rows, True, 1.0, 900)["lr"] == 1.0
    assert scale.best_rate(rows[::2], True, 1.0, 900)["lr"] == 0.1


def test_where_no_rate_gets_there_the_most_accurate_is_best():
    """Catches a run that never gets there and counts as one of 0 steps."""
    rows = [searched(0.1, [None, None], 100), searched(1.0, [None, None], 150)]
    rows += [searched(3.0, [None, 1000], 120, 230)]
    assert scale.best_rate(rows, True, 1.0, 900)["lr"] == 1.0
    assert scale.best_rate(rows, True, 1.0, 3600)["lr"] == 3.0


def test_both_sides_run_again_at_both_sides_best_cells(monkeypatch):
    monkeypatch.setitem(scale.CONFIG, "sigma", [0.1, 1.0])
    rows = [
        searched(lr, [900 - 100 * (bn + 1) * (sigma == lr)] * 2, bn=bn, sigma=sigma)
        for bn in (False, True)
        for sigma in (0.1, 1.0)
        for lr in (0.1, 1.0)
    ]
    rows[0]["steps"] = [100, 100]
    assert scale.best_cell(rows, False, 900) == (0.1, 0.1)
    cells = scale.tested(rows)
    assert {(0.1, 0.1), (1.0, 1.0)} <= set(cells[False]) & set(cells[True])


@pytest.mark.parametrize("bn", [False, True])
def test_a_job_counts_correct_digits_at_each_look(bn):
    cells = [(0.3, 1.0), (1.0, 3.0)]
    job = scale.job_of(cells, bn=bn, activation="sigmoid", seed=3, split="test")
    right, of = scale.train(job, [0, 50, 100])
    assert right.shape == (2, 3)
    assert of == 360
    assert (right[:, 0] < 120).all()
    assert right[1, 2] > 100  # chance: 36
    alone, _ = scale.train({**job, "sigma": [1.0], "lr": [3.0]}, [0, 50])
    assert np.abs(alone[0] - right[1, :2]).max() <= 3


def test_a_job_looks_at_singular_values(tmp_path):
    job = {**next(scale.spectra(0)), "layers": 4, "at": [0, 2]}
    before, after = scale.run(job, tmp_path, lambda steps: None)
    assert (before["step"], after["step"]) == (0, 2)
    # σ = 0.25 without BN: √32 · 0.25 · g′(0)
    np.testing.assert_allclose(before["layer: size"], 0.25 * np.sqrt(32) / 4, rtol=0.25)
    assert len(before["layer: size"]) == len(before["product: near 1"]) == 3
    assert before["layer: size"][0] == before["product: size"][0]
    assert all(0 <= share <= 1 for share in before["layer: near 1"])
    assert after != before


def test_every_part_has_its_seeds():
    """Catches a search on the seeds that judge."""
    assert not set(scale.CONFIG["search seeds"]) & set(scale.CONFIG["test seeds"])
    assert len({job["seed"] for job in scale.rates(0)}) == 10
    assert all(job["split"] == "test" for job in scale.rates(0))
    for jobs in (scale.rates, scale.deep, scale.spectra):
        assert {job["seed"] for job in jobs(1000)} == {1000 + s for s in range(10, 20)}
