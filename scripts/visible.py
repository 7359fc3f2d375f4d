"""How much of a notebook's visible code prints, draws or records, rather than teaches.

    python scripts/visible.py [book/01_whitening.ipynb …]     (default: all)

A line counts where its statement calls `print`, `measure`, `display` or something of Matplotlib's
or `plotting`'s, and a loop, a branch or a function counts whole where its body does nothing else.
Folded cells (hidden inputs, solutions) do not count, nor do blank lines and comments.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import nbformat

FOLDED = {"remove-cell", "remove-input", "hide-cell", "hide-input", "solution"}
PRINTS = {"print", "measure", "display"}
DRAWS = {"plt", "plotting", "fig", "ax", "axes", "figure"}


def is_shown(statement):
    """Whether a statement prints, draws or records, and does nothing else."""
    if isinstance(statement, ast.FunctionDef):
        does = [part for part in statement.body if not is_constant(part)]
        return bool(does) and all(map(is_shown, does))
    if body := getattr(statement, "body", []):
        return all(is_shown(part) for part in [*body, *getattr(statement, "orelse", [])])
    for node in ast.walk(statement):
        if isinstance(node, ast.Call):
            function = node.func
            while isinstance(function, ast.Attribute | ast.Subscript | ast.Call):
                function = getattr(function, "value", None) or function.func
            if isinstance(function, ast.Name) and function.id in PRINTS | DRAWS:
                return True
    return False


def is_constant(statement):
    """A docstring, or a stub's dots."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def shown_lines(statements):
    """Numbers of the lines that print, draw or record."""
    for statement in statements:
        if is_shown(statement):
            yield from range(statement.lineno, statement.end_lineno + 1)
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from shown_lines(getattr(statement, part, []))


def count(source):
    """(lines that print, draw or record, all lines of code) of one cell."""
    lines = [i for i, line in enumerate(source.splitlines(), 1) if is_code(line)]
    shown = set(shown_lines(ast.parse(source).body))
    return len(shown.intersection(lines)), len(lines)


def is_code(line):
    return bool(line.strip()) and not line.strip().startswith("#")


def of_notebook(path):
    """(lines that print, draw or record, all lines) of the visible code of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    seen = [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and not FOLDED.intersection(cell.metadata.get("tags", []))
    ]
    counts = [count(source) for source in seen]
    return sum(shown for shown, _ in counts), sum(lines for _, lines in counts)


def main(arguments):
    book = Path(__file__).resolve().parent.parent / "book"
    for path in [Path(a) for a in arguments] or sorted(book.rglob("*.ipynb")):
        shown, lines = of_notebook(path)
        share = shown / max(lines, 1)
        print(f"{path.stem:<28} {shown:>4} of {lines:>4} visible lines  {share:6.1%}")


if __name__ == "__main__":
    main(sys.argv[1:])
