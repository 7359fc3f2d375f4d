"""The machinery of the checks: whatever a learner hands over gets a verdict."""

import functools
import os
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from bn_helpers import checks
from bn_helpers.checks import guard
from bn_helpers.checks.engine import Exercise, Mistake, Question, is_stub

EXERCISE = Exercise(
    "double",
    lambda wrong: lambda x: (x + ("plus 1" in wrong)) * (3 if "thrice" in wrong else 2),
    lambda: [(np.array([[1.0, 2.0], [3.0, 4.0]]),), (np.array([5.0, 7.0]),)],
    ["y"],
    {
        "thrice": Mistake("it is three times x", "02, Summary"),
        "plus 1": Mistake("1 is added first", "02, Summary"),
    },
    ["a nudge", "nearly it"],
)
#: For what does not end; everything else has the usual limit, which a busy machine needs.
QUICK = Exercise("quick", EXERCISE.model, EXERCISE.trials, ["y"], {}, ["a", "b"], seconds=0.3)
TWO = Exercise(
    "two",
    lambda wrong: lambda x: (x.sum(), x * 2),
    lambda: [(np.array([1.0, 2.0]),)],
    ["total", "double"],
    {},
    ["a", "b"],
)


def said(attempt, exercise=EXERCISE):
    return exercise.judge(attempt).words.splitlines()[0]


def test_right_wrong_and_not_attempted():
    assert EXERCISE.judge(lambda x: 2 * x).words == "Right."
    assert EXERCISE.judge(lambda x: 3 * x).words.splitlines() == [
        "Wrong: y[0, 0] is 3, expected 2 (call 1 of 2).",
        "Mistake: it is three times x: chapter 02, Summary.",
        "For a hint: checks.double.hint()",
    ]


def test_a_pair_is_named():
    assert EXERCISE.judge(lambda x: 3 * (x + 1)).mistakes == ("thrice", "plus 1")


def test_two_results_in_one_array_are_two():
    """Catches an array that is refused because it is no tuple."""
    pair = Exercise(
        "pair",
        lambda wrong: lambda x: (x.min(), x.max()),
        lambda: [(np.array([2.0, 1.0, 7.0]),)],
        ["low", "high"],
        {},
        ["a", "b"],
    )
    for attempt in (lambda x: np.sort(x)[[0, -1]], lambda x: torch.tensor([x.min(), x.max()])):
        assert said(attempt, pair) == "Right."
    assert said(lambda x: np.sort(x)[[-1, 0]], pair) == "Wrong: low is 7, expected 1 (call 1 of 1)."
    assert said(np.sort, pair).startswith("Wrong: low expected low, high, got a ndarray")


def test_no_name_without_a_fit():
    assert EXERCISE.judge(lambda x: 5 * x).mistakes == ()


def test_no_name_where_two_fit():
    """Catches the first of two equal models taken for the answer."""
    alike = Exercise(
        "alike",
        lambda wrong: lambda x: x * (1 + len(wrong)),
        lambda: [(np.ones(3),)],
        ["y"],
        {"a": Mistake("a"), "b": Mistake("b")},
        ["a", "b"],
    )
    assert alike.judge(lambda x: 2 * x).mistakes == ()


def stub(x):
    """Twice x."""
    ...


def only_pass(x):
    pass


def forgot_to_return(x):
    y = 2 * x  # noqa: F841


def not_implemented(x):
    raise NotImplementedError


@pytest.mark.parametrize("attempt", [stub, only_pass, not_implemented, lambda x: ...])
def test_not_attempted(attempt):
    assert EXERCISE.judge(attempt).outcome == "not attempted"


def in_place(x):
    x *= 2
    return x


