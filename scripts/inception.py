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
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import runner
import torch

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


def job_of(settings, sha256):
    """The job of training one network; networks that are the same have the same."""
    key = {"settings": asdict(settings), "lr": settings.initial_lr, "data": sha256}
    return runner.Job(key, settings.steps, (settings,))


_images, _device = None, "cpu"


def start(source, size, device):
    """In each process: the images once."""
    global _images, _device
    _images, _device = data.load(source, dtype="uint8", size=size), device


def work(settings, folder, progress):
    """Train one network, or go on with it; its result as a dict. See :func:`runner.run_all`."""
    result = run.train(
        settings,
        _images,
        device=_device,
        folder=folder,
        resume=True,
        save_every=max(1, settings.steps // 10),
        stop=progress,
    )
    if result.status == "paused":
        raise runner.Stopped
    if result.probabilities is not None:
        torch.save(result.probabilities.half(), folder / "probabilities.pt")
    return result.row()


def ensembles(rows, settings, dataset):
    """Error of each network alone and of the mean of their probabilities, by ensemble."""
    together = defaultdict(list)
    for (row, _), one in zip(rows, settings, strict=True):
        file = runner.folder_of(job_of(one, dataset.sha256), RUNS) / "probabilities.pt"
        together[row["ensemble"]].append(torch.load(file, weights_only=True).double())
    labels = torch.from_numpy(dataset.test.labels)

    def errors(probabilities):
        ranks = probabilities.argsort(1, descending=True)[:, :2]
        right = ranks == labels[:, None]
        return [round(1 - float(right[:, :k].any(1).double().mean()), 5) for k in (1, 2)]

    return [
        {"ensemble": seed, "networks": list(ENSEMBLE), "top-1 and top-2 error": errors(sum(six))}
        | {"of each": [errors(one) for one in six]}
        for seed, six in together.items()
    ]


def write(part, scale_name, dataset, device):
    """Store the record of ``part`` if all its networks are trained."""
    scale = SCALES[scale_name]
    jobs = networks(part, scale)
    found = [runner.result_of(job_of(settings, dataset.sha256), RUNS) for _, settings in jobs]
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
        rows += ensembles(jobs, settings, dataset)
    first = jobs[0][1]
    return records.write(
        f"inception_{part}{scale['suffix']}",
        command=f"python scripts/inception.py {part} --scale {scale_name}",
        config={
            "images": f"{dataset.name}, {scale['size']}×{scale['size']}; the 5,000 held-out "
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
        data={dataset.name: dataset.sha256},
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
    dataset = data.load(options.data, dtype="uint8", size=scale["size"])
    parts = options.parts or PARTS
    jobs = [job_of(s, dataset.sha256) for part in parts for _, s in networks(part, scale)]
    runner.run_all(
        work,
        jobs,
        RUNS,
        workers=options.workers,
        minutes=options.minutes,
        prepare=start,
        arguments=(options.data, scale["size"], options.device),
    )
    for part in parts:
        file = write(part, options.scale, dataset, options.device)
        print(f"{part}: {file.name if file else 'not complete; give the same command again'}")


if __name__ == "__main__":
    main()
