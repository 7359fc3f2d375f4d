"""What is measured about a claim: rules, verdicts, figures, and the sentence that is printed."""

import json
import math
import operator

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_helpers import claims, significance
from bn_helpers.claims import (
    above,
    at_least,
    at_most,
    below,
    between,
    equals,
    falls,
    gains_at_most,
    loses_at_most,
    never,
    or_never,
    reached_by_none,
    rises,
    shown,
    stated,
    within,
)


@pytest.fixture
def measured(monkeypatch):
    """Measure on toy numbers and return the text and the JSON that are shown."""
    import IPython.display

    seen = []
    monkeypatch.setattr(
        IPython.display,
        "display",
        lambda bundle, raw: seen.append((bundle["text/plain"], bundle[claims.MEASURED])),
    )

    positive = above(0)

    def measure(runs, rule=positive, claim="B1", what="steps", **options):
        claims.on("toy numbers")(claim, what, runs, rule, **options)
        return seen[-1]

    return measure


TEN = np.arange(10.0)
TWO = {"without": 50 + TEN, "with": 20 + TEN}
MIXED = {"without": TEN, "with": TEN[::-1]}
THREE = {"a": 90 + TEN, "b": 50 + TEN, "c": 10 + TEN}
PAIRS = {"a": 90 + TEN, "b": 50 + TEN, "c": 70 + TEN, "d": 30 + TEN}
LATE = {"without": [never] * 10, "with": 20 + TEN}
TEST = " (permutation test, p < 0.01)"
PAIRED = " (permutation test, paired by seed, p < 0.01)"

PASSES = [
    (above(2), 2.1, "above 2"),
    (at_least(2), 2, "at least 2"),
    (below(0.5), 0.4, "below 0.5"),
    (at_most(2), 2, "at most 2"),
    (equals(2), 2, "equal to 2"),
    (between(1, 2), 2, "from 1 to 2"),
    (between(1, 2), 1, None),
    (within(0.1, of=1), 1.05, "within 0.1 of 1"),
    (within(0.1), {"a": 1, "b": 1.05}, "b within 0.1 of a"),
    (falls(factor=2), {"a": 9, "b": 4}, "b below a by a factor of 2 or more"),
    (rises(points=1), {"a": 9, "b": 10}, "b above a by 1 or more"),
    (above(2).in_every_run, [3, 4], "every run above 2"),
    (below(40).in_every_run.of("with"), TWO, "every run of with below 40"),
    (
        falls(points=1).in_every_run,
        {"a": [1, 3], "b": [0, 2]},
        "b below a by 1 or more in every run",
    ),
    (within(0.2, of=1).in_every_run, [0.9, 1.1], "every run within 0.2 of 1"),
    (above(2), 3 + TEN, "above 2" + TEST),
    (above(2), [1.9, *(3 + TEN)], None),
    (above(2), TWO, "each above 2" + TEST),
    (below(40).of("with"), TWO, "with below 40" + TEST),
    (below(40).anywhere, TWO, "one at least below 40" + TEST),
    (below(40).of("without", "with").anywhere, TWO, "without or with below 40" + TEST),
    (falls(factor=1), TWO, "with below without" + PAIRED),
    (falls(factor=1.5), TWO, "with below without by a factor of 1.5 or more" + PAIRED),
    (falls(points=30), TWO, "with below without by 30 or more" + PAIRED),
    (falls(points=30), THREE, "each below the one before by 30 or more" + PAIRED),
    (rises(points=30).of("with", "without"), TWO, "without above with by 30 or more" + PAIRED),
    (rises(points=30).of("c", "b", "a"), THREE, None),
    (
        falls(points=20).in_pairs,
        PAIRS,
        "in each pair the second below the first by 20 or more" + PAIRED,
    ),
    (falls(points=20).unpaired, {"a": 50 + TEN[:5], "b": TEN}, "b below a by 20 or more" + TEST),
    (falls(points=20).of_long_runs, {"a": 50 + TEN[:8], "b": TEN[:8]}, None),
    (loses_at_most(0.5), {"a": 1, "b": 0.75}, "b at most 0.5 below a"),
    (loses_at_most(2), {"a": TEN, "b": TEN - 1}, "b at most 2 below a" + PAIRED),
    (gains_at_most(2), {"a": TEN, "b": TEN + 1}, "b at most 2 above a" + PAIRED),
    (falls(factor=2), LATE, "with below without by a factor of 2 or more" + PAIRED),
    (above(5), [never] * 10, "above 5" + TEST),
    (reached_by_none.of("without"), LATE, "every run of without never"),
    (above(40).of("without") & below(40).of("with"), TWO, None),
    (stated("it is so", True), 1, "it is so"),
]
FAILS = [
    (above(2), 2),
    (at_least(2), 1.9),
    (below(0.5), 0.5),
    (at_most(2), 2.1),
    (equals(2), 2.5),
    (between(1, 2), 2.1),
    (within(0.1, of=1), 0.8),
    (within(0.1), {"a": 1, "b": 1.05, "c": 1.15}),
    (falls(factor=2), {"a": 9, "b": 4.6}),
    (rises(points=1), {"a": 9, "b": 9.9}),
    (falls(points=0), {"a": 9, "b": 9}),
    (above(2).in_every_run, [2, 3, 4]),
    (above(2), 1 - TEN),
    (above(40), TWO),
    (below(15).anywhere, TWO),
    (falls(points=1).in_every_run, {"a": [1, 3], "b": [0, 3]}),
    (falls(factor=4), TWO),
    (falls(points=31), TWO),
    (falls(points=-40), {"a": TEN, "b": TEN + 50}),
    (rises(points=0), TWO),
    (falls(points=30), {**THREE, "c": 50 + TEN}),
    (falls(points=20).in_pairs, {**PAIRS, "d": 69 + TEN}),
    (loses_at_most(0.5), {"a": TEN, "b": TEN - 1}),
    (gains_at_most(0.5), {"a": TEN, "b": TEN + 1}),
    (rises(factor=2), LATE),
    (below(5), [never] * 10),
    (reached_by_none, {"a": [never, 1]}),
    (above(40).of("without") & above(40).of("with"), TWO),
    (stated("it is so", np.bool_(False)), 1),
]
OPEN = [
    (above(4), TEN),
    (falls(factor=2), MIXED),
    (rises(points=1), MIXED),
    (loses_at_most(1), MIXED),
    (falls(factor=2), {"a": [never] * 10, "b": [never] * 10}),
    (above(4).of("without") & falls(factor=2), MIXED),
]


