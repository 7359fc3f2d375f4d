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
import json
from collections import defaultdict
from dataclasses import fields, replace
from pathlib import Path

import runner
import torch

from bn_helpers import data, records
from bn_helpers.training import run
from bn_helpers.training.recipes import BASE_LR, CHANGES, ENSEMBLE, RECIPES, Settings

RUNS = Path(__file__).resolve().parent.parent / "_build" / "inception"
SEEDS = range(8)
FEWER = range(5)  # seeds of the arms that no headline compares
LARGE_BATCH = 128
TUNING_LR = (0.005, 0.015, 0.03, 0.045, 0.15)
SIGMOID_LR = (0.006, 0.03, 0.15)
SIGMOID_GAIN = (1.0, 4.0)
SIGMOID_BEST = (0.15, 4.0)  # rate and gain of these that are best on held-out images: they go on
MAP_LR = (0.0015, 0.006, 0.03, 0.15, 0.45, 0.9)
MAP_SEEDS = range(3)
MAP_INIT = ("he", "xavier", 0.01)
CLOSELY = {"every": 50, "closely": 6000, "later": 200, "look_at": 1000}
SCALES = {
    "cpu": {
        "size": 16,
        "width": 1.0,
        "precision": "float32",
        "steps": {"long": 24_000, "short": 6000, "tuning": 3000, "ensemble": 2400, "map": 800},
        "changes": {"train_on": 6000, "steps": 4000},
        "suffix": "",
    },
    "gpu": {
        "size": 32,
        "width": 4.0,
        "precision": "bfloat16",
        "steps": {"long": 24_000, "short": 6000, "tuning": 4000, "ensemble": 4000, "map": 2000},
        "changes": {"train_on": 10_000, "steps": 4000},
        "suffix": "_gpu",
    },
}

# The seven changes of section 4.2.1 but the first, without BN and with it.
PLAIN, BASELINE, BN_SIX = (RECIPES[name] for name in ("inception", "bn-baseline", "bn-x5"))
SIX = {field: getattr(BN_SIX, field) for change in list(CHANGES.values())[1:] for field in change}
PLAIN_SIX = replace(PLAIN, about="the six changes beside the rate, no BN", **SIX)
SLOW, FAST = PLAIN.half_life, BN_SIX.half_life


def arms():
    """Where the "14 times" comes from: [(arm, its recipe, "long" or "short", seeds)]."""
    found = [
        ("plain", PLAIN, "long", SEEDS),
        ("BN-x5", BN_SIX, "short", SEEDS),
        ("BN-Baseline", BASELINE, "long", SEEDS),
    ]
    for faster in (1.0, 0.5):
        for half_life, length in ((FAST, "short"), (SLOW, "long")):
            arm = f"six changes, no BN, ×{faster:g}, half-life {half_life:g}"
            recipe = replace(PLAIN_SIX, faster=faster, half_life=half_life)
            found.append((arm, recipe, length, FEWER))
    for faster in (1.0, 2.0, 10.0, 30.0):
        found.append((f"BN-x{faster:g}", replace(BN_SIX, faster=faster), "short", FEWER))
    half_rate = replace(PLAIN, faster=0.5)
    found += [
        ("plain ×5", RECIPES["inception-x5"], "short", FEWER),
        ("plain ×0.5", half_rate, "long", FEWER),
        (f"BN-x5, half-life {SLOW:g}", replace(BN_SIX, half_life=SLOW), "long", FEWER),
    ]
    return found


