"""Batch normalization in PyTorch: the autograd function, the drop-in module, folding.

Ioffe & Szegedy (2015), Algorithm 1 (forward), section 3 (backward), Algorithm 2 (inference) and
section 3.2 (one mean, variance, gamma and beta per feature map). Several processes may share
their statistics.
"""

import copy

import torch
from torch import distributed as dist
from torch import nn

_HALF = (torch.float16, torch.bfloat16)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NATIVE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
# A CPU is fastest on pieces of the batch that stay in its cache: 1 MB of float32.
_TILE = 1 << 18


def batch_norm(x, weight=None, bias=None, eps=1e-5):
    """Normalise ``x`` with its own statistics (Algorithm 1; for maps, section 3.2).

    Parameters
    ----------
    x : floating tensor (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    weight, bias : tensors (C,) or None, the paper's gamma and beta; of x's dtype, or float32 for
        float16 and bfloat16 input.
    eps : float > 0, added to the variance.

    Returns
    -------
    y : tensor like x, differentiable twice with respect to x, weight and bias.
    mean, var : tensors (C,), without gradient; ``var`` is the biased (1/m) variance. float32 for
        float16 and bfloat16 input, else x's dtype.

    Raises
    ------
    TypeError
        x is no floating tensor; weight or bias of another dtype.
    ValueError
        wrong rank, shape or device, one value per channel, eps <= 0.
    """
    _check_input(x, None, eps, of_batch=True)
    _check_vectors(x, weight=weight, bias=bias)
    return _normalize_batch(x, weight, bias, eps)[:3]


