"""Set-up ends in one clear line where it cannot go on, and is taken up where it was left."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"
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


def python(folder, name, version):
    """A Python that says it is of that version, and is otherwise the tests' own."""
    says = f'[ "$1" = -c ] && echo {version} && exit'
    return stand_in(folder, name, f'{says}\nexec "{sys.executable}" "$@"')


@pytest.mark.parametrize("version", ["3.10", "3.14", ""])
def test_another_python_is_refused(clone, tmp_path, version):
    line = one_line(set_up(clone, PYTHON="/nowhere/python3.11"))
    assert "Python 3.11, 3.12 or 3.13 is needed, and '/nowhere/python3.11' is not one" in line
    assert "PYTHON=" in line
    other = python(tmp_path / "bin", "python3.12", version) / "python3.12"
    assert "is needed" in one_line(set_up(clone, PYTHON=str(other)))
    assert not (clone / ".venv").exists()


@pytest.mark.slow
def test_any_python_that_the_pins_fit_is_found(clone, tmp_path):
    """Catches a set-up that needs python3.11, and one that stops at a name that does not run."""
    stand_in(tmp_path / "bin", "python3.11", "exit 127")
    stand_in(tmp_path / "bin", "python3.12", "exit 127")
    python(tmp_path / "bin", "python3.13", "3.13")
    assert set_up(clone, path=tmp_path / "bin", PYTHON="", PIP_NO_INDEX="1").returncode == 0
    for name in ("python3.13", "python3"):
        python(tmp_path / "bin", name, "3.14")
    shutil.rmtree(clone / ".venv")
    line = one_line(set_up(clone, path=tmp_path / "bin", PYTHON=""))
    assert "'python3.11 python3.12 python3.13 python3' is not one" in line


@pytest.mark.slow
def test_naming_another_python_makes_the_environment_anew(clone, tmp_path):
    assert set_up(clone, PIP_NO_INDEX="1").returncode == 0
    there = clone / ".venv" / "there"
    there.touch()
    other = python(tmp_path / "bin", "python3.99", "3.13" if OURS != "3.13" else "3.12")
    refused = stand_in(tmp_path / "bin", "python3.98", "echo 3.98") / "python3.98"
    assert "is needed" in one_line(set_up(clone, PYTHON=str(refused)))
    assert set_up(clone, PYTHON="").stdout == ""
    assert there.exists()
    assert set_up(clone, PYTHON=str(other / "python3.99"), PIP_NO_INDEX="1").returncode == 0
    assert not there.exists()


def test_a_full_disk_is_named_before_anything_is_installed(clone, tmp_path):
    df = stand_in(tmp_path / "bin", "df", "printf 'h\\nd 9 9 12 9%% /\\n'")
    line = one_line(set_up(clone, path=df))
    assert "12 MB are left" in line
    assert not (clone / ".venv").exists()


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_interrupted_or_moved_environment_is_made_anew(clone):
    """Catches a stamp written before the install, and a .venv that points to another folder."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").write_text("half a file")
    assert set_up(clone, PIP_NO_INDEX="1").returncode == 0
    moved = clone.rename(clone.with_name("moved"))
    assert set_up(moved, PIP_NO_INDEX="1").stdout.startswith("setting up")
    config = (moved / ".venv" / "bin" / "pip").read_text()
    assert "moved" in config


@pytest.mark.slow
def test_a_changed_requirement_sets_up_again(clone):
    assert set_up(clone, PIP_NO_INDEX="1").returncode == 0
    (clone / "requirements-book.txt").write_text("pip  # moved\n")
    assert set_up(clone, PIP_NO_INDEX="1").stdout.startswith("setting up")


def requirements(file):
    """The requirements of a file, by name; not its comments, options and other files."""
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {r.name: r for r in map(Requirement, (x for x in lines if x and x[0] != "-"))}


def pins(file):
    found = requirements(file)
    assert all(str(r.specifier).startswith("==") for r in found.values())
    return {canonicalize_name(name): next(iter(r.specifier)).version for name, r in found.items()}


def wanted(file):
    if file != "pyproject.toml":
        return requirements(file).values()
    project = tomllib.loads((ROOT / file).read_text())["project"]
    return [Requirement(text) for text in project["dependencies"]]


@pytest.mark.parametrize(
    ("compiled", "sources"),
    [
        ("requirements-book.txt", ["requirements-book.in"]),
        ("requirements.txt", ["requirements-book.in", "requirements.in", "pyproject.toml"]),
    ],
)
def test_the_compiled_pins_fit_what_they_are_compiled_from(compiled, sources):
    """Catches an edit of either side without `make lock`."""
    text = (ROOT / compiled).read_text()
    assert "    make lock\n" in text
    pinned = pins(compiled)
    for requirement in (r for source in sources for r in wanted(source)):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    # pip-compile writes why each line is there: what nothing asks for any more would be left over.
    lines = [line for line in text.splitlines() if "==" in line]
    named = {canonicalize_name(r.name) for source in sources for r in wanted(source)}
    for line in lines:
        why = {canonicalize_name(w) for w in re.split(r"[ ,]+", line.split("# via ")[1])}
        direct = {w for w in why if w.endswith("-in") or w == "bn-helpers"}
        assert bool(direct) == (canonicalize_name(line.split("==")[0]) in named), line
        assert direct or why & set(pinned), line


def test_building_and_testing_agree_and_name_no_index():
    book, everything = pins("requirements-book.txt"), pins("requirements.txt")
    assert book.items() <= everything.items()
    assert "torch" not in book
    for file in ("requirements-book.txt", "requirements.txt"):
        text = (ROOT / file).read_text()
        assert not re.search(r"^-|://|--hash|\+cpu|^(nvidia|cuda|triton)", text, flags=re.M)
