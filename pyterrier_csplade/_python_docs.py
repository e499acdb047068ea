"""A known-item collection that every Python carries: the documentation of its own standard library."""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Tests document test cases, and what is installed beside the standard library differs from machine to machine.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


class PythonDoc(NamedTuple):
    """One docstring of the standard library.

    Attributes:
        docno: Qualified name, for example ``textwrap.TextWrapper.fill``.
        summary: The docstring's first line: the query of the known-item task.
        body: The rest of the docstring on one line: the document.
    """

    docno: str
    summary: str
    body: str


def python_docs(root: Path | None = None, *, minimum_summary: int = 3, minimum_body: int = 8) -> list[PythonDoc]:
    """Read the docstrings of public names that have a summary line and a body.

    Summaries and bodies that occur more than once are left out, so that every query has exactly one answer. The collection
    depends on the version of Python: about 2,600 documents.

    Args:
        root: Directory of Python source; the running Python's standard library by default.
        minimum_summary: Words that a summary has at least. The default is ours.
        minimum_body: Words that a body has at least. The default is ours.

    Returns:
        The documents in the order of their docnos.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    docs = {
        doc.docno: doc
        for path in sorted(root.rglob("*.py"))
        for doc in _module_docs(path, root)
        if len(doc.summary.split()) >= minimum_summary and len(doc.body.split()) >= minimum_body
    }
    summaries: dict[str, int] = {}
    bodies: dict[str, int] = {}
    for doc in docs.values():
        summaries[doc.summary] = summaries.get(doc.summary, 0) + 1
        bodies[doc.body] = bodies.get(doc.body, 0) + 1
    return [doc for _, doc in sorted(docs.items()) if summaries[doc.summary] == 1 and bodies[doc.body] == 1]


def _module_docs(path: Path, root: Path) -> Iterator[PythonDoc]:
    relative = path.relative_to(root)
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    if _LEFT_OUT & set(relative.parts) or not all(map(_is_public, module.split("."))):
        return
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # lib2to3 and others keep broken files as examples
        return
    yield from _node_docs(tree, module)


def _node_docs(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[PythonDoc]:
    summary, _, body = inspect.cleandoc(ast.get_docstring(node) or "").partition("\n")
    summary, body = " ".join(summary.split()), " ".join(body.split())
    yield PythonDoc(name, summary, body)
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and _is_public(child.name):
            yield from _node_docs(child, f"{name}.{child.name}")


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name.endswith("__")
