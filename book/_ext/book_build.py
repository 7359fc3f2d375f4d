"""What the book's build adds to Jupyter Book."""

import json
import re
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

from bn_helpers.checks import EXERCISES
from bn_helpers.claims import MEASURED

ROOT = Path(__file__).resolve().parent.parent.parent
CHECK = "the-check"  # stands for an exercise's label until its check's name is known


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


def measured_as_text(app, docname, source):
    """Show what claims.measure stored as a printed line: its JSON is for the claims page.

    As a display of its own it would be wrapped into the figure that the cell draws.
    """
    if MEASURED not in source[0]:
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if MEASURED in data:
                text = "".join(data["text/plain"])
                output.clear()
                output.update(output_type="stream", name="stdout", text=text + "\n")
    source[0] = json.dumps(notebook)


def directive(name, title="", body="", **options):
    """A MyST directive as a Markdown cell's text."""
    lines = [f":{key}: {value}".rstrip() for key, value in options.items()]
    return "\n".join(
        [f"````{{{name}}} {title}".rstrip(), *lines, *([body] if body else []), "````"]
    )


def exercises_as_blocks(app, docname, source):
    """Turn an exercise's plain cells into a block with folded hints and a folded solution.

    In the notebook it is a Markdown cell tagged `exercise`, a `stub` and a `solution`; its hints
    stand with its check.
    """
    if not source[0].startswith("{") or '"exercise"' not in source[0]:
        return
    notebook = json.loads(source[0])
    cells, label = [], ""

    def write(text):
        cells.append({"cell_type": "markdown", "metadata": {}, "source": text})

    for cell in notebook["cells"]:
        tags, text = cell["metadata"].get("tags", []), "".join(cell["source"])
        if "exercise" in tags:
            title, _, body = text.partition("\n")
            write(directive("exercise-start", title.lstrip("# "), label=CHECK, nonumber=""))
            write(body)
            opened = len(cells) - 2
        elif "stub" in tags:
            name = re.findall(r"checks\.(\w+)\(", text)[-1]
            label = f"exercise-{name}"
            cells[opened]["source"] = cells[opened]["source"].replace(CHECK, label)
            cells.append(cell)
            for number, hint in enumerate(EXERCISES[name].hints, 1):
                write(
                    directive(
                        "admonition", f"Hint {number}", "\n" + hint, **{"class": "dropdown tip"}
                    )
                )
            write(directive("exercise-end"))
        elif "solution" in tags:
            write(directive("solution-start", label, **{"class": "dropdown"}))
            cells.append({**cell, "source": text.partition("\n")[2]})
            write(directive("solution-end"))
        else:
            cells.append(cell)
    source[0] = json.dumps({**notebook, "cells": cells})


def setup(app):
    app.connect("source-read", exercises_as_blocks)
    app.connect("source-read", measured_as_text)
    app.connect("config-inited", buttons_need_an_address, priority=900)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    app.connect("viewcode-find-source", source_of_module)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
