"""Set-up ends in one clear line where it cannot go on, and is taken up where it was left."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="set-up is a bash script")


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "a clone of théirs"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    # One requirement that is always there keeps these tests quick and off the network.
    for name in ("requirements.txt", "requirements-book.txt", "pyproject.toml"):
        (folder / name).write_text("pip\n")
    return folder


def set_up(clone, part="book", path=None, **environment):
    environment = {**os.environ, "PYTHON": sys.executable, **environment}
    if path:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    command = [str(clone / "scripts" / "setup.sh"), part]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def one_line(result):
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def stand_in(folder, name, script):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return folder


def test_another_python_is_refused(clone, tmp_path):
    line = one_line(set_up(clone, PYTHON="/nowhere/python3.11"))
    assert "Python 3.11 is needed" in line
    assert "PYTHON=" in line
    other = stand_in(tmp_path / "bin", "python3.12", "exit 1") / "python3.12"
    assert "Python 3.11 is needed" in one_line(set_up(clone, PYTHON=str(other)))
    assert not (clone / ".venv").exists()


def test_a_full_disk_is_named_before_anything_is_installed(clone, tmp_path):
    df = stand_in(tmp_path / "bin", "df", "printf 'h\\nd 9 9 12 9%% /\\n'")
    line = one_line(set_up(clone, path=df))
    assert "12 MB are left" in line
    assert not (clone / ".venv").exists()


def test_no_network_is_named_and_the_set_up_taken_up_again(clone):
    wanted = clone / "requirements-book.txt"
    wanted.write_text("a-package-that-no-index-has\n")
    line = one_line(set_up(clone, PIP_NO_INDEX="1"))
    assert "network" in line
    assert not (clone / ".venv" / "ready-book").exists()
    wanted.write_text("pip\n")
    assert set_up(clone, PIP_NO_INDEX="1").returncode == 0
    again = set_up(clone, PIP_NO_INDEX="1")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_an_interrupted_or_moved_environment_is_made_anew(clone):
    """Catches a stamp written before the install, and a .venv that points to another folder."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").write_text("half a file")
    assert set_up(clone, PIP_NO_INDEX="1").returncode == 0
    moved = clone.rename(clone.with_name("moved"))
    assert set_up(moved, PIP_NO_INDEX="1").stdout.startswith("setting up")
    config = (moved / ".venv" / "bin" / "pip").read_text()
    assert "moved" in config


def test_a_changed_requirement_sets_up_again(clone):
    assert set_up(clone, PIP_NO_INDEX="1").returncode == 0
    (clone / "requirements-book.txt").write_text("pip  # moved\n")
    assert set_up(clone, PIP_NO_INDEX="1").stdout.startswith("setting up")


def test_the_part_that_building_needs_is_included_not_repeated():
    everything = (ROOT / "requirements.txt").read_text().splitlines()
    assert "-r requirements-book.txt" in everything
    book = (ROOT / "requirements-book.txt").read_text().splitlines()
    pins = [line for line in everything + book if line and line[0] not in "#-"]
    assert all("==" in pin for pin in pins)
    names = [pin.split("==")[0].lower().replace("_", "-") for pin in pins]
    assert len(names) == len(set(names))
    assert "torch" not in {pin.split("==")[0] for pin in book}