class BatchNorm(nn.Module):
    """Drop-in for ``nn.BatchNorm1d``, ``nn.BatchNorm2d`` and ``nn.BatchNorm3d`` in one class.

    Parameters
    ----------
    num_features : int, C of the input (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    eps : float > 0, added to the variance.
    momentum : float in [0, 1], the weight of the new batch in the running statistics (PyTorch's
        convention), or None for their plain average over all batches.
    affine : whether to learn gamma (``weight``) and beta (``bias``), tensors (C,).
    track_running_stats : whether to keep ``running_mean``, ``running_var`` (the unbiased one,
        m/(m − 1)) and ``num_batches_tracked`` for eval mode. Without them eval mode uses the
        batch's statistics too.
    device, dtype : of parameters and buffers; default: PyTorch's.
    bias : with ``affine``, whether beta is learned.
    process_group : a ``torch.distributed`` process group, or None. With a group, training mode
        takes the statistics of all its processes' batches as one, of whatever sizes, empty ones
        included; every process has to take part in every forward and backward pass. The
        gradients are those of the sum of all processes' losses: the input's in full, gamma's and
        beta's as each process's share, to be summed. DistributedDataParallel averages over its
        W processes, so a loss that is the mean over all M examples is W/M times the sum over a
        process's own, which for equal shards is their mean. A copy keeps the group; a pickled
        layer loses it.

    Raises
    ------
    RuntimeError
        a process group, but torch.distributed is not initialised.
    TypeError
        the input is not floating, its dtype does not fit the parameters', or process_group is
        something else.
    ValueError
        wrong rank, channel count or parameter shape, one value per channel where the
        batch's statistics are used,
        eps <= 0, momentum outside [0, 1]. A refused batch leaves the buffers as they were.
    """

    _version = 2  # of the state dict: the one with num_batches_tracked

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
        *,
        bias: bool = True,
        process_group=None,
    ) -> None:
        super().__init__()
        _check_eps(eps)
        _check_momentum(momentum)
        _check_group(process_group)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.process_group = process_group
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            empty = torch.empty(num_features, device=device, dtype=dtype) if wanted else None
            self.register_parameter(name, None if empty is None else nn.Parameter(empty))
        for name in ("running_mean", "running_var"):
            empty = torch.empty(num_features, device=device, dtype=dtype)
            self.register_buffer(name, empty if track_running_stats else None)
        count = torch.tensor(0, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget all batches: mean 0, variance 1, count 0."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Reset the running statistics, gamma to 1 and beta to 0."""
        self.reset_running_stats()
        if self.affine:
            nn.init.ones_(self.weight)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
            + (", synchronized" if self.process_group is not None else "")
        )

    def __getstate__(self):
        return {**self.__dict__, "process_group": None}  # a group cannot leave its process

    def __deepcopy__(self, memo):
        twin = memo[id(self)] = self.__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin.process_group = self.process_group
        return twin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (shapes above) with the batch's or the running statistics."""
        weight, bias = self.weight, self.bias
        mean, var = self.running_mean, self.running_var
        if self.training and not self.track_running_stats:
            mean = var = None
        of_batch = self.training or (mean is None and var is None)
        group = self.process_group if self.training else None
        _check_group(group)
        _check_momentum(self.momentum)
        _check_input(x, self.num_features, self.eps, of_batch and group is None)
        _check_vectors(x, weight=weight, bias=bias, running_mean=mean, running_var=var)
        if (mean is None) != (var is None):
            raise ValueError(
                "expected running_mean and running_var, or neither, got one of them; "
                "set both, or both to None"
            )
        if not of_batch:
            inv_std = torch.rsqrt(var.to(_working_dtype(x)) + self.eps)
            # A copy: training may move the buffer before this call's backward pass.
            mean = mean.to(inv_std.dtype, copy=True)
            return _Normalize.apply(x, weight, bias, mean, inv_std, None)
        y, *statistics = _normalize_batch(x, weight, bias, self.eps, group)
        if self.training and self.track_running_stats:
            self._track(*statistics)
        return y

    def _track(self, mean, var, m):
        factor, count = self.momentum, self.num_batches_tracked
        if count is not None:
            count.add_(1)
            if factor is None:
                factor = 1 / count.to(mean.dtype)
        if self.running_mean is None or factor is None or _is_empty(m):
            return  # PyTorch counts an empty batch and leaves it at that
        unbiased = m / (m - 1)
        for running, new, share in (
            (self.running_mean, mean, factor),
            (self.running_var, var, factor * unbiased),
        ):
            # Not lerp_, which makes NaN of an infinite running value.
            if running.dtype == new.dtype and not isinstance(share, torch.Tensor):
                running.mul_(1 - factor).add_(new, alpha=share)
            else:
                running.copy_(running.to(new.dtype) * (1 - factor) + new * share)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        # Checkpoints older than version 2 have no count; PyTorch keeps the module's.
        key, count = prefix + "num_batches_tracked", self.num_batches_tracked
        if (local_metadata.get("version") or 0) < 2 and self.track_running_stats:
            state_dict.setdefault(key, torch.tensor(0) if count is None or count.is_meta else count)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def synchronize(model, process_group=None):
    """Let every batch normalization in ``model`` share its statistics with the other processes.

    Like ``nn.SyncBatchNorm.convert_sync_batchnorm``, but on any device. To undo it, set the
    layers' ``process_group`` to None.

    Parameters
    ----------
    model : ``nn.Module``, changed in place: each :class:`BatchNorm` gets the group; each
        ``nn.BatchNorm1d`` to ``nn.BatchNorm3d`` and ``nn.SyncBatchNorm`` becomes a
        :class:`BatchNorm` and keeps its parameters, buffers, hooks and mode.
    process_group : as in :class:`BatchNorm`; None: all processes.

    Returns
    -------
    model : the same object.

    Raises
    ------
    RuntimeError
        torch.distributed is not initialised.
    TypeError
        process_group is something else; a subclass of PyTorch's layers, whose code may differ.
    """
    if process_group is None and dist.is_available() and dist.is_initialized():
        process_group = dist.group.WORLD
    _check_group(process_group, required=True)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in _NATIVE:
            raise TypeError(
                f"expected BatchNorm or nn.BatchNorm1d to nn.BatchNorm3d, got "
                f"{type(module).__name__}; replace it by one of them first"
            )
    for module in model.modules():
        if type(module) in _NATIVE:
            module.__class__ = BatchNorm  # the attributes are the same
        if isinstance(module, BatchNorm):
            module.process_group = process_group
    return model


