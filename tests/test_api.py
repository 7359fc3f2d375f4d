"""The stored API page is what the code says, so that the book needs no torch to show it."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import api  # noqa: E402


@pytest.fixture(scope="module")
def stored():
    return (ROOT / "book" / "api.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch.jit
def test_the_stored_page_is_current(stored):
    # caught: a docstring, a signature or a tool's outcome that changed without the page
    assert stored == api.build(), "the page is out of date: run scripts/api.py"


def test_signatures_are_real(stored):
    # caught: the (*args, **kwargs) of a stand-in for torch
    assert ".. py:class:: BatchNorm(num_features, eps=1e-05, momentum=0.1, affine=True" in stored
    assert "*args" not in stored.replace("*arguments", "")


def test_every_module_is_on_the_page():
    # caught: a new module nobody wrote down
    package = ROOT / "bn_helpers"
    files = [path for path in package.rglob("*.py") if "__pycache__" not in path.parts]
    names = {".".join(path.relative_to(package).with_suffix("").parts) for path in files}
    names = {name.removesuffix(".__init__") for name in names} - {"__init__"}
    documented = set(api.MODULES)
    inside = {"data.cifar10", "data.mnist", "data.folder", "training.__main__"}  # behind data.load
    inside |= {name for name in names if name.startswith("checks.")} - {"checks.engine"}
    assert names - inside == documented
    for name in documented:
        assert importlib.import_module(f"bn_helpers.{name}").__doc__
