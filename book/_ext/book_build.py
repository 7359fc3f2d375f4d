"""What the book's build adds to Jupyter Book."""

import json
import re
from pathlib import Path

from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx_exercise.nodes import exercise_node

from bn_helpers.checks import EXERCISES
from bn_helpers.claims import MEASURED, VERDICTS, described, settled, wording

ROOT = Path(__file__).resolve().parent.parent.parent
#: How the types of JSON begin that bn_helpers stores in outputs: MEASURED, figures.DESCRIBED.
OWN = "application/vnd.bn-helpers."
CITATION = re.compile(r"\[([^\[\]]+)\]\((?:\.\./)?references\.md#(\w+)\)")
CLAIMS = {name: claim for section in wording().values() for name, claim in section.items()}


def buttons_need_an_address(app, config):
    """Show the launch and repository buttons only when _config.yml names a repository."""
    options = config.html_theme_options
    named = bool(options.get("repository_url"))
    options["use_repository_button"] = options["use_issues_button"] = named
    if not named:
        options["launch_buttons"] = {}


def drop_repeated_scripts(app, pagename, templatename, context, doctree):
    """sphinx-thebe declares THEBE_JS_URL twice on each page, which is an error in browsers."""
    seen = set()

    def first(script):
        body = getattr(script, "attributes", {}).get("body")
        repeated = body in seen
        if body:
            seen.add(body)
        return not repeated

    context["script_files"] = [s for s in context.get("script_files", []) if first(s)]


def source_of_module(app, module):
    """A module's text and where its names stand, without importing it: torch may be missing."""
    place = ROOT.joinpath(*module.split("."))
    file = place.with_suffix(".py") if not place.is_dir() else place / "__init__.py"
    analyzer = ModuleAnalyzer.for_file(str(file), module)
    analyzer.find_tags()
    return analyzer.code, analyzer.tags


def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def directive(kind, title, *lines):
    """A Markdown cell that holds a MyST directive."""
    return markdown("\n".join([f"````{{{kind}}} {title}".rstrip(), *lines, "````"]))


def block(question, stub, solution):
    """An exercise's three cells as a block with folded hints and a folded solution."""
    title, _, task = "".join(question["source"]).partition("\n")
    name = re.findall(r"checks\.(\w+)\(", "".join(stub["source"]))[-1]
    hints = enumerate(EXERCISES[name].hints, 1)
    number = title.removeprefix("### Exercise ")
    folded = "".join(solution["source"]).partition("\n")[2]  # without Colab's title
    return [
        directive("exercise-start", number, f":label: exercise-{name}", ":nonumber:"),
        markdown(task),
        stub,
        *(directive("admonition", f"Hint {n}", ":class: dropdown tip", "", h) for n, h in hints),
        directive("exercise-end", ""),
        directive("solution-start", f"exercise-{name}", ":class: dropdown"),
        {**solution, "source": folded},
        directive("solution-end", ""),
    ]


def verdicts(rows, page):
    """A Markdown cell that says what ``rows`` measured: verdict, figures, rule; once each claim."""
    lines, before = [], None
    for row in rows:
        if row["id"] != before:
            before = row["id"]
            asked = CLAIMS[before]
            lines += ["", f"[{before}]({page}) · {plain(asked['claim'])} ({asked['place']})", ""]
        verdict, condition = settled(row)
        words = f"{verdict} {condition}".strip()
        found = plain(row["what"] + described(row))
        said = f"{VERDICTS[verdict]} **{plain(words)}** · {found}"
        rule = row["rule"]["words"]
        lines.append(f"- {said}; *{plain(rule)}*" if rule else f"- {said}")
    return directive("container", "measured", *lines)


def plain(text):
    """``text`` with nothing in it that Markdown would take for markup."""
    return re.sub(r"([\\`*_\[\]<>$~|])", r"\\\1", text)


def with_verdicts(cell, page):
    """A cell's outputs without what is for the claims page and the tests; then its verdicts."""
    outputs, rows = [], []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if MEASURED in data:
            rows.append(data[MEASURED])
            continue
        if data:
            kept = {name: value for name, value in data.items() if not name.startswith(OWN)}
            output = {**output, "data": kept}
        outputs.append(output)
    cell = {**cell, "outputs": outputs} if "outputs" in cell else cell
    return [cell, verdicts(rows, page)] if rows else [cell]


def numbered_citations(app, docname, source):
    """Let [Wu & Johnson (2021)](references.md#wu2021rethinking) be followed by its number."""
    source[0] = CITATION.sub(lambda found: f"{found[1]} {{cite}}`{found[2]}`", source[0])


def notebook_as_page(app, docname, source):
    """Show exercises as blocks and measurements as lists: in the notebook they are plain cells."""
    if not source[0].startswith("{"):
        return
    notebook = json.loads(source[0])
    page = "../claims.md" if "/labs/" in docname else "claims.md"
    old, new = iter(notebook["cells"]), []
    for cell in old:
        tagged = "exercise" in cell["metadata"].get("tags", [])
        new += block(cell, next(old), next(old)) if tagged else with_verdicts(cell, page)
    named = [{**cell, "id": f"cell-{number:03d}"} for number, cell in enumerate(new)]
    source[0] = json.dumps({**notebook, "cells": named})


def plain_titles(app, doctree, docname):
    """Write Exercise 2.1 · … in place of Exercise (2.1 · …)."""
    for found in doctree.findall(exercise_node):
        word, _, *title, _ = found[0].children
        found[0].children = [word, nodes.Text(" "), *title]


def setup(app):
    app.connect("doctree-resolved", plain_titles)
    app.connect("source-read", numbered_citations)
    app.connect("source-read", notebook_as_page)
    app.connect("config-inited", buttons_need_an_address, priority=900)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    app.connect("viewcode-find-source", source_of_module)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