def fold(layer, bn):
    """Return one layer that computes ``bn(layer(x))`` with bn's running statistics (Algorithm 2).

    Parameters
    ----------
    layer : ``nn.Linear`` (on (N, features)), ``nn.Conv1d`` to ``nn.Conv3d`` or
        ``nn.ConvTranspose1d`` to ``nn.ConvTranspose3d``, any groups, with or without bias.
    bn : :class:`BatchNorm` or ``nn.BatchNorm1d`` to ``nn.BatchNorm3d``, in eval mode, for the
        layer's output channels C.

    Returns
    -------
    folded : a new layer of layer's type, dtype and device, with a bias. layer and bn stay as
        they are and share no memory with it.

    Raises
    ------
    TypeError
        another kind of layer or of bn.
    ValueError
        bn is in training mode, has no running statistics, or another channel count.
    """
    _check_foldable(layer, bn)
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    folded = copy.deepcopy(layer)
    with torch.no_grad():
        scale = torch.rsqrt(bn.running_var.to(dtype) + bn.eps)
        if bn.weight is not None:
            scale = bn.weight * scale
        bias = -bn.running_mean if layer.bias is None else layer.bias.to(dtype) - bn.running_mean
        bias = scale * bias if bn.bias is None else scale * bias + bn.bias
        if isinstance(layer, _TRANSPOSED):
            # (in, out / groups, ...): the in rows of a group feed that group's output channels.
            column = scale.view(layer.groups, 1, -1, *(1,) * len(layer.kernel_size))
            weight = (layer.weight.unflatten(0, (layer.groups, -1)) * column).flatten(0, 1)
        else:
            weight = layer.weight * scale.view(-1, *(1,) * (layer.weight.dim() - 1))
    folded.weight = nn.Parameter(weight.to(layer.weight), layer.weight.requires_grad)
    folded.bias = nn.Parameter(bias.to(layer.weight), layer.weight.requires_grad)
    return folded


class _Normalize(torch.autograd.Function):
    """y = gamma (x − mean) inv_std + beta; gamma (``weight``), beta (``bias``) and the rest (C,).

    With ``eps``, mean and inv_std = 1 / sqrt(var + eps) are those of the batch, m values a channel
    on all processes of ``group`` together, which adds two terms to the gradient; with None they
    are constants. x_hat is not kept but computed again.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, inv_std, eps, m=None, group=None):
        ctx.save_for_backward(x, weight, bias, mean, inv_std)
        ctx.eps, ctx.m, ctx.group = eps, m, group
        scale = inv_std if weight is None else weight * inv_std
        mean, scale, bias = _columns(x, mean, scale, bias)
        return _map(lambda out, x: _affine(x - mean, scale, bias, out), x)

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, mean, inv_std = ctx.saved_tensors
        needs_dx, needs_dweight, needs_dbias = ctx.needs_input_grad[:3]
        of_batch, m = ctx.eps is not None, ctx.m
        if of_batch and torch.is_grad_enabled():
            # For gradients of gradients the statistics have to be functions of x again.
            mean, var, m = _batch_statistics(x, ctx.group)
            inv_std = torch.rsqrt(var + ctx.eps)
        scale = inv_std if weight is None else weight * inv_std
        dx = dweight = dbias = None
        if of_batch or needs_dweight or needs_dbias:
            dbias, dweight = _gradient_sums(x, dy, mean)
            dweight = dweight * inv_std
        if needs_dx and of_batch:
            # dx = scale (dy − mean of dy − x_hat · mean of dy x_hat), arranged by x and dy
            per_value = scale / -(1 if _is_empty(m) else m)
            sums = dweight, dbias
            if ctx.group is not None:  # the losses of all processes depend on x
                sums = _AllReduce.apply(torch.stack(sums), ctx.group)
            slope, offset = per_value * inv_std * sums[0], per_value * sums[1]
            mean, scale, slope, offset = _columns(x, mean, scale, slope, offset)

            def gradient(out, x, dy):
                return torch.addcmul(_affine(x - mean, slope, offset), dy, scale, out=out)

            dx = _map(gradient, x, dy)
        elif needs_dx:
            (scale,) = _columns(x, scale)
            dx = _map(lambda out, x, dy: torch.mul(dy, scale, out=out), x, dy)
        dweight = dweight.to(weight.dtype) if needs_dweight else None
        dbias = dbias.to(bias.dtype) if needs_dbias else None
        return dx, dweight, dbias, *[None] * 5


class _AllReduce(torch.autograd.Function):
    """The sum of all processes' values; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx, values, group):
        ctx.group, total = group, values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return _AllReduce.apply(gradient, ctx.group), None


