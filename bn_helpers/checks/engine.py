"""What all exercises share: three outcomes, the first differing value, the mistake's name.

An exercise is one model of its answer with *switches*: without a switch it computes what is right,
with one the answer that a known mistake gives. A learner's results are compared with the model's on
a few inputs; a mistake is named only where exactly one switch, or else exactly one pair of them,
gives the learner's results.
"""

from __future__ import annotations

import copy
import dis
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from bn_helpers.checks import guard

RIGHT, WRONG, UNTOUCHED = "right", "wrong", "not attempted"
#: Largest difference, as a share of the largest value, by the dtype of a learner's results.
TOLERANCES = {np.dtype(np.float16): 3e-2, np.dtype(np.float32): 1e-3}
TOLERANCE = 1e-5
Wrong = frozenset[str]
NOTHING_WRONG: Wrong = frozenset()


class Mistake(NamedTuple):
    """A known mistake: a sentence that names it, and where the book treats it."""

    sentence: str
    read: str = ""  # "03, Two ways to the input": a chapter and one of its headings

    def __str__(self) -> str:
        chapter, _, heading = self.read.partition(", ")
        return f"{self.sentence}: chapter {chapter}, {heading}." if heading else f"{self.sentence}."


class Verdict(NamedTuple):
    """What a check found: one of three outcomes, its words, the switches of the named mistakes."""

    outcome: str
    words: str
    mistakes: tuple[str, ...] = ()


class Check:
    """An exercise's hints and its verdict. Calling it judges, and prints the verdict."""

    def __init__(self, name: str, hints: Sequence[str]) -> None:
        self.name = name
        self.hints = tuple(hints)
        self._given = 0

    def judge(self, attempt: Any) -> Verdict:
        raise NotImplementedError

    def __call__(self, attempt: Any = ...) -> None:
        print(self.judge(attempt).words)

    def hint(self, number: int | None = None) -> None:
        """Print the next hint, or the one of that ``number``, from 1."""
        self._given = min(self._given + 1 if number is None else number, len(self.hints))
        self._given = max(self._given, 1)
        print(f"Hint {self._given} of {len(self.hints)}: {self.hints[self._given - 1]}")

    def _untouched(self, todo: str = "Fill in the dots", mistakes: Sequence[str] = ()) -> Verdict:
        return Verdict(
            UNTOUCHED,
            f"Not attempted yet. {todo} and run the cell again.\n"
            f"For a hint: checks.{self.name}.hint()",
            tuple(mistakes),
        )

    def _wrong(
        self, complaint: str, named: Iterable[Mistake] = (), mistakes: Iterable[str] = ()
    ) -> Verdict:
        lines = [f"Wrong: {complaint}", *(f"Mistake: {mistake}" for mistake in named)]
        words = "\n".join([*lines, f"For a hint: checks.{self.name}.hint()"])
        return Verdict(WRONG, words, tuple(mistakes))