def divides(x):
    return x / (1 // 0)


def endless(x):
    while True:
        x = x + 1


def endless_and_deaf(x):
    while True:
        try:
            x = x + 1
        except:  # noqa: E722
            x = 0


def bottomless(x):
    return bottomless(x)


def leaves(x):
    sys.exit("bye")


def long_words(x):
    raise ValueError("a" * 1000 + "\nmore")


class Hostile:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("no")

    def __bool__(self):
        raise RuntimeError("no")

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None


class Doubler:
    def __call__(self, x):
        return 2 * x


TRIPLE = Exercise(
    "mend",
    EXERCISE.model,
    EXERCISE.trials,
    ["y"],
    {**EXERCISE.mistakes, "thrice": Mistake("it is still too large")},
    ["a nudge", "nearly it"],
    planted="thrice",
)


@pytest.mark.parametrize("attempt", [lambda x: 3 * x, lambda x: x + x + x])
def test_a_planted_bug_is_not_attempted(attempt):
    """The code as it was handed out, or a form of it that gives the same."""
    assert TRIPLE.judge(attempt) == (
        "not attempted",
        "Not attempted yet. This does what the code did as it was.\n"
        "Mend it and run the cell again.\nFor a hint: checks.mend.hint()",
        ("thrice",),
    )


@pytest.mark.parametrize("attempt", [None, ..., stub, not_implemented, lambda x: ...])
def test_a_planted_bug_has_no_dots_to_fill_in(attempt):
    assert said(attempt, TRIPLE).startswith("Not attempted yet. Mend the code and run")


def test_a_mend_of_a_planted_bug_is_judged_like_any_code():
    assert TRIPLE.judge(lambda x: 2 * x).words == "Right."
    assert TRIPLE.judge(lambda x: 2 * (x + 1)).mistakes == ("plus 1",)
    assert TRIPLE.judge(lambda x: 5 * x).outcome == "wrong"
    assert TRIPLE.judge(in_place).words.startswith("Wrong: it changes its argument number 1")


def test_a_planted_bug_is_named_beside_a_new_mistake():
    assert TRIPLE.judge(lambda x: 3 * (x + 1)).words.splitlines()[1:3] == [
        "Mistake: it is still too large.",
        "Mistake: 1 is added first: chapter 02, Summary.",
    ]


@pytest.mark.parametrize(
    ("attempt", "line"),
    [
        (forgot_to_return, "y is None; is a return missing?"),
        (in_place, "it changes its argument number 1 in place; the caller still needs it."),
        (divides, "it raised ZeroDivisionError: integer division or modulo by zero in line "),
        (divides, ", in divides: return x / (1 // 0)."),
        (bottomless, "it raised RecursionError: maximum recursion depth exceeded"),
        (leaves, "it raised SystemExit: bye in line "),
        (long_words, "it raised ValueError: aaa"),
        (
            lambda: 3,
            "it raised TypeError: <lambda>() takes 0 positional arguments but 1 was given.",
        ),
        (Hostile, "it raised TypeError: Hostile() takes no arguments."),
        (lambda x: Hostile(), "y is no array of numbers, but a Hostile"),
        (lambda x: (2 * x, x.mean(0)), "y is a tuple of 2; return y alone (call 1 of 2)."),
        (lambda x: "twice", "y is no array of numbers, but a str"),
        (lambda x: [[1], [1, 2]], "y is no array of numbers, but a list"),
        (lambda x: 3, "y has shape (), expected (2, 2) (call 1 of 2)."),
        (lambda x: x[:1], "y has shape (1, 2), expected (2, 2) (call 1 of 2)."),
        (lambda x: x * np.nan, "y[0, 0] is nan, expected 2 (call 1 of 2)."),
        (lambda x: 2 * x + 1j, "y is no array of numbers, but a ndarray"),
        (lambda x: 2.001 * x, "y[0, 0] is 2.001, expected 2 (call 1 of 2)."),
        (lambda x: 2.0001 * x, "y[0, 0] is 2.0001, expected 2 (call 1 of 2)."),
        (3, "expected what you wrote, got its result or something else (of type int); "),
        (np.ones((2, 2)), "expected what you wrote, got its result or something else (of type nd"),
        ("2 * x", "expected what you wrote, got its result or something else (of type str); "),
        (Hostile(), "expected what you wrote, got its result or something else (of type Hostile"),
    ],
)
def test_whatever_is_handed_over_gets_a_line(attempt, line):
    assert line in said(attempt)
    assert EXERCISE.judge(attempt).outcome == "wrong"


@pytest.mark.parametrize("attempt", [endless, endless_and_deaf])
def test_what_does_not_end(attempt):
    assert said(attempt, QUICK).startswith("Wrong: it did not end within 0.3 s in line ")


def prints(x):
    print("here", x)
    print("and there", file=sys.stderr)
    return 2 * x


@pytest.mark.parametrize(
    "attempt",
    [
        prints,
        Doubler(),
        functools.partial(np.multiply, 2),
        lambda x: x.astype(np.float32) * 2,
        lambda x: (2 * x).astype(np.float16),
        lambda x: (2 * x).tolist(),
        lambda x: (2 * x).astype(int),
        lambda x: (2 * x).astype(complex),
        lambda x: np.asfortranarray(2 * x),
        lambda x: (2 * x)[None],
        lambda x: 2 * torch.from_numpy(x),
        lambda x: (2 * torch.from_numpy(x)).bfloat16().requires_grad_(),
        lambda x: np.ma.masked_array(2 * x),
    ],
)
def test_right_in_another_form(attempt, capfd):
    assert EXERCISE.judge(attempt).words == "Right."
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("attempt", "line"),
    [
        (lambda x: x.sum(), "total expected total, double, got a float64 (call 1 of 1)."),
        (lambda x: (x, x, x), "total expected total, double, got 3 values (call 1 of 1)."),
        (lambda x: (x.sum(), x), "double[0] is 1, expected 2 (call 1 of 1)."),
        (lambda x: {"total": 3.0}, "double is missing (call 1 of 1)."),
        (lambda x: {"total": 3.0, "double": ...}, "double is still open (call 1 of 1)."),
    ],
)
def test_several_results(attempt, line):
    assert said(attempt, TWO) == f"Wrong: {line}"


