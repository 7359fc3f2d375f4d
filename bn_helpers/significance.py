"""Can so few runs tell two sides apart? Exact permutation tests on ranks.

One rule for all comparisons of runs in the book. An effect of a size named beforehand is *there* if
a permutation test finds p < 0.01 for any effect at all and the median effect is of that size or
larger; it is *not there* if the same test finds p < 0.01 for an effect below that size; otherwise
the seeds cannot tell. Ranks make no assumption about how runs are distributed, and let a run that
never got there be infinitely late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

LEVEL = 0.01
#: Fewest runs that are judged: pairs, pairs of runs that take minutes, and runs of a side unpaired.
PAIRS, LONG_PAIRS, UNPAIRED = 10, 8, 5


def p_paired(differences: Sequence[float]) -> float:
    """Two-sided p of "as often above 0 as below": Wilcoxon's signed ranks, all signs tried.

    ``differences`` (float, one a seed) may be infinite; NaN, of two runs of which neither got
    there, counts as 0.
    """
    from scipy.stats import rankdata

    found = np.array([0.0 if math.isnan(d) else _rounded(d) for d in differences])
    ranks = np.rint(2 * rankdata(np.abs(found))).astype(int)[found != 0]  # twice: ties have halves
    ways = np.ones(1)  # in which the signs of the ranks so far make a sum of 0, 1, 2, …
    for rank in ranks:
        without, with_it = np.pad(ways, (0, rank)), np.pad(ways, (rank, 0))
        ways = without + with_it
    return _two_sided(ways, ranks[found[found != 0] > 0].sum())


def p_unpaired(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p of "the sides could be exchanged": Mann and Whitney's ranks, all divisions tried.

    ``one``, ``other``: float, a run each, as many as there are; infinity is allowed.
    """
    from scipy.stats import rankdata

    runs = [_rounded(run) for run in (*one, *other)]
    ranks = np.rint(2 * rankdata(runs)).astype(int)
    ways = np.zeros((len(one) + 1, ranks.sum() + 1))  # to draw so many ranks with this sum
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, : ways.shape[1] - rank].copy()
    return _two_sided(ways[-1], ranks[: len(one)].sum())


def _two_sided(ways, found):
    """Twice the smaller tail of a distribution of sums, given as the ways to get each of them."""
    tail = min(ways[: found + 1].sum(), ways[found:].sum()) / ways.sum()
    return float(min(1.0, 2 * tail))


def judge(p_any: float, p_size: float, effect: float, size: float) -> bool | None:
    """Whether an effect of ``size`` or more is there: True, False, or None if that is open.

    Parameters
    ----------
    p_any, p_size : float, two-sided p of "no effect" and of "an effect of just this size".
    effect, size : float, the median effect and the named one. A size of 0 asks for the direction
        alone, one below 0 whether no more than that much is lost.
    """
    p_holds = p_any if size > 0 else p_size
    if p_holds < LEVEL and effect >= size and (effect > size or size > 0):
        return True
    return False if p_size < LEVEL and effect < size else None


def paired(differences: Sequence[float], size: float, *, least: int = PAIRS) -> bool | None:
    """:func:`judge` on one difference a seed. ValueError for fewer than ``least`` (int)."""
    _enough(len(differences), least, "pairs of runs")
    known = [0.0 if math.isnan(d) else _rounded(d) for d in differences]
    unless = [math.nan if math.isnan(d) else _rounded(d) - _rounded(size) for d in differences]
    return judge(p_paired(differences), p_paired(unless), median(known), _rounded(size))


def unpaired(one: Sequence[float], other: Sequence[float], size: float) -> bool | None:
    """:func:`judge` on ``one`` less ``other``. ValueError for fewer than five runs on a side."""
    _enough(min(len(one), len(other)), UNPAIRED, "runs on each side")
    shifted = [run + size for run in other]
    effect = float(median(one)) - float(median(other))
    effect = 0.0 if math.isnan(effect) else _rounded(effect)
    return judge(p_unpaired(one, other), p_unpaired(one, shifted), effect, _rounded(size))


def _rounded(number):
    """To ten digits: what differs by rounding alone is a tie."""
    return float(f"{number:.10g}")


def _enough(found, least, what):
    if found < least:
        raise ValueError(f"expected {least} {what} or more, got {found}: show them, judge nothing")
