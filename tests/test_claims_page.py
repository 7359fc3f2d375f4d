"""The claims page says what the notebooks stored, and nothing else."""

import copy
import re
import sys
from pathlib import Path

import nbformat
import pytest

from bn_helpers import claims, records
from bn_helpers.claims import MEASURED, VERDICTS, wording

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import claims as script  # noqa: E402

NOTEBOOKS = script.in_order(script.execute.notebooks())
ASKED = {name: claim for section in wording().values() for name, claim in section.items()}


@pytest.fixture(scope="module")
def measured():
    return script.collect(NOTEBOOKS)


def test_the_stored_page_is_what_the_outputs_give():
    """Catches a notebook that was run again without the page, and a page edited by hand."""
    stored = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    assert stored == script.build(), "the page is out of date: run `make book`"


def test_every_claim_of_the_paper_and_every_statement_has_its_row():
    counts = {"A": 8, "B": 7, "C": 6, "D": 4, "E": 3, "F": 5, "G": 2, "H": 3, "I": 7, "J": 5}
    counts |= {"K": 2, "L": 2, "M": 1, "S": 19}
    expected = {f"{letter}{i}" for letter, n in counts.items() for i in range(1, n + 1)}
    assert set(ASKED) == expected
    page = (ROOT / "book" / "claims.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| \*\*[A-Z]\d+\*\* \|", page, flags=re.M)) == len(ASKED) >= 60


def test_only_facts_of_record_are_without_measurement(measured):
    assert set(ASKED) - set(measured) == {"K2", "S5"}
    for name, claim in ASKED.items():
        assert ("untestable" in claim) == (name not in measured)


def test_each_row_has_one_headline_that_is_judged(measured):
    """Catches a second one, none, and a row that nothing decides."""
    for name, rows in measured.items():
        (headline,) = (row for row in rows if row["headline"])
        assert headline["rule"]["words"], name


def test_comparisons_have_enough_runs(measured):
    """Ten pairs, or eight of runs that take minutes, which are records, or five a side."""
    for rows in measured.values():
        for row in rows:
            for rule in row["rule"].get("rules", [row["rule"]]):
                if "permutation test" in row["rule"]["words"] and rule["name"] != "stated":
                    least = 5 if not rule.get("pairs", True) else rule.get("least", 10)
                    assert row["runs"] >= least, (row["id"], row["what"])


def test_a_changed_value_changes_the_page(measured):
    before = script.page(wording(), measured)
    for name, rows in measured.items():
        for i, row in enumerate(rows):
            for change in (
                lambda row: row["figures"][0].update(median="9" + row["figures"][0]["median"]),
                lambda row: row["rule"].update(words="any"),
                lambda row: row.update(verdict="not resolved"),
            ):
                changed = copy.deepcopy(measured)
                change(changed[name][i])
                assert script.page(wording(), changed) != before, row["what"]


def stored(tmp_path, *rows, name="01_x.ipynb"):
    cells = [nbformat.v4.new_markdown_cell("# t\n\n## A question, *asked*\n\ntext")]
    for row in rows:
        output = nbformat.v4.new_output("display_data", data={MEASURED: row})
        cells.append(nbformat.v4.new_code_cell("", outputs=[output]))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name)
    return script.collect([tmp_path / name])


def row(verdict="holds", condition="", **changes):
    base = {
        "id": "A1",
        "what": "w",
        "figures": [{"side": "", "median": "1"}],
        "runs": 5,
        "over": "seeds",
        "data": "toy",
        "rule": {"name": "above", "number": 0, "words": "above 0"},
        "headline": False,
    }
    return {**base, "verdict": verdict, "condition": condition, **changes}


ONE = {"One": {"A1": {"place": "§1", "claim": "c"}}}


def test_a_lab_is_linked_as_one(tmp_path):
    page = script.page(ONE, stored(tmp_path, row(headline=True), name="labs/01_y.ipynb"))
    assert "[lab 01](labs/01_y.ipynb#a-question-asked)" in page


def test_a_chapter_stands_before_its_labs():
    names = ["book/02_a.ipynb", "book/labs/01_z.ipynb", "book/labs/01_b.ipynb", "book/01_c.ipynb"]
    ordered = script.in_order([Path(name) for name in names])
    assert [path.stem for path in ordered] == ["01_c", "01_b", "01_z", "02_a"]


