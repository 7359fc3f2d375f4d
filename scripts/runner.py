"""Long jobs: side by side in processes, stopped and taken up again, each result stored once.

Every job has a folder of its own, named after a hash of all that determines its result. There lies
what it keeps in order to go on, ``checkpoint.pt``, and in the end ``result.json`` in its place.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

TELL_EVERY = 0.5  # seconds
#: Where a record with other seeds than the book's lies; see ``scripts/fresh.py``.
FRESH = Path(__file__).resolve().parent.parent / "_build" / "fresh" / "records"


class Job(NamedTuple):
    """``key``: a JSON object of all that determines the result; ``steps``: how much work it is."""

    key: dict
    steps: int
    arguments: tuple = ()


class Stopped(Exception):
    """Raised by a job that has saved its state because the time is up."""


def folder_of(job, where):
    """Where the job's files lie; jobs of the same key share it."""
    text = json.dumps(job.key, sort_keys=True)
    return where / hashlib.sha256(text.encode()).hexdigest()[:16]


def result_of(job, where):
    """The stored result, or None."""
    file = folder_of(job, where) / "result.json"
    return json.loads(file.read_text()) if file.is_file() else None


def store(file, write):
    """Let ``write(path)`` make a file that is there as a whole or not at all."""
    partial = file.with_suffix(".part")
    write(partial)
    os.replace(partial, file)


def run_all(work, jobs, where, *, workers=1, minutes=None, prepare=None, arguments=()):
    """Do what is not done yet; the results in the jobs' order, None where the time did not suffice.

    Parameters
    ----------
    work : ``work(*job.arguments, folder, progress)`` → a JSON value. It goes on from what it has
        saved in ``folder``, and calls ``progress(steps done)`` now and then, which says whether the
        time is up: then it saves and raises :class:`Stopped`.
    jobs : :class:`Job` s.
    where : ``pathlib.Path`` of the folder for all of them.
    workers : int, processes.
    minutes : float, after about how many to stop; default: when all is done.
    prepare, arguments : ``prepare(*arguments)`` is called once in each process.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when the processes import it
    deadline = time.time() + 60 * minutes if minutes else None
    todo = {folder_of(job, where): job for job in jobs if result_of(job, where) is None}
    context, done = get_context("spawn"), dict.fromkeys(todo, 0)
    told = context.Queue()
    with (
        ProcessPoolExecutor(
            workers, context, initializer=_start, initargs=(told, deadline, prepare, arguments)
        ) as pool,
        tqdm(total=sum(job.steps for job in todo.values()), unit="step", unit_scale=True) as bar,
    ):
        waiting = [pool.submit(_one, work, job, where) for job in todo.values()]
        try:
            while waiting:
                with suppress(queue.Empty):
                    folder, steps = told.get(timeout=TELL_EVERY)
                    done[folder] = steps
                bar.update(sum(done.values()) - bar.n)
                for future in [future for future in waiting if future.done()]:
                    waiting.remove(future)
                    future.result()  # or its error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [result_of(job, where) for job in jobs]


def _start(told, deadline, prepare, arguments):
    """In each process."""
    global _told, _deadline
    _told, _deadline = told, deadline
    if prepare:
        prepare(*arguments)


def _one(work, job, where):
    folder, last = folder_of(job, where), -TELL_EVERY

    def progress(steps):
        nonlocal last
        if steps == job.steps or time.monotonic() - last > TELL_EVERY:
            _told.put((folder, steps))
            last = time.monotonic()
        return _deadline is not None and time.time() > _deadline

    if progress(0):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(Stopped):
        result = json.dumps(work(*job.arguments, folder, progress))
        store(folder / "result.json", lambda path: path.write_text(result))
        (folder / "checkpoint.pt").unlink(missing_ok=True)
