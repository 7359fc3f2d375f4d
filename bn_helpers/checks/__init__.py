"""Exercise checkers: ``checks.forward(my_forward)`` says right or wrong, and names the mistake.

Each of a chapter's exercises is checked by one call, which prints one verdict: not attempted, wrong
or right. Wrong comes with the first value that differs and, where the numbers decide, with the name
of the mistake and where to read on. ``checks.forward.hint()`` gives a hint, and then the next.
NumPy is all that the exercises on arrays need.
"""

from bn_helpers.checks import bugs, gradients, maps, statistics, transform, whitening
from bn_helpers.checks.engine import Check, Exercise, Mistake, Question, Verdict

#: All exercises by name: the attributes of this package.
EXERCISES: dict[str, Check] = {
    check.name: check
    for module in (whitening, transform, gradients, statistics, maps, bugs)
    for check in vars(module).values()
    if isinstance(check, Check)
}
globals().update(EXERCISES)

__all__ = ["EXERCISES", "Check", "Exercise", "Mistake", "Question", "Verdict", *EXERCISES]
