"""Train Figure 1's networks on binary MNIST and store what comes out as records.

    python scripts/figure1.py grid      learning rates × initial σ, with and without BN
    python scripts/figure1.py best      each side's own best settings of that grid, other seeds
    python scripts/figure1.py runs      the candidates for the paper's setting, 50,000 steps

Finished parts and, every 20 s, the state of an unfinished one lie in _build/figure1; a run that was
stopped, by --minutes or a kill, goes on from there when its command is given again. `--workers 2`
uses two processes. `best --shift 1000` takes other seeds, and its record goes to _build/fresh.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

import numpy as np
import runner
import torch

from bn_helpers import data, ensemble, records, training

PARTS = Path(__file__).resolve().parent.parent / "_build" / "figure1"
WIDTHS = (784, 100, 100, 100, 10)
BATCH_SIZE = 60
HELD_OUT = 5000
PANEL_IMAGES = 2000
SIDES = {"without BN": False, "with BN": True}
SAVE_EVERY = 20  # seconds
NETWORKS = (
    "784-100-100-100-10, sigmoid, W ~ N(0, σ²), b = β = 0, γ = 1, ε = 1e-5, momentum 0.1, "
    "plain SGD, batches of 60"
)
GRID = {
    "networks": NETWORKS + "; σ = c/√n: n is the number of each layer's own inputs",
    "input": "binary: 1 where the pixel is above 127",
    "train": "55,000 of MNIST's training images; 5,000 held out; 10,000 test images",
    "lr": [0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 10.0, 30.0],
    "sigma": [0.01, 0.03, 0.05, 0.07, 0.1, 0.2, 0.4, 0.8, "1/√n", "2/√n", "4/√n", "8/√n", "16/√n"],
    "with BN only": "rate 30 and 16/√n: with BN what gets to 90 % first is near them; without BN "
    "nothing trains at rate 10, and 8/√n is past the best",
    "at": sorted(  # 3,580: the first step that the paper's Figure 1(a) draws
        {*range(0, 1001, 100), *range(1000, 2001, 200), *range(2000, 3001, 250), 3580}
        | {*range(3500, 12_501, 500)}
    ),
}
GOALS = {"90 %": 0.9, "95 %": 0.95, "97 %": 0.97}
END = "step 12,500"  # the goal of the highest accuracy there
BEST = {
    **{key: GRID[key] for key in ("networks", "input", "train")},
    "choice": "of the record figure1_grid, on the 5,000 held out: the fewest steps to a goal, "
    "median of its seeds (of equals, the one with the higher accuracy there), "
    "or the highest accuracy at the end",
    "at": sorted({*range(0, 1001, 25), *range(1000, 3001, 50), *range(3000, 12_501, 250)}),
}
RUNS = {
    "networks": NETWORKS,
    "input": GRID["input"],
    "train": "MNIST's 60,000 training images; 10,000 test images",
    "sigma, lr": [[0.06, 0.1], [0.058, 0.1], [0.1, 0.1], [0.04, 0.2]],
    "at": sorted(
        {*range(0, 1001, 50), *range(1000, 3601, 100), 3280, 3580, *range(3500, 8001, 250)}
        | {*range(8000, 20_001, 500), *range(20_000, 50_001, 1000)}
    ),
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


def by_layer(sigma):
    """Each layer's σ of a number, or of ``"4/√n"``, where n is the number of its inputs."""
    if not isinstance(sigma, str):
        return [sigma] * (len(WIDTHS) - 1)
    return [float(sigma.removesuffix("/√n")) / width**0.5 for width in WIDTHS[:-1]]


