"""The claims page says what the notebooks stored, and nothing else."""

import copy
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import claims  # noqa: E402

SECTIONS = yaml.safe_load((ROOT / "book" / "claims.yml").read_text(encoding="utf-8"))
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.fixture(scope="module")
def measured():
    return claims.collect(NOTEBOOKS)


def test_the_stored_page_is_what_the_outputs_give():
    """Catches a notebook that was run again without the page, and a page edited by hand."""
    stored = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    assert stored == claims.build(), "the page is out of date: run `make book`"


def test_every_claim_of_the_paper_and_every_statement_has_its_row():
    asked = {claim["id"] for section in SECTIONS for claim in section["claims"]}
    counts = {"A": 6, "B": 6, "C": 6, "D": 4, "E": 3, "F": 5, "G": 2, "H": 3, "I": 7, "J": 5}
    counts |= {"K": 1, "L": 2, "M": 1, "S": 18}
    assert asked == {f"{letter}{i}" for letter, n in counts.items() for i in range(1, n + 1)}
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| \*\*[A-Z]\d+\*\* \|", page, flags=re.M)) == len(asked) >= 60


def test_only_facts_of_record_are_without_measurement(measured):
    reasons = [c for s in SECTIONS for c in s["claims"] if c["id"] not in measured]
    assert [claim["id"] for claim in reasons] == ["S5"]
    assert reasons[0]["untestable"]
    for claim in (c for s in SECTIONS for c in s["claims"] if c["id"] in measured):
        assert "open" not in claim, f"{claim['id']} is measured: drop its reason"


def test_a_changed_value_changes_the_page(measured):
    before = claims.page(SECTIONS, measured)
    for claim, rows in measured.items():
        for i, _ in enumerate(rows):
            changed = copy.deepcopy(measured)
            changed[claim][i]["figures"][0] += "9"
            assert claims.page(SECTIONS, changed) != before
            changed = copy.deepcopy(measured)
            changed[claim][i]["holds"] ^= True
            assert claims.page(SECTIONS, changed) != before


def stored(tmp_path, *rows, name="01_x.ipynb"):
    cells = [nbformat.v4.new_markdown_cell("# t\n\n## A question, *asked*\n\ntext")]
    for row in rows:
        output = nbformat.v4.new_output("display_data", data={claims.MEASURED: row})
        cells.append(nbformat.v4.new_code_cell("", outputs=[output]))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name)
    return claims.collect([tmp_path / name])


def row(**changes):
    base = {"id": "A1", "what": "w", "figures": ["1"], "seeds": 5, "data": "toy", "holds": True}
    return {**base, **changes}


ONE = [{"section": "One", "claims": [{"id": "A1", "place": "§1", "claim": "c"}]}]


@pytest.mark.parametrize(
    ("holds", "label"),
    [
        ([True], "● holds"),
        ([True, True], "● holds"),
        ([True, False], "◐ holds in part"),
        ([False, False], "○ does not hold"),
    ],
)
def test_the_verdict_comes_from_the_measurements(tmp_path, holds, label):
    rows = [row(what=str(i), holds=h) for i, h in enumerate(holds)]
    page = claims.page(ONE, stored(tmp_path, *rows))
    assert f"| {label} |" in page
    assert "[01](01_x.ipynb#a-question-asked)" in page


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(claims.ClaimsError, match="no measurement in a chapter and no reason"):
        claims.page(ONE, {})
    with pytest.raises(claims.ClaimsError, match=r"not in claims.yml: \['Z1'\]"):
        claims.page(ONE, stored(tmp_path, row(), row(id="Z1")))
    with pytest.raises(claims.ClaimsError, match="measures 'w' twice"):
        stored(tmp_path, row(), row(figures=["2"]))
    with pytest.raises(claims.ClaimsError, match="expected"):
        stored(tmp_path, row(holds="yes"))
    twice = [{"section": "One", "claims": ONE[0]["claims"] * 2}]
    with pytest.raises(claims.ClaimsError, match="asked about twice: A1"):
        claims.page(twice, stored(tmp_path, row()))


def test_a_link_leads_to_the_heading_as_myst_names_it():
    assert claims.slug("Why $m/(m-1)$, and a *formula* to avoid") == "why--and-a-formula-to-avoid"