class Exercise(Check):
    """Code to write, or to mend: a function, or anything that ``play`` knows how to drive.

    Parameters
    ----------
    name
        the check's name in ``checks``.
    model
        ``model(wrong)`` is the right attempt for an empty set of switches, and otherwise an attempt
        with these mistakes.
    trials
        ``trials()`` lists the arguments of each call, arrays in float64, generic and seeded. What
        an exercise needs besides NumPy is imported here, before the clock runs.
    returns
        names of what an attempt returns; more than one is a tuple.
    mistakes
        switch → :class:`Mistake`.
    hints
        graded, from a nudge to nearly the answer.
    play
        ``play(attempt, *arguments)`` → a value, a tuple as in ``returns``, or a dictionary name →
        value. The default calls ``attempt(*arguments)``.
    hard
        ``hard(dtype)`` lists arguments at which a right formula may lose its digits, for results of
        that dtype; ``hard_sentence`` says what happens there.
    keeps_inputs
        whether an attempt must leave its arguments as they are.
    seconds
        the limit for all calls of one check.
    planted
        where the learner mends wrong code, the switch among ``mistakes`` that is the code as it is
        handed out: an attempt that does the same is not attempted. Its sentence is read where a
        mend leaves it in and breaks something else, so it says what a user sees and not the cause.
    """

    def __init__(
        self,
        name: str,
        model: Callable[[Wrong], Any],
        trials: Callable[[], Sequence[tuple[Any, ...]]],
        returns: Sequence[str],
        mistakes: Mapping[str, Mistake],
        hints: Sequence[str],
        *,
        play: Callable[..., Any] | None = None,
        hard: Callable[[np.dtype[Any]], Sequence[tuple[Any, ...]]] | None = None,
        hard_sentence: Mistake | None = None,
        keeps_inputs: bool = True,
        seconds: float = 5.0,
        planted: str | None = None,
    ) -> None:
        super().__init__(name, hints)
        self.model, self.trials, self.returns = model, trials, tuple(returns)
        self.mistakes = dict(mistakes)
        self.play = play or (lambda attempt, *arguments: attempt(*arguments))
        self.hard, self.hard_sentence = hard, hard_sentence
        self.keeps_inputs, self.seconds, self.planted = keeps_inputs, seconds, planted
        self._known: dict[Wrong, list[dict[str, Any]]] = {}

    def judge(self, attempt: Any) -> Verdict:
        """The verdict on a learner's ``attempt``; it never raises."""
        todo = "Fill in the dots" if self.planted is None else "Mend the code"
        if attempt is None or attempt is ... or is_stub(attempt):
            return self._untouched(todo)
        if complaint := _no_code(attempt):
            return self._wrong(complaint)
        # Before the limit begins: a first call may import torch, and torch more.
        right = self.known(NOTHING_WRONG)
        trials = self.trials()
        done = guard.run(lambda: self._results(attempt, trials), self.seconds)
        if done.untouched:
            return self._untouched(todo)
        if done.failure:
            return self._wrong(f"{done.failure}.")
        results, changed = done.value
        if all(value is ... for result in results for value in result.values()):
            return self._untouched(todo)
        difference = self._first_difference(results, right)
        if difference and self.planted is not None:
            handed_out = self.known(frozenset([self.planted]))
            if self._first_difference(results, handed_out) is None:
                todo = "This does what the code did as it was.\nMend it"
                return self._untouched(todo, [self.planted])
        if changed and self.keeps_inputs:
            return self._wrong(
                f"it changes its argument {changed} in place; the caller still needs it.",
                mistakes=["in place"],
            )
        if difference is None:
            return self._hard(attempt, results)
        named = self._named(results)
        return self._wrong(difference, [self.mistakes[name] for name in named], named)

    def known(self, wrong: Wrong) -> list[dict[str, Any]]:
        """What the model gives for the trials with these mistakes; kept."""
        if wrong not in self._known:
            trials = self.trials()
            done = guard.run(lambda: self._results(self.model(wrong), trials), 60)
            if done.value is None:
                raise RuntimeError(f"{self.name}, {set(wrong)}: {done.failure}")
            self._known[wrong] = done.value[0]
        return self._known[wrong]

    def _results(
        self, attempt: Any, trials: Sequence[tuple[Any, ...]]
    ) -> tuple[list[dict[str, Any]], str]:
        """One dictionary name → array (or complaint) a trial, and the first changed argument."""
        results, changed = [], ""
        for arguments in trials:
            given = copy.deepcopy(arguments)
            results.append(_named_arrays(self.play(attempt, *given), self.returns))
            for number, (before, after) in enumerate(zip(arguments, given, strict=True), 1):
                if isinstance(before, np.ndarray) and not np.array_equal(before, after, True):
                    changed = changed or f"number {number}"
        return results, changed

    def _first_difference(
        self, results: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]
    ) -> str | None:
        for number, (result, right) in enumerate(zip(results, truth, strict=True), 1):
            for name, expected in right.items():
                if complaint := _compare(name, result.get(name), expected):
                    return f"{complaint} (call {number} of {len(truth)})."
        return None

    def _named(self, results: Sequence[dict[str, Any]]) -> tuple[str, ...]:
        """The switches of the one mistake, or else the one pair, that gives these results."""
        arrays = [v for result in results for v in result.values() if isinstance(v, np.ndarray)]
        if all(np.isnan(array).all() for array in arrays):
            return ()  # NaN is like any other NaN
        for size in (1, 2):
            fits = [
                switches
                for switches in itertools.combinations(self.mistakes, size)
                if self._first_difference(results, self.known(frozenset(switches))) is None
            ]
            if fits:
                return fits[0] if len(fits) == 1 else ()
        return ()

    def _hard(self, attempt: Any, results: Sequence[dict[str, Any]]) -> Verdict:
        """Right, so far: and where digits are scarce?"""
        if self.hard is None:
            return Verdict(RIGHT, "Right.")
        dtypes = [v.dtype for r in results for v in r.values() if isinstance(v, np.ndarray)]
        trials = self.hard(min(dtypes, key=lambda dtype: dtype.itemsize))
        right = self._results(self.model(NOTHING_WRONG), trials)[0]
        done = guard.run(lambda: self._results(attempt, trials)[0], self.seconds)
        for result, truth in zip(done.value or [{}] * len(right), right, strict=True):
            for name, expected in truth.items():
                found = result.get(name)
                if complaint := _compare(name, found, expected, tolerance=0.05):
                    words = f"Right on paper, not in floating point: {complaint}."
                    return Verdict(RIGHT, f"{words}\n{self.hard_sentence}", ("floats",))
        return Verdict(RIGHT, "Right.")