def _normalize_batch(x, weight, bias, eps, group=None):
    with torch.no_grad():
        mean, var, m = _batch_statistics(x, group)
        inv_std = torch.rsqrt(var + eps)
    return _Normalize.apply(x, weight, bias, mean, inv_std, eps, m, group), mean, var, m


def _batch_statistics(x, group=None):
    """Mean and biased variance (C,) of the group's m values per channel, and m."""
    mean, var = _local_statistics(x)
    m = _values_per_channel(x)
    if group is None:
        return mean, var, m
    # Each process fills its row of a table of zeros; the sum of the tables is the full table.
    row = torch.cat([mean, var, mean.new_full((1,), m)])
    ranks = torch.arange(dist.get_world_size(group), device=x.device).unsqueeze(1)
    table = _AllReduce.apply(torch.where(ranks == dist.get_rank(group), row, 0), group)
    means, variances, counts = table.split([len(mean), len(mean), 1], dim=1)
    total = counts.detach().sum()
    share = counts.detach() / total.clamp(min=1)
    if m < 2:  # else there is no need to read the total, which would wait for the device
        _check_count(int(total), x)
        total = total if total else 0
    return *_pool(means, variances, share), total


def _local_statistics(x):
    """Mean and biased variance (C,), from centred values because E[x²] − E[x]² cancels."""
    dtype = _working_dtype(x)
    if x.numel() == 0:
        return [_sum(x, dtype)] * 2  # zeros

    def moments(x):
        m = _values_per_channel(x)
        mean = _sum(x, dtype) / m
        return mean, _sum((x - _columns(x, mean)[0]).square_()) / m

    tiles = _tiles(x)
    if len(tiles) == 1:
        return moments(x)
    means, variances = map(torch.stack, zip(*(moments(*tile) for tile in tiles), strict=True))
    return _pool(means, variances, means.new_tensor([[len(tile) / len(x)] for (tile,) in tiles]))


def _pool(means, variances, share):
    """Mean and variance (C,) of parts with those statistics (parts, C) and shares (parts, 1)."""
    # The variance of all is the mean of the parts' variances plus the variance of their means.
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def _gradient_sums(x, dy, mean):
    """Sum of dy and of dy (x − mean), (C,) each."""
    (column,) = _columns(x, mean)
    sums = [(_sum(dy, mean.dtype), _sum((x - column).mul_(dy))) for x, dy in _tiles(x, dy)]
    return sums[0] if len(sums) == 1 else [torch.stack(s).sum(0) for s in zip(*sums, strict=True)]


def _affine(values, scale, shift, out=None):
    """values · scale + shift (None is 0); may overwrite ``values``."""
    if shift is None:
        return torch.mul(values, scale, out=out)
    if values.stride(1) == 1:
        return torch.addcmul(shift, values, scale, out=out)
    # addcmul is slow where two of its operands repeat along the innermost axis.
    return torch.add(values.mul_(scale), shift, out=out)


def _map(f, x, *others):
    """``f(out, x, *others)``, tile by tile; the result has x's dtype and memory layout."""
    if _is_traced():
        return f(None, x, *others).to(x.dtype)
    out = torch.empty_like(x, memory_format=_layout(x))
    for tile in reversed(_tiles(out, x, *others)):  # the last read tile may still be in the cache
        f(*tile)
    return out


