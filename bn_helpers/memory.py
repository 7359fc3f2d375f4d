"""What makes the layer fast, and nothing else: tiles, layouts, the order of sums, reused memory.

Tensors are (N, C, …), as ``layers`` takes them; vectors are (C,), one value a channel. Statistics
and sums of float16 and bfloat16 tensors are float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

HALF = (torch.float16, torch.bfloat16)
#: Values in a tile: a CPU is fastest on pieces of the batch that stay in its cache (1 MB here).
TILE = 1 << 18
#: Values in a tensor for which Python takes longer than the arithmetic.
SMALL = 1 << 15


def as_on_paper(tensors: Any, vectors: Any) -> tuple[Any, Any]:
    """Tensors (N, C, …) and vectors (C,) or None, in forms that go together as on paper.

    ``x_hat = (x − mean) * inv_std`` is then written as it is, and :func:`compute` makes a tensor of
    what comes out. Each tensor becomes a :class:`PerChannel`, which is computed in as few passes as
    it takes. Where something watches (:func:`is_watched`), or Python would take longer than the
    arithmetic, the tensors stay what they are and the vectors become columns (C, 1, …) beside them.
    """
    x = tensors[0]
    if x.numel() > SMALL and not is_watched(*tensors):
        return [PerChannel([(tensor, None, None)]) for tensor in tensors], vectors
    return tensors, _columns(x, *vectors)


def compute(values: Any, like: torch.Tensor) -> torch.Tensor:
    """The tensor (N, C, …) of ``values`` in ``like``'s dtype and, if not watched, its layout."""
    if isinstance(values, PerChannel):
        return values.tensor(like)
    if values.dtype != like.dtype:
        values = values.to(like.dtype)
    if values.dim() == 2:
        return values.contiguous()
    if is_watched(values) or (values.is_contiguous() and like.is_contiguous()):
        return values
    return values.contiguous(memory_format=layout(like))


def flat(vector: torch.Tensor) -> torch.Tensor:
    """A vector (C,) of what :func:`sums` gave."""
    return vector if vector.dim() == 1 else vector.reshape(-1)


class PerChannel:
    """A sum of factor · (tensor − centre), and a shift, that is put together before it is computed.

    Centres, factors and the shift are vectors (C,), or None for 0, 1 and 0. A centre is taken off
    first: in x · factor − mean · factor a large mean would cost the digits that matter.
    """

    def __init__(self, terms: list, shift: Any = None) -> None:
        self.terms = terms
        self.shift = shift

    def __sub__(self, other):
        """Take off a vector, the centre; or, from a centred tensor, another PerChannel."""
        ((tensor, centre, _),) = self.terms
        if not isinstance(other, PerChannel):
            return PerChannel([(tensor, other, None)])
        negative = [(t, c, -factor) for t, c, factor in other.terms]
        return PerChannel([*negative, (tensor, None, None)], shift=-centre)  # saves a pass

    def __mul__(self, vector):
        terms = [
            (tensor, centre, vector if factor is None else factor * vector)
            for tensor, centre, factor in self.terms
        ]
        return PerChannel(terms, None if self.shift is None else self.shift * vector)

    def __add__(self, vector):
        """Add a vector, the shift, where there is none yet."""
        return PerChannel(self.terms, vector)

    def tensor(self, like: torch.Tensor) -> torch.Tensor:
        """The values, in the dtype and the memory layout of ``like``, which has their shape."""
        out = torch.empty_like(like, memory_format=layout(like))
        vectors = [_columns(like, centre, factor) for _, centre, factor in self.terms]
        (shift,) = _columns(like, self.shift)
        tensors = (tensor for tensor, _, _ in self.terms)
        for tile in reversed(tiles(out, *tensors)):  # the last read tile may still be in the cache
            _evaluate(tile, vectors, shift)
        return out


