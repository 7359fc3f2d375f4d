"""Many small networks trained at once: a thousand of them in the minute that a chapter has.

Two ways. :class:`Stack`, for fully connected networks on shared mini-batches, is the fastest: the
first layer of all M networks is one matrix product, the others are batched ones, and forward and
backward are written out side by side. It repeats the experiment of Ioffe & Szegedy (2015), §4.1,
whose BN network takes Algorithm 1 in training and moving averages at test time. :func:`sgd` trains
whatever PyTorch's autograd goes through: M networks side by side in one ``nn.Sequential``, whose
features are each network's in turn, M·C of them. BN of M·C channels is that of each by itself.

Both do plain SGD on each network's own mean cross-entropy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import nn

from bn_helpers.data import Split
from bn_helpers.layers import BatchNorm
from bn_helpers.training import minibatches

CHUNK = 1000  # test images at once: 20 networks' activations stay within 10 MB


@dataclass
class Stack:
    """M networks of the same form; every tensor holds all of them, in one dtype.

    ``weights``: the first (D, M·h), the others (M, in, out). ``shift``: beta where ``bn``, else
    the bias, one (M, 1, out) for each layer, the last layer's included. ``gamma``,
    ``running_mean``, ``running_var``: (M, 1, h) for each hidden layer, empty lists without BN.
    """

    bn: bool
    activation: str
    eps: float
    momentum: float
    weights: list
    shift: list
    gamma: list
    running_mean: list
    running_var: list

    def __len__(self):
        return len(self.shift[0])


def networks(
    widths: Sequence[int],
    *,
    sigma: Sequence[float],
    seeds: Sequence[int],
    bn: bool,
    activation: str = "sigmoid",
    eps: float = 1e-5,
    momentum: float = 0.1,
    dtype: torch.dtype | None = None,
) -> Stack:
    """New networks: weights N(0, σ²), biases and beta 0, gamma 1.

    Parameters
    ----------
    widths : (D, hidden …, classes).
    sigma, seeds : floats and ints, one for each network. A seed gives the same draws for any
        sigma, with BN or without.
    bn : bool, BN before each hidden activation, in place of its bias (§3.2).
    activation : ``"sigmoid"`` or ``"relu"``.
    eps, momentum : as in ``torch.nn.BatchNorm1d``.
    dtype : ``torch.dtype``; default float32. Two machines that round differently agree for longer
        in float64.

    Returns
    -------
    stack : :class:`Stack`.

    Raises
    ------
    ValueError
        not one sigma for each seed, or another activation.
    """
    if len(sigma) != len(seeds):
        raise ValueError(f"expected one sigma for each of {len(seeds)} seeds, got {len(sigma)}")
    if activation not in ("sigmoid", "relu"):
        raise ValueError(f"expected activation 'sigmoid' or 'relu', got {activation!r}")
    m, hidden, dtype = len(seeds), widths[1:-1], dtype or torch.float32
    rngs = [np.random.default_rng(seed) for seed in seeds]
    weights = []
    for shape in pairwise(widths):
        draws = [s * rng.standard_normal(shape) for s, rng in zip(sigma, rngs, strict=True)]
        weights.append(torch.from_numpy(np.stack(draws)).to(dtype))
    weights[0] = weights[0].transpose(0, 1).reshape(widths[0], -1)
    return Stack(
        bn=bn,
        activation=activation,
        eps=eps,
        momentum=momentum,
        weights=weights,
        shift=[torch.zeros(m, 1, width, dtype=dtype) for width in widths[1:]],
        gamma=[torch.ones(m, 1, width, dtype=dtype) for width in hidden if bn],
        running_mean=[torch.zeros(m, 1, width, dtype=dtype) for width in hidden if bn],
        running_var=[torch.ones(m, 1, width, dtype=dtype) for width in hidden if bn],
    )


def train(
    stack: Stack,
    split: Split,
    *,
    steps: int,
    batch_size: int,
    lr: ArrayLike,
    rng: np.random.Generator,
    start: int = 0,
    at: Iterable[int] = (),
    evaluate: Any = None,
) -> list[tuple[int, Any]]:
    """Train every network of ``stack`` in place; all see the same mini-batches.

    Parameters
    ----------
    split : ``data.Split``, images (N, C, H, W) with D = C·H·W.
    steps, batch_size, rng : as in ``training.minibatches``.
    lr : float or M floats, the learning rates.
    start : int, steps that the stack has behind it: with a fresh ``rng`` of the same seed the run
        goes on bitwise as if it had not been interrupted.
    at, evaluate : ``evaluate(stack)`` is called after each of the steps ``at`` (0: before the
        first).

    Returns
    -------
    evaluations : list of (step, evaluate(stack)).

    Raises
    ------
    ValueError
        as ``training.minibatches``; BN with batches of one, which have no variance.
    """
    if stack.bn and batch_size < 2:
        raise ValueError(f"expected batch_size of at least 2 with BN, got {batch_size}")
    dtype, labels = stack.weights[0].dtype, torch.from_numpy(split.labels)
    inputs = torch.from_numpy(split.images).flatten(1).to(dtype)
    lr = torch.as_tensor(lr, dtype=dtype).reshape(-1, 1, 1)
    # Once glibc has seen a block of this size freed, it keeps smaller ones for the next step. Fresh
    # pages, which the system zeroes, took up to a third of the time.
    torch.empty(31 << 20, dtype=torch.uint8)
    at, evaluations = set(at), []
    if start == 0 and 0 in at:
        evaluations.append((0, evaluate(stack)))
    batches = islice(minibatches(len(labels), batch_size, steps, rng), start, None)
    for step, batch in enumerate(batches, start + 1):
        index = torch.from_numpy(batch)
        _step(stack, inputs.index_select(0, index), labels[index], lr)
        if step in at:
            evaluations.append((step, evaluate(stack)))
    return evaluations


def _step(stack, x, labels, lr):
    """One step of SGD: x (m, D), labels (m,), lr (M or 1, 1, 1)."""
    m = len(x)
    # A pixel that is off in the whole batch adds nothing and has no gradient: leave out its rows.
    on = x.any(dim=0).nonzero()[:, 0]
    x, first = x.index_select(1, on), stack.weights[0].index_select(0, on)
    passed, a = [], x
    for layer, w in enumerate([first, *stack.weights[1:-1]]):
        z = _product(a, w, len(stack))
        if stack.bn:
            mean = z.mean(dim=1, keepdim=True)
            z -= mean
            var = torch.square(z).mean(dim=1, keepdim=True)
            stack.running_mean[layer].lerp_(mean, stack.momentum)
            stack.running_var[layer].lerp_(var * (m / (m - 1)), stack.momentum)
            inv_std = torch.rsqrt(var + stack.eps)
            x_hat = z.mul_(inv_std)
            y = torch.addcmul(stack.shift[layer], x_hat, stack.gamma[layer])
        else:
            x_hat = inv_std = None
            y = z.add_(stack.shift[layer])
        y = y.sigmoid_() if stack.activation == "sigmoid" else y.relu_()
        passed.append((a, x_hat, inv_std, y))
        a = y
    d = torch.softmax(torch.baddbmm(stack.shift[-1], a, stack.weights[-1]), dim=2)
    d[:, torch.arange(m), labels] -= 1
    # Everything below is linear in d: scaled here, each gradient comes out times its rate.
    d *= lr / m
    stack.shift[-1] -= d.sum(dim=1, keepdim=True)
    d = _back(stack.weights[-1], a, d)
    for layer in range(len(passed) - 1, -1, -1):
        a, x_hat, inv_std, y = passed[layer]
        d *= torch.addcmul(y, y, y, value=-1) if stack.activation == "sigmoid" else y > 0
        sum_d = d.sum(dim=1, keepdim=True)
        if stack.bn:  # §3's six equations, collapsed as in chapter 03
            sum_dx = (d * x_hat).sum(dim=1, keepdim=True)
            d -= sum_d / m
            d.addcmul_(x_hat, sum_dx / -m)
            d *= stack.gamma[layer] * inv_std
            stack.gamma[layer] -= sum_dx
        stack.shift[layer] -= sum_d
        if layer:
            d = _back(stack.weights[layer], a, d)
    first.addmm_(x.T, d.transpose(0, 1).reshape(m, -1), alpha=-1)
    stack.weights[0].index_copy_(0, on, first)


def _back(w, a, d):
    """Update w (M, in, out) by its input a and its output's gradient d; return a's gradient."""
    before = torch.bmm(d, w.transpose(1, 2))
    w.baddbmm_(a.transpose(1, 2), d, alpha=-1)
    return before


def _product(a, w, networks):
    """a @ w for all networks, (M, m, out); shared inputs (m, D) meet w (D, M·out)."""
    if a.dim() == 3:
        return torch.bmm(a, w)
    return (a @ w).view(len(a), networks, -1).transpose(0, 1).contiguous()


def forward(stack: Stack, images: ArrayLike) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What every network makes of ``images`` (N, C, H, W) at test time.

    Returns
    -------
    sigmoid_inputs : list of tensors (M, N, h), what each hidden activation is given.
    logits : tensor (M, N, classes).
    """
    a, given = torch.from_numpy(images).flatten(1).to(stack.weights[0].dtype), []
    for layer, w in enumerate(stack.weights[:-1]):
        z = _product(a, w, len(stack))
        if stack.bn:
            scale = stack.gamma[layer] * torch.rsqrt(stack.running_var[layer] + stack.eps)
            z = torch.addcmul(stack.shift[layer], z - stack.running_mean[layer], scale)
        else:
            z = z + stack.shift[layer]
        given.append(z)
        a = torch.sigmoid(z) if stack.activation == "sigmoid" else torch.relu(z)
    return given, torch.baddbmm(stack.shift[-1], a, stack.weights[-1])


