"""Train Figure 1's networks on binary MNIST and store what comes out as records.

    python scripts/figure1.py grid      learning rates × initial σ, with and without BN
    python scripts/figure1.py runs      the candidates for the paper's setting, 50,000 steps

Finished parts and, every 20 s, the state of an unfinished one lie in _build/figure1; a run that was
stopped, by --minutes or a kill, goes on from there when its command is given again. `--workers 2`
uses two processes.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
import runner
import torch

from bn_helpers import data, ensemble, records

PARTS = Path(__file__).resolve().parent.parent / "_build" / "figure1"
WIDTHS = (784, 100, 100, 100, 10)
BATCH_SIZE = 60
HELD_OUT = 5000
PANEL_IMAGES = 2000
SAVE_EVERY = 20  # seconds
EARLY = (*range(0, 1001, 200), *range(1250, 3001, 250), 3580)  # 3,580: the first printed step

LATE = range(3500, 12_501, 500)
NETWORKS = (
    "784-100-100-100-10, sigmoid, W ~ N(0, σ²), b = β = 0, γ = 1, ε = 1e-5, momentum 0.1, "
    "plain SGD, batches of 60"
)
GRID = {
    "networks": NETWORKS,
    "input": "binary: 1 where the pixel is above 127",
    "train": "55,000 of MNIST's training images; 5,000 held out; 10,000 test images",
    "lr": [0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0],
    "sigma": [0.01, 0.03, 0.05, 0.07, 0.1, 0.2],
    "at": sorted({*EARLY, *LATE}),
}

RUNS = {
    "networks": NETWORKS,
    "input": GRID["input"],
    "train": "MNIST's 60,000 training images; 10,000 test images",
    "sigma, lr": [[0.06, 0.1], [0.1, 0.1], [0.04, 0.2], [0.058, 0.1]],
    "at": sorted({*EARLY, *LATE, *range(13_000, 50_001, 1000)}),
}


def binary(split):
    return data.Split((split.images > 0.5).astype(np.float32), split.labels)


def images(job):
    """Training images, and those that accuracy is taken on, by name."""
    mnist = data.load("mnist")
    train, test = binary(mnist.train), binary(mnist.test)
    if not job["held_out"]:
        return train, {"test": test}
    train, held_out = data.hold_out(train, HELD_OUT)
    return train, {"test": test, "held_out": held_out}


def look(stack, splits):
    """Accuracies, and percentiles of the last hidden layer's sigmoid inputs on test images."""
    seen = {
        name: ensemble.accuracy(stack, split).round(4).tolist() for name, split in splits.items()
    }
    given, _ = ensemble.forward(stack, splits["test"].images[:PANEL_IMAGES])
    # (3, M, h): the {15, 50, 85}th of each unit
    percentiles = np.percentile(given[-1].numpy(), [15, 50, 85], axis=1)
    seen["unit"] = percentiles[:, :, 0].T.round(3).tolist()
    spread = percentiles[2] - percentiles[0]
    seen["spread"] = np.median(spread, axis=1).round(3).tolist()
    # (M, 9): how the 100 units differ in each percentile
    units = np.percentile(percentiles, [10, 50, 90], axis=2)
    seen["units"] = units.transpose(2, 1, 0).reshape(len(stack), 9).round(2).tolist()
    return seen


def run(job, folder, progress):
    """Train one stack and return a row for each network; see :func:`runner.run_all`."""
    train, splits = images(job)
    stack = ensemble.networks(WIDTHS, sigma=job["sigma"], seeds=job["seeds"], bn=job["bn"])
    step, seen, file = 0, [look(stack, splits)], folder / "checkpoint.pt"
    if file.is_file():
        state = torch.load(file, weights_only=True)
        step, seen = state["step"], state["seen"]
        for name, tensors in state["stack"].items():
            setattr(stack, name, tensors)
    saved = time.monotonic()

    def evaluate(stack):
        nonlocal saved
        seen.append(look(stack, splits))
        reached = job["at"][len(seen) - 1]
        stop = progress(reached * len(stack)) and reached < job["at"][-1]
        if stop or time.monotonic() - saved > SAVE_EVERY:
            tensors = {k: v for k, v in vars(stack).items() if isinstance(v, list)}
            state = {"step": reached, "seen": seen, "stack": tensors}
            runner.store(file, lambda path: torch.save(state, path))
            saved = time.monotonic()
        if stop:
            raise runner.Stopped

    progress(step * len(stack))
    ensemble.train(
        stack,
        train,
        steps=job["at"][-1],
        start=step,
        batch_size=BATCH_SIZE,
        lr=job["lr"],
        rng=np.random.default_rng([job["order"], 1]),
        at=[s for s in job["at"] if s > step],
        evaluate=evaluate,
    )
    return [
        {
            **{key: job[key][i] for key in ("sigma", "lr")},
            "seed": job["seeds"][i],
            **{key: job[key] for key in ("bn", "order", "input")},
            **{key: [view[key][i] for view in seen] for key in seen[0]},
        }
        for i in range(len(stack))
    ]


def job_of(networks, bn, order, held_out, config):
    """The job that trains ``networks``, (σ, learning rate, seed) each, in one stack."""
    sigma, lr, seeds = map(list, zip(*networks, strict=True))
    return {
        "bn": bn,
        "sigma": sigma,
        "lr": lr,
        "seeds": seeds,
        "order": order,
        "input": "binary",
        "held_out": held_out,
        "at": config["at"],
    }


def grid_jobs():
    """Per seed and variant three stacks, of two σ and all rates each."""
    for seed, bn, i in product(range(5), (False, True), range(0, len(GRID["sigma"]), 2)):
        networks = [(s, lr, seed) for s in GRID["sigma"][i : i + 2] for lr in GRID["lr"]]
        yield job_of(networks, bn, seed, True, GRID)


def runs_jobs():
    """Per batch order and variant: two seeds of each pair, three pairs a stack."""
    for order, bn, i in product(range(5), (False, True), range(0, len(RUNS["sigma, lr"]), 3)):
        pairs = RUNS["sigma, lr"][i : i + 3]
        networks = [(*pair, 2 * order + k) for pair in pairs for k in range(2)]
        yield job_of(networks, bn, order, False, RUNS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["grid", "runs"])
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--minutes", type=float, help="stop after about so long; go on later")
    args = parser.parse_args()
    jobs, config, left_out = {
        "grid": (grid_jobs, GRID, ("unit", "units")),
        "runs": (runs_jobs, RUNS, ()),
    }[args.what]
    jobs = [runner.Job(job, job["at"][-1] * len(job["lr"]), (job,)) for job in jobs()]
    parts = runner.run_all(run, jobs, PARTS, workers=args.workers, minutes=args.minutes)
    if None in parts:
        print("not complete; give the same command again")
        return
    rows = [row for part in parts for row in part]
    for row in rows:
        for key in left_out:
            del row[key]
    file = records.write(
        f"figure1_{args.what}",
        command=f"python scripts/figure1.py {args.what}",
        config=config,
        seeds=sorted({row["seed"] for row in rows}),
        data={"mnist": data.checksum("mnist")},
        results=rows,
    )
    print(f"stored {file.name}")


if __name__ == "__main__":
    main()
