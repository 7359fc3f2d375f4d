"""The loop that chapters 02 to 10 share, and the command line of the engine.

``python -m bn_helpers.training RECIPE`` trains a recipe of :mod:`bn_helpers.recipes` with
:mod:`bn_helpers.engine`; ``--help`` explains its options.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tqdm import tqdm

from bn_helpers import data, engine, images
from bn_helpers.recipes import BASE_LR, RECIPES

DIVERGED, OUT_OF_MEMORY, INTERRUPTED = 3, 4, 130  # exit codes; 2 is a wrong argument or data


def minibatches(num_examples, batch_size, steps, rng):
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


def fit(model, split, *, steps, batch_size, lr, rng, every=None, evaluate=None):
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


def accuracy(model, split):
    """Share of ``split`` that ``model`` classifies correctly, a float in [0, 1].

    The model stays in the mode it is in; in training mode its running statistics move.
    """
    with torch.no_grad():
        predicted = model(torch.from_numpy(split.images)).argmax(dim=1)
    return float((predicted == torch.from_numpy(split.labels)).float().mean())


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


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m bn_helpers.training",
        description="Train a recipe of Ioffe & Szegedy (2015), section 4.2.",
        epilog="Recipes: " + "; ".join(f"{n}: {r.about}" for n, r in RECIPES.items()) + ". "
        "On several devices: torchrun --nproc-per-node N -m bn_helpers.training RECIPE …",
    )
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="what to train; the list is below")
    add(
        "--data",
        default="cifar10",
        help="cifar10 (found in BN_HELPERS_DATA or the cache, or downloaded), digits (built in) or "
        "a folder train/<class>/*.jpg, with test/ or val/ beside train/ (default: %(default)s)",
    )
    add("--steps", type=int, default=8000, help="mini-batches to train on (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights, order and chance (default: 0)")
    add("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    add("--resume", action="store_true", help="go on from the checkpoint in --out, if any")
    add(
        "--out",
        type=Path,
        help="folder for checkpoint, record and picture (default: one in _build)",
    )
    add("--lr", type=float, help="initial learning rate (default: the recipe's)")
    add(
        "--batch-size", type=int, help="examples a step, over all processes (default: the recipe's)"
    )
    add(
        "--model", choices=list(BASE_LR), help="another network: the small Inception, the paper's …"
    )
    add("--reading", choices=("printed", "repaired"), default="repaired", help="of Figure 5")
    add("--width", type=float, default=1.0, help="factor on the small networks' widths")
    add("--image-size", type=int, help="H = W that the network sees (default: the images')")
    add("--every", type=int, help="steps between evaluations (default: a fortieth of --steps)")
    add("--save-every", type=int, help="steps between checkpoints (default: as --every)")
    add("--workers", type=int, default=0, help="processes that decode images (default: 0)")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the layers' arithmetic (default: bfloat16 on a GPU)",
    )
    add("--compile", action="store_true", help="run the network through torch.compile")
    add("--sync-bn", action="store_true", help="BN's statistics over all processes' batches")
    add("--quiet", action="store_true", help="no progress bar, no table")
    return parser


def main(arguments=None):
    """The command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    distributed = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    first = os.environ.get("RANK", "0") == "0"
    try:
        if distributed:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        launcher = "torchrun … -m" if distributed else "python -m"
        return _command(options, first, f"{launcher} bn_helpers.training {' '.join(arguments)}")
    except (data.DataError, ValueError) as error:
        return _fail(first, 2, error)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return _fail(first, OUT_OF_MEMORY, _more_memory(error))
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        return _fail(first, OUT_OF_MEMORY, _more_memory(error))
    except KeyboardInterrupt:
        return _fail(first, INTERRUPTED, "stopped; the same command with --resume goes on")
    finally:
        if distributed and dist.is_initialized():
            dist.destroy_process_group()


def _command(options, first, command):
    settings, source, size = _settings(options)
    device = torch.device(options.device or _default_device())
    if device.type == "cuda":
        torch.cuda.set_device(device)
    name = f"{options.recipe}-{Path(options.data).name}-seed{options.seed}"
    folder = options.out or Path("_build") / "runs" / name
    if (folder / "checkpoint.pt").exists() and not options.resume:
        raise engine.RunError(
            f"{folder} holds a checkpoint; go on from it with --resume, or give another --out"
        )
    image_set = images.load_images(source, size=size, workers=options.workers)
    settings = replace(settings, flip=image_set.name != "digits")
    folder.mkdir(parents=True, exist_ok=True)
    bar = None
    if first and not options.quiet:
        print(f"{options.recipe}: {settings.recipe.about}")
        print(
            f"{image_set.name}, {engine.device_name(device) or 'CPU'}, {settings.steps:,} steps of "
            f"{settings.recipe.batch_size}, learning rate {settings.initial_lr:g}"
        )
        print("     step        lr      loss  held-out", flush=True)
        bar = tqdm(total=settings.steps, unit="step", mininterval=1)
    try:
        result = engine.train(
            settings,
            image_set,
            device=device,
            folder=folder,
            resume=options.resume,
            save_every=options.save_every,
            workers=options.workers,
            progress=bar,
        )
    finally:
        if bar is not None:
            bar.close()
    if not first:
        return DIVERGED if result.status == "diverged" else 0
    file = engine.write_record(
        settings,
        result,
        name=name,
        command=command,
        image_set=image_set,
        device=device,
        where=folder,
    )
    if result.curve:
        _draw(result.curve, folder / "curve.png", f"{options.recipe}, seed {options.seed}")
    if result.status == "diverged":
        return _fail(
            True,
            DIVERGED,
            f"the loss was not finite at step {result.diverged_at:,}: the run diverged; try a "
            f"smaller --lr. Its curve is in {file}",
        )
    if not options.quiet:
        print(f"test accuracy {result.test_accuracy:.2%}; the record is {file}")
    return 0


def _settings(options):
    """Settings, data source and the size to load its images at."""
    if options.recipe not in RECIPES:
        raise engine.RunError(
            f"unknown recipe {options.recipe!r}; choose one of {', '.join(RECIPES)}"
        )
    recipe = RECIPES[options.recipe]
    changed = {"batch_size": options.batch_size, "model": options.model}
    recipe = replace(recipe, **{k: v for k, v in changed.items() if v is not None})
    device = torch.device(options.device or _default_device())
    settings = engine.Settings(
        recipe=recipe,
        steps=options.steps,
        seed=options.seed,
        lr=options.lr,
        every=options.every or max(1, options.steps // 40),
        size=options.image_size,
        width=options.width,
        reading=options.reading,
        precision=options.precision or ("bfloat16" if device.type == "cuda" else "float32"),
        compile=options.compile,
        sync_bn=options.sync_bn,
    )
    size = options.image_size
    if size and size > 64:
        size = size * 8 // 7  # room for a random crop, as 256 for 224
    return settings, options.data, size


def _default_device():
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _more_memory(error):
    return f"not enough memory ({str(error).splitlines()[0]}); give a smaller --batch-size"


def _fail(first, code, message):
    if first:
        print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
