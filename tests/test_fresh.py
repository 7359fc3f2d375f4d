"""Other seeds, fewer looks: what `make fresh` changes in a notebook, and the record of it."""

import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from bn_helpers import data, records, training
from bn_helpers.claims import MEASURED, unsettled

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import fresh  # noqa: E402
import fresh_seeds  # noqa: E402


@pytest.fixture
def patched(monkeypatch, tmp_path):
    """Apply a variant, and take it back after the test."""
    for place, name in (
        (np.random, "default_rng"),
        (torch, "Generator"),
        (torch, "manual_seed"),
        (records, "verify"),
        (records, "read"),
        (training, "first"),
    ):
        monkeypatch.setattr(place, name, getattr(place, name))

    return lambda variant: fresh_seeds.apply(variant, tmp_path)


def drawn(seed=3):
    numpy = np.random.default_rng(seed).random(4).tolist()
    both = np.random.default_rng([seed, 1]).random(4).tolist()
    return numpy, both, torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()


def test_other_seeds_are_other_streams_and_the_same_each_time(patched):
    """Catches a patch that one of the two libraries does not see, and sets that are the same."""
    usual = drawn()
    patched("other seeds 1")
    first = drawn()
    assert first == drawn()
    assert first != drawn(4)
    for a, b in zip(usual, first, strict=True):
        assert not set(a) & set(b)


def test_the_two_sets_differ(patched):
    patched("other seeds 1")
    first = drawn()
    patched("other seeds 2")
    assert all(a != b for a, b in zip(first, drawn(), strict=True))


def test_splits_stay(patched):
    before = data.load("digits").test.labels
    patched("other seeds 1")
    assert (data.load("digits").test.labels == before).all()


def test_every_second_look_is_left_out(patched):
    at, there = [0, 10, 20, 30, 40], [[0, 1, 1, 1, 1], [0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]
    assert training.first(at, there).tolist() == [10, 40, 20]
    patched("every second look")
    assert training.first(np.array(at), there).tolist() == [10, np.inf, 30]


def test_other_records_take_the_place_of_the_books(patched, tmp_path):
    records.write("figure1_runs", command="c", config={}, results=[{"a": 1}], where=tmp_path)
    patched("other seeds 2")
    assert records.read("figure1_runs")["results"] != [{"a": 1}]
    patched("other seeds 1")
    assert records.read("figure1_runs")["results"] == [{"a": 1}]
    assert records.read("paper_figures")["name"] == "paper_figures"


def test_measurements_are_compared_in_their_order(tmp_path, monkeypatch):
    """A cell that chance changed the words of is still the same measurement."""
    row = {"id": "A1", "what": "w", "headline": True, "verdict": "holds"}
    rows = [row, row | {"what": "v", "headline": False}, row | {"what": "u", "verdict": "shown"}]
    outputs = [nbformat.v4.new_output("display_data", data={MEASURED: r}) for r in rows]
    cell = nbformat.v4.new_code_cell("", outputs=outputs)
    (tmp_path / "book").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "book" / "01_x.ipynb")
    monkeypatch.setattr(fresh, "ROOT", tmp_path)
    jobs = [
        fresh.runner.Job({"notebook": "01_x.ipynb"}, 1, ("01_x.ipynb", v)) for v in fresh.VARIANTS
    ]
    found = [["A1", "other words", "holds"], ["A1", "v", "not resolved"]]
    results = [{"found": found}, {"found": found[:1]}, {"found": found}]
    one, two = fresh.table(jobs, results)
    assert [one[v] for v in fresh.VARIANTS] == ["holds"] * 3
    assert [two[v] for v in fresh.VARIANTS] == ["not resolved", "not measured", "not resolved"]
    assert (one["headline"], two["what"]) == (True, "v")


STORED = (records.folder() / "fresh.json").exists()


@pytest.mark.skipif(not STORED, reason="the record fresh has not been made")
def test_the_record_is_of_the_verdicts_that_are_stored():
    """Catches a chapter that was measured anew without `make fresh`."""
    rows = []
    for path in fresh.execute.notebooks():
        found = fresh.rows_of(nbformat.read(path, as_version=4).cells)
        rows += [(r["id"], r["what"], r["verdict"]) for r in found if r["verdict"] != "shown"]
    recorded = [(r["id"], r["what"], r["verdict"]) for r in records.read("fresh")["results"]]
    assert sorted(recorded) == sorted(rows)


@pytest.mark.skipif(not STORED, reason="the record fresh has not been made")
def test_most_verdicts_stay():
    record = records.read("fresh")
    for variant, share in record["config"]["share of verdicts that stay"].items():
        stayed = [row[variant] == row["verdict"] for row in record["results"]]
        assert share == round(np.mean(stayed), 4) >= 0.95, variant


@pytest.mark.skipif(not STORED, reason="the record fresh has not been made")
def test_no_verdict_hangs_on_how_often_was_looked():
    """The same with every second look left out, or not resolved on the page."""
    for row in records.read("fresh")["results"]:
        if row["every second look"] != row["verdict"]:
            assert (row["id"], row["what"]) in unsettled()
