"""How the suites of bench.py measure: turn by turn, on settled memory, with one rival for all."""

from __future__ import annotations

import ctypes
import gc
import random
import shutil
import sys
import time
from statistics import median, quantiles

import torch

ROUND_SECONDS = 0.03
CLOCK = {"cpu": {"clock": "thread CPU time"}, "cuda": {"clock": "wall time"}}


def interleaved(functions, rounds, device="cpu", round_seconds=ROUND_SECONDS):
    """Return {name: seconds of one call, one entry a round}; first calls are not counted.

    On a CPU these are seconds of this thread, so that what other programs take does not count.
    A measurement whose work ran on other threads too ends the program.
    """
    calls, seconds = {}, {name: [] for name in functions}
    for name, function in functions.items():
        function()
        start = _now(device)
        function()
        calls[name] = max(1, int(round_seconds / (_now(device) - start)))
    gc.disable()
    thread, process = time.thread_time(), time.process_time()
    try:
        order = random.Random(0)
        for _ in range(rounds):
            # Another order each time: what ran before leaves its traces in caches and in malloc.
            for name, function in order.sample(list(functions.items()), len(functions)):
                start = _now(device)
                for _ in range(calls[name]):
                    function()
                seconds[name].append((_now(device) - start) / calls[name])
    finally:
        gc.enable()
    thread, process = time.thread_time() - thread, time.process_time() - process
    if device == "cpu" and process > 1.03 * thread + 0.05:
        sys.exit(
            f"expected all work on one thread, got {process:.1f} s of the process and "
            f"{thread:.1f} s of the thread; set OMP_NUM_THREADS=1, or use make bench"
        )
    return seconds


def _now(device):
    if device == "cuda":
        torch.cuda.synchronize()  # calls only queue work on a GPU
        return time.perf_counter()
    return time.thread_time()


def ratio(seconds, name, base):
    return median(_ratios(seconds, name, base))


def speed(seconds, name, base):
    """Median and quartiles of ``name``'s speed, in units of ``base``'s."""
    low, middle, high = quantiles(_ratios(seconds, base, name), n=4)
    return {"speed": middle, "quartiles": [low, high]}


def _ratios(seconds, name, base):
    return [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]


def composed(x, weight, bias, eps=1e-5):
    """BN from differentiable torch operations, as a textbook writes it."""
    axes = [a for a in range(x.dim()) if a != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    mean = x.mean(axes, keepdim=True)
    var = ((x - mean) ** 2).mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(var + eps) * weight.view(shape) + bias.view(shape)


def set_pages(kind):
    """Have malloc take large results from ``"reused"`` or from ``"new"`` pages (glibc only).

    Each new page is zeroed by the system when it is first written. glibc's default does either,
    depending on what the program freed before, and moves the ratios by a factor of two.
    """
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4  # mallopt's settings in malloc.h
    small = 16 << 20
    if kind == "reused":
        # No threshold would do: glibc takes 32 MiB at most, and larger tensors got new pages.
        settings = {trim_threshold: 2**31 - 1, mmap_max: 0}
    else:
        settings = {trim_threshold: small, mmap_threshold: small, mmap_max: 2**16}
    libc = ctypes.CDLL(None)
    if not all(libc.mallopt(name, value) for name, value in settings.items()):
        sys.exit(f"expected glibc's mallopt to accept the settings for {kind} pages; run on Linux")
    libc.malloc_trim(0)


def compiled(function):
    return torch.compile(function, dynamic=False)


def compiles(device="cpu"):
    """Whether torch.compile has what it needs for this device."""
    return device == "cuda" or bool(shutil.which("g++") or shutil.which("clang++"))
