"""The form of the notebooks: what nbval cannot see, because it compares only what was stored."""

import ast
import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from bn_helpers.figures import DESCRIBED, differences

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import execute  # noqa: E402
import visible  # noqa: E402

NOTEBOOKS = execute.notebooks()
CHAPTERS = [path for path in NOTEBOOKS if path.parent == ROOT / "book" and path.stem[0].isdigit()]
FIGURE = "image/png"


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem, scope="module")
def path(request):
    return request.param


@pytest.fixture(scope="module")
def notebook(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    return nb


def code(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def markdown(nb):
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def outputs(nb):
    return [output for cell in code(nb) for output in cell.outputs]


def files(entry):
    """The pages of a table of contents, in its order, whatever their depth."""
    for key in ("parts", "chapters", "sections"):
        for below in entry.get(key, []):
            if "file" in below:
                yield below["file"]
            yield from files(below)


def test_the_table_of_contents_lists_every_page():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [toc["root"], *files(toc)]
    pages = [*NOTEBOOKS, *(ROOT / "book").rglob("*.md")]
    assert sorted(listed) == sorted(str(p.relative_to(ROOT).with_suffix("")) for p in pages)


def test_each_lab_stands_below_a_chapter():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    assert not [chapter["file"] for chapter in chapters if "/labs/" in chapter["file"]]


def test_every_code_cell_has_run_in_order(notebook):
    counts = [cell.execution_count for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_are_clean(notebook):
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")


def test_outputs_are_the_same_on_every_machine(notebook):
    """Catches an object's address, a raw float, a path, a repr of a Matplotlib object."""
    for output in outputs(notebook):
        text = output.get("text", "") or output.get("data", {}).get("text/plain", "")
        unstable = re.findall(
            r"0x[0-9a-f]{6,}|\d\.\d{9,}|/home/|/root/|<matplotlib|site-packages", text
        )
        assert not unstable, text


def test_no_cell_reads_a_clock_or_global_random_state(notebook):
    for cell in code(notebook):
        found = re.findall(
            r"perf_counter|import time\b|%%?time|time\.time|torch\.manual_seed|torch\.seed"
            r"|np\.random\.(?!default_rng|Generator)\w+",
            cell.source,
        )
        assert not found, cell.source


def test_figures_have_alt_text_caption_and_name(notebook):
    for cell in code(notebook):
        if any(FIGURE in output.get("data", {}) for output in cell.outputs):
            about = cell.metadata.get("mystnb", {})
            assert len(about.get("image", {}).get("alt", "")) > 30, cell.source
            assert len(about.get("figure", {}).get("caption", "")) > 30, cell.source
            assert re.fullmatch(r"fig-[a-z0-9-]+", about["figure"]["name"]), cell.source


def test_figures_have_a_description_that_is_compared(notebook):
    """Catches a figure drawn without plotting.use_style(), which nothing would compare."""
    for output in outputs(notebook):
        data = output.get("data", {})
        if FIGURE in data:
            described = data[DESCRIBED]
            assert described["axes"]
            assert differences(described, described) == []
            assert len(json.dumps(described)) < 32_000
        assert FIGURE in data or DESCRIBED not in data


def test_figure_names_are_unique():
    names = [
        cell.metadata["mystnb"]["figure"]["name"]
        for path in NOTEBOOKS
        for cell in code(nbformat.read(path, as_version=4))
        if "figure" in cell.metadata.get("mystnb", {})
    ]
    assert len(names) == len(set(names))


def test_text_is_plain_markdown(notebook):
    """Colab and GitHub show MyST directives, roles and HTML raw."""
    prose = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$", "", markdown(notebook), flags=re.S)
    assert not re.findall(r":::|\{[a-z:]+\}|<[a-z/][^>]*>|\[\^", prose)
    assert "```{" not in markdown(notebook)


def test_links_between_pages_lead_somewhere(notebook, path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", markdown(notebook)):
        assert target.startswith("https://") or (path.parent / target).is_file(), target


def test_cited_papers_are_in_the_references(notebook):
    listed = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for address in re.findall(r"https://arxiv\.org/abs/[\d.]+\d", markdown(notebook)):
        assert address in listed


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_structure_of_a_chapter(chapter):
    text = markdown(nbformat.read(chapter, as_version=4))
    assert re.match(r"# \d\d · \w", text)
    assert "Guess" in text
    assert "The paper says" in text
    summary = re.split(r"^## Summary\s*$", text, flags=re.M)[1]
    assert len(re.findall(r"^[-*] ", summary, flags=re.M)) == 5


LESSONS = [path for path in CHAPTERS if path.stem < "06"]


def packed(source):
    """Lines that assign several things at once; `y, cache = f(x)` is one."""
    for node in ast.walk(ast.parse(source)):
        several = isinstance(node, ast.Assign) and (
            len(node.targets) > 1
            or (isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple))
        )
        if several or isinstance(node, ast.NamedExpr):
            yield ast.unparse(node)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_assigns_one_thing_a_line(lesson):
    for cell in code(nbformat.read(lesson, as_version=4))[1:]:
        assert not list(packed(cell.source)), cell.source


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_what_a_lesson_shows_teaches(lesson):
    """Of the visible lines less than an eighth print, draw or record."""
    shown, lines = visible.of_notebook(lesson)
    assert shown < lines / 8


def test_stored_form_is_what_execute_writes(notebook, path):
    """Catches a notebook saved from an editor: other metadata, ids or first cell."""
    assert execute.normalise(nbformat.from_dict(notebook), path) == notebook


def test_first_cell_installs_from_the_repository_once_it_has_an_address(tmp_path):
    config = tmp_path / "_config.yml"
    config.write_text("repository: {url: '', branch: main}")
    assert "%pip install -q .." in execute.bootstrap_source(config)
    config.write_text("repository: {url: 'https://example.org/bn', branch: main}")
    assert '"git+https://example.org/bn@main"' in execute.bootstrap_source(config)


def test_a_lab_installs_from_the_clone_two_folders_up(tmp_path):
    lab = tmp_path / "labs" / "a.ipynb"
    lab.parent.mkdir()
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass")])
    nbformat.write(nb, lab)
    assert execute.notebooks(tmp_path) == [lab]
    first = execute.normalise(nb, ROOT / "book" / "labs" / "a.ipynb").cells[0]
    assert first.source.endswith("    %pip install -q ../..")


def test_a_table_of_contents_is_read_to_its_depth():
    lab = {"file": "b", "sections": [{"file": "c"}]}
    toc = {"parts": [{"chapters": [{"file": "a", "sections": [lab]}]}, {"chapters": []}]}
    assert list(files(toc)) == ["a", "b", "c"]


@pytest.mark.slow
def test_executing_twice_gives_the_same_bytes(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# t"),
        nbformat.v4.new_code_cell("pass"),
        nbformat.v4.new_code_cell(
            "import numpy as np\nprint(np.float64(1) / 3 > 0)", metadata={"x": 1}
        ),
    ]
    path = tmp_path / "t.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    execute.execute(path)
    first = path.read_bytes()
    execute.execute(path)
    assert path.read_bytes() == first
    assert b'"True\\n"' in first
    assert b'"x"' not in first
