"""What the build makes of a notebook's cells: book/_ext/book_build.py."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bn_helpers import checks
from bn_helpers.claims import MEASURED, VERDICTS
from bn_helpers.figures import DESCRIBED

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "book" / "_ext")]
import book_build  # noqa: E402
import execute  # noqa: E402


def page(text, docname="book/01_x"):
    source = [text]
    book_build.notebook_as_page(None, docname, source)
    return json.loads(source[0])["cells"]


def outputs(cells):
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.fixture(params=execute.notebooks(), ids=lambda path: path.stem)
def stored(request):
    return request.param.read_text(encoding="utf-8")


def test_every_measurement_is_listed_with_its_verdict(stored):
    before = json.loads(stored)["cells"]
    rows = [o["data"][MEASURED] for o in outputs(before) if MEASURED in o.get("data", {})]
    lists = [cell["source"] for cell in page(stored) if "{container} measured" in cell["source"]]
    found = re.findall(r"^- (.) \*\*(.+?)\*\* · ", "\n".join(lists), flags=re.M)
    assert found == [
        (VERDICTS[row["verdict"]], f"{row['verdict']} {row['condition']}".strip()) for row in rows
    ]


def test_pages_show_pictures_and_nothing_of_our_own_types(stored):
    """Catches a type that no page can show, which is a warning, and fails the book."""
    for output in outputs(page(stored)):
        assert not {MEASURED, DESCRIBED} & set(output.get("data", {}))
        assert output.get("data") != {}


def test_every_exercise_is_a_block_with_its_hints(stored):
    cells = page(stored)
    text = "\n\n".join("".join(cell["source"]) for cell in cells)
    before = json.loads(stored)["cells"]
    stubs = [c for c in before if "stub" in c["metadata"].get("tags", [])]
    names = [re.findall(r"checks\.(\w+)\(", "".join(c["source"]))[-1] for c in stubs]
    assert re.findall(r"^:label: exercise-(\w+)$", text, flags=re.M) == names
    assert re.findall(r"\{solution-start\} exercise-(\w+)$", text, flags=re.M) == names
    hints = [hint for name in names for hint in checks.EXERCISES[name].hints]
    assert re.findall(r"Hint \d\n:class: dropdown tip\n\n(.*)", text) == hints
    assert "@title" not in text
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_what_looks_like_markup_is_shown_as_it_is():
    assert book_build.plain("a*b_c [d] |x| <e> $f$") == r"a\*b\_c \[d\] \|x\| \<e\> \$f\$"


def test_a_lab_links_to_the_claims_above_it():
    rows = json.dumps({"cells": []})
    assert page(rows, "book/labs/01_x") == []
    row = {"id": "A1", "what": "w", "figures": [{"side": "", "median": "1"}], "runs": 0}
    row |= {"data": "d", "rule": {"words": "r"}, "verdict": "holds", "condition": ""}
    cell = {
        "cell_type": "code",
        "metadata": {},
        "source": "",
        "outputs": [{"data": {MEASURED: row}}],
    }
    notebook = json.dumps({"cells": [cell]})
    assert "](../claims.md)" in page(notebook, "book/labs/01_x")[1]["source"]
    assert "](claims.md)" in page(notebook)[1]["source"]


@pytest.mark.slow
def test_building_needs_only_what_is_installed_for_it():
    """Catches a package that `make test` brings and a clone that only builds has not."""
    code = "import sys, book_build; print(*{name.split('.')[0] for name in sys.modules})"
    path = os.pathsep.join([str(ROOT), str(ROOT / "book" / "_ext")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    distributions = importlib.metadata.packages_distributions()
    loaded = done.stdout.decode().split()
    needed = {each.lower() for name in loaded for each in distributions.get(name, [])}
    pinned = (ROOT / "requirements-book.txt").read_text(encoding="utf-8")
    installed = set(re.findall(r"^([\w.-]+)==", pinned, flags=re.M)) | {"bn-helpers", "pip"}
    assert "numpy" in needed
    assert {name.replace("_", "-") for name in needed} - {"setuptools"} <= installed
