"""What holds for every exercise: bn_helpers.checks, and the notebooks that use it."""

import importlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from bn_helpers import checks

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import execute  # noqa: E402
import exercises  # noqa: E402

WRITTEN = [check for check in checks.EXERCISES.values() if isinstance(check, checks.Exercise)]
ASKED = [check for check in checks.EXERCISES.values() if isinstance(check, checks.Question)]
NOTEBOOKS = {path: nbformat.read(path, as_version=4) for path in execute.notebooks()}


def by_name(check):
    return check.name


def tagged(nb, tag):
    return [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])]


def solutions():
    """Check's name → the notebook and the source of its solution."""
    return {
        re.findall(r"checks\.(\w+)\(", cell.source)[-1]: (path, exercises.untitled(cell.source))
        for path, nb in NOTEBOOKS.items()
        for cell in tagged(nb, "solution")
    }


@pytest.mark.parametrize("check", WRITTEN, ids=by_name)
def test_a_mistake_gets_its_name_and_no_other(check):
    """Catches two mistakes that look alike, and one that changes nothing on the trials."""
    for switch, mistake in check.mistakes.items():
        verdict = check.judge(check.model(frozenset([switch])))
        assert verdict.mistakes == (switch,), verdict.words
        if switch == check.planted:
            assert verdict.outcome == "not attempted"
            continue
        assert verdict.outcome == "wrong"
        assert f"\nMistake: {mistake}\n" in verdict.words


@pytest.mark.slow
@pytest.mark.parametrize("check", WRITTEN, ids=by_name)
def test_a_pair_is_named_whole_or_not_at_all(check):
    """A pair that gives what one mistake gives alone is that one."""
    named = 0
    for pair in itertools.combinations(check.mistakes, 2):
        verdict = check.judge(check.model(frozenset(pair)))
        assert verdict.mistakes in (pair, *((switch,) for switch in check.mistakes), ()), pair
        named += verdict.mistakes == pair
    if len(check.mistakes) > 3:
        assert named > 0


@pytest.mark.parametrize("check", WRITTEN, ids=by_name)
def test_the_model_is_right(check):
    verdict = check.judge(check.model(frozenset()))
    assert (verdict.outcome, verdict.mistakes) == ("right", ())
    assert verdict.words.startswith("Right.")


@pytest.mark.parametrize("check", ASKED, ids=by_name)
def test_a_known_wrong_answer_gets_its_sentence(check):
    for switch, (part, value, mistake) in check.mistakes.items():
        verdict = check.judge({**check.answers, part: value})
        assert verdict.outcome == "wrong"
        assert switch in verdict.mistakes
        assert str(mistake) in verdict.words
    assert check.judge(check.answers).outcome == "right"


@pytest.mark.parametrize("check", ASKED, ids=by_name)
def test_a_question_does_not_give_its_answer_away(check):
    """Numbers and words of more than a few letters; of a choice between two the rest is clear."""
    for part, answer in check.answers.items():
        if isinstance(answer, bool) or len(str(answer)) < 3:
            continue
        verdict = check.judge({**check.answers, part: "not this"})
        assert str(answer) not in verdict.words


@pytest.mark.parametrize("check", checks.EXERCISES.values(), ids=by_name)
def test_hints_are_graded_and_say_something(check, capsys):
    assert 2 <= len(check.hints) <= 4
    assert all(len(hint) > 25 for hint in check.hints)
    for number in range(1, len(check.hints) + 1):
        check.hint(number)
    check.hint(1)
    check.hint()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"Hint 1 of {len(check.hints)}: ")
    assert said[-1] == said[1]


@pytest.mark.parametrize("check", checks.EXERCISES.values(), ids=by_name)
def test_nothing_is_not_an_attempt(check, capsys):
    for nothing in (None, ...):
        verdict = check.judge(nothing)
        assert (verdict.outcome, verdict.mistakes) == ("not attempted", ())
    check()
    assert capsys.readouterr().out.startswith("Not attempted yet.")


@pytest.mark.parametrize("check", checks.EXERCISES.values(), ids=by_name)
def test_a_mistake_says_where_to_read_on(check):
    """Catches a heading that was renamed. A planted bug may keep to itself where it is treated."""
    mistakes = {s: m if isinstance(m, checks.Mistake) else m[2] for s, m in check.mistakes.items()}
    for switch, mistake in mistakes.items():
        if switch == getattr(check, "planted", None) and not mistake.read:
            continue
        chapter, _, heading = mistake.read.partition(", ")
        (text,) = [
            "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
            for path, nb in NOTEBOOKS.items()
            if path.parent.name == "book" and path.name.startswith(f"{chapter}_")
        ]
        assert re.search(rf"^##+ {re.escape(heading)}$", text, flags=re.M), mistake.read


def test_no_check_hides_a_module():
    """Catches `from bn_helpers.checks import gradients` that gives an exercise of that name."""
    modules = {path.stem for path in Path(checks.__file__).parent.glob("*.py")}
    assert not modules & set(checks.EXERCISES)


def test_no_check_hides_another():
    """Catches two exercises of one name, of which the package would have the later."""
    modules = Path(checks.__file__).parent.glob("[a-z]*.py")
    each = {
        id(check): check.name
        for path in modules
        for check in vars(importlib.import_module(f"bn_helpers.checks.{path.stem}")).values()
        if isinstance(check, checks.Check)
    }
    assert sorted(each.values()) == sorted(checks.EXERCISES)


def test_every_check_has_its_place_in_a_notebook():
    assert set(solutions()) == set(checks.EXERCISES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_have_their_form(path):
    """Question, stub, solution; number, stars and minutes; outputs that say what they should."""
    cells = NOTEBOOKS[path].cells
    tags = [set(cell.metadata.get("tags", [])) for cell in cells]
    for i, here in enumerate(tags):
        if "exercise" not in here:
            assert not {"stub", "solution"} & here or "exercise" in tags[i - 1] | tags[i - 2]
            continue
        assert ("stub" in tags[i + 1], "solution" in tags[i + 2]) == (True, True)
        assert re.match(
            r"### Exercise [\w.]+ · .+\n\n\*[★☆]{3} · \d+ minutes\*\n\n\w", cells[i].source
        ), cells[i].source
        assert cells[i + 1].outputs[-1].text.startswith("Not attempted yet.")
        assert cells[i + 2].outputs[-1].text.startswith("Right.")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_are_numbered_in_order(path):
    numbers = [
        re.match(r"### Exercise ([\w.]+)", cell.source)[1]
        for cell in tagged(NOTEBOOKS[path], "exercise")
    ]
    chapter = int(path.stem[:2]) if path.stem[:2].isdigit() else "B"  # "Find the bug"
    assert numbers == [f"{chapter}.{n}" for n in range(1, len(numbers) + 1)]


@pytest.mark.slow
def test_no_check_imports_torch():
    code = "import sys; from bn_helpers import checks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"
