"""What a chapter measured about a claim, and the rule that judges it.

``measure = claims.on("digits")`` once a notebook, then::

    measure("C1", "steps to 95 %", {"without BN": [70, 90, 50], "with BN": [30, 50, 30]}, falls)

prints the claim, the figures, the rule and the verdict, and stores them in the cell's output, from
which ``scripts/claims.py`` builds the claims page. A rule is an object with words of its own:
``above(2)``, ``rises.in_runs(15)``, ``falls.apart & below(3).of("with BN")``. Unless it says
otherwise it judges the median over the runs of each side, and all sides have to pass.
"""

from __future__ import annotations

import functools
import itertools
import math
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

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


#: What a run "took" that did not get there. It is no number: comparing it raises, and a rule that
#: meets it is not resolved, unless the rule is ``late``.
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
    "holds in part": "◐",
    "does not hold": "○",
    "not resolved": "◌",
    "identity": "≡",
    "not testable here": "–",
    "open": "…",
}


@functools.cache
def wording() -> dict[str, dict[str, dict[str, str]]]:
    """Section's title → identifier → ``place`` and ``claim``; a reason if it is not measured."""
    return tomllib.loads(WORDING.read_text(encoding="utf-8"))


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
    rule : :class:`Rule`, such as ``falls`` or ``above(2)``.
    data : str, what it was measured on.
    over : str, what the runs differ in.
    headline : bool; a claim's headline decides its row alone, and the rest is context.
    form : str, format specification of the figures; default: two significant digits.

    Raises
    ------
    ValueError
        no such claim; NaN or infinity; sides with different numbers of runs; a rule that looks for
        sides that are not there, or has none to compare.
    """
    asked = next((section[claim] for section in wording().values() if claim in section), None)
    if asked is None:
        raise ValueError(f"expected an identifier in {WORDING.name}, got {claim!r}")
    sides, count = _read(runs)
    verdict = rule.verdict(sides)
    words = rule.words(sides)
    row = {
        "id": claim,
        "what": what,
        "figures": _figures(sides, form),
        "runs": count,
        "over": over,
        "data": data,
        "rule": {**rule.stored(), "words": words},
        "headline": headline,
        "verdict": verdict,
        "condition": rule.condition if verdict == "holds where" else "",
    }
    lines = [
        f"{claim} · {asked['claim']} ({asked['place']}).",
        f"  {'Headline: ' * headline}{what}{shown(row)}.",
        f"  Rule: {words}. Verdict: {verdict} {row['condition']}".rstrip() + ".",
    ]
    text = "\n".join(map(PAGE.fill, lines))
    try:
        from IPython.display import display
    except ImportError:
        print(text)
    else:
        display({"text/plain": text, MEASURED: row}, raw=True)


def shown(row: dict[str, Any]) -> str:
    """The figures of a stored row, to follow its ``what``, with the runs and the data."""
    figures = []
    for figure in row["figures"]:
        side = f"{figure['side']}: " if figure["side"] else ""
        span = f" ({figure['low']} to {figure['high']})" if "low" in figure else ""
        figures.append(f"{side}{figure['median']}{span}")
    start = " – " if row["figures"][0]["side"] else ": "
    over = f"{row['runs']} {row['over']}, " if row["runs"] else ""
    return f"{start}{', '.join(figures)}; {over}{row['data']}"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What decides a verdict; ``a & b``, ``a | b`` and ``~a`` are rules too.

    A rule says True, False or None, which is: not resolved. ``None`` goes through ``&``, ``|`` and
    ``~`` unless the other part settles the matter.
    """

    if_true: str = "holds"
    condition: str = ""

    def judge(self, sides: Sides) -> bool | None:
        """True, False or None for ``sides``: dict, side → list of numbers and never."""
        raise NotImplementedError

    def words(self, names: Iterable[str]) -> str:
        """The rule in words, for sides of these names."""
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

    def refuted_by(self, other: Rule) -> Rule:
        """Holds by this rule, does not hold by ``other``, and is not resolved by neither."""
        return _Combined("refuted by", (self, other))

    def __and__(self, other: Rule) -> Rule:
        return _Combined("and", (self, other))

    def __or__(self, other: Rule) -> Rule:
        return _Combined("or", (self, other))

    def __invert__(self) -> Rule:
        return _Combined("not", (self,))