class Question(Check):
    """Something to choose or to work out: a value, or a dictionary part → value.

    Parameters
    ----------
    answers
        part → the right value: a number, a word, a truth value, or a set of words.
    mistakes
        switch → (part, wrong value, :class:`Mistake`).
    tolerance
        of numbers, as a share.
    """

    def __init__(
        self,
        name: str,
        answers: Mapping[str, Any],
        mistakes: Mapping[str, tuple[str, Any, Mistake]],
        hints: Sequence[str],
        tolerance: float = 1e-2,
    ) -> None:
        super().__init__(name, hints)
        self.answers, self.mistakes, self.tolerance = dict(answers), dict(mistakes), tolerance

    def judge(self, attempt: Any) -> Verdict:
        """The verdict on an answer; it never raises and never says what is right."""
        done = guard.run(lambda: self._judge(attempt), 5)
        return self._wrong(f"{done.failure}.") if done.failure else done.value or self._untouched()

    def _judge(self, attempt: Any) -> Verdict | None:
        if attempt is None or attempt is ...:
            return None
        if not isinstance(attempt, Mapping):
            attempt = {next(iter(self.answers)): attempt} if len(self.answers) == 1 else attempt
        if not isinstance(attempt, Mapping):
            return self._wrong(f"expected a dictionary with the keys {_list(self.answers)}.")
        given = {part: attempt.get(part, ...) for part in self.answers}
        missing = [part for part, value in given.items() if value is ... or value is None]
        if len(missing) == len(given):
            return None
        wrong = [
            part
            for part, value in given.items()
            if part not in missing and not self._same(value, self.answers[part])
        ]
        if not wrong and not missing:
            return Verdict(RIGHT, "Right.")
        if not wrong:
            return Verdict(UNTOUCHED, f"So far right. Not answered yet: {_list(missing)}.")
        named = [
            switch
            for switch, (part, value, _) in self.mistakes.items()
            if part == wrong[0] and self._same(given[part], value)
        ]
        single = len(self.answers) == 1
        first = "this is not it." if single else f"{wrong[0]!r} is not what you say"
        count = "" if single else f" ({len(wrong)} of {len(given)} are wrong)."
        return self._wrong(first + count, [self.mistakes[name][2] for name in named], named)

    def _same(self, given: Any, right: Any) -> bool:
        if isinstance(right, set | frozenset):
            words = {given} if isinstance(given, str) else given
            return {str(w).strip().lower() for w in words} == {str(w).lower() for w in right}
        if isinstance(right, bool):
            return isinstance(given, bool | np.bool_) and bool(given) == right
        if isinstance(right, str):
            return isinstance(given, str) and given.strip().lower() == right.lower()
        value = _array(given)
        if isinstance(value, str) or value.size != 1:
            return False
        return bool(abs(value.item() - right) <= self.tolerance * max(abs(right), 1e-12))


