"""Build book/claims.md from the claims' wording and what the chapters' stored outputs measured.

python scripts/claims.py        (part of `make book` and `make execute`)
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import nbformat
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bn_helpers.records import MEASURED

BOOK = Path(__file__).resolve().parent.parent / "book"
PAGE = BOOK / "claims.md"
FIELDS = {"id", "what", "figures", "seeds", "data", "holds"}
VERDICTS = {
    "holds": "●",
    "holds in part": "◐",
    "does not hold": "○",
    "not testable here": "–",
    "open": "…",
}
TOP = """\
# The claims, measured

Does it come out, on what, and over how many seeds? Each row is a claim of the paper, in our
words, or a statement in wide circulation. What was measured comes from the chapters: their cells
compute each figure, decide by a rule written into the cell whether it bears the claim out, and
store both; the tests compute them again. This page is put together from those stored outputs.
Nobody typed a figure or a verdict.

A claim **holds** where all its measurements bear it out, **holds in part** where some do, and
**does not hold** where none does. A verdict is about the data and the networks named in its row,
which are small: it says what a reader can see on a laptop, not what ImageNet would show. A figure
over seeds is the median with the lowest and the highest.
"""


class ClaimsError(ValueError):
    """What the chapters store and what the page asks about do not fit together."""


def slug(heading):
    """A heading's anchor, as MyST makes it: from its text, formulas left out."""
    text = re.sub(r"\$[^$]*\$", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def collect(notebooks):
    """What the notebooks' cells measured: id → list of rows with ``chapter`` and ``link``."""
    found = {}
    for path in notebooks:
        heading = ""
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                lines = re.findall(r"^#{2,3} (.+)$", cell.source, flags=re.M)
                heading = lines[-1] if lines else heading
                continue
            for output in cell.get("outputs", []):
                row = output.get("data", {}).get(MEASURED)
                if row is None:
                    continue
                if set(row) != FIELDS or type(row["holds"]) is not bool:
                    raise ClaimsError(f"{path.name}: expected {sorted(FIELDS)}, got {row}")
                link = f"{path.name}#{slug(heading)}" if heading else path.name
                row = {**row, "chapter": path.stem[:2], "link": link}
                rows = found.setdefault(row["id"], [])
                if any((r["chapter"], r["what"]) == (row["chapter"], row["what"]) for r in rows):
                    raise ClaimsError(f"{path.name}: {row['id']} measures {row['what']!r} twice")
                rows.append(row)
    return found


def verdict(claim, rows):
    """(verdict, reason): the verdict is a key of VERDICTS, the reason may be empty."""
    if rows:
        holding = sum(row["holds"] for row in rows)
        if holding == len(rows):
            return "holds", ""
        return ("holds in part" if holding else "does not hold"), ""
    if "open" in claim:
        return "open", claim["open"]
    if "untestable" in claim:
        return "not testable here", f"because {claim['untestable']}"
    raise ClaimsError(f"{claim['id']} has no measurement in a chapter and no reason for that")


def measurement(row):
    over = f"{row['seeds']} seeds, " if row["seeds"] else ""
    sign = VERDICTS["holds"] if row["holds"] else VERDICTS["does not hold"]
    figures = ", ".join(row["figures"])
    return (
        f"{sign} {row['what']}: {figures} ({over}{row['data']}) [{row['chapter']}]({row['link']})"
    )


def page(sections, measured):
    """The page's Markdown, from the wording of the claims and what was measured."""
    asked = [claim["id"] for section in sections for claim in section["claims"]]
    if len(set(asked)) != len(asked):
        raise ClaimsError(f"a claim is asked about twice: {Counter(asked).most_common(1)[0][0]}")
    if unknown := sorted(set(measured) - set(asked)):
        raise ClaimsError(f"measured, but not in claims.yml: {unknown}")
    counts, body = Counter(), []
    for section in sections:
        body += [f"## {section['section']}", "", "| | Claim | Measured | Verdict |"]
        body += ["|---|---|---|---|"]
        for claim in section["claims"]:
            rows = measured.get(claim["id"], [])
            label, reason = verdict(claim, rows)
            counts[label] += 1
            shown = "<br>".join(measurement(row).replace("|", "\\|") for row in rows) or reason
            text = f"{claim['claim']} ({claim['place']})".replace("|", "\\|")
            cells = [f"**{claim['id']}**", text, shown, f"{VERDICTS[label]} {label}"]
            body += [f"| {' | '.join(cells)} |"]
        body += [""]
    total = sum(counts.values())
    tally = [f"{sign} {label}: {counts[label]}" for label, sign in VERDICTS.items()]
    summary = f"Of {total} rows: {'; '.join(tally)}."
    return "\n".join([TOP, summary, "", *body]).rstrip() + "\n"


def build(book=BOOK):
    sections = yaml.safe_load((book / "claims.yml").read_text(encoding="utf-8"))
    return page(sections, collect(sorted(book.glob("*.ipynb"))))


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
