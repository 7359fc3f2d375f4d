"""Train chapter 07's small networks over learning rates and initial scales; store a record.

    python scripts/scale.py      the map, its best rates again on test digits, the highest rates,
                                 fifteen layers and their singular values

Finished parts lie in _build/scale; a run that was stopped goes on from there when its command is
given again. `--shift 1000` takes other seeds throughout, and the record goes to _build/fresh: to
see whether what it shows stays.
"""

from __future__ import annotations

import argparse
from itertools import accumulate, product
from pathlib import Path

import numpy as np
import runner
import torch

from bn_helpers import data, ensemble, records, training

PARTS = Path(__file__).resolve().parent.parent / "_build" / "scale"
HELD_OUT = 237
LEVEL = 0.95
CONFIG = {
    "networks": (
        "64-32-32-32-10, all weights N(0, σ²), b = β = 0, γ = 1, ε = 1e-5, momentum 0.1, plain "
        "SGD, batches of 60; each seed has its own weights and its own order of the batches"
    ),
    "train": "1,200 digits; 237 held out to choose by; 360 test digits",
    "level": LEVEL,
    "sigma": [float(f"{k}e{e}") for e in range(-8, 2) for k in (1, 3)] + [100.0],
    "lr": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
    "limits": [900, 3600],  # steps that a run gets
    "search seeds": list(range(5)),
    "test seeds": list(range(10, 20)),
    "at": [*range(5, 100, 5), *range(100, 500, 20), *range(500, 900, 50), *range(900, 3601, 100)],
    # Highest rates: σ, the lowest rate and how many, each 1.5 times the one before.
    "rates": {"sigmoid": [0.3, 1.0, 12], "relu": [0.25, 0.1, 12]},
    # BN or not and hidden layers, at each σ and rate; test digits that are right after these steps.
    "deep": [[False, 3], [False, 15], [True, 15]],
    "deep sigma, lr": [[s, lr] for s in (1.0, 0.25, 0.1) for lr in (0.03, 0.3, 3.0)],
    "deep at": [300, 1200],
    # Singular values of 15 layers at this σ and rate, after these steps, in a batch of 60.
    "spectra": {"sigma": 0.25, "lr": 0.03, "at": [0, 1200], "near 1": [0.5, 2.0]},
}


def train(job, at):
    """Correct digits of each network of the job after the steps ``at``: ints (networks, looks)."""
    _, held_out = data.hold_out(data.load("digits").train, HELD_OUT)
    split = held_out if job["split"] == "held_out" else data.load("digits").test
    seen = looks(job, at, lambda stack: ensemble.accuracy(stack, split))
    accuracies = np.stack([accuracy for _, accuracy in seen], axis=1)
    return np.rint(accuracies * len(split.labels)).astype(int), len(split.labels)


def looks(job, at, evaluate):
    """Train the job's networks; ``evaluate(stack)`` after each of the steps ``at``."""
    fit, _ = data.hold_out(data.load("digits").train, HELD_OUT)
    stack = ensemble.networks(
        (64, *[32] * job.get("layers", 3), 10),
        sigma=job["sigma"],
        seeds=[job["seed"]] * len(job["sigma"]),
        bn=job["bn"],
        activation=job["activation"],
    )
    return ensemble.train(
        stack,
        fit,
        steps=at[-1],
        batch_size=60,
        lr=job["lr"],
        rng=np.random.default_rng(job["seed"]),
        at=at,
        evaluate=evaluate,
    )


def singular_values(stack, images):
    """Of each layer's Jacobian, and of the product up to it; see ``ensemble.jacobians``."""
    each = ensemble.jacobians(stack, images)
    products = accumulate(each, lambda before, j: j @ before)
    low, high = CONFIG["spectra"]["near 1"]
    found = {}
    for name, matrices in (("layer", each), ("product", products)):
        values = torch.stack([torch.linalg.svdvals(j)[0] for j in matrices]).numpy()
        near = ((values > low) & (values < high)).mean(axis=(1, 2))
        found[f"{name}: size"] = [float(f"{x:.4g}") for x in np.sqrt((values**2).mean(axis=(1, 2)))]
        found[f"{name}: near 1"] = near.round(4).tolist()
    return found


def run(job, folder, progress):
    """The job's result; see :func:`runner.run_all`. A job takes seconds: it saves nothing."""
    del folder
    if job["split"] == "spectra":
        _, held_out = data.hold_out(data.load("digits").train, HELD_OUT)
        seen = looks(job, job["at"], lambda stack: singular_values(stack, held_out.images[:60]))
        progress(job["at"][-1] * len(job["lr"]))
        return [{"step": step, **found} for step, found in seen]
    right, of = train(job, job["at"])
    progress(job["at"][-1] * len(job["lr"]))
    return {"right": right.tolist(), "of": of}


def job_of(cells, *, bn, activation, seed, split):
    """The job that trains one network for each (σ, learning rate) of ``cells``."""
    sigma, lr = map(list, zip(*cells, strict=True))
    how = {"bn": bn, "activation": activation, "seed": seed, "split": split, "at": CONFIG["at"]}
    return {"sigma": sigma, "lr": lr, **how}


