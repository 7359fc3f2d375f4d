"""Measure speeds as ratios, print them as tables and store them as records (`make bench`).

    python scripts/bench.py [SUITE …] [--device cuda] [--where FOLDER]     (default: all suites)

All implementations of one row take turns, round by round, so that a busy moment of the machine
meets all of them; a ratio is the median of the rounds' ratios. One thread. ``roofline``,
``training`` and ``batches`` run on a GPU where there is one, and store their record under a name of
its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from bench import batches, folding, layers, networks, roofline, training, whitening

from bn_helpers import records
from bn_helpers.training.run import device_name

SUITES = {
    "layers": layers.measure,
    "whitening": whitening.measure,
    "folding": folding.measure,
    "sweep": networks.measure,
}
DEVICE_SUITES = {
    "roofline": roofline.measure,
    "training": training.measure,
    "batches": batches.measure,
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Measure speeds and store them as records.")
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join([*SUITES, *DEVICE_SUITES])}"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="of roofline, training and batches (default: a GPU where there is one)",
    )
    parser.add_argument("--where", type=Path, help="folder of the records (default: book/records)")
    options = parser.parse_args(arguments)
    known = {**SUITES, **DEVICE_SUITES}
    if unknown := set(options.suites) - set(known):
        parser.error(f"expected suites among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in options.suites or known:
        record, command, device = f"bench_{name}", f"python scripts/bench.py {name}", None
        if name in SUITES:
            config, results = SUITES[name]()
        else:
            config, results = DEVICE_SUITES[name](options.device)
            command += f" --device {options.device}"
            device = device_name(options.device)
            record += "_cuda" if options.device == "cuda" else ""
        file = records.write(
            record,
            command=command,
            config={**config, "threads": 1},
            results=results,
            device=device,
            where=options.where,
        )
        print(f"stored {file.name}")


if __name__ == "__main__":
    main()
