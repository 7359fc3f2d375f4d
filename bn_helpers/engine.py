"""The engine behind ``python -m bn_helpers.training RECIPE``.

It trains a recipe of :mod:`bn_helpers.recipes` on images, on a CPU, a GPU or several (torchrun),
and keeps checkpoints from which a killed run goes on as if nothing had happened.
"""

from __future__ import annotations

import io
import math
import os
import time
import zipfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from bn_helpers import convert, images, models, records
from bn_helpers.augment import Normalizer
from bn_helpers.recipes import BASE_LR, Recipe

HELD_OUT = 5000  # training images that curves and choices are measured on, or a tenth if fewer
EVALUATION_BATCH = 500


class RunError(ValueError):
    """A run that cannot be started or continued; the message says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """A recipe and what else determines a run's curve, to the bit on a CPU.

    Raises RunError for numbers that no run can have.
    """

    recipe: Recipe
    steps: int
    seed: int = 0
    lr: float | None = None  # initial; None: the recipe's
    every: int = 100  # steps between evaluations on held-out images
    size: int | None = None  # H = W of what the network sees; None: the images'
    width: float = 1.0  # factor on the small and the plain network's widths
    flip: bool = True
    reading: str = "repaired"  # of Figure 5, for the paper's network
    precision: str = "float32"  # or "bfloat16" (autocast)
    compile: bool = False
    sync_bn: bool = False  # statistics over all processes' batches
    held_out: int = HELD_OUT
    train_on: int | None = None  # so many training images only

    def __post_init__(self):
        size = 1 if self.size is None else self.size
        counts = {"steps": self.steps, "every": self.every, "image size": size}
        for name, count in (counts | {"batch size": self.recipe.batch_size}).items():
            if count < 1:
                raise RunError(f"expected {name} of at least 1, got {count}")
        for name, number in (("learning rate", self.initial_lr), ("width", self.width)):
            if not 0 < number < math.inf:
                raise RunError(f"expected a finite {name} above 0, got {number}")
        if not 0 <= self.seed < 2**32:
            raise RunError(f"expected a seed from 0 to 2**32 - 1, got {self.seed}")
        if self.precision not in ("float32", "bfloat16"):
            raise RunError(f"expected precision float32 or bfloat16, got {self.precision!r}")

    @property
    def initial_lr(self):
        recipe = self.recipe
        return recipe.faster * BASE_LR[recipe.model] if self.lr is None else self.lr

    def lr_at(self, step):
        """Learning rate of step 0, 1, …: halved ``halvings`` times in the course of the run."""
        return self.initial_lr * 2 ** (-self.recipe.halvings * step / self.steps)


class Result(NamedTuple):
    """What a run leaves: ``curve`` rows are [step, mean training loss, held-out accuracy].

    ``status`` is "finished", "diverged" or "paused"; ``diverged_at`` the first step whose loss was
    not finite (or after which the outputs were not), or None; ``probabilities`` (test images,
    classes) the final network's, on the CPU, or None; ``seconds`` of training and evaluation.
    """

    curve: list
    status: str
    diverged_at: int | None
    test_accuracy: float | None
    probabilities: torch.Tensor | None
    seconds: float


def best_accuracy(curve):
    """The highest accuracy in a curve, whose rows end with it; 0 if it has none."""
    return max((row[-1] for row in curve), default=0.0)


def steps_to(curve, accuracy):
    """Steps of the first row of a curve with at least this accuracy, or infinity."""
    return next((row[0] for row in curve if row[-1] >= accuracy), math.inf)


def build(settings, image_set, size):
    """The network of ``settings`` with its initial weights, a function of the seed alone."""
    recipe, classes = settings.recipe, len(image_set.classes)
    channels = image_set.train.images.shape[1]
    norm = nn.BatchNorm2d if recipe.bn else None
    kind = {"norm": norm, "activation": recipe.activation, "dropout": recipe.dropout}
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


def batch_order(index, batch_size, seed, *, shuffle, start=0, steps):
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


def train(
    settings,
    image_set,
    *,
    device="cpu",
    folder=None,
    resume=False,
    save_every=None,
    workers=0,
    progress=None,
    deadline=None,
    stop=None,
):
    """Train the network of ``settings`` on ``image_set`` and return a :class:`Result`.

    Neither evaluations nor checkpoints change what is trained. The global random states stay as
    they are.

    Parameters
    ----------
    settings : :class:`Settings`.
    image_set : ``images.ImageSet``.
    device : ``torch.device`` or its name.
    folder : ``pathlib.Path`` for ``checkpoint.pt``; None: no checkpoints.
    resume : whether to go on from the folder's checkpoint, if there is one.
    save_every : int, steps between checkpoints; default: ``settings.every``.
    workers : int, processes that decode images which do not fit into memory.
    progress : ``tqdm.tqdm`` or None; each evaluation is written through it as a table row.
    deadline : ``time.monotonic()`` at which to save and return with the status "paused".
    stop : callable, asked after each step whether to do so at once. With several processes, which
        would disagree, neither can be given.

    Raises
    ------
    RunError
        settings that do not fit the data or each other; a damaged checkpoint or another run's.
    """
    save_every = settings.every if save_every is None else save_every
    if save_every < 1:
        raise RunError(f"expected at least 1 step between checkpoints, got {save_every}")
    device = torch.device(device)

    def late():
        if stop is not None and stop():
            return True
        return deadline is not None and time.monotonic() > deadline

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run = _Run(settings, image_set, device, folder, workers, progress)
        if run.processes > 1 and not (deadline is None and stop is None):
            raise ValueError("expected neither deadline nor stop with several processes")
        torch.manual_seed(settings.seed * 1000 + run.rank)  # Dropout draws from the global state
        if resume and folder:
            run.load()
        return run.go(save_every, late)


class _Run:
    """A run's state: network, optimiser, generators, curve, step."""

    def __init__(self, settings, image_set, device, folder, workers, progress):
        recipe, self.settings, self.device, self.folder = settings.recipe, settings, device, folder
        self.images, self.workers, self.progress = image_set, workers, progress
        distributed = dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.processes = dist.get_world_size() if distributed else 1
        pixels = image_set.train.images
        self.size = settings.size or pixels.shape[2]
        self._check(distributed)
        held_out = min(settings.held_out, max(1, len(pixels) // 10))
        order = np.random.default_rng(0).permutation(len(pixels))
        self.held_out = np.sort(order[:held_out])
        self.train_on = np.sort(order[held_out:][: settings.train_on])
        if len(self.train_on) < recipe.batch_size:
            raise RunError(
                f"expected at least {recipe.batch_size} training images for a batch, got "
                f"{len(self.train_on)}; give a smaller --batch-size"
            )
        mean, std = _moments(pixels, self.train_on, workers)
        self.normalizer = Normalizer(
            mean,
            std,
            self.size,
            distortion=recipe.distortion,
            pad=self.size // 8 if min(pixels.shape[2:]) == self.size else 0,
            flip=settings.flip,
            device=device,
        )
        self.pixels = _on_device(pixels, device)
        self.model = build(settings, image_set, self.size)
        if settings.sync_bn:
            convert.synchronize(self.model, dist.group.WORLD)
        self.model.to(device, memory_format=torch.channels_last)
        with_decay = [p for p in self.model.parameters() if p.dim() > 1]
        without = [p for p in self.model.parameters() if p.dim() == 1]
        self.optimizer = torch.optim.SGD(
            [{"params": with_decay}, {"params": without, "weight_decay": 0.0}],
            lr=settings.initial_lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self.chance = torch.Generator(device=device).manual_seed(settings.seed)
        self.curve, self.losses, self.step, self.seconds = [], [], 0, 0.0

    def _check(self, distributed):
        batch_size, shape = self.settings.recipe.batch_size, self.images.train.images.shape
        if batch_size % self.processes:
            raise RunError(
                f"expected a batch size that {self.processes} processes can share, got "
                f"{batch_size}; give a multiple with --batch-size"
            )
        if self.settings.sync_bn and not distributed:
            raise RunError("--sync-bn needs several processes; start them with torchrun")
        if self.settings.recipe.model == "inception" and shape[1] != 3:
            raise RunError("expected colour images for the paper's Inception; choose other data")
        if self.settings.size is None and shape[2] != shape[3]:
            raise RunError(f"expected square images, got {shape[2]}×{shape[3]}; give --image-size")
        least = {"small": 4, "plain": 8}.get(self.settings.recipe.model, 1)
        if self.size < least or min(shape[2:]) < self.size:
            raise RunError(
                f"expected an image size from {least} to that of the images, {shape[2]}×{shape[3]},"
                f" got {self.size}; give another --image-size"
            )

    def go(self, save_every, late):
        settings, recipe = self.settings, self.settings.recipe
        forward = torch.compile(self.model) if settings.compile else self.model
        if self.processes > 1:
            forward = nn.parallel.DistributedDataParallel(forward)
        share = recipe.batch_size // self.processes
        part = slice(self.rank * share, (self.rank + 1) * share)
        order = batch_order(
            self.train_on,
            recipe.batch_size,
            settings.seed,
            shuffle=recipe.shuffle,
            start=self.step,
            steps=settings.steps,
        )
        labels = torch.from_numpy(self.images.train.labels).to(self.device)
        mine = (batch[part] for batch in order)
        self.began = time.monotonic() - self.seconds
        self.model.train()
        for batch, pixels in _feed(self.pixels, mine, self.device, self.workers):
            x = self.normalizer.random(pixels, self.chance, (recipe.batch_size, part))
            for group in self.optimizer.param_groups:
                group["lr"] = settings.lr_at(self.step)
            with self._autocast():
                outputs = forward(x)
            loss = F.cross_entropy(
                outputs.float(), labels[batch], label_smoothing=recipe.label_smoothing
            )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.detach())
            self.step += 1
            if self.progress is not None:
                self.progress.update()
            last = self.step == settings.steps
            if (last or self.step % settings.every == 0) and not self._look():
                return self._result("diverged")
            stopped = late()
            if last or stopped or self.step % save_every == 0:
                self.save()
            if stopped and not last:
                return self._result("paused")
        return self._result("finished")

    def _look(self):
        """Add a row to the curve; False if a loss since the last one was not finite."""
        losses = torch.stack(self.losses).float()
        if self.processes > 1:
            dist.all_reduce(losses)
            losses /= self.processes
        losses, self.losses = losses.cpu(), []
        bad = (~losses.cumsum(0).isfinite()).nonzero()  # the sum too, or the mean is infinite
        if len(bad):
            self.diverged_at = self.step - len(losses) + int(bad[0]) + 1
            return False
        loss = losses.mean().item()
        probabilities = self._predict(self.pixels, self.held_out)
        accuracy = _accuracy(probabilities, self.images.train.labels[self.held_out])
        self.curve.append([self.step, round(loss, 5), round(accuracy, 5)])
        if self.progress is not None:
            lr = self.settings.lr_at(self.step)
            self.progress.write(f"{self.step:9,}  {lr:8.2g}  {loss:8.5g}  {accuracy:8.2%}")
        return True

    def _predict(self, pixels, index):
        """Class probabilities (len(index), classes) in eval mode, on the CPU, the same everywhere.

        The first process computes them with its running statistics; the others wait.
        """
        found = torch.zeros(len(index), len(self.images.classes))
        if self.rank == 0:
            self.model.eval()
            parts = np.array_split(index, -(-len(index) // EVALUATION_BATCH))
            with torch.inference_mode(), self._autocast():
                outputs = [
                    self.model(self.normalizer.plain(some)).float().softmax(1).cpu()
                    for _, some in _feed(pixels, iter(parts), self.device, self.workers)
                ]
            found = torch.cat(outputs)
            self.model.train()
        if self.processes > 1:
            found = found.to(self.device)
            dist.broadcast(found, 0)
        return found.cpu()

    def _result(self, status):
        accuracy = probabilities = None
        if status == "finished":
            test = self.images.test
            everything = np.arange(len(test.labels))
            probabilities = self._predict(_on_device(test.images, self.device), everything)
            accuracy = _accuracy(probabilities, test.labels)
            if not probabilities.isfinite().all():  # the last step's loss still was
                self.diverged_at = self.step
                status, accuracy, probabilities = "diverged", None, None
        diverged_at = self.diverged_at if status == "diverged" else None
        seconds = time.monotonic() - self.began
        return Result(self.curve, status, diverged_at, accuracy, probabilities, seconds)

    def _autocast(self):
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.settings.precision))

    def save(self):
        """Write the checkpoint; a kill at any moment leaves the old one or the new one."""
        if self.folder is None:
            return
        own = {"random": torch.get_rng_state(), "chance": self.chance.get_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        own["losses"] = [loss.cpu() for loss in self.losses]
        processes = [own]
        if self.processes > 1:
            processes = [None] * self.processes
            dist.all_gather_object(processes, own)
        if self.rank:
            return
        content = {
            "settings": asdict(self.settings),
            "data": self.images.sha256,
            "step": self.step,
            "curve": self.curve,
            "seconds": time.monotonic() - self.began,
            "processes": processes,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.folder / "checkpoint.part"
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / "checkpoint.pt")

    def load(self):
        """Continue from the folder's checkpoint, if there is one; the first process reads it."""
        file = self.folder / "checkpoint.pt"
        box = [file.read_bytes() if self.rank == 0 and file.exists() else None]
        if self.processes > 1:
            dist.broadcast_object_list(box)
        if box[0] is None:
            return
        content = _opened(box[0], file)
        self._check_same(content, file)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.curve = content["step"], content["curve"]
        self.seconds = content["seconds"]
        own = content["processes"][self.rank]
        torch.set_rng_state(own["random"])
        self.chance.set_state(own["chance"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)
        self.losses = [loss.to(self.device) for loss in own["losses"]]
        if self.progress is not None:
            self.progress.initial = self.progress.n = self.step
            done = "is finished" if self.step == self.settings.steps else "goes on"
            self.progress.write(f"{self.step:9,}  of {self.settings.steps:,} steps: the run {done}")

    def _check_same(self, content, file):
        """Raise RunError if the checkpoint is not of this run."""
        theirs, ours = _flat(content["settings"]), _flat(asdict(self.settings))
        for name, their, our in (
            ("data", content["data"], self.images.sha256),
            ("processes", len(content["processes"]), self.processes),
            *((name, theirs.get(name), ours.get(name)) for name in theirs | ours),
            (  # of the last step: the recipe's may have changed
                "learning rate",
                content["optimizer"]["param_groups"][0]["lr"],
                self.settings.lr_at(content["step"] - 1),
            ),
        ):
            if their != our:
                raise RunError(
                    f"{file} is of a run with {name} = {their}, not {our}; give that, or another "
                    "--out"
                )


def _opened(raw, file):
    """The checkpoint's contents from its bytes."""
    try:
        stream = io.BytesIO(raw)
        damaged = zipfile.ZipFile(stream).testzip()  # torch.load compares no checksums
        if damaged:
            raise ValueError(f"{damaged} is damaged")
        stream.seek(0)
        content = torch.load(stream, map_location="cpu", weights_only=True)
        content["settings"], content["model"], content["processes"]
        return content
    except MemoryError:
        raise
    except Exception as error:  # many kinds, for a file that is no checkpoint
        reason = str(error).splitlines()[0]
        raise RunError(f"{file} is no checkpoint ({reason}); delete it to start anew") from None


def _flat(settings):
    """Settings as a dict, with the recipe's fields among them."""
    fields = settings | settings["recipe"]
    return {name: fields[name] for name in fields if name not in ("recipe", "about")}


def _on_device(pixels, device):
    """An array as a tensor on the device; ``images.Files`` as they are."""
    return torch.from_numpy(pixels).to(device) if isinstance(pixels, np.ndarray) else pixels


def _feed(pixels, order, device, workers):
    """Yield (indices, uint8 images) on the device for the index arrays of ``order``."""
    if isinstance(pixels, torch.Tensor):
        for batch in order:
            batch = torch.from_numpy(batch).to(device)
            yield batch, pixels[batch]
        return
    ahead = []

    def noted():
        for batch in order:
            ahead.append(torch.from_numpy(batch))
            yield batch

    for found in images.batches(pixels, noted(), workers):
        yield ahead.pop(0).to(device), found.to(device, non_blocking=True)


def _accuracy(probabilities, labels):
    return float((probabilities.argmax(1).numpy() == labels).mean())


def _moments(pixels, index, workers):
    """Mean and standard deviation of each channel, in [0, 1], from 5,000 to 10,000 images."""
    index = index[:: max(1, len(index) // 5000)]
    parts = np.array_split(index, len(index) // EVALUATION_BATCH + 1)
    counts = np.zeros((pixels.shape[1], 256))
    for some in images.batches(pixels, parts, workers):
        for channel, values in enumerate(some.numpy().swapaxes(0, 1)):
            counts[channel] += np.bincount(values.ravel(), minlength=256)
    share, values = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), np.sqrt(variance).tolist()


def device_name(device):
    """What a record says of ``device``: the GPU's name, or None for the processor."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def write_record(settings, result, *, name, command, image_set, device, where):
    """Store a run as a record (see :mod:`bn_helpers.records`) and return its path."""
    row = {
        "status": result.status,
        "diverged_at": result.diverged_at,
        "curve": result.curve,
        "test_accuracy": result.test_accuracy,
        "seconds": round(result.seconds, 1),
    }
    processes = dist.get_world_size() if dist.is_initialized() else 1
    return records.write(
        name,
        command=command,
        config=asdict(settings) | {"processes": processes},
        results=[row],
        seeds=[settings.seed],
        data={image_set.name: image_set.sha256},
        device=device_name(device),
        where=where,
    )