def is_stub(attempt: Any) -> bool:
    """Whether a function, or each method of a class, has nothing but dots and a docstring."""
    if isinstance(attempt, type):
        own = [f for n, f in vars(attempt).items() if isinstance(f, FunctionType)]
        bodies = [f for f in own if f.__name__ != "__init__"]
        return bool(own) and all(map(is_stub, bodies or own))
    if not isinstance(attempt, FunctionType) or attempt.__name__ == "<lambda>":
        return False
    does = {instruction.opname for instruction in dis.get_instructions(attempt)}
    constants = set(map(repr, attempt.__code__.co_consts)) - {"None", repr(attempt.__doc__)}
    return does <= {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"} and (
        constants <= {"Ellipsis"}
    )


def _no_code(attempt: Any) -> str:
    """A complaint about what cannot be called."""
    if callable(attempt):
        return ""
    return (
        f"expected what you wrote, got its result or something else (of type "
        f"{type(attempt).__name__}); hand over the name without calling it."
    )


def _named_arrays(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """name → array, or a complaint, for what an attempt returned."""
    if isinstance(value, Mapping):
        return {str(name): _array(part) for name, part in value.items()}
    if len(names) == 1:
        found = _array(value)
        if isinstance(found, str) and isinstance(value, tuple):
            found = f"is a tuple of {len(value)}; return {names[0]} alone"
        return {names[0]: found}
    if not isinstance(value, tuple | list):
        stacked = _array(value)  # np.array([a, b]) in place of a, b
        value = list(stacked) if np.ndim(stacked) and len(stacked) == len(names) else value
    if not isinstance(value, tuple | list) or len(value) != len(names):
        got = f"{len(value)} values" if isinstance(value, tuple | list) else _kind(value)
        return {name: f"expected {_list(names)}, got {got}" for name in names}
    return {name: _array(part) for name, part in zip(names, value, strict=True)}


def _array(value: Any) -> Any:
    """Numbers as an array, dots as they are, a complaint for anything else."""
    if value is ...:
        return value
    if value is None:
        return "is None; is a return missing?"
    if hasattr(value, "detach"):
        value = value.detach()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).cpu().numpy()
    try:
        found = np.asarray(value)
    except Exception:
        return f"is no array of numbers, but {_kind(value)}"
    if found.dtype.kind in "biu":
        found = found.astype(np.float64)
    if found.dtype.kind == "c" and np.isreal(found).all():
        found = found.real
    if found.dtype.kind != "f":
        return f"is no array of numbers, but {_kind(value)}"
    return found


def _compare(name: str, found: Any, expected: Any, tolerance: float | None = None) -> str:
    """A complaint about the first value that differs, or nothing."""
    if found is None:
        return f"{name} is missing"
    if found is ...:
        return f"{name} is still open"
    if isinstance(found, str) or isinstance(expected, str):
        same = isinstance(found, str) and isinstance(expected, str) and found == expected
        return "" if same else f"{name} {found if isinstance(found, str) else 'is an array'}"
    if found.shape != expected.shape and _squeezed(found) != _squeezed(expected):
        return f"{name} has shape {found.shape}, expected {expected.shape}"
    found = found.reshape(expected.shape)
    finite = expected[np.isfinite(expected)]
    if tolerance is None:
        tolerance = TOLERANCES.get(found.dtype, TOLERANCE)
    allowed = tolerance * max(np.abs(finite).max(initial=0), 1e-12)
    same = np.isclose(found, expected, rtol=0, atol=allowed, equal_nan=True)
    if same.all():
        return ""
    place = tuple(map(int, np.argwhere(~np.atleast_1d(same))[0])) if found.ndim else ()
    where = f"{name}[{', '.join(map(str, place))}]" if place else name
    for digits in (4, 8, 17):
        shown, right = (f"{float(array[place]):.{digits}g}" for array in (found, expected))
        if shown != right:
            break
    return f"{where} is {shown}, expected {right}"


def _squeezed(array: np.ndarray) -> tuple[int, ...]:
    return tuple(n for n in array.shape if n != 1)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


def _list(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names))
