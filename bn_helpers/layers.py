"""Batch normalization in PyTorch: the autograd function, the drop-in module, folding.

Ioffe & Szegedy (2015), Algorithm 1 (forward), section 3 (backward), Algorithm 2 (inference) and
section 3.2 (one mean, variance, gamma and beta per feature map).
"""

import copy

import torch
from torch import nn

_HALF = (torch.float16, torch.bfloat16)
_SUPPORTED = (torch.float64, torch.float32, *_HALF)


class _Normalize(torch.autograd.Function):
    """y = gamma (x − mean) / sqrt(var + eps) + beta, all five statistics per channel (axis 1).

    ``of_batch`` says whether mean and var are x's own: they add two terms to the gradient.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, eps, of_batch):
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.of_batch = eps, of_batch
        inv_std = torch.rsqrt(var + eps)
        scale = inv_std if weight is None else weight * inv_std
        y = (_working(x) - _per_channel(mean, x)) * _per_channel(scale, x)
        if bias is not None:
            y = y + _per_channel(bias, x)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        x, weight, mean, var = ctx.saved_tensors
        axes = _axes(x)
        work, grad = _working(x), _working(dy)
        if torch.is_grad_enabled() and ctx.of_batch:
            # Gradients of gradients: the statistics have to be functions of x again.
            mean, var = _batch_statistics(x)
        inv_std = torch.rsqrt(var + ctx.eps)
        x_hat = (work - _per_channel(mean, x)) * _per_channel(inv_std, x)
        dbias, dweight = grad.sum(axes), (grad * x_hat).sum(axes)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = grad
            if ctx.of_batch:
                m = max(x.numel() // x.shape[1], 1)
                dx = dx - _per_channel(dbias / m, x) - x_hat * _per_channel(dweight / m, x)
            scale = inv_std if weight is None else weight * inv_std
            dx = (dx * _per_channel(scale, x)).to(x.dtype)
        dweight = dweight.to(weight.dtype) if ctx.needs_input_grad[1] else None
        dbias = dbias if ctx.needs_input_grad[2] else None
        return dx, dweight, dbias, None, None, None, None


def batch_norm(x, weight=None, bias=None, eps=1e-5):
    """Normalize ``x`` with its own statistics (Algorithm 1; for maps, section 3.2).

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
    TypeError : x is not floating; weight or bias of another dtype.
    ValueError : wrong rank or shape, one value per channel, eps <= 0.
    """
    channels = x.shape[1] if isinstance(x, torch.Tensor) and x.dim() > 1 else None
    _check_input(x, channels, eps, of_batch=True)
    _check_vectors(x, weight=weight, bias=bias)
    with torch.no_grad():
        mean, var = _batch_statistics(x)
    return _Normalize.apply(x, weight, bias, mean, var, eps, True), mean, var


class BatchNorm(nn.Module):
    """Drop-in for ``nn.BatchNorm1d``, ``nn.BatchNorm2d`` and ``nn.BatchNorm3d`` in one class.

    Parameters
    ----------
    num_features : int, C of the input (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W).
    eps : float > 0, added to the variance.
    momentum : float in [0, 1], the weight of the new batch in the running statistics (PyTorch's
        convention), or None for their plain average over all batches.
    affine : whether to learn gamma (``weight``) and beta (``bias``), float tensors (C,).
    track_running_stats : whether to keep ``running_mean``, ``running_var`` (the unbiased one,
        m/(m − 1)) and ``num_batches_tracked`` for eval mode. Without them eval mode uses the
        batch's statistics too.
    bias : with ``affine``, whether beta is learned.

    Raises
    ------
    TypeError : the input is not floating, or its dtype does not fit the parameters'.
    ValueError : wrong rank, channel count or parameter shape, one value per channel in training,
        eps <= 0, momentum outside [0, 1]. A refused batch leaves the buffers as they were.
    """

    _version = 2  # of the state dict: the one that has num_batches_tracked

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
    ) -> None:
        super().__init__()
        _check_eps(eps)
        _check_momentum(momentum)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        like = {"device": device, "dtype": dtype}
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            value = nn.Parameter(torch.empty(num_features, **like)) if wanted else None
            self.register_parameter(name, value)
        buffers = {"running_mean": None, "running_var": None, "num_batches_tracked": None}
        if track_running_stats:
            buffers = {
                "running_mean": torch.zeros(num_features, **like),
                "running_var": torch.ones(num_features, **like),
                "num_batches_tracked": torch.tensor(0, dtype=torch.long, device=device),
            }
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget all batches: mean 0, variance 1, count 0."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Reset the running statistics, and gamma to 1, beta to 0."""
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
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize ``x`` (layouts above) with the batch's or the running statistics."""
        mean, var = self.running_mean, self.running_var
        if self.training and not self.track_running_stats:
            mean = var = None
        of_batch = self.training or (mean is None and var is None)
        _check_momentum(self.momentum)
        _check_input(x, self.num_features, self.eps, of_batch)
        _check_vectors(x, weight=self.weight, bias=self.bias, running_mean=mean, running_var=var)
        if (mean is None) != (var is None):
            raise ValueError(
                "expected running_mean and running_var, or neither, got one of them; "
                "set both, or both to None"
            )
        if not of_batch:
            mean, var = _working(mean), _working(var)
            return _Normalize.apply(x, self.weight, self.bias, mean, var, self.eps, False)
        with torch.no_grad():
            batch_mean, batch_var = _batch_statistics(x)
        y = _Normalize.apply(x, self.weight, self.bias, batch_mean, batch_var, self.eps, True)
        if self.training and self.track_running_stats:
            self._track(batch_mean, batch_var, x.numel() // max(self.num_features, 1))
        return y

    @torch.no_grad()
    def _track(self, mean, var, m):
        factor = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if factor is None:
                factor = 1 / self.num_batches_tracked.to(mean.dtype)
        if self.running_mean is None or m == 0:  # PyTorch counts an empty batch, and no more
            return
        if factor is None:
            factor = 0.0
        # Not lerp_: it gives NaN where a running value is infinite.
        for running, new in ((self.running_mean, mean), (self.running_var, var * (m / (m - 1)))):
            running.copy_((1 - factor) * _working(running) + factor * new)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        # Checkpoints older than version 2 have no counter; PyTorch keeps the module's.
        version, key = local_metadata.get("version"), prefix + "num_batches_tracked"
        if (version is None or version < 2) and self.track_running_stats:
            counter = self.num_batches_tracked
            if counter is None or counter.is_meta:
                counter = torch.tensor(0, dtype=torch.long)
            state_dict.setdefault(key, counter)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


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
    TypeError : another kind of layer or of bn.
    ValueError : bn is in training mode, has no running statistics, or another channel count.
    """
    _check_foldable(layer, bn)
    dtype = torch.promote_types(layer.weight.dtype, torch.float32)
    with torch.no_grad():
        scale = torch.rsqrt(bn.running_var.to(dtype) + bn.eps)
        if bn.weight is not None:
            scale = scale * bn.weight.to(dtype)
        shift = -bn.running_mean if layer.bias is None else layer.bias.to(dtype) - bn.running_mean
        bias = scale * shift if bn.bias is None else scale * shift + bn.bias
        weight = layer.weight.to(dtype)
        if isinstance(layer, _TRANSPOSED):
            # (in, out / groups, ...): output channel g * out / groups + j sits in row block g.
            by_group = weight.unflatten(0, (layer.groups, -1))
            rest = (1,) * (weight.dim() - 2)
            weight = (by_group * scale.view(layer.groups, 1, -1, *rest)).flatten(0, 1)
        else:
            weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
    folded = copy.deepcopy(layer)
    trainable = layer.weight.requires_grad
    folded.weight = nn.Parameter(weight.to(layer.weight.dtype), trainable)
    folded.bias = nn.Parameter(bias.to(layer.weight), trainable)
    return folded


_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _check_foldable(layer, bn):
    if not isinstance(layer, (nn.Linear, *_CONV, *_TRANSPOSED)):
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
            "expected bn with running statistics, got track_running_stats=False; "
            "train with track_running_stats=True"
        )
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if bn.num_features != channels:
        raise ValueError(
            f"expected bn for the layer's {channels} output channels, got {bn.num_features}; "
            f"use BatchNorm({channels})"
        )


def _axes(x):
    return (0, *range(2, x.dim()))


def _per_channel(vector, x):
    return vector.view(-1, *(1,) * (x.dim() - 2))


def _working(x):
    return x.float() if x.dtype in _HALF else x


def _batch_statistics(x):
    work = _working(x)
    mean = work.mean(_axes(x))
    centred = work - _per_channel(mean, x)
    return mean, (centred * centred).mean(_axes(x))


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
    shape = tuple(x.shape)
    if not 2 <= len(shape) <= 5:
        raise ValueError(
            f"expected rank 2 to 5, (N, C) to (N, C, D, H, W), got shape {shape}; "
            "add a batch axis with x.unsqueeze(0), or flatten axes with x.flatten(2)"
        )
    if x.dtype not in _SUPPORTED:
        raise TypeError(
            f"expected floating input (float64, float32, bfloat16 or float16), got {x.dtype}; "
            "convert it with x.float()"
        )
    if shape[1] != channels:
        raise ValueError(
            f"expected {channels} channels on axis 1, got {shape[1]} in shape {shape}; "
            f"use BatchNorm({shape[1]}), or move the channels with x.movedim(-1, 1)"
        )
    _check_eps(eps)
    if of_batch and x.numel() == channels:
        raise ValueError(
            "expected a batch of at least 2 values per channel in training mode, got shape "
            f"{shape}; call .eval() or use a larger batch"
        )


def _check_vectors(x, **vectors):
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    for name, vector in given.items():
        if vector.shape != x.shape[1:2]:
            raise ValueError(
                f"expected {name} of shape ({x.shape[1]},) for input of shape {tuple(x.shape)}, "
                f"got {tuple(vector.shape)}; give one value per channel"
            )
        if vector.device != x.device:
            raise ValueError(
                f"expected {name} on the input's device {x.device}, got {vector.device}; "
                "move one of them with .to(device)"
            )
    dtypes = {vector.dtype for vector in given.values()}
    if dtypes <= {x.dtype} or (x.dtype in _HALF and dtypes == {torch.float32}):
        return
    found = ", ".join(f"{name} {vector.dtype}" for name, vector in given.items())
    raise TypeError(
        f"expected parameters and buffers of the input's dtype {x.dtype} (or all float32 for "
        f"half-precision input), got {found}; convert one side with .to(dtype)"
    )
