"""What the book's build adds to Jupyter Book."""

import json
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

from bn_helpers.claims import MEASURED

ROOT = Path(__file__).resolve().parent.parent.parent
#: How the types of JSON begin that bn_helpers stores in outputs: MEASURED, figures.DESCRIBED.
OWN = "application/vnd.bn-helpers."


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


def outputs_as_shown(app, docname, source):
    """Show what claims.measure stored as a printed line, and a figure without its description.

    As a display of its own the line would be wrapped into the figure that the cell draws, and a
    type that no page can show is a warning. Both are for the claims page and the tests.
    """
    if OWN not in source[0]:
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if MEASURED in data:
                text = "".join(data["text/plain"])
                output.clear()
                output.update(output_type="stream", name="stdout", text=text + "\n")
            for own in [name for name in data if name.startswith(OWN)]:
                del data[own]
    source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", outputs_as_shown)
    app.connect("config-inited", buttons_need_an_address, priority=900)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    app.connect("viewcode-find-source", source_of_module)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
