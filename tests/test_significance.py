"""Exact permutation tests: against SciPy's, against counting by hand, and what they decide."""

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, rankdata, wilcoxon

from bn_helpers import significance
from bn_helpers.significance import judge, p_paired, p_unpaired, paired, unpaired

SMALL = st.integers(-4, 4).map(float) | st.just(math.inf)
REACHED = st.lists(SMALL, min_size=4, max_size=6)


@given(st.lists(SMALL, min_size=1, max_size=9))
def test_paired_is_counting_all_signs(differences):
    """Catches a tie whose half rank is cut off, a zero that counts, and one tail for two."""
    ranks = rankdata(np.abs(differences))
    sums = [
        sum(r for r, d, s in zip(ranks, differences, signs, strict=True) if s * d > 0)
        for signs in product((1, -1), repeat=len(ranks))
    ]
    found = sum(r for r, d in zip(ranks, differences, strict=True) if d > 0)
    tail = min(np.mean(np.array(sums) <= found), np.mean(np.array(sums) >= found))
    assert p_paired(differences) == pytest.approx(min(1, 2 * tail))


@given(REACHED, REACHED)
def test_unpaired_is_counting_all_divisions(one, other):
    ranks, n = rankdata([*one, *other]), len(one)
    sums = [sum(some) for some in combinations(ranks, n)]
    low = np.mean(np.array(sums) <= sum(ranks[:n]) + 1e-9)
    high = np.mean(np.array(sums) >= sum(ranks[:n]) - 1e-9)
    assert p_unpaired(one, other) == pytest.approx(min(1, 2 * min(low, high)))


def test_without_ties_they_are_scipys():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.normal(size=(2, 10))
        assert p_paired(a - b) == pytest.approx(wilcoxon(a, b, method="exact").pvalue)
        expected = mannwhitneyu(a, b, method="exact").pvalue
        assert p_unpaired(a, b) == pytest.approx(expected)


def test_so_few_runs_can_just_be_told_apart():
    """The least numbers are those with which p < 0.01 is possible: 10 leave room for a tie."""
    assert p_paired([1] * significance.LONG_PAIRS) == 2 / 2**8 < significance.LEVEL
    assert p_paired([1] * (significance.LONG_PAIRS - 1)) > significance.LEVEL
    five = [1, 2, 3, 4, 5]
    assert p_unpaired(five, [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)
    assert p_unpaired(five[1:], [6, 7, 8, 9]) > significance.LEVEL


@pytest.mark.parametrize(
    ("differences", "size", "verdict"),
    [
        ([3.0] * 10, 2, True),
        ([3.0] * 10, 3, True),
        ([1.0] * 10, 2, False),  # an effect, and too small
        ([-3.0] * 10, 2, False),
        ([3.0] * 6 + [-3.0] * 4, 2, None),
        ([3.0] * 6 + [1.9] * 4, 2, True),
        ([0.0] * 10, 0, None),  # no direction
        ([0.0] * 10, 1, False),
        ([-0.5] * 10, -1, True),  # no more than 1 is lost
        ([-1.5] * 10, -1, False),
        ([-1.0] * 10, -1, None),
        ([math.inf] * 10, 2, True),  # the other side never got there
        ([-math.inf] * 10, 2, False),
        ([math.nan] * 10, 0, None),  # neither did
        ([math.nan] * 10, 1, None),
        ([math.inf] * 5 + [-math.inf] * 5, 2, None),
    ],
)
def test_three_verdicts_on_pairs(differences, size, verdict):
    assert paired(differences, size) is verdict
    if np.isfinite(differences).all():
        a = np.arange(10.0) * 1e-9
        assert unpaired(np.array(differences) + a, a, size) in (verdict, None)


def test_unpaired_sides_may_differ_in_number():
    assert unpaired([5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 4.5], 2) is True
    assert unpaired([5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 4.5], 20) is False
    assert unpaired([5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 13, 14, 15], 2) is None
    assert unpaired([math.inf] * 5, [1, 2, 3, 4, 5], 3) is True
    assert unpaired([math.inf] * 5, [math.inf] * 5, 0) is None


def test_a_significant_trifle_is_not_the_effect_named():
    """Catches a verdict from p alone, and one from the size alone."""
    assert judge(0.001, 0.2, effect=0.1, size=1.0) is None
    assert judge(0.001, 0.001, effect=0.1, size=1.0) is False
    assert judge(0.05, 0.5, effect=2.0, size=1.0) is None
    assert judge(0.001, 0.5, effect=2.0, size=1.0) is True


def test_too_few_are_shown_and_not_judged():
    with pytest.raises(ValueError, match="expected 10 pairs of runs or more, got 9: show them"):
        paired([1.0] * 9, 0)
    assert paired([1.0] * 8, 0, least=significance.LONG_PAIRS) is True
    with pytest.raises(ValueError, match="expected 5 runs on each side or more, got 4"):
        unpaired([1.0] * 9, [2.0] * 4, 0)


@given(st.lists(SMALL, min_size=10, max_size=10), st.permutations(range(10)), st.integers(-2, 2))
def test_the_order_of_the_seeds_does_not_matter(differences, order, size):
    again = [differences[i] for i in order]
    assert paired(again, size) is paired(differences, size)


@given(st.lists(SMALL, min_size=10, max_size=10), st.integers(1, 3))
def test_an_effect_and_its_opposite_are_never_both_there(differences, size):
    opposite = [-d for d in differences]
    assert (paired(differences, size), paired(opposite, size)) != (True, True)
    if paired(differences, size):
        assert paired(differences, 0) is True
        assert paired(opposite, 0) is False
