"""Batch norm on a GPU by three Triton kernels, forward and backward; elsewhere by ``layers``.

A tensor counts as (A, C, B): maps (N, C, H·W), or with the channels last (N·H·W, C, 1). Program
(i, j) takes channel i, or the i-th K channels, and of its tiles (R, K) every chunks-th from j on.
A kernel's argument that is None is left out when it is compiled, with the code that asks for it.
"""

from __future__ import annotations

import os

import torch

from bn_helpers import layers, memory

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None
_jit = triton.jit if triton else lambda function: function
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_TILE, _PROGRAMS = 2048, 2048  # values that a program holds at once; programs that fill a GPU


@_jit
def _tile(t, A, C, B: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    """Offsets (R, K) of tile t's values, and which of them exist."""
    i, across = tl.program_id(0), 1 if B == 1 else tl.cdiv(B, K)
    rows, start = t // across * R + tl.arange(0, R), 0 if B == 1 else i * B
    columns = (i if B == 1 else t % across) * K + tl.arange(0, K)
    inside = (rows < A)[:, None] & (columns < (C if B == 1 else B))[None, :]
    return rows.to(tl.int64)[:, None] * (C * B) + start + columns[None, :], inside


@_jit
def _sums(x, dy, mean, parts, A, C, tiles, B: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    """Σ g and Σ g (x − centre) of a program for g = dy; without dy for g = x − centre."""
    axis: tl.constexpr = 0 if B == 1 else None
    j = tl.program_id(1)
    c = tl.program_id(0) * K + tl.arange(0, K) if B == 1 else tl.program_id(0)
    if dy is None:  # its first tile's mean: near enough for the squares not to cancel
        at, inside = _tile(j, A, C, B, R, K)
        total = tl.sum(tl.load(x + at, inside, 0).to(tl.float32), axis)
        centre = total / tl.maximum(tl.sum(inside.to(tl.float32), axis), 1)
    else:
        centre = tl.load(mean + c, c < C, 0)
    n, first, second = (tl.zeros((R, K), tl.float32),) * 3
    for t in range(j, tiles, tl.num_programs(1)):
        at, inside = _tile(t, A, C, B, R, K)
        d = tl.where(inside, tl.load(x + at, inside, 0).to(tl.float32) - centre, 0)
        g = d if dy is None else tl.load(dy + at, inside, 0).to(tl.float32)
        n, first, second = n + inside, first + g, second + g * d
    at = parts + 4 * j * C + c
    tl.store(at, tl.sum(first, axis), c < C)
    tl.store(at + C, tl.sum(second, axis), c < C)
    if dy is None:
        tl.store(at + 2 * C, tl.sum(n, axis), c < C)
        tl.store(at + 3 * C, centre, c < C)


@_jit
def _statistics(parts, mean, var, inv_std, eps, C, chunks: tl.constexpr):
    """The spread of all: the spreads of the parts, and that of their means."""
    c = tl.program_id(0)
    at = parts + 4 * C * tl.arange(0, chunks) + c
    first, second = tl.load(at), tl.load(at + C)
    n, centre = tl.load(at + 2 * C), tl.load(at + 3 * C)
    m, drift = tl.sum(n), first / tl.maximum(n, 1)
    mu = tl.sum(n * (centre + drift)) / m
    gap = centre + drift - mu
    v = tl.sum(tl.abs(second - first * drift) + n * gap * gap) / m  # abs: rounding may go below 0
    tl.store(mean + c, mu)
    tl.store(var + c, v)
    tl.store(inv_std + c, tl.rsqrt(v + eps))


@_jit
def _map(x, dy, out, weight, bias, mean, inv_std, sums,
         A, C, tiles, B: tl.constexpr, R: tl.constexpr, K: tl.constexpr):  # fmt: skip
    """y = scale (x − mean) + beta, or dx = scale (dy − mean of dy − x_hat · mean of dy x_hat)."""
    c = tl.program_id(0) * K + tl.arange(0, K) if B == 1 else tl.program_id(0)
    mu, inv = tl.load(mean + c, c < C, 0), tl.load(inv_std + c, c < C, 0)
    scale = inv if weight is None else inv * tl.load(weight + c, c < C, 0).to(tl.float32)
    slope, shift = scale, 0.0 if bias is None else tl.load(bias + c, c < C, 0).to(tl.float32)
    if dy is not None:
        shift = scale / -(A * B) * tl.load(sums + c, c < C, 0)
        slope = scale / -(A * B) * tl.load(sums + C + c, c < C, 0) * inv * inv
    for t in range(tl.program_id(1), tiles, tl.num_programs(1)):
        at, inside = _tile(tiles - 1 - t, A, C, B, R, K)  # backwards: the last read may be cached
        value = (tl.load(x + at, inside, 0).to(tl.float32) - mu) * slope + shift
        value += 0.0 if dy is None else tl.load(dy + at, inside, 0).to(tl.float32) * scale
        tl.store(out + at, value, inside)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        (v,), parts, grid, sizes = _plan(x)
        (chunks, _, C), y = parts.shape, torch.empty_like(v)
        mean, var, inv_std = (parts.new_empty(C) for _ in range(3))
        _sums[grid](v, None, None, parts, *sizes)
        _statistics[(C,)](parts, mean, var, inv_std, eps, C, chunks)
        _map[grid](v, None, y, weight, bias, mean, inv_std, None, *sizes)
        ctx.save_for_backward(x, weight, bias, mean, inv_std)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx, dy, *_):
        x, weight, bias, mean, inv_std = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: this gradient needs one itself
            needed = ctx.needs_input_grad[:3]
            inputs = [t for t, wanted in zip((x, weight, bias), needed, strict=True) if wanted]
            y = layers.batch_norm(x, weight, bias, ctx.eps)[0]
            found = iter(torch.autograd.grad(y, inputs, dy, create_graph=True))
            return *(next(found) if wanted else None for wanted in needed), None
        (v, dy), parts, grid, sizes = _plan(x, dy)
        dx = torch.empty_like(v)
        _sums[grid](v, dy, mean, parts, *sizes)
        sums = parts.sum(0)
        _map[grid](v, dy, dx, weight, None, mean, inv_std, sums, *sizes)
        dweight = None if weight is None else (sums[1] * inv_std).to(weight.dtype)
        return dx, dweight, None if bias is None else sums[0].to(bias.dtype), None


def _plan(x, *others):
    """The tensors in x's memory layout, room for the parts, grid, the kernels' last arguments."""
    layout, C, m = memory.layout(x), x.shape[1], memory.values_per_channel(x)
    last, power = layout != torch.contiguous_format or m == len(x), triton.next_power_of_2
    A, B, width = (m, 1, C) if last else (len(x), m // len(x), m // len(x))
    R = min(power(A), max(_TILE // power(width), 16))
    K = min(power(width), _TILE // R)
    across, rows = triton.cdiv(width, K), triton.cdiv(A, R)
    blocks, tiles = (across, rows) if last else (C, across * rows)
    chunks = power(min(tiles, triton.cdiv(_PROGRAMS, blocks)))  # some may find no tile
    parts = x.new_empty(chunks, 4, C, dtype=torch.float32)
    tensors = [tensor.contiguous(memory_format=layout) for tensor in (x, *others)]
    return tensors, parts, (blocks, chunks), (A, C, tiles, B, R, K)


def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """:func:`bn_helpers.layers.batch_norm` by Triton's kernels on a GPU, in float32 or 16 bits.

    Everywhere else, and where Triton is missing, it is ``layers.batch_norm``; arguments, results
    and errors are the same. TRITON_INTERPRET=1, set before the import, tries the kernels on a CPU.
    """
    here = triton and isinstance(x, torch.Tensor) and (x.is_cuda or _INTERPRETED)
    if not here or x.dtype not in (torch.float32, *memory.HALF) or x.numel() == 0:
        return layers.batch_norm(x, weight, bias, eps)
    layers.check_arguments(x, weight, bias, eps)
    with torch.cuda.device_of(x):
        return _Fused.apply(x, weight, bias, eps)
