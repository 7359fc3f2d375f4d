"""What the records of speed rest on: that a suite measures what its name says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(code):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert not found.returncode, found.stderr
    return found.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's mallopt is Linux's")
@pytest.mark.parametrize(("kind", "new"), [("reused", False), ("new", True)])
def test_results_come_from_the_pages_that_are_asked_for(kind, new):
    """Catches glibc's limit of 32 MiB: a larger tensor got new pages under the name of reused."""
    faults = run(
        f"""
import resource
import torch
from bench.timing import set_pages

set_pages({kind!r})
x = torch.ones(128, 64, 32, 40)
for _ in range(4):
    y = x + 1, x * 2
    del y
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
y = x + 1, x * 2
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    )
    pages = 2 * 128 * 64 * 32 * 40 * 4 / os.sysconf("SC_PAGE_SIZE")
    assert (int(faults) > pages / 2) is new