def _evaluate(tile, vectors, shift):
    """A PerChannel of tensors into the first tensor of ``tile``; only temporaries are reused."""
    out, *tensors = tile
    total = shift
    for number, (tensor, (centre, factor)) in enumerate(zip(tensors, vectors, strict=True), 1):
        target = out if number == len(tensors) else None
        values = tensor if centre is None else tensor - centre
        if total is None:
            total = torch.mul(values, factor, out=target)
        elif total is shift and tensor.stride(1) != 1 and centre is not None:
            # addcmul is slow where two of its operands repeat along the innermost axis.
            total = torch.add(values.mul_(factor), shift, out=target)
        else:
            total = torch.addcmul(total, values, factor, out=target)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance (C,) of ``x``, by centred values: E[x²] − E[x]² would cancel.

    Both are 0 where there are no values.
    """
    if x.dim() == 2 and 0 < x.numel() <= SMALL:
        mean = x.mean(0, dtype=working_dtype(x))
        return mean, (x - mean).square().mean(0)
    if x.numel() <= TILE:
        return _moments(x)
    parts = tiles(x)
    means, variances = map(torch.stack, zip(*(_moments(part) for (part,) in parts), strict=True))
    shares = [[len(part) / len(x)] for (part,) in parts]
    return pool(means, variances, means.new_tensor(shares))


def _moments(x):
    if x.numel() == 0:
        return [x.sum(_all_but_channels(x), dtype=working_dtype(x))] * 2  # zeros, functions of x
    mean = _mean(x, working_dtype(x))
    centred = x - _columns(x, mean)[0]
    reused = x.numel() > SMALL and not is_watched(x)
    squares = centred.square_() if reused else centred.square()
    return mean, _mean(squares)


def _mean(values, dtype=None):
    if values.dim() > 2 and torch.compiler.is_compiling():  # in two steps, as in sums
        return values.mean(tuple(range(2, values.dim())), dtype=dtype).mean(0)
    return values.mean(_all_but_channels(values), dtype=dtype)


def pool(
    means: torch.Tensor, variances: torch.Tensor, share: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (C,) of parts with those statistics (parts, C) and shares (parts, 1)."""
    # The variance of all is the mean of the parts' variances plus the variance of their means.
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def sums(dy: Any, x_hat: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Σ dy and Σ dy · x_hat over each channel, in the forms that :func:`as_on_paper` gave them."""
    if isinstance(dy, torch.Tensor):
        return _column_sum(dy, x_hat.dtype), _column_sum(dy * x_hat)
    ((dy, _, _),) = dy.terms
    ((x, centre, factor),) = x_hat.terms
    (column,) = _columns(x, centre)
    axes = _all_but_channels(x)
    parts = [
        (dy_part.sum(axes, dtype=centre.dtype), (x_part - column).mul_(dy_part).sum(axes))
        for x_part, dy_part in tiles(x, dy)
    ]
    of_dy, of_product = parts[0] if len(parts) == 1 else map(_sum_of, zip(*parts, strict=True))
    return of_dy, of_product * factor


def _column_sum(values, dtype=None):
    if values.dim() == 2:
        return values.sum(0, dtype=dtype)
    # In two steps the compiler's code is faster, with the channels last at least.
    places = tuple(range(2, values.dim()))
    return values.sum(places, keepdim=True, dtype=dtype).sum(0)


def _sum_of(vectors):
    return torch.stack(vectors).sum(0)


def _all_but_channels(x):
    return 0 if x.dim() == 2 else (0, *range(2, x.dim()))


def tiles(*tensors: torch.Tensor) -> Any:
    """The tensors cut along the batch axis; whole if small, on a GPU or watched."""
    x = tensors[0]
    if x.numel() <= TILE or not x.is_cpu or is_watched(*tensors):
        return [tensors]
    rows = max(len(x) * TILE // x.numel(), 1)
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def is_watched(*tensors: torch.Tensor) -> bool:
    """Whether something needs to see operations that return new tensors, none in place.

    Gradients of gradients, forward mode, ``torch.func``'s transforms, the compiler and the tracer;
    for these tensors, a batch of gradients (``torch.autograd.grad`` with ``is_grads_batched``).
    """
    return (
        (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or in_transform()
        or any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))  # noqa: SLF001
    )


def in_transform() -> bool:
    """Whether forward mode or a transform of ``torch.func`` (grad, vmap, …) is at work."""
    # There is no public question for either.
    forward = forward_ad._current_level >= 0  # noqa: SLF001
    return forward or torch._C._are_functorch_transforms_active()  # noqa: SLF001


def layout(x: torch.Tensor) -> torch.memory_format:
    """channels_last (3d) if x's strides are in that order, as PyTorch decides it."""
    if x.dim() < 4 or x.is_contiguous():
        return torch.contiguous_format
    n, c, *spatial = x.stride()
    order = [c, *reversed(spatial), n]
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return last if c == 1 and order == sorted(order) else torch.contiguous_format


def _columns(x, *vectors):
    """The vectors (C,), or None, in a shape that broadcasts against ``x``."""
    if x.dim() == 2:
        return vectors
    shape = (-1, *(1,) * (x.dim() - 2))
    return [None if vector is None else vector.view(shape) for vector in vectors]


def values_per_channel(x: torch.Tensor) -> int:
    """m: how many values share a statistic."""
    return x.numel() // max(x.shape[1], 1)


def working_dtype(x: torch.Tensor) -> torch.dtype:
    """float32 for float16 and bfloat16, else x's own."""
    return torch.float32 if x.dtype in HALF else x.dtype
