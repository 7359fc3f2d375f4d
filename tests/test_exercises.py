"""Stubs are made from solutions, and the page shows both: scripts/exercises.py, book_build."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import exercises  # noqa: E402

SOLUTION = '''\
import numpy as np

x = np.ones(3)  # given


def twice(x):
    """Two times x."""
    double = x + x
    return double


def kept(x):  # given
    return x


class Layer:
    """A layer."""

    def __init__(self):  # given
        self.a = 1

    def forward(self, x):
        return x


def loop(net):
    net.train()
    net.eval()  # new
    return net(1)  # instead of: return net(2)


answers = {
    "a": 1,
}
checks.twice(twice)'''
STUB = '''\
import numpy as np

x = np.ones(3)  # given


def twice(x):
    """Two times x."""
    ...


def kept(x):  # given
    return x


class Layer:
    """A layer."""

    def __init__(self):  # given
        self.a = 1

    def forward(self, x):
        ...


def loop(net):
    net.train()
    return net(2)


answers = {
    "a": ...,
}
checks.twice(twice)'''


def test_a_stub_keeps_what_is_given_and_nothing_of_the_answer():
    assert exercises.stub(SOLUTION) == STUB
    assert exercises.stub(exercises.titled(SOLUTION)) == STUB


def test_the_title_is_written_once():
    once = exercises.titled(SOLUTION)
    assert exercises.titled(once) == once
    assert exercises.untitled(once) == SOLUTION
