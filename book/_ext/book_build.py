"""What the book's build adds to Jupyter Book."""

import json

from bn_helpers.claims import MEASURED


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


def skip_tuple_fields(app, what, name, member, skip, options):
    """The class's own docstring says what the fields of a NamedTuple are."""
    return True if type(member).__name__ == "_tuplegetter" else None


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


def setup(app):
    app.connect("source-read", measured_as_text)
    app.connect("config-inited", buttons_need_an_address, priority=900)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
