"""The loop that chapters 02 to 10 share.

What trains for longer has rooms of its own here: :mod:`~bn_helpers.training.recipes`,
:mod:`~bn_helpers.training.augment`, :mod:`~bn_helpers.training.run`,
:mod:`~bn_helpers.training.checkpoint` and the command line,
``python -m bn_helpers.training RECIPE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bn_helpers.data.splits import Split


def minibatches(
    num_examples: int, batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield ``steps`` index arrays (batch_size,), drawn without replacement, reshuffled each epoch.

    ``rng`` is a ``numpy.random.Generator``. An epoch's incomplete last batch is dropped.

    Raises
    ------
    ValueError
        at the first batch: batch_size below 1 or above num_examples.
    """
    if not 1 <= batch_size <= num_examples:
        raise ValueError(
            f"expected batch_size between 1 and {num_examples} (the data), got {batch_size}; "
            "use smaller batches or more data"
        )
    per_epoch = num_examples // batch_size
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.permutation(num_examples)
        start = step % per_epoch * batch_size
        yield order[start : start + batch_size]


def fit(
    model: nn.Module,
    split: Split,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    rng: np.random.Generator,
    every: int | None = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
) -> tuple[np.ndarray, list[tuple[int, Any]]]:
    """Train ``model`` with plain SGD on the cross-entropy of ``split``'s images and labels.

    Parameters
    ----------
    model : ``nn.Module``, images (N, C, H, W) of the split's dtype → (N, classes).
    split : ``data.Split``.
    steps, batch_size : int, as in :func:`minibatches`.
    lr : float, the learning rate.
    rng : ``numpy.random.Generator``, draws the batches.
    every, evaluate : if given, ``evaluate(model)`` is called before the first step and after each
        ``every`` steps, in eval mode without gradients.

    Returns
    -------
    losses : float array (steps,), the mini-batch losses.
    evaluations : list of (step, evaluate(model)).

    Raises
    ------
    ValueError
        as :func:`minibatches`.
    """
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses, evaluations = np.empty(steps), []

    def look(step):
        if every and step % every == 0:
            model.eval()
            with torch.no_grad():
                evaluations.append((step, evaluate(model)))
            model.train()

    model.train()
    look(0)
    for step, batch in enumerate(minibatches(len(images), batch_size, steps, rng)):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.item()
        look(step + 1)
    return losses, evaluations


def over_seeds(
    build: Callable[[int], nn.Module],
    split: Split,
    judges: Sequence[Split],
    *,
    seeds: Iterable[int],
    **how: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Train ``build(seed)`` for each of the ``seeds``, which draw the batches, too.

    Parameters
    ----------
    build : int → ``nn.Module``, a new model.
    split : ``data.Split`` to train on.
    judges : ``data.Split`` each, on which the trained models' accuracy is taken, in eval mode.
    how : steps, batch_size and lr, as in :func:`fit`.

    Returns
    -------
    losses : float array (seeds, steps).
    accuracies : float array (judges, seeds).

    Raises
    ------
    ValueError
        as :func:`minibatches`.
    """
    losses, accuracies = [], []
    for seed in seeds:
        model = build(seed)
        losses.append(fit(model, split, rng=np.random.default_rng(seed), **how)[0])
        model.eval()
        accuracies.append([accuracy(model, judge) for judge in judges])
    return np.array(losses), np.transpose(accuracies)


def first(at: Any, there: Any) -> np.ndarray:
    """Where something is first so: steps to an accuracy, say. Infinity where it never is.

    Parameters
    ----------
    at : array (looks,), the steps after which was looked.
    there : bool array (…, looks), what was seen then, such as ``accuracies >= 0.95``.

    Returns
    -------
    first : float array (…).
    """
    there = np.asarray(there, dtype=bool)
    return np.where(there.any(-1), np.asarray(at, dtype=float)[there.argmax(-1)], np.inf)


def accuracy(model: nn.Module, split: Split) -> float:
    """Share of ``split`` that ``model`` classifies correctly, a float in [0, 1].

    The model stays in the mode it is in; in training mode its running statistics move.
    """
    with torch.no_grad():
        predicted = model(torch.from_numpy(split.images)).argmax(dim=1)
    return float((predicted == torch.from_numpy(split.labels)).float().mean())
