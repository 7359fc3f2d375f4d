"""Measure everything again with other seeds, and with every second look left out.

    python scripts/fresh.py                 all notebooks; the table is the record `fresh`
    python scripts/fresh.py --minutes 9     stop after so long; the same command goes on

Each notebook runs three times as it is stored, but for what chance draws (two other sets of seeds;
the data's splits stay) or for `training.first`, which sees every second look. What its cells then
measure is compared with what is stored. Finished notebooks lie in _build/fresh; one that was edited
runs again. Records keep their seeds, but for those in AGAIN, which are made with other ones for the
first set (half an hour, once).
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

import execute
import nbformat
import runner
from nbclient import NotebookClient

from bn_helpers import records
from bn_helpers.claims import MEASURED

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "_build" / "fresh"
AGAIN = {"scale_map": "scale.py", "figure1_best": "figure1.py best"}
VARIANTS = ("other seeds 1", "other seeds 2", "every second look")
PATCH = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
import fresh_seeds
fresh_seeds.apply({{variant!r}}, {str(runner.FRESH)!r})
"""


def rows_of(cells):
    """What the cells' outputs measured, in order."""
    outputs = (output for cell in cells for output in cell.get("outputs", []))
    return [o["data"][MEASURED] for o in outputs if MEASURED in o.get("data", {})]


def work(name, variant, folder, progress):
    """Run a notebook with a variant: what it measures, and which errors its cells end in."""
    path = ROOT / "book" / name
    notebook = nbformat.read(path, as_version=4)
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    cell = nbformat.v4.new_code_cell(PATCH.format(variant=variant))
    notebook.cells.insert(first + 1, cell)
    NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        allow_errors=True,  # a slice of a record that does not come out, with other seeds
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    outputs = [o for c in notebook.cells for o in c.get("outputs", [])]
    errors = [o["ename"] for o in outputs if o["output_type"] == "error"]
    found = [[row["id"], row["what"], row["verdict"]] for row in rows_of(notebook.cells)]
    return {"found": found, "errors": errors}


def jobs():
    """A job for each notebook that measures and each variant."""
    found = []
    for path in execute.notebooks():
        notebook = nbformat.read(path, as_version=4)
        if not rows_of(notebook.cells):
            continue
        name = path.relative_to(ROOT / "book").as_posix()
        sources = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        digest = hashlib.sha256(sources.encode()).hexdigest()
        for variant in VARIANTS:
            key = {"notebook": name, "cells": digest, "variant": variant}
            found.append(runner.Job(key, 1, (name, variant)))
    return found


def table(all_jobs, results):
    """A row for each stored measurement: what it says, and what each variant said."""
    again = {job.arguments: result for job, result in zip(all_jobs, results, strict=True)}
    rows = []
    for name in dict.fromkeys(job.key["notebook"] for job in all_jobs):
        stored = rows_of(nbformat.read(ROOT / "book" / name, as_version=4).cells)
        count = {}
        for row in stored:
            nth = count[row["id"]] = count.get(row["id"], -1) + 1
            if row["verdict"] == "shown":
                continue
            entry = {key: row[key] for key in ("id", "what", "headline", "verdict")}
            for variant in VARIANTS:
                found = [v for i, _, v in again[name, variant]["found"] if i == row["id"]]
                entry[variant] = found[nth] if nth < len(found) else "not measured"
            rows.append({"notebook": name, **entry})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, help="stop after about so long; go on later")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for name, command in AGAIN.items():
        if not (runner.FRESH / f"{name}.json").is_file():
            script, *rest = command.split()
            command = [sys.executable, ROOT / "scripts" / script, *rest, "--shift", "1000"]
            subprocess.run(command, check=True)
    all_jobs = jobs()
    results = runner.run_all(work, all_jobs, RUNS, workers=options.workers, minutes=options.minutes)
    if None in results:
        sys.exit("not complete; give the same command again")
    rows = table(all_jobs, results)
    shares = {v: sum(row[v] == row["verdict"] for row in rows) / len(rows) for v in VARIANTS}
    for variant, share in shares.items():
        print(f"{variant}: {share:.1%} of {len(rows)} verdicts stay")
    records.write(
        "fresh",
        command="python scripts/fresh.py",
        config={"share of verdicts that stay": {v: round(s, 4) for v, s in shares.items()}},
        results=rows,
        seeds=[1, 2],
    )


if __name__ == "__main__":
    main()
