import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
def test_records_and_claims_come_with_the_installed_package(tmp_path):
    """Catches what a notebook finds in the clone only, not on Colab."""
    root = Path(records.__file__).resolve().parent.parent
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    for name in ("bn_helpers", "book/records"):
        shutil.copytree(root / name, tmp_path / "clone" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path / "clone")
    subprocess.run([*pip, "--target", tmp_path / "site", tmp_path / "clone"], check=True)
    code = (
        "from bn_helpers import claims, records; claims.on('')('B1', '', 1, claims.above(0));"
        "print(claims.WORDING, records.read('bench_layers')['name'])"
    )
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
