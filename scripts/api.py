"""Write book/api.md: real signatures and docstrings, so that building the book needs no torch.

python scripts/api.py        (part of `make execute`; a test says when the page is out of date)
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from itertools import pairwise
from pathlib import Path
from textwrap import indent

import nbformat
from sphinx.ext.napoleon import Config, NumpyDocstring
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import execute  # noqa: E402
import tools  # noqa: E402

from bn_helpers import checks  # noqa: E402

PAGE = ROOT / "book" / "api.md"
NAPOLEON = Config(napoleon_use_param=False, napoleon_use_rtype=False)
#: Module → what its heading says of it, in the page's order.
MODULES = {
    "reference": "NumPy: forward, backward, inference",
    "whitening": "Whitening and its derivatives",
    "gradcheck": "Numerical derivatives",
    "population": "Population statistics",
    "layers": "PyTorch: the layer and its derivatives",
    "memory": "What makes the layer fast",
    "kernels": "A fused kernel for GPUs",
    "convert": "Folding, synchronising, other libraries' layers",
    "data": "Digits, MNIST, CIFAR-10, a folder of images",
    "data.splits": "Images with their labels",
    "data.image_files": "Image files, decoded when they are used",
    "data.files": "Found, fetched, verified",
    "models": "The networks of section 4.2",
    "training": "The loop that the chapters share",
    "training.recipes": "What is trained, and how",
    "training.run": "A run, from the first step to the last",
    "training.checkpoint": "Where a killed run goes on",
    "training.augment": "Random crops and distortions",
    "training.command_line": "`python -m bn_helpers.training`",
    "ensemble": "Many small networks at once",
    "records": "Records of runs and timings",
    "significance": "Can so few runs tell two sides apart?",
    "claims": "What is measured, and the rule that judges it",
    "figures": "What a figure shows, compared",
    "plotting": "One style for all figures",
    "checks": "Exercises that name the mistake",
    "checks.engine": "An exercise, a question, a verdict",
}
TOP = """\
# The helper package

What the chapters import. Each module is a screen or two; the source is linked beside each name.
"""
TOOLS = """\
## What PyTorch's tools do with the layer

`layers.BatchNorm` is a subclass of the class that PyTorch's own layers share, and its derivatives
go through function transforms. Each line is a program that is run with `nn.BatchNorm2d` and with
ours; values, gradients, buffers and modes are compared.

| Tool | Ours beside PyTorch's |
|---|---|
"""
CHECKS = """\
Each exercise, where it stands, and how many mistakes its check knows by name (pairs of them too).

| Check | Exercise | Minutes | Mistakes known |
|---|---|---|---|
"""


def exercises():
    """A row of the table for each exercise, in the book's order."""
    for path in execute.notebooks():
        cells = nbformat.read(path, as_version=4).cells
        for cell, stub in pairwise(cells):
            if "exercise" in cell.metadata.get("tags", []):
                title, minutes = re.match(r"### (.+)\n\n\*.*?(\d+) minutes", cell.source).groups()
                name = re.findall(r"checks\.(\w+)\(", stub.source)[-1]
                known = len(checks.EXERCISES[name].mistakes)
                yield f"| `checks.{name}` | [{title}](#exercise-{name}) | {minutes} | {known} |"


def text_of(docstring, depth):
    # Napoleon takes the first line after a name for its type and splits the sentence there.
    text = re.sub(r"^(\w[\w, ]*) : (.+)$", r"\1\n    \2", inspect.cleandoc(docstring), flags=re.M)
    lines = NumpyDocstring(text, NAPOLEON).lines()
    return indent("\n".join(lines).strip(), "   " * depth)


def signature(function):
    """Without annotations: the text says what an argument is."""
    found = inspect.signature(function)
    plain = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=found.empty))


def entry(kind, name, arguments, docstring, depth=0):
    return f"{'   ' * depth}.. py:{kind}:: {name}{arguments}\n\n{text_of(docstring, depth + 1)}\n"


def of_class(name, found, analyzer):
    arguments = "" if issubclass(found, Exception) else signature(found)
    parts = [entry("class", name, arguments, found.__doc__)]
    for member, value in vars(found).items():
        comment = analyzer.attr_docs.get((name, member))
        if member.startswith("_") or not (inspect.getdoc(value) or comment):
            continue
        if isinstance(value, property):
            parts.append(entry("property", member, "", value.__doc__, 1))
        elif inspect.isfunction(value) and value.__doc__:
            without_self = signature(value).replace("self, ", "").replace("self", "")
            parts.append(entry("method", member, without_self, value.__doc__, 1))
        elif comment:
            parts.append(entry("attribute", member, "", "\n".join(comment), 1))
    return "\n".join(parts)


def of_module(name):
    module = importlib.import_module(f"bn_helpers.{name}")
    analyzer = ModuleAnalyzer.for_module(module.__name__)
    analyzer.analyze()
    parts = [f".. py:module:: bn_helpers.{name}\n", f"{text_of(module.__doc__, 0)}\n"]
    for member in sorted(analyzer.tagorder, key=analyzer.tagorder.get):
        value = getattr(module, member, None)
        comment = analyzer.attr_docs.get(("", member))
        if member.startswith("_") or "." in member:
            continue
        if getattr(value, "__module__", module.__name__) != module.__name__:
            continue  # imported
        if comment:
            parts.append(entry("data", member, "", "\n".join(comment)))
        elif inspect.isclass(value) and value.__doc__:
            parts.append(of_class(member, value, analyzer))
        elif inspect.isfunction(value) and value.__doc__:
            parts.append(entry("function", member, signature(value), value.__doc__))
    return "\n".join(parts)


def build():
    page = [TOP]
    for name, about in MODULES.items():
        heading = "###" if "." in name else "##"
        page.append(f"{heading} `{name}` – {about}\n\n```{{eval-rst}}\n{of_module(name)}```\n")
        if name == "layers":
            page.append(TOOLS + "\n".join(f"| {a} | {b} |" for a, b in tools.table()) + "\n")
        if name == "checks":
            page.append(CHECKS + "\n".join(exercises()) + "\n")
    return "\n".join(page)


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
