"""Records of long runs and of timings.

A record is one JSON file in ``book/records``. It carries a checksum of its own contents, so that
a file that was damaged or edited by hand is refused. :func:`verify` runs a slice of one again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_BESIDE = Path(__file__).resolve().parent.parent
_CLONE = _BESIDE / "book" / "records"
LARGEST_BYTES = 1_000_000
#: The fields of a record and their types.
FIELDS = {
    "name": str,
    "command": str,
    "config": dict,
    "seeds": list,
    "commit": str,
    "versions": dict,
    "device": str,
    "data": dict,
    "results": list,
    "sha256": str,
}


class RecordError(ValueError):
    """A record that cannot be trusted; the message says what is wrong and how to mend it."""


def folder() -> Path:
    """Where the records are: in the clone, or in the installed package (on Colab, say)."""
    return _CLONE if _CLONE.is_dir() else _BESIDE / "bn_helpers_records"


def read(name: str, where: Path | None = None) -> dict[str, Any]:
    """Return the record ``name`` as a dict with the keys of :data:`FIELDS`.

    ``where`` is a folder (``pathlib.Path``); default: :func:`folder`.

    Raises
    ------
    RecordError
        no such record, no JSON, a field missing or of the wrong type, another name than
        the file's, contents that do not match their checksum.
    """
    where = where or folder()
    file = where / f"{name}.json"
    if not file.is_file():
        known = sorted(p.name[:-5] for p in where.iterdir() if p.name.endswith(".json"))
        raise RecordError(f"expected a record named one of {known}, got {name!r}")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{file.name}: expected JSON, got {error}; restore it from git") from None
    if not isinstance(record, dict):
        raise RecordError(f"{file.name}: expected an object, got {type(record).__name__}")
    for field, kind in FIELDS.items():
        if field not in record:
            raise RecordError(f"{file.name}: the field {field!r} is missing; run its command again")
        if not isinstance(record[field], kind):
            raise RecordError(
                f"{file.name}: expected {field!r} to be {kind.__name__}, "
                f"got {type(record[field]).__name__}; run {record.get('command')!r} again"
            )
    if record["name"] != name:
        raise RecordError(f"{file.name}: expected the name {name!r}, got {record['name']!r}")
    if record["sha256"] != checksum(record):
        raise RecordError(
            f"{file.name}: the contents do not match their checksum; a record is never edited by "
            f"hand, run {record['command']!r} again"
        )
    return record


def rows(record: Mapping[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """The rows of ``record["results"]`` that have these values; None: that lack the key."""
    return [r for r in record["results"] if all(r.get(k) == v for k, v in wanted.items())]


def write(
    name: str,
    *,
    command: str,
    config: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    seeds: Iterable[int] = (),
    data: Mapping[str, str] | None = None,
    device: str | None = None,
    where: Path | None = None,
) -> Path:
    """Store a record and return its path; the commit and the versions are added here.

    Parameters
    ----------
    command : str, what makes the record again, from the repository's root.
    config : dict, every setting that the results depend on.
    results : list of dicts of numbers, strings, lists and None.
    seeds : list of int.
    data : dict, data set's name → SHA-256 of its contents.
    device : str; default: this machine's processor.
    where : ``pathlib.Path`` of a folder; default: the clone's ``book/records``.

    Returns
    -------
    file : ``pathlib.Path``.

    Raises
    ------
    RecordError
        the record would be larger than 1 MB or holds NaN or infinity.
    """
    record = {
        "name": name,
        "command": command,
        "config": config,
        "seeds": list(seeds),
        "commit": _commit(),
        "versions": _versions(),
        "device": device or _processor(),
        "data": data or {},
        "results": results,
    }
    try:
        record["sha256"] = checksum(record)
        text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        # A list of numbers on one line: half the bytes, and a diff that can be read.
        text = re.sub(r'\[[^][{}"]*\]', lambda found: " ".join(found[0].split()), text)
    except ValueError as error:
        raise RecordError(f"{name}: expected finite numbers, got {error}; store None") from None
    if len(text.encode()) > LARGEST_BYTES:
        raise RecordError(f"{name}: expected at most 1 MB, got {len(text):,} characters; thin it")
    file = (where or _CLONE) / f"{name}.json"
    partial = file.with_suffix(".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, file)
    return file


def verify(
    record: Mapping[str, Any],
    again: Mapping[str, Sequence[float]],
    *,
    index: int,
    data: Mapping[str, str],
    tolerance: float,
) -> None:
    """Say whether a slice of a record, run again, comes out the same; print the verdict.

    Parameters
    ----------
    record : dict, as :func:`read` returns it.
    again : dict, key of a row → list of numbers, the slice: as many as were run again, from the
        start of the stored list on.
    index : int, the row of ``record["results"]``.
    data : dict, data set's name → SHA-256 of what the slice ran on.
    tolerance : float, largest absolute difference that rounding on another machine explains.

    Raises
    ------
    RecordError
        the record was made on other data; the row lacks a key or is shorter; a number differs.
    """
    name, row = record["name"], record["results"][index]
    if record["data"] != data:
        raise RecordError(
            f"{name}: expected the data it was made on, {record['data']}, got {data}; "
            f"load that, or run {record['command']!r} again"
        )
    for key, numbers in again.items():
        stored = row.get(key, [])
        if len(stored) < len(numbers):
            raise RecordError(
                f"{name}: expected {key!r} of row {index} to hold {len(numbers)} numbers or more, "
                f"got {len(stored)}; one of {sorted(row)}, or a shorter slice"
            )
        for at, (old, new) in enumerate(zip(stored, numbers, strict=False)):
            if not abs(old - new) <= tolerance:
                raise RecordError(
                    f"{name}: {key!r} of row {index}, number {at}: stored {old}, got {new}, which "
                    f"is more than {tolerance} off; run {record['command']!r} again"
                )
    slices = ", ".join(f"{len(numbers)} × {key}" for key, numbers in again.items())
    print(f"{name}, row {index} run again: {slices} the same within {tolerance}")


def checksum(record: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the record's fields but ``sha256``; ValueError for NaN and infinity."""
    contents = {k: v for k, v in record.items() if k != "sha256"}
    canonical = json.dumps(contents, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _commit():
    try:
        git = ["git", "-C", str(_CLONE), "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(
            [*git[:3], "status", "--porcelain", "--untracked-files=no", ":/", ":!*.json"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with changes" if dirty else commit


def _versions():
    import matplotlib
    import numpy
    import torch

    packages = {m.__name__: m.__version__ for m in (numpy, torch, matplotlib)}
    return {"python": platform.python_version(), **packages}


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
