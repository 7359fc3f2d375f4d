"""Running code that a learner wrote: it may raise, print, or loop without end."""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import signal
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

#: Code in these folders is not the learner's.
OTHERS = tuple(
    os.path.normcase(folder) + os.sep
    for folder in {os.path.dirname(__file__), *map(sysconfig.get_path, ("stdlib", "purelib"))}
)


class OutOfTimeError(BaseException):
    """The limit has passed. Not an Exception, which a learner's ``except`` would catch."""


class Outcome(NamedTuple):
    """What a call came to: its value, or a line that says how it failed."""

    value: Any = None
    failure: str = ""
    untouched: bool = False  # it raised NotImplementedError: the learner has not begun


class _Sink(io.TextIOBase):
    """Takes what is printed and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def run(call: Callable[[], Any], seconds: float) -> Outcome:
    """Call ``call``, for ``seconds`` at most, and let nothing of it get out.

    What it prints and warns of is dropped. An endless loop ends with a failure where Python can
    interrupt it, which is everywhere but inside a library's compiled code.
    """
    try:
        with (
            contextlib.redirect_stdout(_Sink()),
            contextlib.redirect_stderr(_Sink()),
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
        ):
            warnings.simplefilter("ignore")
            with _limit(seconds):
                return Outcome(call())
    except OutOfTimeError as error:
        return Outcome(failure=f"it did not end within {seconds:g} s{_place(error)}")
    except NotImplementedError:
        return Outcome(untouched=True)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Outcome(failure=f"it raised {_words(error)}{_place(error)}")


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    with _alarm(seconds) if main and hasattr(signal, "setitimer") else _trace(seconds):
        yield


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    armed = True

    def ring(number: int, frame: FrameType | None) -> None:
        if armed:
            raise OutOfTimeError

    def ignored(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, OutOfTimeError):
            said(unraisable)

    before = signal.signal(signal.SIGALRM, ring)
    said, sys.unraisablehook = sys.unraisablehook, ignored
    # Again every 50 ms: the first may end in a learner's bare `except`, in a destructor or in the
    # garbage collector, where Python drops it, with a note that only confuses.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
    try:
        try:
            yield
        finally:
            armed = False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = said


@contextlib.contextmanager
def _trace(seconds: float) -> Iterator[None]:
    """The limit where there are no signals: in a thread, on Windows."""
    end = time.monotonic() + seconds

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise OutOfTimeError
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)


def _words(error: BaseException) -> str:
    """The error's type and the first line of what it says."""
    try:
        said = str(error).strip().splitlines()
    except Exception:
        said = []
    text = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "…"


def _place(error: BaseException) -> str:
    """Where in the learner's code an error arose: line, function and the line's text."""
    frames = traceback.extract_tb(error.__traceback__, limit=-2000)
    theirs = [
        frame
        for frame in frames
        if not os.path.normcase(frame.filename).startswith(OTHERS) and frame.filename[0] != "<"
    ]
    if not theirs:
        return ""
    last = theirs[-1]
    source = linecache.getline(last.filename, last.lineno or 0).strip()
    where = f" in line {last.lineno}" + ("" if last.name[0] == "<" else f", in {last.name}")
    return f"{where}: {source}" if source else where