def jacobians(
    stack: Stack, images: ArrayLike, *, examples: int = 8, running: bool = False
) -> list[torch.Tensor]:
    """How each hidden layer's normalised values move the next one's, for one example at a time.

    With BN these are x̂ and the next layer's x̂ (the map F of §3.3), without it the activations'
    inputs. An example takes part in the batch's mean and variance, which multiplies its rows by
    1 − (1 + x̂²)/m; ``running``: the running statistics stand in, as at test time.

    Parameters
    ----------
    images : array (N, C, H, W), one batch; for the first ``examples`` of it the matrices are found.

    Returns
    -------
    found : list of tensors (M, examples, h, h), one for each hidden layer but the first; rows
        belong to the later layer.
    """
    a = torch.as_tensor(images).flatten(1).to(stack.weights[0].dtype)
    first = stack.weights[0].view(a.shape[1], len(stack), -1).transpose(0, 1)
    found: list[torch.Tensor] = []
    slope = torch.zeros(0)
    for layer, w in enumerate([first, *stack.weights[1:-1]]):
        x_hat, moved = _normalised(stack, layer, a @ w, running)
        if layer:
            rows, columns = moved[:, :examples, :, None], slope[:, :examples, None, :]
            found.append(rows * w.transpose(1, 2)[:, None] * columns)
        gamma = stack.gamma[layer] if stack.bn else 1.0
        y = gamma * x_hat + stack.shift[layer]
        a = y.sigmoid() if stack.activation == "sigmoid" else y.relu()
        slope = gamma * (a * (1 - a) if stack.activation == "sigmoid" else (y > 0).to(y))
    return found


