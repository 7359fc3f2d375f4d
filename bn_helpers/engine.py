"""The engine behind ``python -m bn_helpers.training RECIPE``.

It trains a recipe of :mod:`bn_helpers.recipes` on images, on a CPU, a GPU or several (torchrun),
and keeps checkpoints from which a killed run goes on as if nothing had happened.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from bn_helpers import images, layers, models, records
from bn_helpers.augment import Normalizer
from bn_helpers.recipes import BASE_LR, Recipe

HELD_OUT = 5000  # training images that curves and choices are measured on, or a tenth if fewer
EVALUATION_BATCH = 500


class RunError(ValueError):
    """A run that cannot be started or continued; the message says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """A recipe and what else determines a run's curve, to the bit on a CPU."""

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
    not finite, or None; ``probabilities`` (test images, classes) the final network's, on the CPU,
    or None; ``seconds`` of training and evaluation.
    """

    curve: list
    status: str
    diverged_at: int | None
    test_accuracy: float | None
    probabilities: torch.Tensor | None
    seconds: float


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
):
    """Train the network of ``settings`` on ``image_set`` and return a :class:`Result`.

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

    Raises
    ------
    RunError
        settings that do not fit the data or each other; a checkpoint of another run.
    """
    run = _Run(settings, image_set, torch.device(device), folder)
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(settings.seed * 1000 + run.rank)  # Dropout draws from the global state
        if resume:
            run.load()
        return run.go(save_every or settings.every, workers, progress, deadline)


class _Run:
    """A run's state: network, optimiser, generators, curve, step."""

    def __init__(self, settings, image_set, device, folder):
        recipe, self.settings, self.device, self.folder = settings.recipe, settings, device, folder
        self.images = image_set
        distributed = dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.processes = dist.get_world_size() if distributed else 1
        self._check()
        pixels = image_set.train.images
        self.size = settings.size or _whole_size(pixels.shape)
        held_out = min(settings.held_out, max(1, len(pixels) // 10))
        order = np.random.default_rng(0).permutation(len(pixels))
        self.held_out = np.sort(order[:held_out])
        self.train_on = np.sort(order[held_out:][: settings.train_on])
        if len(self.train_on) < recipe.batch_size:
            raise RunError(
                f"expected at least {recipe.batch_size} training images for a batch, got "
                f"{len(self.train_on)}; give a smaller --batch-size"
            )
        mean, std = _moments(pixels, self.train_on)
        self.normalizer = Normalizer(
            mean,
            std,
            self.size,
            distortion=recipe.distortion,
            pad=self.size // 8 if min(pixels.shape[2:]) == self.size else 0,
            flip=settings.flip,
            device=device,
        )
        self.model = build(settings, image_set, self.size)
        if settings.sync_bn:
            layers.synchronize(self.model, dist.group.WORLD)
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

    def _check(self):
        settings, recipe = self.settings, self.settings.recipe
        if settings.steps < 1 or settings.every < 1:
            raise RunError(f"expected at least one step, got {settings.steps}, {settings.every}")
        if recipe.batch_size % self.processes:
            raise RunError(
                f"expected a batch size that {self.processes} processes can share, got "
                f"{recipe.batch_size}; give a multiple with --batch-size"
            )
        if settings.sync_bn and not dist.is_initialized():
            raise RunError("--sync-bn needs several processes; start them with torchrun")
        if recipe.model == "inception" and self.images.train.images.shape[1] != 3:
            raise RunError("expected colour images for the paper's Inception; choose other data")

    def go(self, save_every, workers, progress, deadline):
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
        began, status = time.monotonic(), "finished"
        self.model.train()
        for batch, pixels in _feed(self.images.train.images, mine, self.device, workers):
            x = self.normalizer.random(pixels, self.chance, (recipe.batch_size, part))
            for group in self.optimizer.param_groups:
                group["lr"] = settings.lr_at(self.step)
            with self._autocast():
                loss = F.cross_entropy(
                    forward(x), labels[batch], label_smoothing=recipe.label_smoothing
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.detach())
            self.step += 1
            if progress is not None:
                progress.update()
            due = self.step % settings.every == 0 or self.step == settings.steps
            if due and not self._look(progress):
                status = "diverged"
                break
            late = deadline is not None and time.monotonic() > deadline
            if self.step % save_every == 0 or self.step == settings.steps or late:
                self.save(began)
            if late and self.step < settings.steps:
                status = "paused"
                break
        return self._result(status, began)

    def _look(self, progress):
        """Add a row to the curve; False if a loss since the last one was not finite."""
        losses = torch.stack(self.losses).float()
        if self.processes > 1:
            dist.all_reduce(losses)
            losses /= self.processes
        losses = losses.cpu()
        self.losses = []
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            self.diverged_at = self.step - len(losses) + int(bad[0]) + 1
            return False
        accuracy = self._accuracy(self.images.train, self.held_out)
        self.curve.append([self.step, round(losses.mean().item(), 5), round(accuracy, 5)])
        if progress is not None:
            lr = self.settings.lr_at(self.step)
            progress.write(
                f"{self.step:9,}  {lr:8.2g}  {losses.mean().item():8.4f}  {accuracy:8.2%}"
            )
        return True

    def _accuracy(self, split, index):
        probabilities = self._predict(split, index)
        return float((probabilities.argmax(1).numpy() == split.labels[index]).mean())

    def _predict(self, split, index):
        """Class probabilities (len(index), classes) in eval mode, on the CPU, the same everywhere.

        The first process computes them with its running statistics; the others wait.
        """
        shape = (len(index), len(self.images.classes))
        found = torch.zeros(shape)
        if self.rank == 0:
            self.model.eval()
            parts = np.array_split(index, -(-len(index) // EVALUATION_BATCH))
            with torch.inference_mode(), self._autocast():
                outputs = [
                    self.model(self.normalizer.plain(pixels)).float().softmax(1).cpu()
                    for _, pixels in _feed(split.images, iter(parts), self.device, 0)
                ]
            found = torch.cat(outputs)
            self.model.train()
        if self.processes > 1:
            found = found.to(self.device)
            dist.broadcast(found, 0)
        return found.cpu()

    def _result(self, status, began):
        accuracy = probabilities = None
        if status == "finished":
            test = self.images.test
            everything = np.arange(len(test.labels))
            probabilities = self._predict(test, everything)
            accuracy = float((probabilities.argmax(1).numpy() == test.labels).mean())
        seconds = self.seconds + time.monotonic() - began
        diverged_at = self.diverged_at if status == "diverged" else None
        return Result(self.curve, status, diverged_at, accuracy, probabilities, seconds)

    def _autocast(self):
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.settings.precision))

    def save(self, began):
        """Write the checkpoint; a kill at any moment leaves the old one or the new one."""
        states = [None] * self.processes
        own = [torch.get_rng_state(), self.chance.get_state()]
        if self.device.type == "cuda":
            own.append(torch.cuda.get_rng_state(self.device))
        if self.processes > 1:
            dist.all_gather_object(states, own)
        else:
            states = [own]
        if self.folder is None or self.rank:
            return
        content = {
            "settings": asdict(self.settings),
            "data": self.images.sha256,
            "step": self.step,
            "curve": self.curve,
            "losses": [loss.cpu() for loss in self.losses],
            "seconds": self.seconds + time.monotonic() - began,
            "random": states,
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
        """Continue from the folder's checkpoint, if there is one."""
        file = self.folder / "checkpoint.pt"
        if not file.exists():
            return
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            theirs = content["settings"]
        except Exception as error:  # torch.load raises many kinds for a file that is no checkpoint
            raise RunError(f"{file} is no checkpoint ({error}); delete it to start anew") from None
        ours = json.loads(json.dumps(asdict(self.settings)))
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise RunError(
                    f"{file} is of a run with {name} = {theirs.get(name)}, not {ours[name]}; "
                    "give that, or another --out"
                )
        if content["data"] != self.images.sha256:
            raise RunError(f"{file} is of a run on other data; give that, or another --out")
        if len(content["random"]) != self.processes:
            raise RunError(
                f"{file} is of a run with {len(content['random'])} processes, not "
                f"{self.processes}; start as many"
            )
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.curve = content["step"], content["curve"]
        self.losses = [loss.to(self.device) for loss in content["losses"]]
        self.seconds = content["seconds"]
        own = content["random"][self.rank]
        torch.set_rng_state(own[0])
        self.chance.set_state(own[1])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(own[2], self.device)


def _feed(pixels, order, device, workers):
    """Yield (indices, uint8 images) for the index arrays of ``order``."""
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(pixels).to(device)
        for batch in order:
            batch = torch.from_numpy(batch)
            yield batch, pixels[batch.to(device)]
        return
    batches = []

    def noted():
        for batch in order:
            batches.append(torch.from_numpy(batch))
            yield batch

    for found in images.batches(pixels, noted(), workers):
        yield batches.pop(0), found.to(device, non_blocking=True)


def _whole_size(shape):
    height, width = shape[2:]
    if height != width:
        raise RunError(f"expected square images, got {height}×{width}; give --image-size")
    return height


def _moments(pixels, index):
    """Mean and standard deviation of each channel, in [0, 1], from at most 5,000 images."""
    some = np.asarray(pixels[index[:: max(1, len(index) // 5000)]])
    mean = some.mean((0, 2, 3), dtype=np.float64) / 255
    return mean.tolist(), (some.std((0, 2, 3), dtype=np.float64) / 255).tolist()


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
    return records.write(
        name,
        command=command,
        config=asdict(settings),
        results=[row],
        seeds=[settings.seed],
        data={image_set.name: image_set.sha256},
        device=device_name(device),
        where=where,
    )
