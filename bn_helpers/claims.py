"""What a chapter measured about a claim, and the rule that judges it.

``measure = claims.on("digits")`` once a notebook, then::

    steps = {"without BN": [70, 90, 50, …], "with BN": [30, 50, 30, …]}  # one number a seed
    measure("C1", "steps to 95 %", steps, falls(factor=1.2), headline=True)

prints the claim, the figures, the rule and the verdict, and stores them in the cell's output, from
which ``scripts/claims.py`` builds the claims page. A rule is an object with words of its own:
``above(2)``, ``falls(points=1).unpaired``, ``rises(factor=2) & below(3).of("with BN")``. Numbers
without runs are simply compared. Runs are judged by :mod:`bn_helpers.significance`: the same test
for every claim, paired by seed, which holds, does not hold, or cannot tell.
"""

from __future__ import annotations

import functools
import itertools
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

from bn_helpers import records, significance

#: The type under which :func:`measure` stores JSON in a notebook's output.
MEASURED = "application/vnd.bn-helpers.measured+json"
#: Where the wording of the claims stands.
WORDING = Path(__file__).with_name("claims.toml")
#: 84 characters are what a page of usual width shows without scrolling.
PAGE = TextWrapper(84, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
ROUNDING = 1e-10  # what is smaller differs between machines, and is shown as 0


class _Never(Enum):
    """The type of :data:`never`, which has no order and no arithmetic."""

    NEVER = "never"

    def __repr__(self) -> str:
        return "never"


#: What a run "took" that did not get there: later than any number, and no number itself.
never = _Never.NEVER
Number = float | _Never
Sides = dict[str, list[Number]]


def or_never(steps: Any) -> Any:
    """``steps`` (array, or dict of arrays), as lists with :data:`never` in place of infinity."""
    if isinstance(steps, dict):
        return {side: or_never(runs) for side, runs in steps.items()}
    return [never if number == math.inf else float(number) for number in steps]


#: The verdicts and their signs on the claims page.
VERDICTS = {
    "holds": "●",
    "holds where": "◑",
    "does not hold": "○",
    "not resolved": "◌",
    "identity": "≡",
    "not testable here": "–",
    "shown": "·",
}


@functools.cache
def wording() -> dict[str, dict[str, dict[str, str]]]:
    """Section's title → identifier → ``place`` and ``claim``; a reason if it is not measured."""
    return tomllib.loads(WORDING.read_text(encoding="utf-8"))


@functools.cache
def unsettled() -> dict[tuple[str, str], str]:
    """Measurements whose verdict did not stay with other seeds or fewer looks: (claim, what) → how.

    From the record ``fresh``, which ``make fresh`` writes.
    """
    try:
        rows = records.read("fresh")["results"]
    except records.RecordError:
        return {}
    found = {}
    for row in rows:
        variants = {k: v for k, v in row.items() if k.startswith(("other seeds", "every second"))}
        others = [f"{v}: {said}" for v, said in variants.items() if said != row["verdict"]]
        if others:
            found[row["id"], row["what"]] = f"({row['verdict']}; {', '.join(others)})"
    return found


def settled(row: dict[str, Any]) -> tuple[str, str]:
    """Verdict and condition of a stored row; *not resolved* if the verdict did not stay."""
    if how := unsettled().get((row["id"], row["what"])):
        return "not resolved", how
    return row["verdict"], row["condition"]


def on(data: str) -> Callable[..., None]:
    """:func:`measure` on ``data`` (str), what a notebook measures on unless a call says else."""
    return functools.partial(measure, data=data)


def measure(
    claim: str,
    what: str,
    runs: Any,
    rule: Rule,
    *,
    data: str,
    over: str = "seeds",
    headline: bool = False,
    form: str | None = None,
) -> None:
    """Print what was measured about a claim, and store it in the cell's output.

    Parameters
    ----------
    claim : str, the claim's identifier in ``claims.toml``, such as ``"B2"``.
    what : str, the quantity and its unit, such as ``"steps to 95 %"``; once for each claim.
    runs : number, array over the runs, or dict of such, side of a comparison → number or array;
        :data:`never` stands for a run that did not get there.
    rule : :class:`Rule`, such as ``falls(factor=2)`` or ``above(2)``; ``shown`` judges nothing.
    data : str, what it was measured on.
    over : str, what the runs differ in.
    headline : bool; a claim's headline decides its row alone, and the rest is context.
    form : str, format specification of the figures; default: two significant digits.

    Raises
    ------
    ValueError
        no such claim; NaN or infinity; too few runs for a verdict, or different numbers of them
        where they are paired; a rule that looks for sides that are not there, or has none to
        compare; a headline that is not judged.
    """
    asked = next((section[claim] for section in wording().values() if claim in section), None)
    if asked is None:
        raise ValueError(f"expected an identifier in {WORDING.name}, got {claim!r}")
    sides, counts = _read(runs)
    verdict = rule.verdict(sides)
    words = rule.words(sides)
    if headline and verdict == "shown":
        raise ValueError(f"expected a rule for the headline of {claim}, got shown")
    row = {
        "id": claim,
        "what": what,
        "figures": _figures(sides, form),
        "runs": counts[0],
        **({"most runs": counts[-1]} if len(counts) > 1 else {}),
        "over": over,
        "data": data,
        "rule": {**rule.stored(), "words": words},
        "headline": headline,
        "verdict": verdict,
        "condition": rule.condition if verdict == "holds where" else "",
    }
    judged = f"Rule: {words}. Verdict: {verdict} {row['condition']}".rstrip()
    lines = [
        f"{claim} · {asked['claim']} ({asked['place']}).",
        f"  {'Headline: ' * headline}{what}{described(row)}.",
        f"  {judged if verdict != 'shown' else 'Shown, not judged'}.",
    ]
    text = "\n".join(map(PAGE.fill, lines))
    try:
        from IPython.display import display
    except ImportError:
        print(text)
    else:
        display({"text/plain": text, MEASURED: row}, raw=True)


def described(row: dict[str, Any]) -> str:
    """The figures of a stored row, to follow its ``what``, with the runs and the data."""
    figures = []
    for figure in row["figures"]:
        side = f"{figure['side']}: " if figure["side"] else ""
        span = f" ({figure['low']} to {figure['high']})" if "low" in figure else ""
        figures.append(f"{side}{figure['median']}{span}")
    start = " – " if row["figures"][0]["side"] else ": "
    runs = f"{row['runs']} to {row['most runs']}" if "most runs" in row else row["runs"]
    over = f"{runs} {row['over']}, " if runs else ""
    return f"{start}{', '.join(figures)}; {over}{row['data']}"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What decides a verdict; ``a & b`` is a rule too.

    A rule says True, False or None, which is: not resolved. A part that fails settles the whole.
    """

    if_true: str = "holds"
    condition: str = ""

    def judge(self, sides: Sides) -> bool | None:
        """True, False or None for ``sides``: dict, side → list of numbers and never."""
        raise NotImplementedError

    def words(self, sides: Mapping[str, Any]) -> str:
        """The rule in words, for these sides."""
        raise NotImplementedError

    def stored(self) -> dict[str, Any]:
        """Name and parameters as JSON."""
        raise NotImplementedError

    def of(self, *names: str) -> Rule:
        """This rule, for the sides of these names alone, in this order."""
        raise NotImplementedError

    def verdict(self, sides: Sides) -> str:
        """A key of :data:`VERDICTS`."""
        return {True: self.if_true, False: "does not hold", None: "not resolved"}[self.judge(sides)]

    def where(self, condition: str) -> Rule:
        """This rule; what passes it *holds where* ``condition`` (str)."""
        return replace(self, if_true="holds where", condition=condition)

    @property
    def identity(self) -> Rule:
        """This rule; what passes it is an *identity*: it follows by algebra."""
        return replace(self, if_true="identity")

    def __and__(self, other: Rule) -> Rule:
        return _Combined("and", (self, other))


@dataclass(frozen=True)
class SideRule(Rule):
    """A test of one number (of each side by itself) or of two (of each side and one before it).

    Made by the functions below; its methods say which sides it looks at and how it reads runs.
    ``scale`` brings numbers to where a difference is the effect; it is None where a rule has no
    effect that could be tested, but only passes or fails.
    """

    name: str
    phrase: str  # with {b}, and {a} where two sides are compared
    test: Callable[..., bool]
    parameters: tuple[tuple[str, float], ...] = ()
    scale: Callable[[float], float] | None = None
    sign: int = 1  # of the effect: −1 where smaller is better
    size: float = 0.0  # of the effect, on the scale
    runs: str = "tested"  # or "every"
    least: int = significance.PAIRS
    pairs: bool = True
    names: tuple[str, ...] = ()
    sides: str = "all"  # or "any", "pairs"

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) for _, number in self.parameters):
            raise ValueError(f"expected finite numbers for {self.name}, got {self.parameters}")

    @property
    def _compares(self) -> bool:
        return "{a}" in self.phrase

    def of(self, *names: str) -> SideRule:
        return replace(self, names=names)

    @property
    def in_every_run(self) -> SideRule:
        """This rule in each run without exception: for what has no chance in it."""
        return replace(self, runs="every")

    @property
    def unpaired(self) -> SideRule:
        """This rule for sides whose runs have nothing in common; five runs a side suffice."""
        return replace(self, pairs=False)

    @property
    def of_long_runs(self) -> SideRule:
        """This rule for runs that take minutes; eight pairs suffice."""
        return replace(self, least=significance.LONG_PAIRS)

    @property
    def anywhere(self) -> SideRule:
        """This rule, passed by one side at least."""
        return replace(self, sides="any")

    @property
    def in_pairs(self) -> SideRule:
        """This rule within the first two sides, within the next two, and so on."""
        return replace(self, sides="pairs")

    def judge(self, sides: Sides) -> bool | None:
        names = self.names or tuple(sides)
        if missing := [name for name in names if name not in sides]:
            raise ValueError(f"expected sides among {list(sides)}, got {missing}")
        found = [
            self._judge_group([sides[name] for name in group]) for group in self._groups(names)
        ]
        return _any(found) if self.sides == "any" else _all(found)

    def _groups(self, names):
        if not self._compares:
            return [(name,) for name in names]
        if len(names) < 2 or (self.sides == "pairs" and len(names) % 2):
            raise ValueError(f"expected sides that {self.name} can compare, got {list(names)}")
        if self.sides == "pairs":
            return zip(names[::2], names[1::2], strict=True)
        return itertools.combinations(names, 2)

    def _judge_group(self, group):
        group = [[_late(number) for number in runs] for runs in group]
        lengths = set(map(len, group))
        if len(lengths) > 1 and (self.pairs or self.runs == "every"):
            raise ValueError(f"expected as many runs on each side, got {list(map(len, group))}")
        if lengths == {1}:
            return bool(self.test(*(runs[0] for runs in group)))
        if self.runs == "every":
            return _all([bool(self.test(*run)) for run in zip(*group, strict=True)])
        if self.scale is None:
            raise ValueError(f"expected one number a side or in_every_run for {self.name}")
        return self._tested([[self.sign * self.scale(x) for x in runs] for runs in group])

    def _tested(self, group):
        if not self._compares:
            (runs,) = group
            return significance.paired([x - self.size for x in runs], 0.0, least=self.least)
        a, b = group
        if self.pairs:
            differences = [y - x for x, y in zip(a, b, strict=True)]
            return significance.paired(differences, self.size, least=self.least)
        return significance.unpaired(b, a, self.size)

    def words(self, sides: Mapping[str, Any]) -> str:
        names = self.names or tuple(sides)
        if self.sides == "pairs":
            a, b = "the first", "the second"
        elif self._compares:
            a, b = names if len(names) == 2 else ("the one before", "each")
        else:
            a, b = "", _listed(self.names, "and") or ("each" if len(names) > 1 else "")
        if self.sides == "any":
            b = _listed(self.names, "or") or "one at least"
        if self.runs == "every" and not self._compares:
            b = f"every run of {b}" if b else "every run"
        text = "in each pair " * (self.sides == "pairs") + self.phrase.format(a=a, b=b).strip()
        if max(len(sides[name]) for name in names) == 1:
            return text
        if self.runs == "every":
            return text + " in every run" * self._compares
        paired = "paired by seed, " if self._compares and self.pairs else ""
        return f"{text} (permutation test, {paired}p < {significance.LEVEL})"

    def stored(self) -> dict[str, Any]:
        usual = {"runs": "tested", "pairs": True, "names": (), "sides": "all"}
        usual["least"] = significance.PAIRS
        changed = {k: getattr(self, k) for k in usual if getattr(self, k) != usual[k]}
        return {"name": self.name, **dict(self.parameters), **changed}


@dataclass(frozen=True)
class _Combined(Rule):
    name: str
    parts: tuple[Rule, ...]

    def __post_init__(self) -> None:
        if any(part.if_true != "holds" for part in self.parts):
            raise ValueError(
                "expected where(…) and identity after the whole rule, got a part of it"
            )

    def judge(self, sides: Sides) -> bool | None:
        return _all([part.judge(sides) for part in self.parts])

    def words(self, sides: Mapping[str, Any]) -> str:
        return ", and ".join(part.words(sides) for part in self.parts)

    def stored(self) -> dict[str, Any]:
        return {"name": self.name, "rules": [part.stored() for part in self.parts]}

    def of(self, *names: str) -> Rule:
        return replace(self, parts=tuple(part.of(*names) for part in self.parts))


@dataclass(frozen=True)
class _Stated(Rule):
    says: str
    holds: bool | None

    def judge(self, sides: Sides) -> bool | None:
        return self.holds

    def words(self, sides: Mapping[str, Any]) -> str:
        return self.says

    def stored(self) -> dict[str, Any]:
        return {"name": "stated" if self.says else "shown"}

    def of(self, *names: str) -> Rule:
        raise ValueError(f"expected a rule that looks at sides, got {self.says!r}")


def above(number: float) -> SideRule:
    """Larger than ``number``."""
    return _number("above", number, lambda x: x > number, 1)


def at_least(number: float) -> SideRule:
    """``number`` or larger."""
    return _number("at least", number, lambda x: x >= number, 1)


def below(number: float) -> SideRule:
    """Smaller than ``number``."""
    return _number("below", number, lambda x: x < number, -1)


def at_most(number: float) -> SideRule:
    """``number`` or smaller."""
    return _number("at most", number, lambda x: x <= number, -1)


def equals(number: float) -> SideRule:
    """Exactly ``number``: for counts."""
    return replace(_number("equal to", number, lambda x: x == number, 0), scale=None)


def between(low: float, high: float) -> SideRule:
    """From ``low`` to ``high``, both included."""
    phrase, size = f"{{b}} from {_plain(low)} to {_plain(high)}", (("low", low), ("high", high))
    return SideRule("between", phrase, lambda x: low <= x <= high, size)


def within(tolerance: float, of: float | None = None) -> SideRule:
    """At most ``tolerance`` away from the number ``of``; without it, from each other."""
    near = f"{{b}} within {_plain(tolerance)} of "
    if of is None:
        phrase, size = near + "{a}", (("tolerance", tolerance),)
        return SideRule("within", phrase, lambda a, b: abs(a - b) <= tolerance, size)
    sizes = (("tolerance", tolerance), ("of", of))
    near += _plain(of)
    return SideRule("within", near, lambda x: abs(x - of) <= tolerance, sizes)


def falls(*, factor: float | None = None, points: float | None = None) -> SideRule:
    """Each side below the ones before it, by this factor or so many points, the effect's size."""
    return _compared("falls", "below", -1, factor, points)


def rises(*, factor: float | None = None, points: float | None = None) -> SideRule:
    """Each side above the ones before it, by this factor or so many points, the effect's size."""
    return _compared("rises", "above", 1, factor, points)


def loses_at_most(points: float) -> SideRule:
    """Each side no more than ``points`` below the ones before it."""
    rule = rises(points=-points)
    return replace(
        rule,
        name="loses at most",
        phrase=f"{{b}} at most {_plain(points)} below {{a}}",
        parameters=(("points", points),),
    )


def gains_at_most(points: float) -> SideRule:
    """Each side no more than ``points`` above the ones before it."""
    rule = falls(points=-points)
    return replace(
        rule,
        name="gains at most",
        phrase=f"{{b}} at most {_plain(points)} above {{a}}",
        parameters=(("points", points),),
    )


#: No run got there.
reached_by_none = SideRule("reached by none", "{b} never", lambda x: x == math.inf, runs="every")


def stated(words: str, holds: bool) -> Rule:
    """What the chapter itself computes: ``words`` (str) name it, ``holds`` (bool) decides."""
    return _Stated(words, bool(holds))


#: What is context, or has too few runs: it is shown and not judged.
shown: Rule = _Stated("", True, if_true="shown")


def _compared(name, where, sign, factor, points):
    if (factor is None) == (points is None):
        raise ValueError(f"expected a factor or points for {name}, got {factor} and {points}")
    if points is None:
        if factor < 1:
            raise ValueError(f"expected a factor of 1 or more for {name}, got {factor}")
        by = f" by a factor of {_plain(factor)} or more" if factor > 1 else ""
        scale, size, parameters = _log, math.log(factor), (("factor", factor),)
    else:
        by = f" by {_plain(points)} or more" if points else ""
        scale, size, parameters = float, float(points), (("points", points),)

    def test(a, b):
        effect = sign * (scale(b) - scale(a))
        return effect >= size and (effect > size or size > 0)

    phrase = f"{{b}} {where} {{a}}{by}"
    return SideRule(name, phrase, test, parameters, scale, sign, size)


def _log(number):
    if number < 0:
        raise ValueError(f"expected numbers above 0 where a factor is judged, got {number}")
    return math.log(number) if number else -math.inf


def _number(name, number, test, sign):
    phrase, parameters = f"{{b}} {name} {_plain(number)}", (("number", number),)
    return SideRule(name, phrase, test, parameters, float, sign, sign * float(number))


def _plain(number):
    return f"{number:.3g}" if isinstance(number, float) else str(number)


def _listed(names, last):
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _all(found):
    return False if False in found else None if None in found else True


def _any(found):
    return True if True in found else None if None in found else False


def _late(number):
    return math.inf if number is never else number


def _median(runs):
    """Of numbers and never, which stands last."""
    ordered = sorted(runs, key=_late)
    middle = ordered[(len(runs) - 1) // 2], ordered[len(runs) // 2]
    return never if never in middle else sum(middle) / 2


def _read(runs):
    """The runs as dict, side → list of numbers and never; how many there are, 0: no chance."""
    sides, counts = {}, set()
    for name, side in (runs if isinstance(runs, dict) else {"": runs}).items():
        try:
            numbers = list(side)
        except TypeError:
            numbers = [side]
        else:
            counts.add(len(numbers))
        try:
            sides[name] = [x if x is never else float(x) for x in numbers]
        except TypeError:
            raise ValueError(f"expected one number a run on side {name!r}, got {side}") from None
        if not all(x is never or math.isfinite(x) for x in sides[name]):
            raise ValueError(
                f"expected finite numbers on side {name!r}, got {numbers}; "
                "or_never(…) for runs that did not get there"
            )
    if 0 in counts or not sides:
        raise ValueError(f"expected one run or more on each side, got {sorted(counts)}")
    return sides, sorted(counts) or [0]


def _figures(sides, form):
    numbers = [x for side in sides.values() for x in side if x is not never]
    whole = all(abs(x - round(x)) < ROUNDING for x in numbers)
    figures = []
    for name, side in sides.items():
        figure = {"side": name, "median": _figure(_median(side), form, whole)}
        if len(side) > 1:
            ends = (_figure(end(side, key=_late), form, whole) for end in (min, max))
            figure |= dict(zip(("low", "high"), ends, strict=True))
        figures.append(figure)
    return figures


def _figure(number, form, whole):
    if number is never:
        return "never"
    if form:
        return format(number, form)
    if abs(number) < ROUNDING:
        return "0"
    rounded = float(f"{number:.1e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if not -5 < exponent < 7:
        return f"{rounded:.1e}"
    exact = whole and rounded == int(rounded)
    return f"{rounded:,.{0 if exact else max(0, 1 - exponent)}f}"
