"""The command line: ``python -m bn_helpers.training RECIPE`` trains a recipe; see ``--help``."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from bn_helpers import data, records
from bn_helpers.training import run
from bn_helpers.training.recipes import BASE_LR, RECIPES, RunError, Settings

# Exit codes. REFUSED: an argument, or data, a checkpoint or a folder that cannot be used.
REFUSED, DIVERGED, OUT_OF_MEMORY, LOST, INTERRUPTED = 2, 3, 4, 5, 130


def _draw(curve, file, label):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps, losses, accuracies = zip(*curve, strict=True)
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(steps, losses)
    left.set(xlabel="step", ylabel="training loss")
    right.plot(steps, accuracies)
    right.set(xlabel="step", ylabel="accuracy on held-out images")
    figure.suptitle(label)
    figure.savefig(file, dpi=120)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise RunError(f"{message}; --help explains the options")


EPILOG = """recipes:
{recipes}

several devices:
  torchrun --nproc-per-node N -m bn_helpers.training RECIPE …
  With --max-restarts 9 before -m and --resume at the end, lost processes are replaced.

exit codes:
  0 finished; 2 an argument, or data, a checkpoint or a folder that cannot be used; 3 diverged;
  4 too little memory; 5 another process was lost; 130 stopped (Ctrl-C). The last checkpoint is
  there after each of them, and --resume goes on from it."""


def _parser():
    recipes = "\n".join(f"  {name:18}{recipe.about}" for name, recipe in RECIPES.items())
    parser = _Parser(
        prog="python -m bn_helpers.training",
        description="Train a recipe of Ioffe & Szegedy (2015), section 4.2.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG.format(recipes=recipes),
    )
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="what to train; the list is below")
    add(
        "--data",
        default="cifar10",
        help="cifar10 or mnist (found in BN_HELPERS_DATA or the cache, or downloaded), digits "
        "(built in) or a folder with train/<class>/*.jpg and, beside train, test/ or val/ "
        "(default: cifar10)",
    )
    add("--steps", type=int, default=8000, help="mini-batches to train on (default: 8000)")
    add("--seed", type=int, default=0, help="of weights, order and chance (default: 0)")
    add("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    add("--resume", action="store_true", help="go on from the checkpoint in --out, if any")
    add(
        "--out",
        type=Path,
        help="folder for checkpoint, record and picture (default: _build/runs/RECIPE-data-seed)",
    )
    add("--lr", type=float, help="initial learning rate (default: the recipe's)")
    add(
        "--batch-size", type=int, help="examples a step, over all processes (default: the recipe's)"
    )
    add(
        "--model",
        choices=list(BASE_LR),
        help="another network: the small Inception, the paper's or a plain convolutional one "
        "(default: the recipe's)",
    )
    add(
        "--reading",
        choices=("printed", "repaired"),
        default="repaired",
        help="of Figure 5, which does not add up as it is printed (default: repaired)",
    )
    add("--width", type=float, default=1.0, help="factor on small's and plain's maps (default: 1)")
    add("--image-size", type=int, help="H = W that the network sees (default: the images')")
    add("--every", type=int, help="steps between evaluations (default: some 40 in all)")
    add("--save-every", type=int, help="steps between checkpoints (default: as --every)")
    add("--workers", type=int, default=0, help="processes that decode images (default: 0)")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the layers' arithmetic (default: bfloat16 on a GPU, float32 elsewhere)",
    )
    add("--compile", action="store_true", help="run the network through torch.compile")
    add(
        "--sync-bn",
        action="store_true",
        help="BN's statistics over all processes' batches (default: each over its own share)",
    )
    add("--quiet", action="store_true", help="no progress bar, no table")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    distributed, rank = "WORLD_SIZE" in os.environ, int(os.environ.get("RANK", 0))
    try:
        options = _parser().parse_args(arguments)
        device = _device(options.device)
        settings = _settings(options, device)
        if distributed:
            _join("nccl" if device.type == "cuda" else "gloo")
        return _train(options, settings, device, rank, _command(arguments))
    except (Exception, KeyboardInterrupt) as error:
        code, message = _explained(error)
        if code is None:
            raise
        if rank == 0 or not isinstance(error, RunError):  # which all processes raise
            _complain(message if rank == 0 else f"process {rank}: {message}")
        return code
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(backend):
    """Start torch.distributed among torchrun's processes."""
    store, rank, processes = next(dist.rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(processes):
        # What torchrun restarts shares a store with the dead and would find their addresses there.
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes)