def fresh(job):
    """The job's networks before training."""
    each = [by_layer(sigma) for sigma in job["sigma"]]
    first = [layers[0] for layers in each]
    stack = ensemble.networks(WIDTHS, sigma=first, seeds=job["seeds"], bn=job["bn"])
    for layer, weight in enumerate(stack.weights[1:], 1):
        weight *= torch.tensor([layers[layer] / layers[0] for layers in each])[:, None, None]
    return stack


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
    stack = fresh(job)
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
    """Per seed a stack of what runs with BN only; per variant six, of two σ and all rates each."""
    (*rates, last_rate), (*sigmas, last_sigma) = GRID["lr"], GRID["sigma"]
    for seed in range(5):
        edge = [(s, last_rate) for s in GRID["sigma"]] + [(last_sigma, lr) for lr in rates]
        yield job_of([(*pair, seed) for pair in edge], True, seed, True, GRID)
        for bn, i in product((False, True), range(0, len(sigmas), 2)):
            networks = [(s, lr, seed) for s in sigmas[i : i + 2] for lr in rates]
            yield job_of(networks, bn, seed, True, GRID)


def best_of(rows, goal, at):
    """The (σ, rate) of ``rows``, one side of the grid, that gets to ``goal`` first; see BEST."""
    runs = {}
    for row in rows:
        runs.setdefault((row["sigma"], row["lr"]), []).append(row["held_out"])

    def lateness(setting):
        middle = np.median(runs[setting], axis=0)
        if goal == END:
            return -middle[-1]
        step = np.median(training.first(at, np.array(runs[setting]) >= GOALS[goal]))
        return step, -middle[np.searchsorted(at, min(step, at[-1]))]

    return min(runs, key=lateness)


def chosen(grid):
    """Goal → side → [σ, rate], from the record of the grid."""
    sides = {side: records.rows(grid, bn=bn) for side, bn in SIDES.items()}
    at = grid["config"]["at"]
    return {
        goal: {side: list(best_of(rows, goal, at)) for side, rows in sides.items()}
        for goal in (*GOALS, END)
    }


def best_jobs(choice, shift):
    """Per seed and variant one stack of what was chosen; no seed or order is the grid's."""
    for seed, (side, bn) in product(range(10 + shift, 20 + shift), SIDES.items()):
        settings = dict.fromkeys(tuple(sides[side]) for sides in choice.values())
        yield job_of([(*pair, seed) for pair in settings], bn, seed, True, BEST)


def runs_jobs():
    """Per seed and variant one stack of all pairs; each seed has a batch order of its own."""
    for seed, bn in product(range(10), (False, True)):
        yield job_of([(*pair, seed) for pair in RUNS["sigma, lr"]], bn, seed, False, RUNS)


def stored(row, what):
    """The part of a row that its record keeps, within a megabyte for all of them."""
    left_out = {"grid": {"unit", "units"}, "best": {"unit", "units", "spread"}, "runs": set()}[what]
    if what == "grid" and row["bn"]:
        left_out = left_out | {"spread"}
    if what == "runs" and [row["sigma"], row["lr"]] != RUNS["sigma, lr"][0]:
        left_out = left_out | {"units"}
    return {key: value for key, value in row.items() if key not in left_out}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["grid", "best", "runs"])
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--shift", type=int, default=0, help="added to each seed of best")
    parser.add_argument("--minutes", type=float, help="stop after about so long; go on later")
    args = parser.parse_args()
    shift = args.shift
    if args.what == "best":
        choice = chosen(records.read("figure1_grid"))
        jobs, config = best_jobs(choice, shift), {**BEST, "chosen": choice}
    else:
        jobs, config = {"grid": (grid_jobs(), GRID), "runs": (runs_jobs(), RUNS)}[args.what]
    jobs = [runner.Job(job, job["at"][-1] * len(job["lr"]), (job,)) for job in jobs]
    parts = runner.run_all(run, jobs, PARTS, workers=args.workers, minutes=args.minutes)
    if None in parts:
        print("not complete; give the same command again")
        return
    rows = [stored(row, args.what) for part in parts for row in part]
    file = records.write(
        f"figure1_{args.what}",
        command=f"python scripts/figure1.py {args.what}" + f" --shift {shift}" * bool(shift),
        config=config,
        seeds=sorted({row["seed"] for row in rows}),
        data={"mnist": data.checksum("mnist")},
        results=rows,
        where=runner.FRESH if shift else None,
    )
    print(f"stored {file.name}")


if __name__ == "__main__":
    main()