@pytest.mark.parametrize(("rule", "runs", "words"), PASSES)
def test_a_rule_passes_what_it_should(measured, rule, runs, words):
    text, row = measured(runs, rule)
    assert row["verdict"] == "holds"
    assert words in (None, row["rule"]["words"])
    assert " ".join(text.split()).endswith(f"Rule: {row['rule']['words']}. Verdict: holds.")
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(("rule", "runs"), FAILS)
def test_a_rule_fails_what_it_should(measured, rule, runs):
    assert measured(runs, rule)[1]["verdict"] == "does not hold"


@pytest.mark.parametrize(("rule", "runs"), OPEN)
def test_what_the_seeds_cannot_tell_is_not_resolved(measured, rule, runs):
    assert measured(runs, rule)[1]["verdict"] == "not resolved"


def test_a_part_that_fails_settles_the_whole(measured):
    """Whatever the seeds cannot tell of the other part."""
    rule = above(40).of("without") & falls(factor=2)
    assert measured(MIXED, rule)[1]["verdict"] == "does not hold"


@pytest.mark.parametrize("compare", [operator.lt, operator.ge, operator.add, operator.truediv])
def test_never_is_no_number(compare):
    for other in (0, 1.5, math.inf, np.float64(2)):
        for pair in ((never, other), (other, never)):
            with pytest.raises(TypeError):
                compare(*pair)
    assert never != math.inf
    with pytest.raises(TypeError):
        float(never)


def test_or_never_replaces_infinity_alone():
    assert or_never(np.array([1, 0, math.inf])) == [1, 0, never]
    assert or_never({"a": [math.inf], "b": [2]}) == {"a": [never], "b": [2]}


def test_the_other_verdicts(measured):
    assert measured(3, above(2).identity)[1]["verdict"] == "identity"
    assert measured(1, above(2).identity)[1]["verdict"] == "does not hold"
    text, row = measured(3, (above(2) & below(4)).where("σ = 5"))
    assert (row["verdict"], row["condition"]) == ("holds where", "σ = 5")
    assert text.endswith("Verdict: holds where σ = 5.")
    assert measured(1, above(2).where("σ = 5"))[1]["condition"] == ""


