"""Every work that the text names is cited, and the list holds nothing else."""

import re
from pathlib import Path

import nbformat
import pytest

BOOK = Path(__file__).resolve().parent.parent / "book"
PAGES = sorted([*BOOK.rglob("*.ipynb"), *BOOK.glob("*.md")])
LINK = re.compile(r"\[([^\[\]]+)\]\((?:\.\./)?references\.md#(\w+)\)")
# "Wu & Johnson (2021)", "van Laarhoven, 2017", "Huang et al. (2018)": a name, and a year after it.
NAMED = re.compile(r"([A-Z][\w'-]+(?: et al\.|(?: and| &) [A-Z][\w'-]+)?),? \(?((?:19|20)\d\d)\b")
NO_WORKS = {"Figure", "In", "Table", "ILSVRC", "LSVRC", "ImageNet", "Chapter"}


def entries():
    """Key → (first author's surname, year) of the list."""
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    found = {}
    for key, body in re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, flags=re.M | re.S):
        authors = re.search(r"author = \{(.*)\},$", body, flags=re.M)[1]
        first = authors.split(" and ")[0].split()[-1]
        found[key] = (first, re.search(r"year = \{(\d+)\}", body)[1])
    return found


ENTRIES = entries()


def text_of(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(BOOK).as_posix())
def test_whoever_is_named_with_a_year_is_linked(path):
    """Catches a name without a link, another year than the list's, and another work's link."""
    if path.name in ("api.md", "claims.md"):
        return
    text = text_of(path)
    assert "]\n(references.md" not in text
    for words, key in LINK.findall(text):
        assert key in ENTRIES, f"{key} is not in references.bib"
        surname, year = ENTRIES[key]
        if found := re.findall(r"\b(?:19|20)\d\d\b", words):
            assert found == [year], words
            assert surname in words, words
    bare = [found[0] for found in NAMED.findall(LINK.sub("", text)) if found[0] not in NO_WORKS]
    assert not bare, f"{bare}: link to references.md#key"


def test_the_list_holds_what_is_cited():
    """Catches an entry that no page cites."""
    cited = {key for path in PAGES for _, key in LINK.findall(text_of(path))}
    assert set(ENTRIES) == cited
