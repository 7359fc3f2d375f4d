"""torch.compile of BatchNorm: one graph, the same values and buffers as eager PyTorch."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from torch import nn

from bn_helpers.layers import BatchNorm

# torch's own tracer and back end use what torch has deprecated.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
# PyTorch 2.13 puts its own path unquoted on the compiler's command line.
SPLIT_PATH = any(character in torch.__file__ for character in " '\"\\")


def steps(layer, *, training, shape=(8, 3, 5, 5)):
    """Outputs and gradients of two calls on channels_last input."""
    g = torch.Generator().manual_seed(0)
    results = []
    for _ in range(2):
        x, dy = (torch.randn(shape, generator=g) for _ in range(2))
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        y = layer.train(training)(x)
        results += [y, *torch.autograd.grad(y, (x, *layer.parameters()), dy)]
    return results


def assert_compiles(backend, training, momentum):
    theirs, ours = nn.BatchNorm2d(3, momentum=momentum), BatchNorm(3, momentum=momentum)
    torch._dynamo.reset()
    compiled = torch.compile(ours, backend=backend, fullgraph=True)
    pairs = zip(steps(compiled, training=training), steps(theirs, training=training), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert got.stride() == expected.stride()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_traces_into_one_graph(training, momentum):
    # caught: .item() or float() of a buffer, a data-dependent branch, an out= in the traced path
    assert_compiles("aot_eager", training, momentum)


@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler (g++ or CXX)")
@pytest.mark.skipif(
    SPLIT_PATH, reason="torch.compile fails where PyTorch's path has a space or quote"
)
def test_compiled_code_gives_the_same():
    # caught: an operation that the compiler's back end computes differently
    assert_compiles("inductor", True, 0.1)