@dataclass(frozen=True)
class SideRule(Rule):
    """A test of one number (of each side by itself) or of two (of each side and one before it).

    Made by the functions below; its methods say which runs and which sides it looks at.
    """

    name: str
    phrase: str  # with {b}, and {a} where two sides are compared
    test: Callable[..., bool]
    parameters: tuple[tuple[str, float], ...] = ()
    runs: str | int = "median"  # or "every", "apart", a least number
    names: tuple[str, ...] = ()
    sides: str = "all"  # or "any", "pairs"
    treats_never: str = "not resolved"  # or "late", "asked"; "no" where a difference is taken

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) for _, number in self.parameters):
            raise ValueError(f"expected finite numbers for {self.name}, got {self.parameters}")

    @property
    def _compares(self) -> bool:
        return "{a}" in self.phrase

    @property
    def _ties(self) -> bool:
        return self._compares and not self.parameters  # of falls and rises, which a tie fails

    def of(self, *names: str) -> SideRule:
        return replace(self, names=names)

    @property
    def in_every_run(self) -> SideRule:
        """This rule in each run; two sides are paired run by run."""
        return replace(self, runs="every")

    def in_runs(self, least: int) -> SideRule:
        """This rule in ``least`` (int) runs or more; a tie is half a run that falls or rises."""
        return replace(self, runs=least)

    @property
    def apart(self) -> SideRule:
        """This rule between any run of one side and any run of the other."""
        if not self._compares:
            raise ValueError(f"expected a rule that compares sides, got {self.name}; in_every_run")
        return replace(self, runs="apart")

    @property
    def anywhere(self) -> SideRule:
        """This rule, passed by one side at least."""
        return replace(self, sides="any")

    @property
    def in_pairs(self) -> SideRule:
        """This rule within the first two sides, within the next two, and so on."""
        return replace(self, sides="pairs")

    @property
    def late(self) -> SideRule:
        """This rule of durations: never is later than any number."""
        if self.treats_never == "no":
            raise ValueError(
                f"expected a rule that only orders, got {self.name}: never has no size"
            )
        return replace(self, treats_never="late")

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
        if self.treats_never not in ("late", "asked") and any(never in runs for runs in group):
            return None
        if self.runs == "median":
            return self._judge_numbers([_median(runs) for runs in group])
        if self.runs == "apart":
            return _all([self._judge_numbers(run) for run in itertools.product(*group)])
        if len(set(map(len, group))) > 1:
            raise ValueError(f"expected as many runs on each side, got {list(map(len, group))}")
        found = [self._judge_numbers(run) for run in zip(*group, strict=True)]
        if self.runs == "every":
            return _all(found)
        if not 0 < self.runs <= len(found):
            raise ValueError(f"expected a number of runs from 1 to {len(found)}, got {self.runs}")
        ties = sum(a == b for a, b in zip(*group, strict=True)) if self._ties else 0
        return found.count(True) + ties / 2 >= self.runs

    def _judge_numbers(self, numbers):
        if len(numbers) == 2 and all(number is never for number in numbers):
            return None  # which of them would have been later nobody knows
        return bool(self.test(*map(_late, numbers)))

    def words(self, names: Iterable[str]) -> str:
        names = self.names or tuple(names)
        if self.sides == "pairs":
            a, b = "the first", "the second"
        elif self._compares:
            a, b = names if len(names) == 2 else ("the one before", "each")
        else:
            a, b = "", _listed(self.names, "and") or ("each" if len(names) > 1 else "")
        if self.sides == "any":
            b = _listed(self.names, "or") or "one at least"
        if self.runs == "apart" or (self.runs == "every" and not self._compares):
            a, b = (f"every run of {side}" if side else "every run" for side in (a, b))
        text = "in each pair " * (self.sides == "pairs") + self.phrase.format(a=a, b=b).strip()
        if self.runs == "every" and self._compares:
            text += " in every run"
        if isinstance(self.runs, int):
            text += f" in {self.runs} runs or more" + ", a tie counting half" * self._ties
        return text + " (never counts as late)" * (self.treats_never == "late")

    def stored(self) -> dict[str, Any]:
        usual = {"runs": "median", "names": (), "sides": "all"}
        changed = {k: getattr(self, k) for k in usual if getattr(self, k) != usual[k]}
        if self.treats_never == "late":
            changed["never"] = "late"
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
        found = [part.judge(sides) for part in self.parts]
        if self.name == "not":
            return None if found[0] is None else not found[0]
        if self.name == "refuted by":
            if found == [True, True]:
                raise ValueError(f"expected rules that exclude each other, got {self.words(sides)}")
            return found[0] or (False if found[1] else None)
        return (_all if self.name == "and" else _any)(found)

    def words(self, names: Iterable[str]) -> str:
        parts = [part.words(names) for part in self.parts]
        if self.name == "not":
            return f"not ({parts[0]})"
        if self.name == "refuted by":
            return f"holds if {parts[0]}; does not if {parts[1]}"
        return f", {self.name} ".join(parts)

    def stored(self) -> dict[str, Any]:
        return {"name": self.name, "rules": [part.stored() for part in self.parts]}

    def of(self, *names: str) -> Rule:
        return replace(self, parts=tuple(part.of(*names) for part in self.parts))


