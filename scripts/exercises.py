"""An exercise's stub, made from its solution: one source for both.

In a notebook an exercise is a Markdown cell tagged `exercise`, a code cell tagged `stub`, and one
tagged `solution`, in this order. The stub is written from the solution (`make execute`):

- the body of a function or method becomes `...`, its docstring stays;
- the value of an assignment at the top becomes `...`, of a dictionary each value;
- a statement whose first line ends in `# given` stays as it is;
- where lines end in `# new` or `# instead of: <code>`, the learner mends wrong code: the first kind
  is left out, the second shows <code>, and all other lines of that statement stay.
"""

from __future__ import annotations

import ast
import itertools
import re

TITLE = "# @title Solution: open it once you have tried"
MENDED = re.compile(r"  # (?:new|instead of: (.*))$")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def titled(source):
    """The solution with the line by which Colab folds it."""
    return source if source.startswith(TITLE) else f"{TITLE}\n{source}"


def untitled(source):
    return source.removeprefix(f"{TITLE}\n")


def stub(solution):
    """What the learner gets to fill in."""
    source = untitled(solution)
    lines = source.splitlines()
    out, done = [], 0
    for statement in ast.parse(source).body:
        first = min(
            [statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]
        )
        out += lines[done : first - 1]
        out += _stubbed(statement, lines[first - 1 : statement.end_lineno], first)
        done = statement.end_lineno
    return "\n".join([*out, *lines[done:]])


def _stubbed(statement, lines, first):
    """The lines of one statement, the first of which has the number ``first``, as a stub."""
    if lines[0].rstrip().endswith("# given"):
        return lines
    if any(MENDED.search(line) for line in lines):
        return [line for each in lines for line in _before(each)]
    if isinstance(statement, FUNCTIONS):
        body = statement.body
        documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        kept = body[0].end_lineno if documented else body[0].lineno - 1
        indent = " " * body[0].col_offset
        return [*lines[: kept - first + 1], f"{indent}..."]
    if isinstance(statement, ast.ClassDef):
        out, done = [], 0
        for part in statement.body:
            start = part.lineno - first
            out += lines[done:start]
            end = part.end_lineno - first + 1
            out += _stubbed(part, lines[start:end], part.lineno)
            done = end
        return out
    if isinstance(statement, ast.Assign):
        name = ast.unparse(statement.targets[0])
        if isinstance(statement.value, ast.Dict):
            keys = [ast.unparse(key) for key in statement.value.keys]
            return [f"{name} = {{", *(f"    {key}: ...,".replace("'", '"') for key in keys), "}"]
        return [f"{name} = ..."]
    return lines


def fill_in(cells):
    """Write each stub among a notebook's ``cells`` from the solution that follows it."""
    for before, cell in itertools.pairwise(cells):
        if "solution" in cell.metadata.get("tags", []):
            if "stub" not in before.metadata.get("tags", []):
                raise ValueError(f"expected a stub before the solution\n{cell.source}")
            before.source = stub(cell.source)
            cell.source = titled(cell.source)
            # JupyterLab and Colab fold it.
            cell.metadata.update(jupyter={"source_hidden": True}, cellView="form")


def _before(line):
    """A mended line as it was: [], or [the line that stood there]."""
    found = MENDED.search(line)
    if found is None:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return [] if found[1] is None else [indent + found[1]]
