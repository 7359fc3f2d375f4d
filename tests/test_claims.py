"""What is measured about a claim: rules, verdicts, figures, and the sentence that is printed."""

import json
import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_helpers import claims
from bn_helpers.claims import (
    above,
    at_least,
    at_most,
    below,
    between,
    equals,
    falls,
    falls_by,
    loses_at_most,
    never,
    or_never,
    ranges_apart,
    reached_by_none,
    rises,
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


TWO = {"without": [9.0, 5, 4], "with": [3.0, 2, 6]}  # medians 5 and 3
THREE = {"a": [9.0], "b": [5.0], "c": [1.0]}
PAIRS = {"a": [9.0, 8], "b": [5.0, 4], "c": [7.0, 6.5], "d": [3.0, 2]}
LATE = {"without": [9.0, never, never], "with": [3.0, 2, never]}

PASSES = [
    (above(2), [1, 2.1, 9], "above 2"),
    (at_least(2), [1, 2, 9], "at least 2"),
    (below(0.5), [0.4, 0.1, 9], "below 0.5"),
    (at_most(2), [1, 2, 9], "at most 2"),
    (equals(2), 2, "equal to 2"),
    (between(1, 2), 2, "from 1 to 2"),
    (between(1, 2), 1, None),
    (within(0.1, of=1), 1.05, "within 0.1 of 1"),
    (within(0.1), {"a": 1, "b": 1.05}, "b within 0.1 of a"),
    (above(2).in_every_run, [3, 4], "every run above 2"),
    (above(2).in_runs(2), [1, 3, 4], "above 2 in 2 runs or more"),
    (above(2), TWO, "each above 2"),
    (below(4).of("with"), TWO, "with below 4"),
    (below(7).in_every_run.of("with"), TWO, "every run of with below 7"),
    (below(4).anywhere, TWO, "one at least below 4"),
    (below(4).of("without", "with").anywhere, TWO, "without or with below 4"),
    (below(9.5).of("a", "b", "c"), THREE, "a, b and c below 9.5"),
    (falls, TWO, "with below without"),
    (falls, THREE, "each below the one before"),
    (rises.of("with", "without"), TWO, "without above with"),
    (falls.in_runs(2), TWO, "with below without in 2 runs or more, a tie counting half"),
    (falls.in_runs(2), {"a": [1, 2, 2], "b": [0, 2, 2]}, None),
    (within(0).in_runs(2), {"a": [1, 2, 2], "b": [0, 2, 2]}, "b within 0 of a in 2 runs or more"),
    (falls.in_every_run, {"a": [1, 3], "b": [0, 2]}, "b below a in every run"),
    (falls.apart, {"a": [3, 4], "b": [1, 2]}, "every run of b below every run of a"),
    (
        falls.apart.in_pairs,
        PAIRS,
        "in each pair every run of the second below every run of the first",
    ),
    (falls_by(2), {"a": 9, "b": 4}, "b below 1/2 of a"),
    (loses_at_most(0.5), {"a": 1, "b": 0.5}, "b at most 0.5 below a"),
    (ranges_apart, {"a": [1, 2], "b": [3, 4]}, None),
    (ranges_apart, {"a": [3, 4], "b": [1, 2]}, None),
    (above(4).of("without") & below(4).of("with"), TWO, "without above 4, and with below 4"),
    (above(9) | below(6), TWO, "each above 9, or each below 6"),
    (~above(9), TWO, "not (each above 9)"),
    (reached_by_none.of("b"), {"a": [1], "b": [never]}, "every run of b never"),
    (below(5).late, [1, 2, never], "below 5 (never counts as late)"),
    (falls.late, LATE, "with below without (never counts as late)"),
    (stated("it is so", True), 1, "it is so"),
]
FAILS = [
    (above(2), [1, 2, 9]),
    (at_least(2), [1, 1.9, 9]),
    (below(0.5), [0.1, 0.5, 9]),
    (at_most(2), [1, 2.1, 9]),
    (equals(2), 2.5),
    (between(1, 2), 2.1),
    (within(0.1, of=1), 0.8),
    (within(0.1), {"a": 1, "b": 1.05, "c": 1.15}),
    (above(2).in_every_run, [2, 3, 4]),
    (above(2).in_runs(2), [1, 2, 4]),
    (above(4), TWO),
    (below(4).of("without"), TWO),
    (below(6).in_every_run.of("with"), TWO),
    (below(3).anywhere, TWO),
    (rises, TWO),
    (falls, {**THREE, "c": [5.0]}),
    (falls.in_runs(3), TWO),
    (falls.in_runs(3), {"a": [1, 2, 2], "b": [0, 2, 2]}),
    (within(0).in_runs(3), {"a": [1, 2, 2], "b": [0, 2, 2]}),
    (falls.in_every_run, {"a": [1, 3], "b": [0, 3]}),
    (falls.apart, {"a": [2, 4], "b": [1, 2]}),
    (falls.apart.in_pairs, {**PAIRS, "d": [5.0, 7]}),
    (falls_by(2), {"a": 9, "b": 4.5}),
    (loses_at_most(0.5), {"a": 1, "b": 0.4}),
    (ranges_apart, {"a": [1, 3], "b": [2, 4]}),
    (above(4).of("without") & above(4).of("with"), TWO),
    (above(9) | below(4), TWO),
    (~above(2), TWO),
    (reached_by_none, {"a": [never, 1]}),
    (above(5).late, [1, 2, never]),
    (rises.late, LATE),
    (stated("it is so", np.bool_(False)), 1),
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


@pytest.mark.parametrize("rule", [above(0), below(9), falls, rises, falls.apart, ~falls, within(5)])
def test_never_is_not_resolved_unless_the_rule_says_what_it_is(measured, rule):
    """Catches a "never" that passes as 0 or as infinity, as in 0.0 < 4.9."""
    assert measured(LATE, rule)[1]["verdict"] == "not resolved"


def test_never_settles_nothing_against_never(measured):
    both = {"a": [never], "b": [never]}
    assert measured(both, falls.late)[1]["verdict"] == "not resolved"
    assert measured(both, rises.late)[1]["verdict"] == "not resolved"


def test_what_never_cannot_change_is_resolved(measured):
    runs = {"a": [1.0], "b": [never]}
    assert measured(runs, above(2).of("a") & above(2).of("b"))[1]["verdict"] == "does not hold"
    assert measured(runs, above(0).of("a") | above(0).of("b"))[1]["verdict"] == "holds"
    assert measured(runs, above(0).of("a") & above(0).of("b"))[1]["verdict"] == "not resolved"


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


def test_what_neither_rule_decides_is_not_resolved(measured):
    clear = falls.apart.refuted_by(rises.apart)
    for low, verdict in ((1, "holds"), (3, "not resolved"), (6, "does not hold")):
        row = measured({"a": [3, 5], "b": [low, low + 1]}, clear)[1]
        assert row["verdict"] == verdict
    assert row["rule"]["words"] == (
        "holds if every run of b below every run of a; "
        "does not if every run of b above every run of a"
    )
    with pytest.raises(ValueError, match="rules that exclude each other"):
        measured(3, above(1).refuted_by(above(2)))


def test_what_is_printed_says_claim_figures_rule_and_verdict(measured):
    text, row = measured({"raw": [140, 120, 200], "whitened": [50, 40, 64]}, falls, headline=True)
    assert text == (
        "B1 · Whitened inputs make training converge faster (§2).\n"
        "  Headline: steps – raw: 140 (120 to 200), whitened: 50 (40 to 64); 3 seeds, toy\n"
        "    numbers.\n"
        "  Rule: whitened below raw. Verdict: holds."
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
        "rule": {"name": "falls", "words": "whitened below raw"},
        "headline": True,
        "verdict": "holds",
        "condition": "",
    }
    text, row = measured([3, 1, 2], over="units", data="one batch")
    assert "steps: 2 (1 to 3); 3 units, one batch.\n" in text
    assert row["headline"] is False


@pytest.mark.parametrize("claim", ["B6", "C4", "S18"])
def test_no_printed_line_is_wider_than_a_page(measured, claim):
    text, _ = measured({f"side {i}": [1000, 2000] for i in range(9)}, above(2), claim=claim)
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
    assert f"steps: {figures}; " in measured(runs, above(-99), form=form)[0]


def test_the_rule_is_stored_with_its_parameters(measured):
    rule = (falls.of("without", "with").in_runs(2) & ~above(9).late.anywhere) | within(1, of=2)
    assert measured(TWO, rule)[1]["rule"] == {
        "name": "or",
        "rules": [
            {
                "name": "and",
                "rules": [
                    {"name": "falls", "runs": 2, "names": ("without", "with")},
                    {
                        "name": "not",
                        "rules": [{"name": "above", "number": 9, "sides": "any", "never": "late"}],
                    },
                ],
            },
            {"name": "within", "tolerance": 1, "of": 2},
        ],
        "words": "with below without in 2 runs or more, a tie counting half, and not (one at least "
        "above 9 (never counts as late)), or each within 1 of 2",
    }


@pytest.mark.parametrize(
    ("runs", "rule", "message"),
    [
        (math.inf, above(2), r"expected finite numbers on side '', got \[inf\]; or_never"),
        ([1, math.nan], above(2), "expected finite numbers"),
        (
            {"a": [1, 2], "b": [1]},
            above(2),
            r"as many runs on each side, one or more, got \[1, 2\]",
        ),
        ([], above(2), "one or more, got"),
        ({}, above(2), "one or more, got"),
        ([[1, 2], [3, 4]], above(2), "one number a run on side ''"),
        (np.ones((2, 2)), above(2), "one number a run on side ''"),
        (TWO, above(2).of("wiht"), r"among \['without', 'with'\], got \['wiht'\]"),
        ([1, 2], falls, "sides that falls can compare"),
        (THREE, falls.in_pairs, "sides that falls can compare"),
        (TWO, above(2).in_runs(4), "number of runs from 1 to 3, got 4"),
        ({"a": 1, "b": [1, 2]}, falls.in_every_run, "as many runs on each side"),
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
    with pytest.raises(ValueError, match="expected a rule that compares sides, got above"):
        _ = above(2).apart
    for rule in (equals(2), between(1, 2), within(1), within(1, of=2), loses_at_most(1)):
        with pytest.raises(ValueError, match="expected a rule that only orders"):
            _ = rule.late
    with pytest.raises(ValueError, match=r"where\(…\) and identity after the whole rule"):
        _ = above(2).identity & below(3)
    with pytest.raises(ValueError, match="a rule that looks at sides, got 'so'"):
        stated("so", True).of("a")


SIDES = st.lists(st.integers(-3, 3) | st.just(never), min_size=4, max_size=4)
TWO_SIDES = st.fixed_dictionaries({"a": SIDES, "b": SIDES})
RULES = st.sampled_from(
    [
        rule
        for base in (above(0), at_least(1), below(2), at_most(0), falls, rises)
        for rule in (base, base.late, base.in_every_run, base.in_runs(3).late, base.anywhere)
    ]
    + [falls.apart, rises.apart.late, ranges_apart, within(1), within(1, of=0), loses_at_most(1)]
)


@given(rule=RULES, sides=TWO_SIDES, order=st.permutations(range(4)))
def test_the_order_of_the_seeds_does_not_matter(rule, sides, order):
    again = {name: [runs[i] for i in order] for name, runs in sides.items()}
    assert rule.judge(sides) is rule.judge(again)


@given(a=RULES, b=RULES, sides=TWO_SIDES)
def test_negation_and_de_morgan(a, b, sides):
    found = a.judge(sides)
    assert (~a).judge(sides) is {True: False, False: True, None: None}[found]
    assert (~(a & b)).judge(sides) is (~a | ~b).judge(sides)
    assert (a & ~a).judge(sides) is not True
    assert a.words(sides) != b.words(sides) or found is b.judge(sides)


@given(sides=TWO_SIDES, number=st.integers(-3, 3))
def test_rules_are_what_their_words_say(sides, number):
    """Against NumPy, with infinity in the place of what is never, where that is meant."""
    a, b = (np.array([math.inf if x is never else x for x in runs]) for runs in sides.values())
    expected = {
        above(number): min(np.median(a), np.median(b)) > number,
        below(number).in_every_run: max(a.max(), b.max()) < number,
        falls: np.median(b) < np.median(a),
        falls.apart: b.max() < a.min(),
        ranges_apart: b.max() < a.min() or a.max() < b.min(),
        rises.in_runs(3): np.sum(b > a) + np.sum(b == a) / 2 >= 3,
        rises.in_every_run: (b > a).all(),
    }
    for rule, passed in expected.items():
        if np.isfinite([a, b]).all():
            assert rule.judge(sides) is bool(passed)
        else:
            assert rule.judge(sides) is not True
    first = next(iter(sides))
    half_never = np.sort(a)[2] == math.inf
    assert above(number).of(first).late.judge(sides) is bool(half_never or np.median(a) > number)
    assert below(number).of(first).late.judge(sides) is bool(np.median(a) < number)