@dataclass(frozen=True)
class _Stated(Rule):
    says: str
    holds: bool

    def judge(self, sides: Sides) -> bool | None:
        return self.holds

    def words(self, names: Iterable[str]) -> str:
        return self.says

    def stored(self) -> dict[str, Any]:
        return {"name": "stated"}

    def of(self, *names: str) -> Rule:
        raise ValueError(f"expected a rule that looks at sides, got {self.says!r}")


def above(number: float) -> SideRule:
    """Larger than ``number``."""
    return _number("above", number, lambda x: x > number)


def at_least(number: float) -> SideRule:
    """``number`` or larger."""
    return _number("at least", number, lambda x: x >= number)


def below(number: float) -> SideRule:
    """Smaller than ``number``."""
    return _number("below", number, lambda x: x < number)


def at_most(number: float) -> SideRule:
    """``number`` or smaller."""
    return _number("at most", number, lambda x: x <= number)


def equals(number: float) -> SideRule:
    """Exactly ``number``: for counts."""
    return replace(_number("equal to", number, lambda x: x == number), treats_never="no")


def between(low: float, high: float) -> SideRule:
    """From ``low`` to ``high``, both included."""
    phrase, size = f"{{b}} from {_plain(low)} to {_plain(high)}", (("low", low), ("high", high))
    return SideRule("between", phrase, lambda x: low <= x <= high, size, treats_never="no")


def within(tolerance: float, of: float | None = None) -> SideRule:
    """At most ``tolerance`` away from the number ``of``; without it, from each other."""
    near = f"{{b}} within {_plain(tolerance)} of "
    if of is None:
        phrase, size = near + "{a}", (("tolerance", tolerance),)
        return SideRule(
            "within", phrase, lambda a, b: abs(a - b) <= tolerance, size, treats_never="no"
        )
    sizes = (("tolerance", tolerance), ("of", of))
    near += _plain(of)
    return SideRule("within", near, lambda x: abs(x - of) <= tolerance, sizes, treats_never="no")


def loses_at_most(number: float) -> SideRule:
    """Each side at least the ones before it, less ``number``."""
    phrase, size = f"{{b}} at most {_plain(number)} below {{a}}", (("number", number),)
    return SideRule("loses at most", phrase, lambda a, b: b >= a - number, size, treats_never="no")


def falls_by(factor: float) -> SideRule:
    """Each side below the ones before it divided by ``factor``."""
    phrase, size = f"{{b}} below 1/{_plain(factor)} of {{a}}", (("factor", factor),)
    return SideRule("falls by", phrase, lambda a, b: b < a / factor, size, treats_never="no")


#: Each side below the ones before it.
falls = SideRule("falls", "{b} below {a}", lambda a, b: b < a)
#: Each side above the ones before it.
rises = SideRule("rises", "{b} above {a}", lambda a, b: b > a)
#: No run of one side between the runs of another, whichever is higher.
ranges_apart = falls.apart | rises.apart
#: No run got there.
reached_by_none = replace(
    SideRule("reached by none", "{b} never", lambda x: x == math.inf),
    runs="every",
    treats_never="asked",
)


def stated(words: str, holds: bool) -> Rule:
    """What the chapter itself computes: ``words`` (str) name it, ``holds`` (bool) decides."""
    return _Stated(words, bool(holds))


def _number(name, number, test):
    return SideRule(name, f"{{b}} {name} {_plain(number)}", test, (("number", number),))


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
    """The runs as dict, side → list of numbers and never, and how many there are; 0: no chance."""
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
    if len(counts) > 1 or 0 in counts or not sides:
        raise ValueError(f"expected as many runs on each side, one or more, got {sorted(counts)}")
    return sides, max(counts, default=0)


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