def _tiles(*tensors):
    """The tensors cut along the batch axis; whole if small, on a GPU or traced."""
    x = tensors[0]
    if x.numel() <= _TILE or not x.is_cpu or _is_traced():
        return [tensors]
    rows = max(len(x) * _TILE // x.numel(), 1)
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def _is_traced():
    # The compiler and gradients of gradients need operations that return new tensors.
    return torch.is_grad_enabled() or torch.compiler.is_compiling()


def _layout(x):
    """channels_last (3d) if x's strides are in that order, as PyTorch decides it."""
    if x.dim() < 4 or x.is_contiguous():
        return torch.contiguous_format
    n, c, *spatial = x.stride()
    order = [c, *reversed(spatial), n]
    last = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return last if c == 1 and order == sorted(order) else torch.contiguous_format


def _sum(values, dtype=None):
    """Sum over all axes but the channels', (C,)."""
    places = tuple(range(2, values.dim()))
    if places and _is_traced():  # in two steps the compiler's code is faster for channels_last
        return values.sum(places, dtype=dtype).sum(0)
    return values.sum((0, *places), dtype=dtype)


def _columns(x, *vectors):
    """The vectors (C,), or None, in a shape that broadcasts against x."""
    if x.dim() == 2:
        return vectors
    shape = (-1, *(1,) * (x.dim() - 2))
    return [None if vector is None else vector.view(shape) for vector in vectors]


def _values_per_channel(x):
    return x.numel() // max(x.shape[1], 1)


def _is_empty(m):
    return not isinstance(m, torch.Tensor) and m == 0  # a tensor is at least 2


def _working_dtype(x):
    return torch.float32 if x.dtype in _HALF else x.dtype


def _check_eps(eps):
    if not eps > 0:
        raise ValueError(f"expected eps > 0, got {eps}; the usual value is 1e-5")


def _check_momentum(momentum):
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(
            f"expected momentum between 0 and 1, or None, got {momentum}; it is the weight of the "
            "new batch, so Keras' 0.99 is 0.01 here"
        )


def _check_input(x, channels, eps, of_batch):
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"expected a tensor, got {type(x).__name__}; use torch.as_tensor(x)")
    if not 2 <= x.dim() <= 5:
        raise ValueError(
            f"expected rank 2 to 5, (N, C) to (N, C, D, H, W), got shape {tuple(x.shape)}; "
            "add a batch axis with x.unsqueeze(0), or join axes with x.flatten(2)"
        )
    if not x.is_floating_point():
        raise TypeError(f"expected floating input, got {x.dtype}; convert it with x.float()")
    if channels is not None and x.shape[1] != channels:
        raise ValueError(
            f"expected {channels} channels on axis 1, got {x.shape[1]} in shape {tuple(x.shape)}; "
            f"use BatchNorm({x.shape[1]}), or move the channels with x.movedim(-1, 1)"
        )
    _check_eps(eps)
    if of_batch and x.shape[1]:
        _check_count(_values_per_channel(x), x)


def _check_count(m, x):
    if m == 1:
        raise ValueError(
            "expected a batch of at least 2 values per channel in training mode, got shape "
            f"{tuple(x.shape)}; call .eval() or use a larger batch"
        )


def _check_group(group, required=False):
    if group is None and not required:
        return
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "expected torch.distributed to be initialised for synchronised statistics; start with "
            "torchrun and call torch.distributed.init_process_group() first"
        )
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"expected a process group that this process belongs to, or None, got {group!r}; use "
            "torch.distributed.group.WORLD for all processes"
        )


def _check_vectors(x, **vectors):
    vectors = {name: vector for name, vector in vectors.items() if vector is not None}
    for name, vector in vectors.items():
        if vector.shape != x.shape[1:2] or vector.device != x.device:
            raise ValueError(
                f"expected {name} of shape ({x.shape[1]},) on {x.device} for input of shape "
                f"{tuple(x.shape)}, got {tuple(vector.shape)} on {vector.device}; give one value "
                "per channel on the input's device"
            )
    dtypes = {vector.dtype for vector in vectors.values()}
    if not (dtypes <= {x.dtype} or (x.dtype in _HALF and dtypes == {torch.float32})):
        found = ", ".join(f"{name} {vector.dtype}" for name, vector in vectors.items())
        raise TypeError(
            f"expected parameters and buffers of the input's dtype {x.dtype}, or of torch.float32 "
            f"for half-precision input, got {found}; convert one side with .to(dtype)"
        )


def _check_foldable(layer, bn):
    if not isinstance(layer, _FOLDABLE):
        raise TypeError(
            "expected a Linear, Conv1d to Conv3d or ConvTranspose1d to ConvTranspose3d layer, "
            f"got {type(layer).__name__}; fold the layer that stands directly before bn"
        )
    if not isinstance(bn, (BatchNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        raise TypeError(
            f"expected a batch normalization layer, got {type(bn).__name__}; "
            "call fold(layer, bn), in the order in which they are applied"
        )
    if bn.training:
        raise ValueError(
            "expected bn in eval mode, got training mode, where the output depends on the whole "
            "batch; call bn.eval() first"
        )
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(
            "expected bn with running statistics, got none; train with track_running_stats=True"
        )
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if bn.num_features != channels:
        raise ValueError(
            f"expected bn for the layer's {channels} output channels, got {bn.num_features}; "
            f"use BatchNorm({channels})"
        )