@pytest.mark.parametrize("verdict", ["holds", "does not hold", "not resolved", "identity"])
def test_a_headline_decides_alone(tmp_path, verdict):
    others = [row(other, what=other) for other in ("holds", "does not hold")]
    page = script.page(ONE, stored(tmp_path, *others, row(verdict, headline=True)))
    assert f"| {VERDICTS[verdict]} {verdict} |" in page
    assert f"{VERDICTS[verdict]} **w**: 1; 5 seeds, toy; *above 0* [01](01_x.ipynb#a-q" in page
    assert f"Of 1 rows: {VERDICTS[verdict]} {verdict}: 1." in page


def test_what_is_shown_has_no_rule_on_the_page(tmp_path):
    context = row("shown", what="v", rule={"name": "shown", "words": ""})
    page = script.page(ONE, stored(tmp_path, row(headline=True), context))
    assert "<br>· v: 1; 5 seeds, toy [01](01_x.ipynb#a-question-asked) | ● holds |" in page


def test_a_verdict_that_did_not_stay_is_not_resolved(tmp_path, monkeypatch):
    """Catches a record of other seeds that nobody reads."""
    monkeypatch.setattr(claims, "unsettled", lambda: {("A1", "w"): "(holds; elsewhere: not)"})
    page = script.page(ONE, stored(tmp_path, row(headline=True), row(what="v")))
    assert "◌ **w**: 1" in page
    assert "● v: 1" in page
    assert "| ◌ not resolved (holds; elsewhere: not) |" in page


def test_what_did_not_stay_is_read_from_the_record(tmp_path, monkeypatch):
    same = {"id": "A1", "what": "w", "verdict": "holds", "other seeds 1": "holds"}
    rows = [
        same | {"every second look": "holds"},
        same | {"what": "v", "every second look": "does not hold"},
    ]
    monkeypatch.setattr(records, "_CLONE", tmp_path)
    claims.unsettled.cache_clear()
    assert claims.unsettled() == {}
    records.write("fresh", command="c", config={}, results=rows)
    claims.unsettled.cache_clear()
    assert claims.unsettled() == {("A1", "v"): "(holds; every second look: does not hold)"}
    claims.unsettled.cache_clear()


def test_a_condition_is_part_of_the_verdict(tmp_path):
    small = row("holds where", "σ = 5", headline=True)
    page = script.page(ONE, stored(tmp_path, small, row(what="other")))
    assert "| ◑ holds where σ = 5 |" in page
    assert "◑ holds where: 1." in page


def test_a_reason_stands_in_for_a_measurement(tmp_path):
    asked = {"One": {"A1": {**ONE["One"]["A1"], "untestable": "nobody can"}}}
    assert "| nobody can | – not testable here |" in script.page(asked, {})
    page = script.page(asked, stored(tmp_path, row()))
    assert "| nobody can<br>● w: 1; 5 seeds, toy; *above 0* " in page
    assert "| – not testable here |" in page


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(
        script.ClaimsError, match=r"A1: expected one headline measurement, got \[\]"
    ):
        script.page(ONE, {})
    with pytest.raises(script.ClaimsError, match=r"not in claims.toml: \['Z1'\]"):
        script.page(ONE, stored(tmp_path, row(), row(id="Z1")))
    with pytest.raises(script.ClaimsError, match="measures 'w' twice"):
        stored(tmp_path, row(), row(runs=2))
    with pytest.raises(script.ClaimsError, match="expected"):
        stored(tmp_path, row("yes"))
    with pytest.raises(script.ClaimsError, match="expected"):
        stored(tmp_path, {k: v for k, v in row().items() if k != "rule"})
    two = stored(tmp_path, row(headline=True), row(headline=True, what="v"))
    with pytest.raises(script.ClaimsError, match=r"A1: expected one headline .* \['w', 'v'\]"):
        script.page(ONE, two)
    with pytest.raises(script.ClaimsError, match="asked about twice: A1"):
        script.page({**ONE, "Two": ONE["One"]}, stored(tmp_path, row(headline=True)))


def test_a_link_leads_to_the_heading_as_myst_names_it():
    assert script.slug("Why $m/(m-1)$, and a *formula* to avoid") == "why--and-a-formula-to-avoid"
