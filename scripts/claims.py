"""Build book/claims.md from the claims' wording and what the chapters' stored outputs measured.

python scripts/claims.py        (part of `make book` and `make execute`)
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import execute
import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bn_helpers.claims import MEASURED, VERDICTS, shown, wording

BOOK = Path(__file__).resolve().parent.parent / "book"
PAGE = BOOK / "claims.md"
FIELDS = {"id", "what", "figures", "runs", "over", "data", "rule", "headline"}
FIELDS |= {"verdict", "condition"}
TOP = """\
# The claims, measured

Does it come out, on what, and over how many seeds? Each row is a claim of the paper, in our
words, or a statement in wide circulation. What was measured comes from the chapters and their labs:
their cells compute each figure, judge it by the *rule* beside it, and store figure, rule and
verdict; the tests compute them again. This page is put together from those stored outputs. Nobody
typed a figure or a verdict.

Where a claim has a **headline**, it decides the row and the rest is context. Elsewhere a claim
**holds** where all its measurements bear it out, **holds in part** where some do, and **does not
hold** where none does. **Not resolved** is what the runs cannot decide, an **identity** what
follows by algebra. A verdict is about the data and the networks named in its row, which are small:
it says what a reader can see on a laptop, not what ImageNet would show. A figure over seeds is the
median with the lowest and the highest; a rule that names no run is about the median.
"""


class ClaimsError(ValueError):
    """What the chapters store and what the page asks about do not fit together."""


def slug(heading):
    """A heading's anchor, as MyST makes it: from its text, formulas left out."""
    text = re.sub(r"\$[^$]*\$", "", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def is_lab(path):
    return path.parent.name == "labs"


def chapter(path):
    """A notebook's short name: "03", or "lab 03" for one of its labs."""
    return f"lab {path.stem[:2]}" if is_lab(path) else path.stem[:2]


def in_order(notebooks):
    """Each chapter before its labs."""
    return sorted(notebooks, key=lambda path: (path.stem[:2], is_lab(path), path.name))


def collect(notebooks):
    """What the notebooks' cells measured: id → list of rows with ``chapter`` and ``link``."""
    found = {}
    for path in notebooks:
        heading = ""
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                lines = re.findall(r"^#{2,3} (.+)$", cell.source, flags=re.M)
                if lines and "exercise" not in cell.metadata.get("tags", []):
                    heading = lines[-1]
                continue
            for output in cell.get("outputs", []):
                row = output.get("data", {}).get(MEASURED)
                if row is None:
                    continue
                if set(row) != FIELDS or row["verdict"] not in VERDICTS:
                    raise ClaimsError(f"{path.name}: expected {sorted(FIELDS)}, got {row}")
                page = f"{path.parent.name}/{path.name}" if is_lab(path) else path.name
                link = f"{page}#{slug(heading)}" if heading else page
                row = {**row, "chapter": chapter(path), "link": link}
                rows = found.setdefault(row["id"], [])
                if any((r["chapter"], r["what"]) == (row["chapter"], row["what"]) for r in rows):
                    raise ClaimsError(f"{path.name}: {row['id']} measures {row['what']!r} twice")
                rows.append(row)
    return found


def verdict(name, claim, rows):
    """(verdict, words): the verdict is a key of VERDICTS, the words may add a condition."""
    headlines = [row for row in rows if row["headline"]]
    if len(headlines) > 1:
        whats = [row["what"] for row in headlines]
        raise ClaimsError(f"{name}: expected one headline measurement, got {whats}")
    for reason, label in (("open", "open"), ("untestable", "not testable here")):
        if reason in claim and not headlines:
            return label, label
    if not rows:
        raise ClaimsError(f"{name} has no measurement in a chapter and no reason for that")
    found = {(row["verdict"], row["condition"]) for row in headlines or rows}
    if len(found) == 1:
        ((label, condition),) = found
        return label, f"{label} {condition}".strip()
    labels = {label for label, _ in found}
    if labels == {"holds", "identity"}:
        return "holds", "holds"
    label = "holds in part" if labels & {"holds", "holds where", "identity"} else "not resolved"
    return label, label


def measurement(row):
    """One measurement in Markdown: sign, figures, rule, link to its section."""
    what = f"**{row['what']}**" if row["headline"] else row["what"]
    return (
        f"{VERDICTS[row['verdict']]} {what}{shown(row)}; *{row['rule']['words']}* "
        f"[{row['chapter']}]({row['link']})"
    )


def page(sections, measured):
    """The page's Markdown, from the wording of the claims and what was measured."""
    asked = [name for claims in sections.values() for name in claims]
    if len(set(asked)) != len(asked):
        raise ClaimsError(f"a claim is asked about twice: {Counter(asked).most_common(1)[0][0]}")
    if unknown := sorted(set(measured) - set(asked)):
        raise ClaimsError(f"measured, but not in claims.toml: {unknown}")
    counts, body = Counter(), []
    for title, claims in sections.items():
        body += [f"## {title}", "", "| | Claim | Measured; *rule* | Verdict |", "|---|---|---|---|"]
        for name, claim in claims.items():
            rows = measured.get(name, [])
            label, words = verdict(name, claim, rows)
            counts[label] += 1
            shown_rows = [measurement(row) for row in rows]
            if reason := claim.get("open") or claim.get("untestable"):
                shown_rows.insert(0, reason)
            texts = (f"{claim['claim']} ({claim['place']})", "<br>".join(shown_rows))
            cells = [text.replace("|", "\\|") for text in texts]
            body += [f"| **{name}** | {' | '.join(cells)} | {VERDICTS[label]} {words} |"]
        body += [""]
    tally = [
        f"{sign} {label}: {counts[label]}" for label, sign in VERDICTS.items() if counts[label]
    ]
    summary = f"Of {len(asked)} rows: {'; '.join(tally)}."
    return "\n".join([TOP, summary, "", *body]).rstrip() + "\n"


def build(book=BOOK):
    return page(wording(), collect(in_order(execute.notebooks(book))))


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
