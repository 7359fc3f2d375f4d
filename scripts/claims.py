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
from bn_helpers.claims import MEASURED, VERDICTS, described, settled, wording
from bn_helpers.records import folder

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

**One measurement decides a row**, the headline, in bold; what decides was named before it was
run. The others are context. Where it compares runs, the rule is the same everywhere: an exact
permutation test on ranks, paired by seed where both sides share seeds
([Wilcoxon, 1945](references.md#wilcoxon1945individual)) or not
([Mann & Whitney, 1947](references.md#mann1947test)), has to find p < 0.01, and the median effect
has to be of the size that the rule names. A claim *does not hold* where the same test says
that an effect of that size is not there; where neither comes out it is *not resolved*: so many
seeds cannot tell. It is judged on 10 pairs of runs or more, 8 where a run takes minutes, or 5 runs
a side without pairs. What has fewer is shown (·), not judged. An *identity* follows by algebra:
shown, and no evidence.

A verdict is about the data and the networks named in its row, which are small: it says what a
reader can see on a laptop, not what ImageNet would show. A figure over seeds is the median with the
lowest and the highest.
"""
AGAIN = """
Everything was measured twice more with other seeds, and once with every second look left out; a
verdict that did not stay is *not resolved*, and says so.
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
                if set(row) - {"most runs"} != FIELDS or row["verdict"] not in VERDICTS:
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
    if "untestable" in claim and not headlines:
        return "not testable here", "not testable here"
    if len(headlines) != 1:
        whats = [row["what"] for row in headlines]
        raise ClaimsError(f"{name}: expected one headline measurement, got {whats}")
    label, condition = settled(headlines[0])
    return label, f"{label} {condition}".strip()


def measurement(row):
    """One measurement in Markdown: sign, figures, rule, link to its section."""
    what = f"**{row['what']}**" if row["headline"] else row["what"]
    rule = f"; *{row['rule']['words']}*" if row["rule"]["words"] else ""
    link = f"[{row['chapter']}]({row['link']})"
    return f"{VERDICTS[settled(row)[0]]} {what}{described(row)}{rule} {link}"


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
            rows = sorted(measured.get(name, []), key=lambda row: not row["headline"])
            label, words = verdict(name, claim, rows)
            counts[label] += 1
            shown_rows = [measurement(row) for row in rows]
            if reason := claim.get("untestable"):
                shown_rows.insert(0, reason)
            texts = (f"{claim['claim']} ({claim['place']})", "<br>".join(shown_rows))
            cells = [text.replace("|", "\\|") for text in texts]
            body += [f"| **{name}** | {' | '.join(cells)} | {VERDICTS[label]} {words} |"]
        body += [""]
    tally = [
        f"{sign} {label}: {counts[label]}" for label, sign in VERDICTS.items() if counts[label]
    ]
    summary = f"Of {len(asked)} rows: {'; '.join(tally)}."
    again = AGAIN if (folder() / "fresh.json").is_file() else ""
    return "\n".join([TOP + again, summary, "", *body]).rstrip() + "\n"


def build(book=BOOK):
    return page(wording(), collect(in_order(execute.notebooks(book))))


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
