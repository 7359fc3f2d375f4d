"""A run's state, and the file from which a killed run goes on as if nothing had happened."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bn_helpers.training.recipes import RunError


@dataclass
class State:
    """All that changes in the course of a run.

    ``losses`` are those of the steps since the last row of ``curve``, scalar tensors; ``chance``
    is the ``torch.Generator`` of crops and distortions, on the device that trains.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    chance: torch.Generator
    step: int = 0
    seconds: float = 0.0
    curve: list = field(default_factory=list)
    losses: list = field(default_factory=list)


def group() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def save(file: Path, state: Any, settings: Any, dataset: Any) -> None:
    """Write the checkpoint; a kill at any moment leaves the old one or the new one.

    All processes call it, the first one writes. ``file`` is a ``pathlib.Path``.
    """
    rank, processes = group()
    own = {"random": torch.get_rng_state(), "chance": state.chance.get_state()}
    if state.chance.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(state.chance.device)
    own["losses"] = [loss.cpu() for loss in state.losses]
    everyones: list[Any] = [own]
    if processes > 1:
        everyones = [None] * processes
        dist.all_gather_object(everyones, own)
    if rank:
        return
    content = {
        "settings": asdict(settings),
        "data": dataset.sha256,
        "step": state.step,
        "curve": state.curve,
        "seconds": state.seconds,
        "processes": everyones,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    partial = file.with_suffix(".part")
    with partial.open("wb") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)


def load(file: Path, state: Any, settings: Any, dataset: Any) -> None:
    """Bring ``state`` to where the checkpoint left it, if there is one; the first process reads it.

    Raises
    ------
    RunError
        a damaged checkpoint, or one of other settings, data, processes or another learning rate.
    """
    rank, processes = group()
    box = [file.read_bytes() if rank == 0 and file.exists() else None]
    if processes > 1:
        dist.broadcast_object_list(box)
    if box[0] is None:
        return
    content = _opened(box[0], file)
    _check_same(content, file, settings, dataset, processes)
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.curve = content["step"], content["curve"]
    state.seconds = content["seconds"]
    own, device = content["processes"][rank], state.chance.device
    torch.set_rng_state(own["random"])
    state.chance.set_state(own["chance"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], device)
    state.losses = [loss.to(device) for loss in own["losses"]]


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


def _check_same(content, file, settings, dataset, processes):
    """Raise RunError if the checkpoint is not of this run."""
    theirs, ours = _flat(content["settings"]), _flat(asdict(settings))
    for name, their, our in (
        ("data", content["data"], dataset.sha256),
        ("processes", len(content["processes"]), processes),
        *((name, theirs.get(name), ours.get(name)) for name in theirs | ours),
        (  # of the last step: the recipe's may have changed
            "learning rate",
            content["optimizer"]["param_groups"][0]["lr"],
            settings.lr_at(content["step"] - 1),
        ),
    ):
        if their != our:
            raise RunError(
                f"{file} is of a run with {name} = {their}, not {our}; give that, or another --out"
            )


def _flat(settings):
    """Settings as a dict, with the recipe's fields among them."""
    fields = settings | settings["recipe"]
    return {name: fields[name] for name in fields if name not in ("recipe", "about")}
