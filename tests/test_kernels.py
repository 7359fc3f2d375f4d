"""The fused kernels: by themselves on a GPU or in Triton's interpreter, elsewhere the fallback.

To try the kernels without a GPU, in an environment that has Triton:
TRITON_INTERPRET=1 python -m pytest tests/test_kernels.py
"""

from __future__ import annotations

import ast
import importlib.util
import io
import sys
import tokenize
from pathlib import Path

import pytest
import torch

from bn_helpers import kernels, layers

DEVICE = "cuda" if kernels.triton and torch.cuda.is_available() else "cpu"
RUN_HERE = bool(kernels.triton) and (DEVICE == "cuda" or kernels._INTERPRETED)
# rank 2 to 5; one tile and several; ragged and even; one channel, one image, one place
SHAPES = [(5, 3), (300, 40), (4, 3, 7), (2, 3, 5, 7), (8, 5, 7, 7), (3, 2, 40, 40), (1, 2, 50, 50)]
SHAPES += [(6, 4, 1, 1), (5, 1, 3, 3), (40, 130, 2, 2), (2, 3, 2, 3, 4)]
LAYOUTS = ["contiguous", "channels_last", "sliced"]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def inputs(shape, dtype, layout="contiguous", shift=3.0):
    """x, weight, bias, dy; x has another mean in its first example than in the others."""
    g = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    x = 2 * x + shift
    x[0] += 5
    weight, bias = torch.rand(2, shape[1], generator=g, dtype=torch.float64) + 0.5
    wide = dtype if dtype == torch.float64 else torch.float32
    x, dy = x.to(DEVICE, dtype), dy.to(DEVICE, dtype)
    if layout == "channels_last" and len(shape) == 4:
        x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    elif layout == "sliced":
        x = torch.stack([x, x], dim=-1)[..., 0]
    return [t.requires_grad_() for t in (x, weight.to(DEVICE, wide), bias.to(DEVICE, wide))] + [dy]


def results(function, x, weight, bias, dy):
    """y, mean, var, dx, dweight, dbias of one call."""
    y, mean, var = function(x, weight, bias)
    wanted = [t for t in (x, weight, bias) if t is not None]
    return [y, mean, var, *torch.autograd.grad(y, wanted, dy)]


def assert_close(found, expected, tol):
    for i, (got, truth) in enumerate(zip(found, expected, strict=True)):
        error = (got.double() - truth.double()).abs().max() / truth.abs().max()
        assert error <= tol, (i, error)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(shape, dtype, layout):
    # caught: a mask, a stride, a tile or a part that is forgotten or counted twice
    x, *others, dy = inputs(shape, dtype, layout)
    found = results(kernels.batch_norm, x, *others, dy)
    exact = [t.detach().double().requires_grad_() for t in (x, *others)]
    assert_close(found, results(layers.batch_norm, *exact, dy.double()), TOLERANCE[dtype])
    y, mean, var, dx = found[:4]
    expected = layers.batch_norm(x, *others)
    assert (y.dtype, y.stride()) == (x.dtype, expected[0].stride())
    assert (mean.dtype, var.dtype) == (torch.float32, torch.float32)
    assert dx.dtype == x.dtype
    assert not any(t.requires_grad for t in (mean, var))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("affine", [(True, False), (False, True), (False, False)])
def test_without_weight_or_bias(affine, last):
    x, weight, bias, dy = inputs((4, 3, 6, 5), torch.float32, LAYOUTS[last])
    pair = [t if wanted else None for t, wanted in zip((weight, bias), affine, strict=True)]
    found = results(kernels.batch_norm, x, *pair, dy)
    assert_close(found, results(layers.batch_norm, x, *pair, dy), 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_many_programs_share_a_channel(layout, monkeypatch):
    # caught: parts combined wrongly, or programs without a tile
    monkeypatch.setattr(kernels, "_TILE", 128)
    monkeypatch.setattr(kernels, "_PROGRAMS", 7)
    x, *others, dy = inputs((7, 3, 33, 9), torch.float32, layout)
    found = results(kernels.batch_norm, x, *others, dy)
    assert_close(found, results(layers.batch_norm, x, *others, dy), 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_variance_does_not_cancel(layout):
    # caught: E[x²] − E[x]², which has no digit left here
    x, *_ = inputs((7, 3, 33, 9), torch.float32, layout, shift=1e4)
    _, mean, var = kernels.batch_norm(x)
    exact = layers.batch_norm(x.detach().double())
    torch.testing.assert_close(mean.double(), exact[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact[2], rtol=1e-3, atol=0)


def test_constant_channel_and_nan():
    x = torch.full((4, 2, 5, 5), 0.1, device=DEVICE)
    y, _, var = kernels.batch_norm(x)
    assert ((var >= 0) & (var < 1e-10)).all()
    assert y.abs().max() < 1e-2
    x[1, 1, 2, 3] = float("nan")
    y, mean, var = kernels.batch_norm(x)
    assert y[:, 1].isnan().all()
    assert mean.isnan().tolist() == var.isnan().tolist() == [False, True]


def test_gradient_of_the_gradient():
    x, *others, dy = inputs((4, 3, 3, 3), torch.float32)
    found = []
    for function in (kernels.batch_norm, layers.batch_norm):
        dx = torch.autograd.grad(function(x, *others)[0], x, dy, create_graph=True)[0]
        found.append(torch.autograd.grad(dx.square().sum(), (x, others[0])))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("without", ["Triton", "float32"])
def test_falls_back_to_layers(without, monkeypatch):
    if without == "Triton":
        monkeypatch.setattr(kernels, "triton", None)
    given = inputs((4, 3, 5, 5), torch.float32 if without == "Triton" else torch.float64)
    found = [results(module.batch_norm, *given) for module in (kernels, layers)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_imports_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("kernels_alone", kernels.__file__)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert alone.triton is None
    x = torch.ones(2, 3)
    assert torch.equal(alone.batch_norm(x)[0], torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([1.0],), TypeError),
        ((torch.ones(3, device=DEVICE),), ValueError),
        ((torch.ones(1, 3, device=DEVICE),), ValueError),
        ((torch.ones(4, 3, device=DEVICE, dtype=torch.long),), TypeError),
        ((torch.ones(4, 3, device=DEVICE), torch.ones(4, device=DEVICE)), ValueError),
        ((torch.ones(4, 3, device=DEVICE), None, None, 0.0), ValueError),
    ],
)
def test_bad_input_has_the_layers_message(arguments, error):
    with pytest.raises(error) as theirs:
        layers.batch_norm(*arguments)
    with pytest.raises(error) as ours:
        kernels.batch_norm(*arguments)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.skipif(not RUN_HERE, reason="the kernels need Triton, and a GPU or its interpreter")
def test_the_kernels_run_here(monkeypatch):
    # caught: tests above that pass because the fallback answered
    monkeypatch.setattr(layers, "batch_norm", None)
    given = inputs((4, 3, 5, 5), torch.float32)
    assert all(t.isfinite().all() for t in results(kernels.batch_norm, *given))


def test_kernels_and_their_gradient_stay_under_100_lines():
    source = Path(kernels.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source)
    last = next(n for n in tree.body if isinstance(n, ast.ClassDef)).end_lineno
    first = next(n.lineno for n in tree.body if isinstance(n, ast.FunctionDef))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    text = {n.body[0].lineno for n in functions if ast.get_docstring(n)}
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {token.start[0] for token in tokens if token.type not in skipped} - text
    assert 50 < sum(first <= line <= last for line in lines) < 100
