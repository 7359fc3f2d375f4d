"""Images a second of each step of a fast training loop."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import cycle
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bench.timing import CLOCK, compiles, interleaved, set_pages, speed
from bn_helpers import layers, models
from bn_helpers.training.augment import Normalizer


class _Pictures(Dataset):
    """Float images, flipped and cropped at random one by one: the loop that one writes first."""

    def __init__(self, images, labels, pad):
        self.images, self.labels, self.pad = images.float() / 255, labels, pad
        self.mean, self.std = (
            f(self.images, (0, 2, 3))[:, None, None] for f in (torch.mean, torch.std)
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image, size = self.images[i], self.images.shape[-1]
        padded = F.pad(image, (self.pad,) * 4)
        top, left = torch.randint(2 * self.pad + 1, (2,)).tolist()
        image = padded[:, top : top + size, left : left + size]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return (image - self.mean) / self.std, self.labels[i]


def measure(device, rounds=15, count=4096):
    """Images a second of each step of the recipe, on random images of CIFAR-10's form."""
    results = []
    if device == "cpu":
        set_pages("reused")
    for batch_size, size in {"cpu": [(32, 16)], "cuda": [(32, 32), (512, 32)]}[device]:
        calls = _recipe(device, batch_size, size, count)
        seconds = interleaved(calls, rounds, device, round_seconds=0.15)
        print(f"\nsmall Inception, batch {batch_size} of {size}×{size} ({device}): images a second")
        for name in calls:
            row = {"batch_size": batch_size, "size": size, "step": name}
            row["images_per_second"] = batch_size / median(seconds[name])
            row |= speed(seconds, name, "DataLoader")
            row["to_our_loop"] = speed(seconds, name, "channels_last")
            results.append(row)
            print(f"  {name:<32}{row['images_per_second']:>9.0f}{row['speed']:>7.2f} ×")
    return {"rounds": rounds, "images": count, "model": "SmallInception", **CLOCK[device]}, results


def _recipe(device, batch_size, size, count):
    """{step of the recipe: a function that trains on one batch}."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    settings = dict(images=images, labels=labels, device=device, batch_size=batch_size)
    last = {"memory_format": torch.channels_last}
    calls = {
        "DataLoader": _plain_step(**settings),
        "tensors on the device": _our_step(**settings),
        "channels_last": _our_step(**settings, **last),
        "channels_last, without BN": _our_step(**settings, **last, norm=None),
        "channels_last, neither BN nor bias": _our_step(**settings, **last, norm=_nothing),
        "channels_last, our layer": _our_step(**settings, **last, norm=layers.BatchNorm),
        "bfloat16": _our_step(**settings, **last, half=True),
    }
    if compiles(device):
        torch._dynamo.reset()
        calls["compiled"] = _our_step(**settings, **last, compiled=True)
        calls["compiled, without BN"] = _our_step(**settings, **last, compiled=True, norm=None)
        if device == "cuda":
            calls["compiled, bfloat16"] = _our_step(**settings, **last, compiled=True, half=True)
    return calls


def _nothing(channels):
    return nn.Identity()


def _network(device, norm, **to):
    model = models.SmallInception(norm=norm)
    models.initialize(model, generator=torch.Generator().manual_seed(0))
    model.to(device, **to)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def _plain_step(images, labels, device, batch_size):
    model, optimizer = _network(device, nn.BatchNorm2d)
    pictures = _Pictures(images, labels, pad=images.shape[-1] // 8)
    loader = DataLoader(pictures, batch_size, shuffle=True, drop_last=True)

    def batches():
        while True:
            yield from loader

    source = batches()

    def step():
        x, wanted = next(source)
        loss = F.cross_entropy(model(x.to(device)), wanted.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _our_step(
    images,
    labels,
    device,
    batch_size,
    *,
    norm=nn.BatchNorm2d,
    memory_format=torch.contiguous_format,
    compiled=False,
    half=False,
):
    """One step as training.run does it: everything on the device, a batch augmented at once."""
    model, optimizer = _network(device, norm, memory_format=memory_format)
    forward = compiled(model) if compiled else model
    images, labels = images.to(device), labels.to(device)
    size = images.shape[-1]
    normalizer = Normalizer([0.5] * 3, [0.25] * 3, size, pad=size // 8, flip=True, device=device)
    chance, losses = torch.Generator(device=device).manual_seed(0), []
    order = np.random.default_rng(0).permutation(len(images))
    order = cycle(
        np.split(order[: len(order) // batch_size * batch_size], len(order) // batch_size)
    )

    def step():
        batch = torch.from_numpy(next(order)).to(device)
        x = normalizer.random(images[batch], chance).contiguous(memory_format=memory_format)
        with torch.autocast(device, torch.bfloat16) if half else nullcontext():
            loss = F.cross_entropy(forward(x), labels[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[:] = [loss.detach()]

    return step
