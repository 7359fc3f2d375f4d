"""A run: a recipe trained on images, on a CPU, a GPU or several (torchrun), in :func:`train`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from bn_helpers import convert, models
from bn_helpers.data.image_files import batches
from bn_helpers.data.splits import Dataset
from bn_helpers.training import checkpoint
from bn_helpers.training.augment import Normalizer
from bn_helpers.training.recipes import RunError, Settings

EVALUATION_BATCH = 500
ENOUGH = 5000  # images for a mean of pixels or an accuracy in training


class Result(NamedTuple):
    """What a run leaves: ``curve`` rows are [step, mean training loss, held-out accuracy].

    ``status`` is "finished", "diverged" or "paused"; ``diverged_at`` the first step whose loss was
    not finite (or after which the outputs were not), or None. The accuracies are the final
    network's, undistorted, on some 5,000 images that it was trained on, on all held-out and all
    test images, or None; ``probabilities`` (test images, classes) too, on the CPU; ``seconds`` of
    training and evaluation.
    """

    curve: list
    status: str
    diverged_at: int | None
    train_accuracy: float | None
    held_out_accuracy: float | None
    test_accuracy: float | None
    probabilities: torch.Tensor | None
    seconds: float

    def row(self) -> dict[str, Any]:
        """What a record keeps of it: a dict without the probabilities."""
        row = self._asdict() | {"seconds": round(self.seconds, 1)}
        del row["probabilities"]
        return row


def best_accuracy(curve: Sequence[Sequence[float]]) -> float:
    """The highest accuracy in a curve, whose rows end with it; 0 if it has none."""
    return max((row[-1] for row in curve), default=0.0)


def steps_to(curve: Sequence[Sequence[float]], accuracy: float) -> float:
    """Steps of the first row of a curve with at least this accuracy, or infinity."""
    return next((row[0] for row in curve if row[-1] >= accuracy), math.inf)


def train(  # noqa: C901 (a run reads from top to bottom)
    settings: Settings,
    dataset: Dataset,
    *,
    device: str | torch.device = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    save_every: int | None = None,
    workers: int = 0,
    progress: Any = None,
    stop: Callable[[int], bool] | None = None,
) -> Result:
    """Train the network of ``settings`` on ``dataset`` and return a :class:`Result`.

    Neither evaluations nor checkpoints change what is trained. The global random states stay as
    they are.

    Parameters
    ----------
    settings : ``recipes.Settings``.
    dataset : ``data.Dataset`` of uint8 images.
    device : ``torch.device`` or its name.
    folder : ``pathlib.Path`` for ``checkpoint.pt``; None: no checkpoints.
    resume : whether to go on from the folder's checkpoint, if there is one.
    save_every : int, steps between checkpoints; default: ``settings.every``.
    workers : int, processes that decode images which do not fit into memory.
    progress : ``tqdm.tqdm`` or None; each evaluation is written through it as a table row.
    stop : callable, given the number of steps after each of them: whether to save and return with
        the status "paused". Several processes, which would disagree, can have none.

    Raises
    ------
    ValueError
        images that are not uint8; stop with several processes.
    RunError
        settings that do not fit the data or each other; a damaged checkpoint or another run's.
    """
    recipe, device = settings.recipe, torch.device(device)
    rank, processes = checkpoint.group()
    save_every = settings.every if save_every is None else save_every
    progress = _Silent() if progress is None else progress
    images, size = dataset.train.images, settings.size or dataset.train.images.shape[2]
    _check(settings, images, size, save_every, stop, processes)
    train_on, held_out = divide(settings, len(images))
    looked_at = _some(held_out, settings.look_at)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # The network, and what it is shown.
        normalizer = Normalizer(
            *moments(images, train_on, workers),
            size,
            distortion=recipe.distortion,
            pad=size // 8 if min(images.shape[2:]) == size else 0,
            flip=settings.flip,
            device=device,
        )
        pixels = _on_device(images, device)
        labels = torch.from_numpy(dataset.train.labels).to(device)
        model = build(settings, dataset, size)
        if settings.sync_bn:
            convert.synchronize(model, dist.group.WORLD)
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        forward = torch.compile(model) if settings.compile else model
        chance = torch.Generator(device=device).manual_seed(settings.seed)
        torch.manual_seed(settings.seed * 1000 + rank)  # Dropout draws from the global state

        # Where it starts.
        state = checkpoint.State(model, _optimizer(model, settings), chance)
        file = folder and folder / "checkpoint.pt"
        if resume and file:
            checkpoint.load(file, state, settings, dataset)
        began = time.monotonic() - state.seconds
        if state.step:
            progress.initial = progress.n = state.step
            done = "is finished" if state.step == settings.steps else "goes on"
            progress.write(f"{state.step:9,}  of {settings.steps:,} steps: the run {done}")
        if processes > 1:
            forward = nn.parallel.DistributedDataParallel(forward)

        # Step by step; each process takes its part of the batch.
        share = recipe.batch_size // processes
        part = slice(rank * share, (rank + 1) * share)
        order = batch_order(
            train_on,
            recipe.batch_size,
            settings.seed,
            shuffle=recipe.shuffle,
            start=state.step,
            steps=settings.steps,
        )
        status, diverged_at = "finished", None
        model.train()
        for batch, some in feed(pixels, (b[part] for b in order), device, workers):
            x = normalizer.random(some, chance, (recipe.batch_size, part))
            for group in state.optimizer.param_groups:
                group["lr"] = settings.lr_at(state.step)
            with _autocast(settings, device):
                outputs = forward(x)
            loss = F.cross_entropy(
                outputs.float(), labels[batch], label_smoothing=recipe.label_smoothing
            )
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            state.optimizer.step()
            state.losses.append(loss.detach())
            state.step += 1
            progress.update()

            last = state.step == settings.steps
            if settings.looks_at(state.step):
                losses, state.losses = _over_processes(state.losses), []
                bad = (~losses.cumsum(0).isfinite()).nonzero()  # the sum, or the mean is infinite
                if len(bad):
                    status, diverged_at = "diverged", state.step - len(losses) + int(bad[0]) + 1
                    break
                found = predict(model, normalizer, pixels, looked_at, settings, workers)
                accuracy = _accuracy(found, dataset.train.labels[looked_at])
                loss = losses.mean().item()
                state.curve.append([state.step, round(loss, 5), round(accuracy, 5)])
                lr = settings.lr_at(state.step)
                progress.write(f"{state.step:9,}  {lr:8.2g}  {loss:8.5g}  {accuracy:8.2%}")

            stopped = stop is not None and stop(state.step)
            if file and (last or stopped or state.step % save_every == 0):
                state.seconds = time.monotonic() - began
                checkpoint.save(file, state, settings, dataset)
            if stopped and not last:
                status = "paused"
                break

        # What came of it.
        accuracies: list[float | None] = [None, None, None]
        probabilities = None
        if status == "finished":
            test = _on_device(dataset.test.images, device)
            for i, (pixels_of, labels_of, index) in enumerate(
                (
                    (pixels, dataset.train.labels, _some(train_on, ENOUGH)),
                    (pixels, dataset.train.labels, held_out),
                    (test, dataset.test.labels, np.arange(len(test))),
                )
            ):
                found = predict(model, normalizer, pixels_of, index, settings, workers)
                accuracies[i] = _accuracy(found, labels_of[index])
            probabilities = found
            if not found.isfinite().all():  # the last step's loss still was
                status, diverged_at = "diverged", state.step
                accuracies, probabilities = [None, None, None], None
    train_accuracy, held_out_accuracy, test_accuracy = accuracies
    return Result(
        state.curve,
        status,
        diverged_at,
        train_accuracy,
        held_out_accuracy,
        test_accuracy,
        probabilities,
        time.monotonic() - began,
    )


class _Silent:
    """In place of a progress bar."""

    def update(self):
        pass

    def write(self, text):
        pass


def _check(settings, images, size, save_every, stop, processes):
    """Raise ValueError or RunError for a run that the data or the processes do not allow."""
    recipe, shape = settings.recipe, images.shape
    if save_every < 1:
        raise RunError(f"expected at least 1 step between checkpoints, got {save_every}")
    if processes > 1 and stop is not None:
        raise ValueError("expected no stop with several processes")
    if images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}; load them with dtype='uint8'")
    if recipe.batch_size % processes:
        raise RunError(
            f"expected a batch size that {processes} processes can share, got "
            f"{recipe.batch_size}; give a multiple with --batch-size"
        )
    if settings.sync_bn and not dist.is_initialized():
        raise RunError("--sync-bn needs several processes; start them with torchrun")
    if recipe.model == "inception" and shape[1] != 3:
        raise RunError("expected colour images for the paper's Inception; choose other data")
    if settings.size is None and shape[2] != shape[3]:
        raise RunError(f"expected square images, got {shape[2]}×{shape[3]}; give --image-size")
    least = {"small": 4, "plain": 8}.get(recipe.model, 1)
    if size < least or min(shape[2:]) < size:
        raise RunError(
            f"expected an image size from {least} to that of the images, {shape[2]}×{shape[3]},"
            f" got {size}; give another --image-size"
        )


def divide(settings: Settings, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of so many training images are trained on, and which curves are measured on."""
    count = min(settings.held_out, max(1, number // 10))
    order = np.random.default_rng(0).permutation(number)
    held_out, train_on = np.sort(order[:count]), np.sort(order[count:][: settings.train_on])
    if len(train_on) < settings.recipe.batch_size:
        raise RunError(
            f"expected at least {settings.recipe.batch_size} training images for a batch, got "
            f"{len(train_on)}; give a smaller --batch-size"
        )
    return train_on, held_out


def _some(index, enough):
    """At least ``enough`` of the indices, evenly, or all."""
    return index[:: max(1, len(index) // enough)]


def moments(pixels: Any, index: np.ndarray, workers: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in [0, 1], from 5,000 to 10,000 images."""
    index = _some(index, ENOUGH)
    parts = np.array_split(index, len(index) // EVALUATION_BATCH + 1)
    counts = np.zeros((pixels.shape[1], 256))
    for _, some in batches(pixels, parts, workers):
        for channel, values in enumerate(some.numpy().swapaxes(0, 1)):
            counts[channel] += np.bincount(values.ravel(), minlength=256)
    share, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.sqrt(variance).tolist()


def build(settings: Settings, dataset: Dataset, size: int) -> nn.Module:
    """The network of ``settings`` with its initial weights, a function of the seed alone."""
    recipe, classes = settings.recipe, len(dataset.classes)
    channels = dataset.train.images.shape[1]
    norm = nn.BatchNorm2d if recipe.bn else None
    kind: dict[str, Any] = {
        "norm": norm,
        "activation": recipe.activation,
        "dropout": recipe.dropout,
    }
    model: nn.Module
    if recipe.model == "inception":
        model = models.Inception(settings.reading, classes=classes, lrn=recipe.lrn, **kind)
    elif recipe.model == "small":
        widths = [max(1, round(settings.width * w)) for w in (8, 16, 16, 24)]
        cells = size if recipe.per_activation else None
        kind |= {"lrn": recipe.lrn, "per_activation": cells}
        model = models.SmallInception(channels, classes, widths, **kind)
    else:
        widths = [max(1, round(settings.width * w)) for w in (64, 256, 256)]
        model = models.PlainConv(channels, classes, widths, **kind)
    generator = torch.Generator().manual_seed(settings.seed)
    models.initialize(model, recipe.init, generator=generator, gain=recipe.gain)
    return model


def _optimizer(model, settings):
    """SGD; weight decay on convolutions' and linear layers' weights only."""
    with_decay = [p for p in model.parameters() if p.dim() > 1]
    without = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.SGD(
        [{"params": with_decay}, {"params": without, "weight_decay": 0.0}],
        lr=settings.initial_lr,
        momentum=settings.recipe.momentum,
        nesterov=settings.recipe.nesterov,
        weight_decay=settings.recipe.weight_decay,
    )


def batch_order(
    index: np.ndarray, batch_size: int, seed: int, *, shuffle: bool, start: int = 0, steps: int
) -> Iterator[np.ndarray]:
    """Yield the examples (batch_size,) of steps ``start`` to ``steps`` − 1, a function of the seed.

    With ``shuffle`` each epoch mixes ``index`` anew; without, the same examples always share a
    mini-batch and only the order of the batches changes (section 4.2.1).
    """
    per_epoch = len(index) // batch_size
    fixed = np.random.default_rng(seed).permutation(index)[: per_epoch * batch_size]
    fixed = fixed.reshape(per_epoch, batch_size)
    batches = None
    for step in range(start, steps):
        if batches is None or step % per_epoch == 0:
            rng = np.random.default_rng([seed, step // per_epoch])
            if shuffle:
                mixed = rng.permutation(index)[: per_epoch * batch_size]
                batches = mixed.reshape(per_epoch, batch_size)
            else:
                batches = rng.permutation(fixed)
        yield batches[step % per_epoch]


def _on_device(pixels, device):
    """An array as a tensor on the device; ``image_files.Files`` as they are."""
    return torch.from_numpy(pixels).to(device) if isinstance(pixels, np.ndarray) else pixels


def feed(
    pixels: Any, order: Iterable[np.ndarray], device: str | torch.device, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (indices, uint8 images) on the device for the index arrays of ``order``."""
    if isinstance(pixels, torch.Tensor):
        on_device = (torch.from_numpy(batch).to(device) for batch in order)
        yield from ((batch, pixels[batch]) for batch in on_device)
    else:
        for batch, found in batches(pixels, order, workers):
            yield batch.to(device), found.to(device, non_blocking=True)


def predict(
    model: Any,
    normalizer: Normalizer,
    pixels: Any,
    index: np.ndarray,
    settings: Settings,
    workers: int,
) -> torch.Tensor:
    """Class probabilities (len(index), classes) in eval mode, on the CPU, the same everywhere.

    The first process computes them with its running statistics; the others wait.
    """
    rank, processes = checkpoint.group()
    found, device = torch.zeros(len(index), model.classifier.out_features), normalizer.device
    if rank == 0:
        model.eval()
        parts = np.array_split(index, -(-len(index) // EVALUATION_BATCH))
        with torch.inference_mode(), _autocast(settings, device):
            outputs = [
                model(normalizer.plain(some)).float().softmax(1).cpu()
                for _, some in feed(pixels, iter(parts), device, workers)
            ]
        found = torch.cat(outputs)
        model.train()
    if processes > 1:
        found = found.to(device)
        dist.broadcast(found, 0)
    return found.cpu()


def _autocast(settings, device):
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, settings.precision))


def _over_processes(losses):
    """The steps' losses on the CPU, each the mean over all processes."""
    losses, (_, processes) = torch.stack(losses).float(), checkpoint.group()
    if processes > 1:
        dist.all_reduce(losses)
        losses /= processes
    return losses.cpu()


def _accuracy(probabilities, labels):
    return float((probabilities.argmax(1).numpy() == labels).mean())


def device_name(device: torch.device) -> str | None:
    """What a record says of ``device``: the GPU's name, or None for the processor."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