def test_what_a_check_leaves_as_it_was():
    """The limit's alarm, what is printed to, and NumPy's way with errors."""
    before = (sys.stdout, np.geterr(), sys.gettrace())
    QUICK.judge(endless)
    assert (sys.stdout, np.geterr(), sys.gettrace()) == before


class Clinging:
    def __del__(self):
        while True:
            self.held = True


def test_a_limit_that_ends_in_a_destructor(capfd):
    """Catches Python's note on what it drops there, which pytest counts as a failure."""

    def lets_go(x):
        Clinging()
        return endless(x)

    hook = sys.unraisablehook
    assert said(lets_go, QUICK).startswith("Wrong: it did not end within 0.3 s in line ")
    assert sys.unraisablehook is hook
    assert capfd.readouterr() == ("", "")


def test_a_limit_in_a_thread():
    """Where no alarm can ring."""
    found = []
    thread = threading.Thread(target=lambda: found.append(guard.run(lambda: endless(1), 0.2)))
    thread.start()
    thread.join(10)
    assert found[0].failure.startswith("it did not end within 0.2 s in line ")


def test_ctrl_c_gets_out():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guard.run(interrupted, 1)


def test_is_stub():
    class Stub:
        def __init__(self):
            self.a = 1

        def forward(self, x):
            """It."""

    class Begun(Stub):
        def forward(self, x):
            return x

    assert [is_stub(a) for a in (stub, only_pass, Stub)] == [True] * 3
    assert [is_stub(a) for a in (prints, Begun, lambda x: None, 3, os)] == [False] * 5


QUESTION = Question(
    "which",
    {"a": "up", "b": 0.25, "c": True, "d": {"x", "y"}},
    {"quarter": ("b", 4, Mistake("b is upside down", "02, Summary"))},
    ["a", "b"],
)


@pytest.mark.parametrize(
    ("answer", "outcome", "line"),
    [
        ({"a": "up", "b": 0.25, "c": True, "d": {"x", "y"}}, "right", "Right."),
        ({"a": " Up", "b": 1 / 4, "c": np.True_, "d": ["y", "x"]}, "right", "Right."),
        ({"a": ...}, "not attempted", "Not attempted yet."),
        ({"a": "up"}, "not attempted", "So far right. Not answered yet: b, c, d."),
        ({"a": "down"}, "wrong", "Wrong: 'a' is not what you say (1 of 4 are wrong)."),
        ({"b": 4}, "wrong", "Mistake: b is upside down: chapter 02, Summary."),
        ({"b": "x", "c": 1}, "wrong", "(2 of 4 are wrong)"),
        ({"b": Hostile(), "d": Hostile()}, "wrong", "it raised"),
        (3, "wrong", "expected a dictionary with the keys a, b, c, d."),
        (Hostile(), "wrong", "expected a dictionary"),
    ],
)
def test_a_question(answer, outcome, line):
    verdict = QUESTION.judge(answer)
    assert verdict.outcome == outcome
    assert line in verdict.words


def test_a_question_of_one_part_takes_the_bare_answer():
    one = Question("one", {"steps": 7}, {}, ["a", "b"])
    assert one.judge(7).outcome == "right"
    assert one.judge(8).words.startswith("Wrong: this is not it.")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text()
    | st.just(...) | st.binary() | st.just(Hostile())
    | arrays(scalar_dtypes(), array_shapes(min_dims=0, max_dims=3, max_side=3)),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
    | st.dictionaries(st.sampled_from(["y", "total", "double", "a", "b", "x"]), inner),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=400)
@given(ANYTHING)
def test_nothing_gets_past_a_check(value):
    """Whatever an attempt returns or is, there is a verdict, and it is not an exception."""
    for check in (EXERCISE, TWO, TRIPLE, checks.forward):
        for attempt in (lambda *arguments: value, value):
            verdict = check.judge(attempt)
            assert verdict.outcome in ("not attempted", "wrong"), verdict
            assert verdict.words.startswith(("Not attempted yet.", "Wrong: "))
    assert QUESTION.judge(value).outcome in ("not attempted", "wrong")


def test_lost_digits_are_named_as_that():
    """Right on paper, lost in floating point: it is not called wrong."""

    def one_pass(x, gamma, beta, eps):
        var = (x**2).mean(axis=0) - x.mean(axis=0) ** 2
        return gamma * (x - x.mean(axis=0)) / np.sqrt(var + eps) + beta

    verdict = checks.forward.judge(one_pass)
    assert (verdict.outcome, verdict.mistakes) == ("right", ("floats",))
    assert verdict.words.startswith("Right on paper, not in floating point: y[0, ")
