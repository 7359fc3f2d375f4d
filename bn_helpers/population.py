"""Population statistics: what batch normalization normalises with once training is over.

Ioffe & Szegedy (2015), Algorithm 2 and section 3.1; re-estimation after Wu & Johnson (2021),
"Rethinking 'Batch' in BatchNorm", section 3. NumPy, except for :func:`reestimate`, which loads
torch when it is called.

Throughout, ``means`` and ``variances`` are (T, ...): one row for each of T mini-batches, in the
order in which training saw them, and ``variances`` are *biased* (1/m), as Algorithm 1 has them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Population(NamedTuple):
    """``mean`` and ``var``: float64 arrays of one shape, one entry per feature."""

    mean: np.ndarray
    var: np.ndarray


def moving_average(
    means: np.ndarray,
    variances: np.ndarray,
    m: int | np.ndarray,
    momentum: float | None = 0.1,
    *,
    start: tuple[Any, Any] = (0.0, 1.0),
) -> Population:
    """What PyTorch's ``running_mean`` and ``running_var`` hold after these mini-batches.

    Each batch moves the average by ``momentum`` towards it: r ← (1 − momentum)·r + momentum·batch,
    the batch's variance taken unbiased (1/(m − 1)); section 3.1 names moving averages without a
    formula, this one is PyTorch's.

    Parameters
    ----------
    means, variances : (T, ...) real, biased variances.
    m : int or (T,) ints, values per statistic in each batch, at least 2.
    momentum : float in [0, 1], the weight of the *new* batch; None for the cumulative average,
        in which batch t gets weight 1/t: the plain mean over all batches.
    start : (mean, variance) before the first batch; PyTorch starts from mean 0 and variance 1.

    Returns
    -------
    :class:`Population`.

    Raises
    ------
    ValueError
        momentum outside [0, 1], m below 2, no batch, shapes that differ, a negative
        variance.
    """
    means, variances = _batches(means, variances)
    factor = bessel(m, means)
    if momentum is not None and not 0 <= momentum <= 1:
        raise ValueError(
            f"expected momentum in [0, 1] or None, got {momentum}; it is the weight of the new "
            "batch (Keras' momentum 0.99 is 0.01 here)"
        )
    mean, var = (np.broadcast_to(np.asarray(s, float), means.shape[1:]) for s in start)
    for t in range(len(means)):
        weight = 1 / (t + 1) if momentum is None else momentum
        mean = (1 - weight) * mean + weight * means[t]
        var = (1 - weight) * var + weight * factor[t] * variances[t]
    return Population(mean, var)


def algorithm2(means: np.ndarray, variances: np.ndarray, m: int | np.ndarray) -> Population:
    """E[x] = E[μ_B] and Var[x] = m/(m − 1)·E[σ²_B] over the mini-batches (Algorithm 2, step 10).

    Unbiased where each batch is a random sample. Where batches differ systematically (sorted
    data), the variance between them is missed: use :func:`pool`.

    Parameters
    ----------
    means, variances : (T, ...) real, biased variances.
    m : int or (T,) ints, values per statistic in each batch, at least 2. The paper has one m;
        with several, each batch's variance gets its own m/(m − 1).

    Returns
    -------
    :class:`Population`.

    Raises
    ------
    ValueError
        m below 2, no batch, shapes that differ, a negative variance.
    """
    means, variances = _batches(means, variances)
    return Population(means.mean(axis=0), (bessel(m, means) * variances).mean(axis=0))


def pool(means: np.ndarray, variances: np.ndarray, counts: int | np.ndarray) -> Population:
    """Mean and variance of all values together, from those of the batches: exact.

    The law of total variance, Var[x] = E[σ²_B] + Var[μ_B], batches weighted by their counts.
    Equals ``np.mean`` and ``np.var`` (1/N) of the concatenation to rounding, whatever the order
    and the sizes of the batches.

    Parameters
    ----------
    means, variances : (T, ...) real, biased variances.
    counts : int or (T,) ints, values per statistic in each batch, at least 1.

    Returns
    -------
    :class:`Population`, its variance biased (1/N); times N/(N − 1) for the unbiased one.

    Raises
    ------
    ValueError
        counts below 1, no batch, shapes that differ, a negative variance.
    """
    means, variances = _batches(means, variances)
    numbers = _counts("counts", counts, means, least=1)
    weights = numbers / numbers.sum()
    mean = (weights * means).sum(axis=0)
    # Centred squares, not E[μ²] − E[μ]²: that cancels where the mean is large.
    return Population(mean, (weights * (variances + (means - mean) ** 2)).sum(axis=0))


def reestimate(
    model: Any,
    images: Any,
    batch_size: int,
    *,
    method: str = "average",
    rng: np.random.Generator | None = None,
) -> None:
    """Replace a trained model's running statistics by those of ``images``, the weights being fixed.

    "Precise BN" of Wu & Johnson (2021), section 3. Works in place on every batch normalization
    layer with running statistics that the model calls: ``bn_helpers.layers.BatchNorm`` and
    ``nn.BatchNorm*d``. All other layers (dropout!) run in eval mode, nothing is differentiated,
    and every ``momentum`` and ``training`` flag is put back, as are the statistics if it fails.

    Parameters
    ----------
    model : ``nn.Module`` that takes (batch, ...) of ``images``' dtype and device.
    images : (N, ...) tensor or array, training inputs.
    batch_size : int, at most N; at least 2 unless method is "layerwise".
    method : one of

        - ``"average"``: one pass in training mode with ``momentum=None``, which is Algorithm 2;
          an incomplete last batch is dropped.
        - ``"pooled"``: the same pass, the batches' moments pooled by :func:`pool`.
        - ``"layerwise"``: one pass per layer, first to last, each over inputs that the layers
          before it made with their new statistics. Exact: the variance (1/N) that the layer
          meets at inference, whatever the batch size and order; every image is used.
    rng : ``numpy.random.Generator`` that shuffles the images; None takes them as they come.

    Returns
    -------
    None; ``running_mean``, ``running_var`` and ``num_batches_tracked`` of the layers are set.

    Raises
    ------
    ValueError
        an unknown method, a batch_size out of range, a model in which no batch
        normalization layer with running statistics is called.
    """
    import torch

    batches = _split(images, batch_size, method, rng)
    layers = _layers_in_order_of_use(model, batches[0])
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(layer, layer.momentum) for layer in layers]
    kept = [(b, b.clone()) for layer in layers for b in layer.buffers(recurse=False)]
    try:
        model.eval()
        with torch.no_grad():
            _METHODS[method](model, layers, batches)
    except BaseException:
        for buffer, value in kept:
            buffer.copy_(value)
        raise
    finally:
        for module, training in modes:
            module.training = training
        for layer, momentum in momenta:
            layer.momentum = momentum


def _average(model, layers, batches):
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for batch in batches:
        model(batch)


def _pooled(model, layers, batches):
    for layer in layers:
        layer.train()
    _store(layers, _recorded(model, layers, batches), len(batches))


def _layerwise(model, layers, batches):
    for layer in layers:
        _store([layer], _recorded(model, [layer], batches), len(batches))


_METHODS = {"average": _average, "pooled": _pooled, "layerwise": _layerwise}


def _recorded(model, layers, batches):
    """For each layer a list of (mean, biased variance, count), one for each of its inputs."""
    records = {layer: [] for layer in layers}

    def record(layer, inputs):
        # In float64: a sum over a whole training set is long.
        values = inputs[0].double().transpose(0, 1).flatten(1).cpu().numpy()
        records[layer].append((values.mean(axis=1), values.var(axis=1), values.shape[1]))

    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        for batch in batches:
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return records


def _store(layers, records, num_batches):
    import torch

    for layer in layers:
        population = pool(*(np.stack(column) for column in zip(*records[layer], strict=True)))
        layer.running_mean.copy_(torch.from_numpy(population.mean))
        layer.running_var.copy_(torch.from_numpy(population.var))
        layer.num_batches_tracked.fill_(num_batches)


def _split(images, batch_size, method, rng):
    import torch

    if method not in _METHODS:
        raise ValueError(f"expected method to be one of {sorted(_METHODS)}, got {method!r}")
    images = torch.as_tensor(images)
    least = 1 if method == "layerwise" else 2
    if not least <= batch_size <= len(images):
        raise ValueError(
            f"expected batch_size between {least} and {len(images)} (the images given), "
            f"got {batch_size}"
        )
    if rng is not None:
        images = images[torch.from_numpy(rng.permutation(len(images)))]
    batches = list(images.split(batch_size))
    if method != "layerwise" and len(batches[-1]) < batch_size:
        batches.pop()
    return batches


def _layers_in_order_of_use(model, batch):
    import torch

    order = []
    candidates = [module for module in model.modules() if _tracks(module)]
    handles = [
        layer.register_forward_pre_hook(lambda used, _: order.append(used)) for layer in candidates
    ]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    if not order:
        raise ValueError(
            "expected a model that calls batch normalization with running statistics, found "
            f"none in {type(model).__name__}; construct it with track_running_stats=True"
        )
    return list(dict.fromkeys(order))


def _tracks(module):
    from torch import nn

    # By its buffers, not its class: this module lies below bn_helpers.layers.
    tracks = getattr(module, "num_batches_tracked", None) is not None
    return tracks and not isinstance(module, nn.modules.instancenorm._InstanceNorm)


def _batches(means, variances):
    means, variances = np.asarray(means, dtype=float), np.asarray(variances, dtype=float)
    if means.ndim < 1 or len(means) < 1 or means.shape != variances.shape:
        raise ValueError(
            "expected means and variances of one shape (batches, ...) with at least one batch, "
            f"got {means.shape} and {variances.shape}"
        )
    refuse_negative(variances)
    return means, variances


def _counts(name, counts, means, least):
    counts = np.asarray(counts)
    if counts.dtype.kind not in "iu" or counts.shape not in ((), means.shape[:1]):
        raise ValueError(
            f"expected {name} to be one whole number or {len(means)} of them, one for each batch, "
            f"got {counts.tolist()}"
        )
    if counts.min() < least:
        raise ValueError(
            f"expected {name} of at least {least}, got {counts.min()}; "
            "one value has a mean but no variance: use larger batches"
            if least > 1
            else f"expected {name} of at least {least}, got {counts.min()}; leave out empty batches"
        )
    column = (len(means),) + (1,) * (means.ndim - 1)
    return np.broadcast_to(counts, means.shape[:1]).reshape(column).astype(float)


def bessel(m: int | np.ndarray, means: np.ndarray) -> np.ndarray:
    """m/(m − 1), which makes biased variances unbiased, as a column beside ``means`` (T, ...)."""
    counts = _counts("m", m, means, least=2)
    return counts / (counts - 1)


def refuse_negative(var: np.ndarray) -> None:
    """Raise ValueError for a variance below zero."""
    # NaN passes through, as everywhere in this package: it is not below zero.
    if np.any(var < 0):
        raise ValueError(f"expected variances >= 0, got {np.min(var)}; pass variances, not logs")