def test_what_is_shown_is_not_judged(measured):
    text, row = measured({"a": [1, 2], "b": [3, 4]}, shown)
    assert text.endswith(
        "a: 1.5 (1 to 2), b: 3.5 (3 to 4); 2 seeds, toy numbers.\n  Shown, not judged."
    )
    assert (row["verdict"], row["rule"]) == ("shown", {"name": "shown", "words": ""})
    with pytest.raises(ValueError, match="expected a rule for the headline of B1, got shown"):
        measured(1, shown, headline=True)


def test_what_is_printed_says_claim_figures_rule_and_verdict(measured):
    sides = {"raw": [140, 120, 200], "whitened": [50, 40, 64]}
    text, row = measured(sides, falls(factor=1.5).in_every_run, headline=True)
    assert text == (
        "B1 · Whitened inputs make training converge faster (§2).\n"
        "  Headline: steps – raw: 140 (120 to 200), whitened: 50 (40 to 64); 3 seeds, toy\n"
        "    numbers.\n"
        "  Rule: whitened below raw by a factor of 1.5 or more in every run. Verdict: holds."
    )
    assert row == {
        "id": "B1",
        "what": "steps",
        "figures": [
            {"side": "raw", "median": "140", "low": "120", "high": "200"},
            {"side": "whitened", "median": "50", "low": "40", "high": "64"},
        ],
        "runs": 3,
        "over": "seeds",
        "data": "toy numbers",
        "rule": {
            "name": "falls",
            "factor": 1.5,
            "runs": "every",
            "words": "whitened below raw by a factor of 1.5 or more in every run",
        },
        "headline": True,
        "verdict": "holds",
        "condition": "",
    }
    text, row = measured([3, 1, 2], shown, over="units", data="one batch")
    assert "steps: 2 (1 to 3); 3 units, one batch.\n" in text
    assert row["headline"] is False


@pytest.mark.parametrize("claim", ["B6", "C4", "S18"])
def test_no_printed_line_is_wider_than_a_page(measured, claim):
    text, _ = measured({f"side {i}": [1000, 2000] for i in range(9)}, shown, claim=claim)
    assert max(map(len, text.splitlines())) <= 84


@pytest.mark.parametrize(
    ("runs", "form", "figures"),
    [
        (164.2, None, "160"),
        (0.9666, None, "0.97"),
        (-8.34, None, "-8.3"),
        (15451, None, "15,000"),
        (0.00025, None, "0.00025"),
        (2.04e-8, None, "2.0e-08"),
        (3e-17, None, "0"),
        (0, None, "0"),
        (7, None, "7"),
        (7.0001, None, "7.0"),
        (7 + 1e-15, None, "7"),
        (0.996, None, "1.0"),
        (0.14712, ".1%", "14.7%"),
        (2, "+.1f", "+2.0"),
        ([1, 4], None, "2.5 (1 to 4)"),
        ([0.44, never, never], None, "never (0.44 to never)"),
        ([1, 2, never, never], None, "never (1 to never)"),
    ],
)
def test_figures_have_two_digits_unless_told_otherwise(measured, runs, form, figures):
    assert f"steps: {figures}; " in measured(runs, shown, form=form)[0]


def test_the_rule_is_stored_with_its_parameters(measured):
    rule = falls(points=2).of("without", "with") & above(9).in_every_run.anywhere
    stored = measured(TWO, rule & rises(factor=3).unpaired.of_long_runs)[1]["rule"]
    assert stored["rules"] == [
        {
            "name": "and",
            "rules": [
                {"name": "falls", "points": 2, "names": ("without", "with")},
                {"name": "above", "number": 9, "runs": "every", "sides": "any"},
            ],
        },
        {"name": "rises", "factor": 3, "pairs": False, "least": 8},
    ]


