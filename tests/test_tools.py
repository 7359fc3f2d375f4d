"""PyTorch's own tools do with our layer what they do with nn.BatchNorm2d: value and side effect."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import tools  # noqa: E402

from bn_helpers import convert, memory  # noqa: E402

# Of torch.jit, in newer versions also where forward mode is first used.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def assert_same(ours, theirs):
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, torch.Tensor):
        tolerance = 1e-9 if theirs.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    elif isinstance(theirs, (list, tuple)) and not isinstance(theirs, torch.Size):
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)
    else:
        assert ours == theirs


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(("title", "function"), tools.USES, ids=[f.__name__ for _, f in tools.USES])
def test_a_tool_treats_ours_like_native(title, function, size, monkeypatch):
    # caught: another base class; a Function without jvp, vmap or setup_context; statistics kept as
    # constants where they are differentiated; a buffer moved once too often, or not at all; tiles
    # and in-place operations where something watches
    if size == "large":
        monkeypatch.setattr(memory, "SMALL", 0)
        monkeypatch.setattr(memory, "TILE", 10)
    judge = tools.Textbook if title in tools.AGAINST_TEXTBOOK else nn.BatchNorm2d
    theirs = tools.outcome(function, judge)
    ours = tools.outcome(function, tools.ours)
    if title in tools.WAYS_ROUND:
        assert not isinstance(theirs, Exception)
        assert isinstance(ours, Exception) or ours != theirs
    elif isinstance(theirs, Exception):
        assert type(ours) is type(theirs)
        assert "expected" in str(ours)
    else:
        if isinstance(ours, Exception):
            raise ours
        assert_same(ours, theirs)


def test_the_way_round_leads_there():
    # caught: a conversion that these tools still do not take
    for title, function in tools.USES:
        if title in tools.WAYS_ROUND:
            theirs = tools.outcome(function, nn.BatchNorm2d)
            through = tools.outcome(
                function, lambda *a, **k: convert.to_native(tools.ours(*a, **k))
            )
            assert_same(through, theirs)


def test_scripting_is_refused_with_the_way_round():
    with pytest.raises(TypeError, match=r"expected torch\.export .*to_native"):
        torch.jit.script(tools.network(tools.ours))
