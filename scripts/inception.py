"""Train the networks of section 4.2 on CIFAR-10 and store what comes out as records.

    python scripts/inception.py                     all records, one after the other
    python scripts/inception.py figures ensemble    some of them
    python scripts/inception.py --scale gpu --minutes 9 --workers 12

`--scale cpu` (the default) trains the small Inception on images averaged to 16×16; `--scale gpu`
one four times as wide on 32×32. Each network's checkpoint and result lie in _build/inception, so a
run that was stopped, by --minutes or a kill, goes on when its command is given again; a record is
written as soon as all its networks are trained. Networks are trained side by side by --workers
processes, on the same GPU where there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from bn_helpers import data, records
from bn_helpers.training import run
from bn_helpers.training.recipes import BASE_LR, CHANGES, ENSEMBLE, RECIPES, Settings

RUNS = Path(__file__).resolve().parent.parent / "_build" / "inception"
PAPER = ("inception", "bn-baseline", "bn-x5", "bn-x30", "bn-x5-sigmoid")
FIGURES = (*PAPER, "inception-x5", "inception-sigmoid")
SEEDS = range(5)
LARGE_BATCH = 128
TUNING_LR = (0.005, 0.015, 0.03, 0.045, 0.15)
MAP_LR = (0.0015, 0.006, 0.03, 0.15, 0.45, 0.9)
MAP_SEEDS = range(3)
MAP_INIT = ("he", "xavier", 0.01)
SCALES = {
    "cpu": {
        "size": 16,
        "width": 1.0,
        "steps": {"tuning": 3000, "figures": 6000, "short": 2400, "map": 800},
        "changes": 6000,
        "precision": "float32",
        "suffix": "",
    },
    "gpu": {
        "size": 32,
        "width": 4.0,
        "steps": {"tuning": 4000, "figures": 12_000, "short": 4000, "map": 2000},
        "changes": 10_000,
        "precision": "bfloat16",
        "suffix": "_gpu",
    },
}


def networks(part, scale):
    """The networks of a record: [(what it is, as a dict for the record's row, Settings)]."""
    steps = scale["steps"]
    common = {key: scale[key] for key in ("size", "width", "precision")}

    def job(row, recipe, seed, length, **more):
        every = max(1, length // 40)
        return row, Settings(recipe, length, seed, every=every, **common, **more)

    found = []
    if part == "tuning":  # seeds of its own: the figures' are not those that chose
        for lr in TUNING_LR:
            found += [
                job({"lr": lr}, RECIPES["inception"], seed, steps["tuning"], lr=lr)
                for seed in (10, 11, 12, 13, 14)
            ]
    elif part == "figures":
        for seed in SEEDS:
            found += [job({"recipe": r}, RECIPES[r], seed, steps["figures"]) for r in FIGURES]
    elif part == "ensemble":
        for seed in SEEDS:
            for name, change in ENSEMBLE.items():
                recipe = replace(RECIPES["bn-x30"], **change)
                # Six different seeds in each ensemble, none of them twice.
                own = 100 + 10 * seed + list(ENSEMBLE).index(name)
                row = {"network": name, "ensemble": seed}
                found.append(job(row, recipe, own, steps["short"]))
    elif part == "changes":
        baseline, all_changes = RECIPES["bn-baseline"], RECIPES["bn-x5"]
        for seed in SEEDS:
            few = {"train_on": scale["changes"]}  # a dozen epochs, or nothing could overfit
            found.append(job({"from": "bn-baseline"}, baseline, seed, steps["short"], **few))
            found.append(job({"from": "bn-x5"}, all_changes, seed, steps["short"], **few))
            for name, fields in CHANGES.items():
                on = replace(baseline, **fields)
                off = replace(all_changes, **{field: getattr(baseline, field) for field in fields})
                row = {"from": "bn-baseline", "on": name}
                found.append(job(row, on, seed, steps["short"], **few))
                row = {"from": "bn-x5", "off": name}
                found.append(job(row, off, seed, steps["short"], **few))
    elif part == "map":
        six = replace(RECIPES["bn-x5"], faster=1.0)
        kinds = {"without BN": RECIPES["inception"], "with BN": RECIPES["bn-baseline"]}
        kinds["with BN and the six other changes"] = six
        for seed in MAP_SEEDS:
            for name, recipe in kinds.items():
                for init in MAP_INIT:
                    for lr in MAP_LR:
                        row = {"recipe": name, "init": str(init), "lr": lr}
                        changed = replace(recipe, init=init)
                        found.append(job(row, changed, seed, steps["map"], lr=lr))
    elif part == "batch":
        for seed in SEEDS:
            for name in ("inception", "bn-baseline", "bn-x5"):
                recipe = replace(RECIPES[name], batch_size=LARGE_BATCH)
                length = steps["figures"] * 32 // LARGE_BATCH  # as many examples
                found.append(job({"recipe": name}, recipe, seed, length))
    return found


PARTS = ("tuning", "figures", "ensemble", "changes", "map", "batch")


def folder_of(settings, sha256):
    """Where a network's files lie: networks that are the same share it."""
    text = json.dumps([asdict(settings), settings.initial_lr, sha256], sort_keys=True)
    return RUNS / hashlib.sha256(text.encode()).hexdigest()[:16]


_images = None


def start(source, size):
    """In each process: one thread, and the images once."""
    global _images
    torch.set_num_threads(1)
    _images = data.load(source, dtype="uint8", size=size)


def work(settings, device, keep, deadline):
    """Train one network, or go on with it; its result as a dict, or None if the time was up."""
    if deadline and time.monotonic() > deadline:
        return None
    folder = folder_of(settings, _images.sha256)
    folder.mkdir(parents=True, exist_ok=True)
    result = run.train(
        settings,
        _images,
        device=device,
        folder=folder,
        resume=True,
        save_every=max(1, settings.steps // 10),
        deadline=deadline,
    )
    if result.status == "paused":
        return None
    row = {key: getattr(result, key) for key in ("status", "diverged_at", "curve", "test_accuracy")}
    if keep and result.probabilities is not None:
        torch.save(result.probabilities.half(), folder / "probabilities.pt")
    partial = folder / "result.part"
    partial.write_text(json.dumps(row | {"seconds": round(result.seconds, 1)}))
    os.replace(partial, folder / "result.json")
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return row


def finished(settings, sha256):
    file = folder_of(settings, sha256) / "result.json"
    return json.loads(file.read_text()) if file.exists() else None


def ensembles(rows, settings, image_set):
    """Error of each network alone and of the mean of their probabilities, by ensemble."""
    together = defaultdict(list)
    for (row, _), one in zip(rows, settings, strict=True):
        file = folder_of(one, image_set.sha256) / "probabilities.pt"
        together[row["ensemble"]].append(torch.load(file, weights_only=True).double())
    labels = torch.from_numpy(image_set.test.labels)

    def errors(probabilities):
        ranks = probabilities.argsort(1, descending=True)[:, :2]
        right = ranks == labels[:, None]
        return [round(1 - float(right[:, :k].any(1).double().mean()), 5) for k in (1, 2)]

    return [
        {"ensemble": seed, "networks": list(ENSEMBLE), "top-1 and top-2 error": errors(sum(six))}
        | {"of each": [errors(one) for one in six]}
        for seed, six in together.items()
    ]


def write(part, scale_name, image_set, device):
    """Store the record of ``part`` if all its networks are trained."""
    scale = SCALES[scale_name]
    jobs = networks(part, scale)
    found = [finished(settings, image_set.sha256) for _, settings in jobs]
    if None in found:
        return None
    rows = [row | {"seed": s.seed} | r for (row, s), r in zip(jobs, found, strict=True)]
    seconds = round(sum(row.pop("seconds") for row in rows))
    if part == "map":  # too many curves for a file that people read: [step, accuracy], thinned
        for row in rows:
            row["curve"] = [[step, accuracy] for step, _, accuracy in row["curve"][1::2]]
    if part == "ensemble":
        for row in rows:
            del row["curve"]
        settings = [s for _, s in jobs]
        rows += ensembles(jobs, settings, image_set)
    first = jobs[0][1]
    return records.write(
        f"inception_{part}{scale['suffix']}",
        command=f"python scripts/inception.py {part} --scale {scale_name}",
        config={
            "images": f"{image_set.name}, {scale['size']}×{scale['size']}; the 5,000 held-out "
            "images are training images, test_accuracy is on 10,000 test images",
            "curve": "[step, accuracy on held-out images]"
            if part == "map"
            else "[step, mean training loss since the last row, accuracy on held-out images]",
            "network": f"SmallInception, width {scale['width']:g}",
            "steps": first.steps,
            "training images": first.train_on or "all but the held-out ones",
            "precision": scale["precision"],
            "base_lr": BASE_LR["small"],
            "recipes": {n: asdict(RECIPES[n]) for n in FIGURES},
            "seconds of all networks": seconds,
        },
        results=rows,
        seeds=sorted({s.seed for _, s in jobs}),
        data={image_set.name: image_set.sha256},
        device=run.device_name(device),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="RECORD", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--scale", choices=list(SCALES), default="cpu")
    parser.add_argument("--data", default="cifar10", help="as in bn_helpers.training")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="stop after about so long; go on later")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown record {', '.join(unknown)}; choose of {', '.join(PARTS)}")
    scale = SCALES[options.scale]
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else None
    image_set = data.load(options.data, dtype="uint8", size=scale["size"])
    parts = options.parts or PARTS
    todo = {}
    for part in parts:
        for _, settings in networks(part, scale):
            if finished(settings, image_set.sha256) is None:
                folder = folder_of(settings, image_set.sha256)
                todo[folder] = (settings, part == "ensemble" or todo.get(folder, (0, False))[1])
    total = sum(settings.steps for settings, _ in todo.values())
    with (
        ProcessPoolExecutor(
            options.workers, get_context("spawn"), start, (options.data, scale["size"])
        ) as pool,
        tqdm(total=total, unit="step", unit_scale=True) as bar,
    ):
        waiting = {
            pool.submit(work, settings, options.device, keep, deadline): settings.steps
            for settings, keep in todo.values()
        }
        for future in as_completed(waiting):
            if future.result() is not None:
                bar.update(waiting[future])
    for part in parts:
        file = write(part, options.scale, image_set, options.device)
        print(f"{part}: {file.name if file else 'not complete; give the same command again'}")


if __name__ == "__main__":
    main()