def do(jobs):
    jobs = list(jobs)
    work = [runner.Job(job, job["at"][-1] * len(job["lr"]), (job,)) for job in jobs]
    return list(zip(jobs, runner.run_all(run, work, PARTS), strict=True))


def search(shift):
    """A row for each side, σ and rate: what five seeds did on the held-out digits."""
    cells = list(product(CONFIG["sigma"], CONFIG["lr"]))
    for bn in (False, True):
        how = {"bn": bn, "activation": "sigmoid", "split": "held_out"}
        done = do(job_of(cells, seed=s + shift, **how) for s in CONFIG["search seeds"])
        right = np.stack([found["right"] for _, found in done], axis=1)  # (cells, seeds, looks)
        of = done[0][1]["of"]
        steps = training.first(CONFIG["at"], right >= LEVEL * of)
        ends = {limit: right[..., CONFIG["at"].index(limit)] for limit in CONFIG["limits"]}
        for k, (sigma, lr) in enumerate(cells):
            yield {
                "part": "search",
                "bn": bn,
                "sigma": sigma,
                "lr": lr,
                "steps": [int(s) if np.isfinite(s) else None for s in steps[k]],
                **{f"right at {limit}": end[k].tolist() for limit, end in ends.items()},
            }


def best_rate(rows, bn, sigma, limit):
    """Fewest median steps to the level; among rates that do not get there the best at the limit."""

    def worse(row):
        steps = [s if s is not None and s <= limit else np.inf for s in row["steps"]]
        return np.median(steps), -np.mean(row[f"right at {limit}"])

    here = [row for row in rows if row["bn"] == bn and row["sigma"] == sigma]
    return min(here, key=worse)


def best_cell(rows, bn, limit):
    """The best (σ, rate) of one side."""
    found = [best_rate(rows, bn, sigma, limit) for sigma in CONFIG["sigma"]]
    reached = [[s if s is not None and s <= limit else np.inf for s in r["steps"]] for r in found]
    k = min(range(len(found)), key=lambda k: (np.median(reached[k]), np.mean(reached[k])))
    return found[k]["sigma"], found[k]["lr"]


def tested(rows):
    """Side → the cells that run again: each σ at its best rates, and the other side's best."""
    cells = {}
    for bn in (False, True):
        chosen = {
            (sigma, best_rate(rows, bn, sigma, limit)["lr"])
            for sigma, limit in product(CONFIG["sigma"], CONFIG["limits"])
        }
        cells[bn] = sorted(chosen | {best_cell(rows, side, 900) for side in (False, True)})
    return cells


def again(part, done):
    """A row for each network of the finished jobs."""
    for job, found in done:
        for sigma, lr, right in zip(job["sigma"], job["lr"], found["right"], strict=True):
            how = {k: job[k] for k in ("activation", "bn", "seed", "layers") if k in job}
            yield {"part": part, **how, "sigma": sigma, "lr": lr, "right": right}


def rates(shift):
    """The jobs that look for the highest rate."""
    for activation, (sigma, lowest, count) in CONFIG["rates"].items():
        cells = [(sigma, round(lowest * 1.5**k, 4)) for k in range(count)]
        for bn, seed in product((False, True), CONFIG["test seeds"]):
            how = {"bn": bn, "activation": activation, "split": "test"}
            yield job_of(cells, seed=seed + shift, **how)


def deep(shift):
    """The jobs with three and fifteen layers, at nine settings."""
    cells = CONFIG["deep sigma, lr"]
    for activation, (bn, layers), seed in product(
        CONFIG["rates"], CONFIG["deep"], CONFIG["test seeds"]
    ):
        how = {"bn": bn, "activation": activation, "split": "test", "seed": seed + shift}
        yield {**job_of(cells, **how), "layers": layers, "at": CONFIG["deep at"]}


def spectra(shift):
    """The jobs that look at singular values, one network each."""
    how = CONFIG["spectra"]
    for activation, bn, seed in product(CONFIG["rates"], (False, True), CONFIG["test seeds"]):
        kind = {"bn": bn, "activation": activation, "split": "spectra", "seed": seed + shift}
        job = job_of([(how["sigma"], how["lr"])], **kind)
        yield {**job, "layers": 15, "at": how["at"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shift", type=int, default=0, help="added to every seed (default: 0)")
    shift = parser.parse_args().shift
    rows = list(search(shift))
    jobs = [
        job_of(cells, bn=bn, activation="sigmoid", seed=seed + shift, split="test")
        for bn, cells in tested(rows).items()
        for seed in CONFIG["test seeds"]
    ]
    rows += again("map", do(jobs))
    rows += again("rates", do(rates(shift)))
    rows += again("deep", do(deep(shift)))
    for job, found in do(spectra(shift)):
        how = {key: job[key] for key in ("activation", "bn", "seed")}
        rows += [{"part": "spectra", **how, **look} for look in found]
    file = records.write(
        "scale_map",
        command="python scripts/scale.py" + f" --shift {shift}" * bool(shift),
        config=CONFIG,
        seeds=[seed + shift for seed in (*CONFIG["search seeds"], *CONFIG["test seeds"])],
        data={"digits": data.checksum("digits")},
        results=rows,
        where=runner.FRESH if shift else None,
    )
    print(f"stored {file.name}")


if __name__ == "__main__":
    main()
