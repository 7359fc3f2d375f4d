"""Batch normalization in PyTorch: the derivatives and the drop-in module.

Ioffe & Szegedy (2015), Algorithm 1 (forward), section 3 (backward), Algorithm 2 (inference) and
section 3.2 (one mean, variance, gamma and beta per feature map), in the letters of chapter 03. How
sums and products go through the memory is the business of :mod:`bn_helpers.memory`.
"""

import copy
from typing import Any

import torch
from torch import distributed as dist
from torch import fx
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm

from bn_helpers import memory


def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise ``x`` with its own statistics (Algorithm 1; for maps, section 3.2).

    Parameters
    ----------
    x : floating tensor (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    weight, bias : tensors (C,) or None, the paper's gamma and beta; of x's dtype, or float32 for
        float16 and bfloat16 input.
    eps : float > 0, added to the variance.

    Returns
    -------
    y : tensor like x, differentiable any number of times, backward, forward and by ``torch.func``.
    mean, var : tensors (C,), without gradient; ``var`` is the biased (1/m) variance. float32 for
        float16 and bfloat16 input, else x's dtype.

    Raises
    ------
    TypeError
        x is no floating tensor; weight or bias of another dtype.
    ValueError
        wrong rank, shape or device, one value per channel, eps <= 0.
    """
    check_arguments(x, weight, bias, eps)
    mean, var, m = _statistics_of(x)
    y = _normalize(x, weight, bias, mean, torch.rsqrt(var + eps), m, eps)
    return y, mean.detach(), var.detach()


class BatchNorm(_BatchNorm):
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
        a process group, but torch.distributed is not initialised; tracked statistics under
        ``torch.vmap``, where each network would need its own.
    TypeError
        the input is not floating, its dtype does not fit the parameters', or process_group is
        something else; ``torch.jit.script``, which cannot compile derivatives in Python.
    ValueError
        wrong rank, channel count or parameter shape, one value per channel where the
        batch's statistics are used,
        eps <= 0, momentum outside [0, 1]. A refused batch leaves the buffers as they were.
    """

    def __init__(  # type: ignore[no-untyped-def]  # device and dtype: PyTorch's own signature
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
        _check_eps(eps)
        _check_momentum(momentum)
        if process_group is not None:
            check_group(process_group)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.process_group = process_group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` (shapes above) with the batch's or the running statistics."""
        if isinstance(x, fx.Proxy):  # a symbolic trace keeps the layer whole, as it keeps PyTorch's
            path = x.tracer.path_of_module(self)
            return x.tracer.create_proxy("call_module", path, (x,), {})
        weight, bias = self.weight, self.bias
        mean: Any = self.running_mean
        var: Any = self.running_var
        if self.training and not self.track_running_stats:
            mean = var = None
        of_batch = self.training or (mean is None and var is None)
        group = self.process_group if self.training else None
        if group is not None:
            check_group(group)
        _check_momentum(self.momentum)
        _check_input(x, self.num_features, self.eps, of_batch and group is None)
        _check_vectors(x, weight, bias, mean, var)
        if not of_batch:
            inv_std = torch.rsqrt(var.to(memory.working_dtype(x)) + self.eps)
            # A copy: training may move the buffer before this call's backward pass.
            mean = mean.to(inv_std.dtype, copy=True)
            return _normalize(x, weight, bias, mean, inv_std)
        batch_mean, batch_var, m = _statistics_of(x, group)
        if self.training and self.track_running_stats:
            self._track(mean, var, batch_mean, batch_var, m)
        inv_std = torch.rsqrt(batch_var + self.eps)
        return _normalize(x, weight, bias, batch_mean, inv_std, m, self.eps, group)

    def _track(self, running_mean, running_var, mean, var, m):
        """Move the running statistics towards the batch's: section 3.1."""
        factor = self.momentum
        count = self.num_batches_tracked
        if factor is None and count is not None:
            factor = 1 / (count + 1).to(mean.dtype)
        # PyTorch counts an empty batch and leaves it at that.
        if running_mean is not None and factor is not None and not _is_empty(m):
            m = m.to(mean.dtype) if isinstance(m, torch.Tensor) else m
            move = _replace if memory.in_transform() else _move
            move(running_mean, 1 - factor, mean, factor)
            move(running_var, 1 - factor, var, factor * (m / (m - 1)))
        if count is not None:
            count.add_(1)

    def extra_repr(self) -> str:
        group = ", synchronized" if self.process_group is not None else ""
        return super().extra_repr() + group

    def __getstate__(self):
        return {**self.__dict__, "process_group": None}  # a group cannot leave its process

    def __deepcopy__(self, memo):
        twin = memo[id(self)] = self.__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        twin.process_group = self.process_group
        return twin

    def __prepare_scriptable__(self):
        raise TypeError(
            "expected torch.export or torch.jit.trace, got torch.jit.script, which cannot compile "
            "derivatives written in Python; or script PyTorch's own layers: "
            "bn_helpers.convert.to_native(model)"
        )


class _Normalize(Function):
    """y = gamma · x_hat + beta of x, gamma, beta (None: 1, 0), mean and inv_std; its derivatives.

    With m, a number, mean and inv_std = 1 / sqrt(var + eps) are those of the batch's m values per
    channel, on all processes of the group together, and functions of x; they are computed before,
    but differentiated here (section 3). With m = None they are constants (Algorithm 2).
    """

    @staticmethod
    def forward(x, gamma, beta, mean, inv_std, m, eps, group):
        return _transformed(x, gamma, beta, mean, inv_std)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, gamma, _, mean, inv_std, ctx.m, ctx.eps, ctx.group = inputs
        ctx.save_for_backward(x, gamma, mean, inv_std)
        ctx.save_for_forward(x, gamma, mean, inv_std)

    @staticmethod
    def backward(ctx, dy):
        x, gamma, mean, inv_std = ctx.saved_tensors
        m = ctx.m
        if m is not None and (torch.is_grad_enabled() or memory.in_transform()):
            # For gradients of gradients the statistics have to be functions of x again.
            mean, inv_std = _again(ctx, x)
        vectors = mean, inv_std, gamma
        (values, dy), (mean, inv_std, gamma) = memory.as_on_paper((x, dy), vectors)
        x_hat = (values - mean) * inv_std
        dx = dgamma = dbeta = None
        if m is not None or any(ctx.needs_input_grad[1:3]):
            dbeta, dgamma = memory.sums(dy, x_hat)
        if ctx.needs_input_grad[0]:
            dx = memory.compute(_through_x(ctx, dy, x_hat, inv_std, gamma, dbeta, dgamma), like=x)
        return dx, *_of_parameters(ctx, dgamma, dbeta), *[None] * 5

    @staticmethod
    def jvp(ctx, dx, dgamma, dbeta, *_):
        x, gamma, mean, inv_std = ctx.saved_tensors
        if ctx.m is not None:
            mean, inv_std = _again(ctx, x)
        vectors = mean, inv_std, gamma, _or_zeros(dgamma, mean), dbeta
        forms = memory.as_on_paper((x, _or_zeros(dx, x)), vectors)
        (values, dx), (mean, inv_std, gamma, dgamma, dbeta) = forms
        x_hat = (values - mean) * inv_std
        # The very map of backward: the Jacobian of batch normalization is symmetric.
        through_x = _through_x(ctx, dx, x_hat, inv_std, gamma, *memory.sums(dx, x_hat))
        direct = _scaled_and_shifted(x_hat, dgamma, dbeta)
        return memory.compute(through_x, like=x) + memory.compute(direct, like=x)

    @staticmethod
    def vmap(info, in_dims, x, *others):
        """B networks of C channels are one network of B · C channels."""
        *vectors, m, eps, group = others
        networks = info.batch_size
        x = _side_by_side(x, in_dims[0], networks, axis=1)
        pairs = zip(vectors, in_dims[1:], strict=False)
        vectors = [_side_by_side(vector, dim, networks) for vector, dim in pairs]
        y = _normalize(x, *vectors, m, eps, group)
        return y.unflatten(1, (networks, -1)), 1


class _PlainNormalize(Function):
    """The same without jvp and vmap: less to prepare for a small table, and compilable."""

    @staticmethod
    def forward(ctx, x, gamma, beta, mean, inv_std, m, eps, group):
        ctx.m, ctx.eps, ctx.group = m, eps, group
        ctx.save_for_backward(x, gamma, mean, inv_std)
        return _transformed(x, gamma, beta, mean, inv_std)

    backward = staticmethod(_Normalize.backward)


def _normalize(x, gamma, beta, mean, inv_std, m=None, eps=None, group=None):
    if _is_recorded():
        return _transformed(x, gamma, beta, mean, inv_std)
    function = _Normalize if memory.in_transform() else _PlainNormalize
    return function.apply(x, gamma, beta, mean, inv_std, m, eps, group)


def _is_recorded():
    """Whether this call's operations are written down and differentiated later."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def _through_x(ctx, dy, x_hat, inv_std, gamma, dbeta, dgamma):
    """dx for dy; or, forwards, dy for dx, with dbeta = Σ dx and dgamma = Σ dx · x_hat."""
    scale = inv_std if gamma is None else gamma * inv_std
    m = ctx.m
    if m is None:
        return dy * scale
    # All processes' losses depend on x, through the mean and the variance that they share.
    dbeta, dgamma = _over_processes(ctx.group, dbeta, dgamma)
    return (dy - dbeta / m - x_hat * (dgamma / m)) * scale


def _transformed(x, gamma, beta, mean, inv_std):
    vectors = gamma, beta, mean, inv_std
    (values,), (gamma, beta, mean, inv_std) = memory.as_on_paper((x,), vectors)
    x_hat = (values - mean) * inv_std
    y = _scaled_and_shifted(x_hat, gamma, beta)
    return memory.compute(y, like=x)


def _scaled_and_shifted(x_hat, gamma, beta):
    y = x_hat if gamma is None else x_hat * gamma
    return y if beta is None else y + beta


def _or_zeros(gradient, like):
    return torch.zeros_like(like) if gradient is None else gradient


def _of_parameters(ctx, dgamma, dbeta):
    """None for what is not asked for: gamma or beta may not be there."""
    needed = ctx.needs_input_grad
    return (
        memory.flat(dgamma) if needed[1] else None,
        memory.flat(dbeta) if needed[2] else None,
    )


def _again(ctx, x):
    """The batch's mean and inv_std, computed where derivatives of them can be taken."""
    mean, var, _ = _statistics(x, ctx.group)
    return mean, torch.rsqrt(var + ctx.eps)


def _side_by_side(tensor, dim, networks, axis=0):
    """A tensor batched along ``dim``, or the one of all networks, with their channels joined."""
    if tensor is None:
        return None
    if dim is None:
        tensor, dim = tensor.expand(networks, *tensor.shape), 0
    return tensor.movedim(dim, axis).flatten(axis, axis + 1)


class _AllReduce(Function):
    """The sum of all processes' values; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(values, group):
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx, gradient):
        return _AllReduce.apply(gradient, ctx.group), None

    @staticmethod
    def jvp(ctx, tangent, _):
        return _AllReduce.apply(tangent, ctx.group)


def _over_processes(group, *vectors):
    return vectors if group is None else _AllReduce.apply(torch.stack(vectors), group)


def _statistics_of(x, group=None):
    """:func:`_statistics`; constants, unless someone records what is done."""
    return _statistics(x if _is_recorded() else x.detach(), group)


def _statistics(x, group):
    """Mean and biased variance (C,) of the group's m values per channel, and m."""
    mean, var = memory.moments(x)
    m = memory.values_per_channel(x)
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
    return *memory.pool(means, variances, share), total


def _move(running, keep, new, share):
    """running ← keep · running + share · new; not lerp_, which makes NaN of infinity."""
    new = new.detach() if new.requires_grad else new
    if running.dtype == new.dtype and not isinstance(share, torch.Tensor):
        running.mul_(keep).add_(new, alpha=share)
    else:
        running.copy_(running.to(new.dtype) * keep + new * share)


def _replace(running, keep, new, share):
    """The same under a transform, in one step that may be refused."""
    try:
        running.copy_(running.to(new.dtype) * keep + new * share)
    except RuntimeError as error:
        raise RuntimeError(
            "expected running statistics that this transform may change, those of each network "
            "under torch.vmap, for instance; call .eval(), call "
            "torch.func.replace_all_batch_norm_modules_(model), or hand the buffers in, stacked by "
            f"torch.func.stack_module_state ({str(error).splitlines()[0]})"
        ) from error


def _is_empty(m):
    return not isinstance(m, torch.Tensor) and m == 0  # a tensor is at least 2


def check_arguments(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> None:
    """Raise what :func:`batch_norm` raises for these arguments; the kernels ask, too."""
    _check_input(x, None, eps, of_batch=True)
    _check_vectors(x, weight, bias)


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
    shape = x.shape
    if not 2 <= len(shape) <= 5:
        raise ValueError(
            f"expected rank 2 to 5, (N, C) to (N, C, D, H, W), got shape {tuple(shape)}; "
            "add a batch axis with x.unsqueeze(0), or join axes with x.flatten(2)"
        )
    if not x.is_floating_point():
        raise TypeError(f"expected floating input, got {x.dtype}; convert it with x.float()")
    if channels is not None and shape[1] != channels:
        raise ValueError(
            f"expected {channels} channels on axis 1, got {shape[1]} in shape {tuple(shape)}; "
            f"use BatchNorm({shape[1]}), or move the channels with x.movedim(-1, 1)"
        )
    _check_eps(eps)
    if of_batch and shape[1]:
        _check_count(memory.values_per_channel(x), x)


def _check_count(m, x):
    if m == 1:
        raise ValueError(
            "expected a batch of at least 2 values per channel in training mode, got shape "
            f"{tuple(x.shape)}; call .eval() or use a larger batch"
        )


def check_group(group: Any) -> None:
    """Raise what :class:`BatchNorm` raises for this ``process_group``, None included."""
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


def _check_vectors(x, weight, bias, mean=None, var=None):
    channels, dtype, device = x.shape[1:2], x.dtype, x.device
    for v in (weight, bias, mean, var):
        if v is not None and (v.dtype != dtype or v.shape != channels or v.device != device):
            named = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
            _explain({name: v for name, v in named.items() if v is not None}, x)
            break
    if (mean is None) != (var is None):
        raise ValueError(
            "expected running_mean and running_var, or neither, got one of them; "
            "set both, or both to None"
        )


def _explain(vectors, x):
    """Say which of the vectors does not fit x, unless it is float32 beside half precision."""
    for name, vector in vectors.items():
        if vector.shape != x.shape[1:2] or vector.device != x.device:
            raise ValueError(
                f"expected {name} of shape ({x.shape[1]},) on {x.device} for input of shape "
                f"{tuple(x.shape)}, got {tuple(vector.shape)} on {vector.device}; give one value "
                "per channel on the input's device"
            )
    dtypes = {vector.dtype for vector in vectors.values()}
    if not (dtypes <= {x.dtype} or (x.dtype in memory.HALF and dtypes == {torch.float32})):
        found = ", ".join(f"{name} {vector.dtype}" for name, vector in vectors.items())
        raise TypeError(
            f"expected parameters and buffers of the input's dtype {x.dtype}, or of torch.float32 "
            f"for half-precision input, got {found}; convert one side with .to(dtype)"
        )
