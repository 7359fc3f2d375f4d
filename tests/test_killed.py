"""Runs that are really killed, with kill -9, and runs of two processes, one of which is killed.

A new process imports for seconds. Most of those here are forks of one that has imported all.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import assert_same, checkpoint, command, row

import bn_helpers
from bn_helpers.training import command_line

pytestmark = pytest.mark.slow
ROOT = Path(bn_helpers.__file__).resolve().parent.parent
OFTEN = ("--quiet", "--every", 20, "--save-every", 1, "--resume")
MOMENTS = ("while it writes", "before it renames", "after it renamed")
PATIENCE = 400  # seconds until a test gives up


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(arguments, environment, moment=None, number=0):
    """Run the command; at its checkpoint ``number``, die at that moment."""
    saves, real_save, real_replace = 0, torch.save, os.replace

    def save(content, file):
        nonlocal saves
        saves += 1
        buffer = io.BytesIO()
        real_save(content, buffer)
        raw = buffer.getvalue()
        if saves == number and moment == MOMENTS[0]:
            file.write(raw[: len(raw) // 2])
            file.flush()
            die()
        file.write(raw)

    def replace(source, target):
        now = saves == number and Path(target).name == "checkpoint.pt"
        if now and moment == MOMENTS[1]:
            die()
        real_replace(source, target)
        if now and moment == MOMENTS[2]:
            die()

    os.environ.update(environment)
    if moment:
        torch.save, os.replace = save, replace
    sys.exit(command_line.main(arguments))


@pytest.fixture(scope="module")
def started():
    """Starts a process that has imported everything; it is a real one, and can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bn_helpers.training.command_line", "torch._dynamo", __name__])
    processes = []

    def start(arguments, environment=(), **death):
        process = context.Process(target=in_a_process, args=(arguments, environment), kwargs=death)
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of 40 colour images."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, number in (("train", 40), ("test", 10)):
        for label, name in enumerate(("dark", "light")):
            where = root / part / name
            where.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(40 * label, 215 + 40 * label, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(where / f"{i}.png")
    return root


def arguments(folder, out, *changes, steps=100, **recipe):
    return command(out, "--batch-size", 16, *OFTEN, *changes, data=folder, steps=steps, **recipe)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Where the run lies that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert command_line.main(arguments(folder, out)) == 0
    return out


def exit_code(process):
    process.join(PATIENCE)
    assert process.exitcode is not None, f"still runs after {PATIENCE} s"
    return process.exitcode


def wait_until(there, alive):
    """Whether something came to be there while the process was alive."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if there():
            return True
        if not alive():
            return there()
        time.sleep(0.002)
    pytest.fail(f"waited {PATIENCE} s")


def state(file):
    """What changes with each checkpoint; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_ino, file.stat().st_mtime_ns


def test_killed_at_any_moment_it_goes_on_bitwise(started, folder, whole, tmp_path):
    """Three times at a checkpoint, which is left half written too, then at moments of chance."""
    command, step = arguments(folder, tmp_path), 0
    for number, moment in enumerate(MOMENTS, start=2):
        assert exit_code(started(command, moment=moment, number=number)) == -signal.SIGKILL
        step += number - (moment != MOMENTS[2])
        file, part = tmp_path / "checkpoint.pt", tmp_path / "checkpoint.part"
        assert checkpoint(tmp_path)["step"] == step
        assert part.exists() == (moment != MOMENTS[2])
        assert moment != MOMENTS[0] or part.stat().st_size < file.stat().st_size
    rng, killed = np.random.default_rng(), 0
    for _ in range(6):
        before = state(file)
        process = started(command)
        wait_until(lambda before=before: state(file) != before, process.is_alive)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        killed += exit_code(process) == -signal.SIGKILL
    assert killed > 1
    assert exit_code(started(command)) == 0
    assert_same(tmp_path, whole)


def test_killed_before_its_first_checkpoint_it_starts_anew(started, folder, whole, tmp_path):
    command = arguments(folder, tmp_path)
    assert exit_code(started(command, moment=MOMENTS[0], number=1)) == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.part"]
    assert exit_code(started(command)) == 0
    assert_same(tmp_path, whole)


def test_the_command_itself_can_be_killed(folder, whole, tmp_path):
    command, file = arguments(folder, tmp_path), tmp_path / "checkpoint.pt"
    process = subprocess.Popen([sys.executable, "-m", "bn_helpers.training", *command], cwd=ROOT)
    try:
        wait_until(file.exists, lambda: process.poll() is None)
    finally:
        process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert 0 < checkpoint(tmp_path)["step"] < 100
    assert command_line.main(command) == 0
    assert_same(tmp_path, whole)


# --- two processes ---------------------------------------------------------------------------


@pytest.fixture
def two(started):
    """Starts the two processes of a command, as torchrun does."""

    def start(command):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        return [
            started(command, meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(2)
        ]

    return start


def test_two_processes_with_common_statistics_are_as_good_as_one(two, folder, tmp_path):
    """To rounding, without Dropout. Catches statistics of the own share and a summed gradient.

    A sum of 1,000 float32 in another order is off by some 1e-6 of it. Layers of BN and six steps
    make that at most some 1e-4 of the gradients and statistics; the mistakes make it 0.1 and more.
    """
    common = ("--lr", 0.01, "--every", 2)
    changes = {"recipe": "bn-x5", "steps": 6}
    processes = two(arguments(folder, tmp_path / "two", *common, "--sync-bn", **changes))
    assert [exit_code(process) for process in processes] == [0, 0]
    assert command_line.main(arguments(folder, tmp_path / "one", *common, **changes)) == 0
    for ours, theirs in zip(*(row(tmp_path / n)["curve"] for n in ("one", "two")), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-5)
    one, both = (checkpoint(tmp_path / name) for name in ("one", "two"))
    assert [len(found["processes"]) for found in (one, both)] == [1, 2]
    for name, ours in one["model"].items():
        if "running" in name:
            assert (ours - both["model"][name]).norm() < 1e-3 * ours.norm(), name
    gradients = [
        torch.cat([state["momentum_buffer"].flatten() for state in found.values()])
        for found in (one["optimizer"]["state"], both["optimizer"]["state"])
    ]
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[0].norm()


def torchrun(command, *options):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    launch += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launch, "-m", "bn_helpers.training", *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def workers(launcher):
    """Process ids of torchrun's processes by rank."""
    found = {}
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        with contextlib.suppress(OSError):
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {int(e[5:]): int(pid) for e in entries if e.startswith(b"RANK=")}
    return found


def test_the_loss_of_one_of_two_processes_costs_nothing(two, folder, tmp_path):
    """By hand, then by torchrun; each process with its own statistics and its own Dropout."""
    whole, again, restarted = (tmp_path / name for name in ("whole", "again", "restarted"))
    assert [exit_code(process) for process in two(arguments(folder, whole))] == [0, 0]

    first, second = two(arguments(folder, again))
    wait_until((again / "checkpoint.pt").exists, first.is_alive)
    second.kill()
    assert exit_code(second) == -signal.SIGKILL
    assert exit_code(first) == command_line.LOST == 5
    assert 0 < checkpoint(again)["step"] < 100
    assert [exit_code(process) for process in two(arguments(folder, again))] == [0, 0]
    assert_same(again, whole)

    if not Path("/proc/self/task").is_dir():
        pytest.skip("cannot find torchrun's processes on this system")
    launcher = torchrun(arguments(folder, restarted), "--max-restarts", "1")
    try:
        alive = lambda: launcher.poll() is None  # noqa: E731
        wait_until((restarted / "checkpoint.pt").exists, alive)
        os.kill(workers(launcher.pid)[1], signal.SIGKILL)
        _, err = launcher.communicate(timeout=PATIENCE)
    finally:
        if launcher.poll() is None:
            for pid in (*workers(launcher.pid).values(), launcher.pid):
                os.kill(pid, signal.SIGKILL)
    assert launcher.returncode == 0, err
    assert "SIGKILL" in err or "exitcode: -9" in err
    assert_same(restarted, whole)
