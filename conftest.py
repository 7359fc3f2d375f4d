"""For tests and notebooks alike: one thread, the data folder, what is skipped without MNIST.

It stands at the root because the notebooks in book/ are collected too.
"""

import functools
import os
from pathlib import Path

import hypothesis
import pytest

# The same examples at every run, and no test that fails because a machine is busy.
hypothesis.settings.register_profile("book", deadline=None, derandomize=True)
hypothesis.settings.load_profile("book")

# All at import, so that torch and the notebooks' kernels inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("BN_HELPERS_DATA"):
    # Kernels start in the notebook's folder, where a relative path names another place.
    os.environ["BN_HELPERS_DATA"] = str(Path(os.environ["BN_HELPERS_DATA"]).expanduser().absolute())


@functools.cache
def why_no_mnist():
    """The reason to skip what needs MNIST, or None. Where a data folder is set there is none."""
    from bn_helpers import data

    if os.environ.get("BN_HELPERS_DATA"):
        return None
    try:
        data.load("mnist")
    except data.DataError as error:
        return " ".join(str(error).split())
    return None


@pytest.fixture(scope="session")
def mnist():
    """``data.load("mnist")``, shared by all tests: read it, do not write to it."""
    from bn_helpers import data

    if reason := why_no_mnist():
        pytest.skip(reason)
    return data.load("mnist")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip the cells of a notebook with the metadata {"bn": {"needs": ["mnist"]}} without MNIST.

    First, before nbval starts the kernel; and not at collection, which should download nothing.
    """
    notebook = getattr(item.parent, "nb", None)  # set by nbval's collector
    needs = notebook.metadata.get("bn", {}).get("needs", []) if notebook else []
    if "mnist" in needs and (reason := why_no_mnist()):
        pytest.skip(reason)


def pytest_itemcollected(item):
    """Let a notebook's cells compare what their figures show, too: nbval skips pictures."""
    if hasattr(item, "compare_outputs"):
        item.compare_outputs = functools.partial(with_figures, item, item.compare_outputs)


def with_figures(item, compare_outputs, test, ref, skip_compare=None):
    """Whether nbval finds the outputs alike, and bn_helpers.figures what the figures show.

    A cell's metadata {"bn": {"figure": {"tolerance": 0.1}}} lets numbers differ by so much of
    their axis, 0.4 of each artist's unless there is another "share", where runs are chaotic. A
    figure stored without a description is passed here: tests/test_notebooks.py insists on it.
    """
    from bn_helpers import figures

    skip = (*(skip_compare or item.parent.skip_compare), figures.DESCRIBED)
    if not compare_outputs(test, ref, skip):
        return False
    found = figures.compare_outputs(ref, test, **item.cell.metadata.get("bn", {}).get("figure", {}))
    item.comparison_traceback += ["What the figures show differs:", *found]
    return not found