def _normalised(stack, layer, z, running):
    """x̂ (M, m, h), or z without BN; and by how much each value of z moves its own."""
    if not stack.bn:
        return z, torch.ones_like(z)
    if running:
        inv_std = torch.rsqrt(stack.running_var[layer] + stack.eps)
        return (z - stack.running_mean[layer]) * inv_std, inv_std.expand_as(z)
    var, mean = torch.var_mean(z, dim=1, correction=0, keepdim=True)
    inv_std = torch.rsqrt(var + stack.eps)
    x_hat = (z - mean) * inv_std
    # ∂x̂/∂z of one value: 1/√(σ² + ε) · (1 − 1/m − (z − μ)² / (m (σ² + ε)))
    return x_hat, inv_std * (1 - (1 + x_hat**2) / z.shape[1])


class Linear(nn.Module):
    """M linear layers side by side: (N, in), (N, M·in) or (N, M, in) → (N, M·out).

    ``weight`` is a tensor (M, in, out); the bias, if there is one, starts at 0.
    """

    def __init__(self, weight: torch.Tensor, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        zeros = weight.new_zeros(weight.shape[0] * weight.shape[2])
        self.bias = nn.Parameter(zeros) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        each = x.reshape(len(x), -1, self.weight.shape[1]).transpose(0, 1)
        y = (each @ self.weight).transpose(0, 1).flatten(1)
        return y if self.bias is None else y + self.bias


class Ghost(BatchNorm):
    """BN that cuts a training batch into groups of ``size`` with statistics of their own.

    The ghost batches of Hoffer et al. (2017); ``size`` None: one group.
    """

    def __init__(self, num_features: int, size: int | None = None) -> None:
        super().__init__(num_features)
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.split(self.size) if self.training and self.size else [x]
        return torch.cat([super(Ghost, self).forward(part) for part in parts])


def sgd(
    model: nn.Sequential,
    images: torch.Tensor,
    labels: torch.Tensor,
    batches: Iterable[np.ndarray],
    lr: ArrayLike,
    *,
    decay: ArrayLike = 0.0,
    grow: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Train M networks side by side; yield each step's (losses, accuracies), arrays (M,).

    Parameters
    ----------
    model : ``nn.Sequential`` that ends with :class:`Linear`; each of its parameters holds the first
        network's numbers, then the second's, and so on.
    images, labels : tensors (N, …), (N,).
    batches : index arrays (m,), shared by all networks, or (m, M).
    lr : float or M floats, the learning rates.
    decay : float or M floats: each step multiplies the weights of all :class:`Linear` but the last
        by 1 − lr·decay.
    grow : whether to leave these weights alone instead, and let their learning rate grow by
        (1 − lr·decay)⁻² a step, which with BN comes to the same.
    """
    weights = [layer.weight for layer in model if isinstance(layer, Linear)]
    networks = len(weights[-1])
    lr, decay = (
        torch.as_tensor(v, dtype=torch.float64).broadcast_to(networks)[:, None] for v in (lr, decay)
    )
    parameters = [p for p in model.train().parameters() if p.requires_grad]
    shrunk = [any(p is w for w in weights[:-1]) for p in parameters]
    for t, index in enumerate(batches):
        logits = model(images[index]).unflatten(1, (networks, -1))
        target = labels[index].view(len(logits), -1).expand(-1, networks)
        losses = F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(dim=0)
        gradients = torch.autograd.grad((lr[:, 0] * losses).sum(), parameters)
        for p, gradient, decays in zip(parameters, gradients, shrunk, strict=True):
            keep, step = 1 - lr * decay * decays, gradient.reshape(networks, -1)
            rows = p.data.view(networks, -1)
            if grow:
                rows -= keep ** -(2 * t + 1) * step
            else:
                rows.mul_(keep).sub_(step)
        yield losses.detach().numpy(), _shares(logits, target)


def accuracy(networks: Any, split: Split) -> np.ndarray:
    """Share of ``split`` that each network classifies correctly, float array (M,).

    ``networks`` is a :class:`Stack`, or a model as in :func:`sgd`, which stays in the mode it is
    in. Such a model's images may also be (N, M, …) and labels (N, M): each network's own.
    """
    images, labels = (torch.as_tensor(part) for part in split)
    with torch.no_grad():
        if isinstance(networks, Stack):
            parts = (forward(networks, part.numpy())[1] for part in images.split(CHUNK))
            logits = torch.cat(list(parts), dim=1).transpose(0, 1)
        else:
            logits = networks(images).unflatten(1, (len(networks[-1].weight), -1))
    return _shares(logits, labels.view(len(labels), -1))


def _shares(logits, labels):
    """Accuracies (M,) of logits (N, M, classes)."""
    return (logits.argmax(dim=2) == labels).double().mean(dim=0).numpy()