def sigmoids():
    """Sigmoids for ReLUs, with BN and without, as :func:`arms`."""
    found = []
    for gain in SIGMOID_GAIN:
        with_bn = replace(RECIPES["bn-x5-sigmoid"], gain=gain)
        found.append((f"BN-x5-Sigmoid, Xavier × {gain:g}", with_bn, "short", FEWER))
    found.append(("Inception-Sigmoid", RECIPES["inception-sigmoid"], "short", FEWER))
    for gain in reversed(SIGMOID_GAIN):
        for lr in reversed(SIGMOID_LR):
            recipe = replace(PLAIN_SIX, activation="sigmoid", init="xavier", gain=gain)
            recipe = replace(recipe, half_life=SLOW, faster=lr / BASE_LR["small"])
            arm = f"six changes, sigmoid, no BN, rate {lr:g}, Xavier × {gain:g}"
            found.append((arm, recipe, "short", FEWER))
            if (lr, gain) == SIGMOID_BEST:
                found.append((f"{arm}, longer", recipe, "long", FEWER))
    return found


def networks(part, scale):
    """The networks of a record: [(what it is, as a dict for the record's row, Settings)]."""
    steps = scale["steps"]
    common = {key: scale[key] for key in ("size", "width", "precision")}

    def job(row, recipe, seed, length, **more):
        looks = {"every": max(1, length // 40)} | more
        return row, Settings(recipe, length, seed, **common, **looks)

    def decaying(recipe, halvings, length):
        return replace(recipe, half_life=length / halvings)

    found = []
    if part in ("arms", "sigmoids"):
        for arm, recipe, length, seeds in arms() if part == "arms" else sigmoids():
            found += [job({"arm": arm}, recipe, s, steps[length], **CLOSELY) for s in seeds]
    elif part == "tuning":  # seeds of its own: the figures' are not those that chose
        length = steps["tuning"]
        for lr in TUNING_LR:
            recipe = decaying(PLAIN, 2, length)
            found += [job({"lr": lr}, recipe, s, length, lr=lr) for s in (10, 11, 12, 13, 14)]
    elif part == "ensemble":
        length = steps["ensemble"]
        for seed in FEWER:
            for name, change in ENSEMBLE.items():
                recipe = decaying(replace(RECIPES["bn-x30"], **change), 12, length)
                # Six different seeds in each ensemble, none of them twice.
                own = 100 + 10 * seed + list(ENSEMBLE).index(name)
                found.append(job({"network": name, "ensemble": seed}, recipe, own, length))
    elif part == "changes":
        # So few images that they come 20 times, or nothing could overfit.
        few = CLOSELY | {"train_on": scale["changes"]["train_on"]}
        length = scale["changes"]["steps"]
        for seed in SEEDS:
            found.append(job({"from": "bn-baseline"}, BASELINE, seed, length, **few))
            found.append(job({"from": "bn-x5"}, BN_SIX, seed, length, **few))
            for name, fields in CHANGES.items():
                on = replace(BASELINE, **fields)
                off = replace(BN_SIX, **{field: getattr(BASELINE, field) for field in fields})
                found.append(job({"from": "bn-baseline", "on": name}, on, seed, length, **few))
                found.append(job({"from": "bn-x5", "off": name}, off, seed, length, **few))
    elif part == "map":
        length = steps["map"]
        kinds = {
            "without BN": decaying(PLAIN, 2, length),
            "with BN": decaying(BASELINE, 2, length),
            "with BN and the six other changes": decaying(replace(BN_SIX, faster=1.0), 12, length),
        }
        for seed in MAP_SEEDS:
            for name, recipe in kinds.items():
                for init in MAP_INIT:
                    for lr in MAP_LR:
                        row = {"recipe": name, "init": str(init), "lr": lr}
                        changed = replace(recipe, init=init)
                        found.append(job(row, changed, seed, length, lr=lr))
    elif part == "batch":  # as many examples, and a half-life of as many
        fewer = LARGE_BATCH // 32
        for seed in FEWER:
            for name, length in (
                ("inception", "long"),
                ("bn-baseline", "long"),
                ("bn-x5", "short"),
            ):
                recipe = RECIPES[name]
                recipe = replace(recipe, batch_size=LARGE_BATCH, half_life=recipe.half_life / fewer)
                looks = {"every": 25, "look_at": 1000}
                found.append(job({"recipe": name}, recipe, seed, steps[length] // fewer, **looks))
    return found


PARTS = ("tuning", "arms", "changes", "sigmoids", "batch", "ensemble", "map")


def job_of(settings, sha256):
    """The job of training one network; networks that are the same have the same.

    Fields with their default do not count, so that a new one leaves the old networks what they are.
    """
    key = {"settings": chosen(settings), "lr": settings.initial_lr, "data": sha256}
    return runner.Job(key, settings.steps, (settings,))


def chosen(settings):
    """The fields of Settings or a Recipe that are not at their default, without words."""
    found = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name == "recipe":
            found["recipe"] = chosen(value)
        elif value != field.default and field.name != "about":
            found[field.name] = value
    return found


def restore(part, scale_name, sha256):
    """Take the networks that the stored record has as trained."""
    scale = SCALES[scale_name]
    try:
        record = records.read(f"inception_{part}{scale['suffix']}")
    except records.RecordError:
        return
    stored = {row["run"]: row for row in record["results"] if "run" in row}
    for row, settings in networks(part, scale):
        folder = runner.folder_of(job_of(settings, sha256), RUNS)
        if folder.name in stored and not (folder / "result.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            result = {
                k: v for k, v in stored[folder.name].items() if k not in (*row, "run", "seed")
            }
            runner.store(
                folder / "result.json", lambda path, r=result: path.write_text(json.dumps(r))
            )


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
    """Store the record of ``part`` with the networks that are trained, and say how many are not.

    The map and the ensembles are stored when they are complete.
    """
    scale = SCALES[scale_name]
    jobs = [(row, s, job_of(s, dataset.sha256)) for row, s in networks(part, scale)]
    done = [(*job, runner.result_of(job[2], RUNS)) for job in jobs]
    done = [job for job in done if job[3] is not None]
    missing = len(jobs) - len(done)
    if not done or (missing and part in ("map", "ensemble")):
        return missing
    rows = [
        row | {"run": runner.folder_of(job, RUNS).name, "seed": s.seed} | result
        for row, s, job, result in done
    ]
    if part == "map":  # too many curves for a file that people read: [step, accuracy], thinned
        for row in rows:
            row["curve"] = [[step, accuracy] for step, _, accuracy in row["curve"][1::2]]
    if part == "ensemble":
        for row in rows:
            del row["curve"], row["run"]
        rows += ensembles([job[:2] for job in jobs], [s for _, s, _ in jobs], dataset)
    first = jobs[0][1]
    records.write(
        f"inception_{part}{scale['suffix']}",
        command=f"python scripts/inception.py {part} --scale {scale_name}",
        config={
            "networks": len(jobs),
            "still missing": missing,
            "images": f"{dataset.name}, {scale['size']}×{scale['size']}; the 5,000 held-out "
            "images are training images, test_accuracy is on 10,000 test images",
            "curve": "[step, accuracy on held-out images]"
            if part == "map"
            else "[step, mean training loss since the last row, accuracy on held-out images]",
            "held-out images of the curve": first.look_at,
            "network": f"SmallInception, width {scale['width']:g}",
            "steps": sorted({s.steps for _, s, _ in jobs}),
            "training images": first.train_on or "all but the held-out ones",
            "precision": scale["precision"],
            "base_lr": BASE_LR["small"],
            "recipes": recipes_of(jobs),
        },
        results=rows,
        seeds=sorted({s.seed for _, s, _ in jobs}),
        data={dataset.name: dataset.sha256},
        device=run.device_name(device),
    )
    return missing


def recipes_of(jobs):
    """What the networks of each row were trained with: name → what is not at its default."""
    found = {}
    for row, settings, _ in jobs:
        name = ", ".join(str(value) for key, value in row.items() if key != "ensemble")
        found.setdefault(name, chosen(settings.recipe))
    return found


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
    for part in parts:
        restore(part, options.scale, dataset.sha256)
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
        missing = write(part, options.scale, dataset, options.device)
        state = f"{missing} networks to go; give the same command again" if missing else "complete"
        print(f"{part}: {state}")


if __name__ == "__main__":
    main()
