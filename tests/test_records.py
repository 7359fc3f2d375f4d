import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bn_helpers import records


@pytest.fixture
def stored(tmp_path):
    file = records.write(
        "run",
        command="python run.py",
        config={"lr": 0.1},
        results=[{"step": 0, "accuracy": 0.5}, {"step": 1, "accuracy": None}],
        seeds=range(2),
        data={"digits": "ab"},
        where=tmp_path,
    )
    return file


def test_what_is_written_is_read_back(stored, tmp_path):
    record = records.read("run", tmp_path)
    assert record["config"] == {"lr": 0.1}
    assert record["results"][1] == {"step": 1, "accuracy": None}
    assert record["seeds"] == [0, 1]
    assert set(record) == set(records.FIELDS)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def damage(record, **changes):
    return json.dumps({**record, **changes})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: json.dumps(r)[:-20], "expected JSON"),
        (lambda r: "[]", "expected an object, got list"),
        (lambda r: json.dumps({k: v for k, v in r.items() if k != "seeds"}), "'seeds' is missing"),
        (lambda r: damage(r, results={}), "expected 'results' to be list, got dict"),
        (lambda r: damage(r, name="other"), "expected the name 'run', got 'other'"),
        (lambda r: damage(r, config={"lr": 0.2}), "do not match their checksum"),
    ],
    ids=["truncated", "not-an-object", "field-missing", "wrong-type", "renamed", "edited"],
)
def test_a_damaged_record_is_refused(stored, tmp_path, spoil, message):
    stored.write_text(spoil(json.loads(stored.read_text())))
    with pytest.raises(records.RecordError, match=message):
        records.read("run", tmp_path)


def test_an_unknown_record_names_the_known_ones(stored, tmp_path):
    with pytest.raises(records.RecordError, match=r"one of \['run'\], got 'walk'"):
        records.read("walk", tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(tmp_path, value):
    with pytest.raises(records.RecordError, match="expected finite numbers"):
        records.write("run", command="", config={}, results=[{"x": value}], where=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_record_stays_below_one_megabyte(tmp_path):
    with pytest.raises(records.RecordError, match="at most 1 MB"):
        records.write("run", command="", config={}, results=[{"x": "y" * 10**6}], where=tmp_path)


@pytest.mark.slow
def test_records_come_with_the_installed_package(tmp_path):
    """Catches records that a notebook finds in the clone only, not on Colab."""
    root = Path(records.__file__).resolve().parent.parent
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    for name in ("bn_helpers", "book/records"):
        shutil.copytree(root / name, tmp_path / "clone" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path / "clone")
    subprocess.run([*pip, "--target", tmp_path / "site", tmp_path / "clone"], check=True)
    code = "from bn_helpers import records as r; print(r.__file__, r.read('bench_layers')['name'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert found.stdout.split()[-1] == "bench_layers", found.stderr
    assert str(tmp_path) in found.stdout


@pytest.mark.parametrize("file", sorted(records.folder().glob("*.json")), ids=lambda f: f.stem)
def test_the_books_records_can_be_trusted(file):
    """Catches an edit by hand, and a record made with uncommitted changes."""
    record = records.read(file.stem)
    assert re.fullmatch("[0-9a-f]{12}", record["commit"])
    assert record["device"]
    assert record["versions"]["torch"]


def test_a_slice_that_comes_out_the_same_is_verified(stored, tmp_path, capsys):
    record = records.read("run", tmp_path)
    record["results"] = [{"loss": [3.0, 2.0, 1.0]}, {"loss": [5.0, 4.0]}]
    records.verify(record, {"loss": [5.0]}, index=1, data={"digits": "ab"}, tolerance=0.01)
    records.verify(record, {"loss": [3.0, 2.009]}, index=0, data={"digits": "ab"}, tolerance=0.01)
    assert capsys.readouterr().out.splitlines()[1] == (
        "run, row 0 run again: 2 × loss the same within 0.01"
    )


@pytest.mark.parametrize(
    ("again", "data", "message"),
    [
        ({"loss": [3.0, 2.02]}, "ab", "number 1: stored 2.0, got 2.02, which is more than 0.01"),
        ({"loss": [float("nan")]}, "ab", "stored 3.0, got nan"),
        ({"loss": [3.0] * 4}, "ab", "hold 4 numbers or more, got 3"),
        ({"lost": [3.0]}, "ab", r"got 0; one of \['loss'\]"),
        ({"loss": [3.0]}, "cd", "expected the data it was made on"),
    ],
    ids=["another-number", "nan", "too-short", "no-such-key", "other-data"],
)
def test_a_slice_that_does_not_is_refused(stored, tmp_path, again, data, message):
    record = records.read("run", tmp_path)
    record["results"] = [{"loss": [3.0, 2.0, 1.0]}]
    with pytest.raises(records.RecordError, match=message):
        records.verify(record, again, index=0, data={"digits": data}, tolerance=0.01)


@pytest.fixture
def shown(monkeypatch):
    """What measured() shows, as a list of (text, JSON)."""
    import IPython.display

    seen = []

    def display(bundle, raw):
        assert raw
        seen.append((bundle["text/plain"], bundle[records.MEASURED]))

    monkeypatch.setattr(IPython.display, "display", display)
    return seen


def test_measured_shows_and_stores_the_same(shown):
    records.measured(
        "B1",
        {"without": 140.2, "with": math.inf},
        {"without": (120, 160), "with": (40.4, math.inf)},
        what="steps",
        holds=np.bool_(False),
        data="digits",
        seeds=5,
        form=".0f",
    )
    text, row = shown[0]
    assert text == (
        "B1 · steps: without 140 (120 to 160), with never (40 to never); "
        "5 seeds, digits: does not hold"
    )
    assert row["figures"] == ["without 140 (120 to 160)", "with never (40 to never)"]
    assert row["holds"] is False  # not NumPy's, which JSON refuses
    json.dumps(row)
    records.measured("B1", 0.1234, what="gap", holds=True, data="toy numbers")
    assert shown[1][0] == "B1 · gap: 0.123; toy numbers: holds"


def test_measured_refuses_what_does_not_fit_together(shown):
    about = {"what": "steps", "holds": True, "data": "digits"}
    with pytest.raises(ValueError, match="expected a spread for"):
        records.measured("B1", {"a": 1, "b": 2}, {"a": (0, 2)}, seeds=5, **about)
    with pytest.raises(ValueError, match="spread over the 5 seeds, got None"):
        records.measured("B1", 3, seeds=5, **about)
    with pytest.raises(ValueError, match="expected 1 to 2 to hold the value, got 3"):
        records.measured("B1", 3, (1, 2), seeds=5, **about)
    assert not shown


def test_over_seeds_gives_median_and_range_of_each_side():
    runs = {"without": np.array([5, 1, 9, 2]), "with": [3, math.inf, 4]}
    value, spread = records.over_seeds(runs)
    assert value == {"without": 3.5, "with": 4}
    assert spread == {"without": (1, 9), "with": (3, math.inf)}
    assert records.over_seeds([2, 1, 3]) == (2, (1, 3))