def _explained(error):
    """Exit code and message for an error that can be foreseen; (None, "") for others."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped; the same command with --resume goes on"
    if isinstance(error, (data.DataError, ValueError, OSError)):  # RunError is a ValueError
        return REFUSED, text
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return OUT_OF_MEMORY, f"not enough memory ({text[:200]}); give a smaller --batch-size"
    if isinstance(error, dist.DistError) or "gloo" in text:
        return LOST, f"lost another process ({text[:200]}); the same command with --resume goes on"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return REFUSED, f"torch.compile failed ({text[:200]}); leave --compile out"
    return None, ""


def _complain(message):
    print(f"error: {message}", file=sys.stderr)


def _command(arguments):
    """The command that makes the run again, for its record."""
    processes = os.environ.get("WORLD_SIZE")
    start = f"torchrun --nproc-per-node {processes}" if processes else "python"
    again = shlex.join(argument for argument in arguments if argument != "--resume")
    return f"{start} -m bn_helpers.training {again}"


def _train(options, settings, device, rank, command):
    source = options.data
    label = source if source in data.NAMES else Path(source).resolve().name
    name = f"{options.recipe}-{label}-seed{options.seed}"
    folder = options.out or Path("_build") / "runs" / name
    if (folder / "checkpoint.pt").exists() and not options.resume:
        raise RunError(
            f"{folder} holds a checkpoint; go on from it with --resume, or give another --out"
        )
    size = options.image_size
    if size and size > 64:
        size = size * 8 // 7  # room for a random crop, as 256 for 224
    dataset = data.load(source, dtype="uint8", size=size, workers=options.workers)
    folder.mkdir(parents=True, exist_ok=True)
    bar = None
    if rank == 0 and not options.quiet:
        print(f"{options.recipe}: {settings.recipe.about}")
        print(
            f"{dataset.name}, {run.device_name(device) or 'CPU'}, {settings.steps:,} steps of "
            f"{settings.recipe.batch_size}, learning rate {settings.initial_lr:g}"
        )
        print("     step        lr      loss  held-out", flush=True)
        bar = tqdm(total=settings.steps, unit="step", mininterval=1)
    try:
        with _signals_noted() as stop:
            result = run.train(
                settings,
                dataset,
                device=device,
                folder=folder,
                resume=options.resume,
                save_every=options.save_every,
                workers=options.workers,
                progress=bar,
                stop=stop,
            )
    finally:
        if bar is not None:
            bar.close()
    if result.status == "paused":
        raise KeyboardInterrupt
    if rank:
        return DIVERGED if result.status == "diverged" else 0
    file = write_record(
        settings,
        result,
        name=name,
        command=command,
        dataset=dataset,
        device=device,
        where=folder,
    )
    if result.curve:
        _draw(result.curve, folder / "curve.png", f"{options.recipe}, seed {options.seed}")
    if result.status == "diverged":
        _complain(
            f"the loss was not finite at step {result.diverged_at:,}: the run diverged; try a "
            f"smaller --lr. Its curve is in {file}"
        )
        return DIVERGED
    if not options.quiet:
        print(f"test accuracy {result.test_accuracy:.2%}; the record is {file}")
    return 0


def write_record(
    settings: Settings,
    result: run.Result,
    *,
    name: str,
    command: str,
    dataset: data.Dataset,
    device: torch.device,
    where: Path,
) -> Path:
    """Store a run as a record (see :mod:`bn_helpers.records`) and return its path."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    return records.write(
        name,
        command=command,
        config=asdict(settings) | {"processes": processes},
        results=[result.row()],
        seeds=[settings.seed],
        data={dataset.name: dataset.sha256},
        device=run.device_name(device),
        where=where,
    )


@contextmanager
def _signals_noted():
    """Yield a function that says whether Ctrl-C or SIGTERM came; a second one stops at once.

    With several processes, which would get them at different steps, yield None.
    """
    if dist.is_initialized():
        yield None
        return
    came = []

    def note(number, frame):
        came.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda step: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings(options, device):
    if options.recipe not in RECIPES:
        raise RunError(f"unknown recipe {options.recipe!r}; choose one of {', '.join(RECIPES)}")
    changed = {"batch_size": options.batch_size, "model": options.model}
    changed = {name: value for name, value in changed.items() if value is not None}
    return Settings(
        recipe=replace(RECIPES[options.recipe], **changed),
        steps=options.steps,
        seed=options.seed,
        lr=options.lr,
        every=max(1, -(-options.steps // 40)) if options.every is None else options.every,
        size=options.image_size,
        width=options.width,
        flip=options.data not in ("digits", "mnist"),
        reading=options.reading,
        precision=options.precision or ("bfloat16" if device.type == "cuda" else "float32"),
        compile=options.compile,
        sync_bn=options.sync_bn,
    )


def _device(name):
    """``torch.device``; default: a GPU where there is one, each process of torchrun its own."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name is None:
        name = "cuda" if gpus else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    if name not in ("cpu", *gpus):
        raise RunError(
            f"expected a device of this machine, {', '.join(['cpu', *gpus])}; got {name}"
        )
    if name in gpus:
        torch.cuda.set_device(name)
    return torch.device(name)