@pytest.mark.parametrize(
    ("runs", "rule", "message"),
    [
        (math.inf, above(2), r"expected finite numbers on side '', got \[inf\]; or_never"),
        ([1, math.nan], above(2), "expected finite numbers"),
        ({"a": TEN, "b": TEN[:9]}, falls(points=1), r"as many runs on each side, got \[10, 9\]"),
        ({"a": 1, "b": [1, 2]}, falls(points=1).in_every_run, "as many runs on each side"),
        ([], above(2), "one run or more on each side, got"),
        ({}, above(2), "one run or more on each side, got"),
        ([[1, 2], [3, 4]], above(2), "one number a run on side ''"),
        (np.ones((2, 2)), above(2), "one number a run on side ''"),
        (TWO, above(2).of("wiht"), r"among \['without', 'with'\], got \['wiht'\]"),
        (TEN, falls(points=1), "sides that falls can compare"),
        (THREE, falls(points=1).in_pairs, "sides that falls can compare"),
        (TEN[:9], above(2), "expected 10 pairs of runs or more, got 9"),
        ({"a": TEN[:7], "b": TEN[:7]}, falls(points=1).of_long_runs, "expected 8 pairs of runs"),
        ({"a": TEN[:4], "b": TEN}, falls(points=1).unpaired, "expected 5 runs on each side"),
        (TEN, equals(2), "expected one number a side or in_every_run for equal to"),
        (TWO, within(2), "expected one number a side or in_every_run for within"),
        ({"a": -TEN, "b": TEN}, falls(factor=2), "numbers above 0 where a factor is judged"),
    ],
)
def test_what_cannot_be_judged_is_refused(measured, runs, rule, message):
    with pytest.raises(ValueError, match=message):
        measured(runs, rule)


def test_rules_that_make_no_sense_are_refused(measured):
    with pytest.raises(ValueError, match=r"an identifier in claims\.toml, got 'Z9'"):
        measured(1, claim="Z9")
    with pytest.raises(ValueError, match="expected finite numbers for above"):
        above(math.inf)
    for size in ({}, {"factor": 2, "points": 1}):
        with pytest.raises(ValueError, match="expected a factor or points for falls"):
            falls(**size)
    with pytest.raises(ValueError, match=r"expected a factor of 1 or more for rises, got 0\.5"):
        rises(factor=0.5)
    with pytest.raises(ValueError, match=r"where\(…\) and identity after the whole rule"):
        _ = above(2).identity & below(3)
    with pytest.raises(ValueError, match="a rule that looks at sides, got 'so'"):
        stated("so", True).of("a")


SIDES = st.lists(st.integers(1, 9) | st.just(never), min_size=10, max_size=10)
TWO_SIDES = st.fixed_dictionaries({"a": SIDES, "b": SIDES})


def numbers(runs):
    return np.array([math.inf if run is never else float(run) for run in runs])


@given(sides=TWO_SIDES, order=st.permutations(range(10)))
def test_the_order_of_the_seeds_does_not_matter(sides, order):
    again = {name: [runs[i] for i in order] for name, runs in sides.items()}
    for rule in (falls(factor=2), rises(points=1), above(5), below(5).in_every_run):
        assert rule.judge(sides) is rule.judge(again)


@hypothesis.settings(max_examples=25)
@given(sides=TWO_SIDES, size=st.integers(1, 3))
def test_rules_are_what_their_words_say(sides, size):
    """Against the tests themselves, on differences and on logarithms, with infinity for never."""
    a, b = numbers(sides["a"]), numbers(sides["b"])
    with np.errstate(invalid="ignore"):
        points, ratios = b - a, np.log(b) - np.log(a)
    size_of_factor = math.log(1 + size)
    expected = {
        rises(points=size): significance.paired(points, size),
        falls(points=size): significance.paired(-points, size),
        rises(factor=1 + size): significance.paired(ratios, size_of_factor),
        falls(factor=1 + size): significance.paired(-ratios, size_of_factor),
        loses_at_most(size): significance.paired(points, -size),
        gains_at_most(size): significance.paired(-points, -size),
        above(size).of("a"): significance.paired(a - size, 0),
        below(size).of("b"): significance.paired(size - b, 0),
    }
    for rule, verdict in expected.items():
        assert rule.judge(sides) is verdict, rule.words(sides)
    few = {name: runs[:5] for name, runs in sides.items()}  # more take long
    expected = significance.unpaired(b[:5], a[:5], size)
    assert rises(points=size).unpaired.judge(few) is expected


def test_sides_of_different_numbers_of_runs_say_both(measured):
    """Catches a row that claims the larger number for both sides."""
    text, row = measured({"a": 50 + TEN[:5], "b": TEN}, falls(points=20).unpaired)
    assert (row["runs"], row["most runs"]) == (5, 10)
    assert "5 to 10 seeds" in " ".join(text.split())
