"""The PyTerrier dataset ``csplade:python-docs``: the documentation of Python's standard library as a known-item collection."""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._settings import Settings

_NAME = "python-docs"
# Docstrings of tests describe test cases, and third-party packages differ between machines.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
# Operators of Terrier's query language, which act in plain queries, too: "on Windows:" would be an error.
_OPERATORS = str.maketrans(":^", "  ")


class PythonDoc(NamedTuple):
    """One docstring of the standard library.

    Attributes:
        docno: Qualified name, for example ``textwrap.TextWrapper.fill``.
        summary: The docstring's first line, which is the query of the known-item task.
        body: The rest of the docstring on one line, which is the document.
    """

    docno: str
    summary: str
    body: str


def read_python_docs(root: Path | None = None, *, minimum_summary: int = 3, minimum_body: int = 8) -> list[PythonDoc]:
    """Read the docstrings of public names that have a summary line and a body.

    Summaries and bodies that occur more than once are left out, so that every query has exactly one relevant document. The
    collection depends on the version of Python; it has about 2,600 documents.

    Args:
        root: Directory of Python source; the running Python's standard library by default.
        minimum_summary: Minimum number of words of a summary; the default is our choice (not measured).
        minimum_body: Minimum number of words of a body; the default is our choice (not measured).

    Returns:
        The documents, sorted by docno.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    docs = {
        doc.docno: doc
        for path in sorted(root.rglob("*.py"))
        for doc in _module_docs(path, root)
        if len(doc.summary.split()) >= minimum_summary and len(doc.body.split()) >= minimum_body
    }
    summaries = Counter(doc.summary for doc in docs.values())
    bodies = Counter(doc.body for doc in docs.values())
    return [doc for _, doc in sorted(docs.items()) if summaries[doc.summary] == 1 and bodies[doc.body] == 1]


class PythonDocsDataset(pt.datasets.Dataset):
    """A known-item collection: the documentation of the running Python's standard library.

    Each document is the body of a docstring. Each query is the summary line of a docstring, without colons and carets, which
    are operators in Terrier; its only relevant document (label 1) is the body below it. docnos are qualified names such as
    ``textwrap.dedent``, and the qid of a summary is the docno of its body. The collection depends on the version of Python; it
    has about 2,600 documents and as many queries.

    Example::

        dataset = pt.get_dataset("csplade:python-docs")
        pt.Experiment([bm25], dataset.get_topics(), dataset.get_qrels(), ["ndcg_cut_10"])
    """

    def get_corpus_iter(self, *, verbose: bool = True) -> pt.model.IterDict:
        """Return the documents.

        Args:
            verbose: Whether to show a progress bar.

        Returns:
            An iterable of dicts with ``docno`` and ``text``.

        Raises:
            DataError: This Python comes without the source of its standard library.
        """
        docs = pt.tqdm(_docs(), desc="csplade:python-docs documents", unit="d") if verbose else _docs()
        return ({"docno": doc.docno, "text": doc.body} for doc in docs)

    def get_corpus_lang(self) -> str:
        """Return the language of the documents."""
        return "en"

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """Return the queries: ``qid`` and ``query``.

        Args:
            variant: Must be None.

        Raises:
            DataError: This Python comes without the source of its standard library.
            ValueError: A variant is given.
        """
        _check_variant(variant)
        queries = [(doc.docno, " ".join(doc.summary.translate(_OPERATORS).split())) for doc in _docs()]
        return pd.DataFrame(queries, columns=["qid", "query"])

    def get_topics_lang(self) -> str:
        """Return the language of the queries."""
        return "en"

    def get_qrels(self, variant: str | None = None) -> pd.DataFrame:
        """Return the relevant document of each query: ``qid``, ``docno`` and ``label``; arguments as in ``get_topics``."""
        _check_variant(variant)
        return pd.DataFrame([(doc.docno, doc.docno, 1) for doc in _docs()], columns=["qid", "docno", "label"])

    def text_loader(self, fields: str | list[str] = "*", *, verbose: bool = False) -> pt.Transformer:
        """Return a transformer that adds the ``text`` of documents to results; ``pt.text.get_text`` calls it.

        Args:
            fields: "*" or "text", which is the only field.
            verbose: Ignored, since loading is fast.

        Raises:
            ValueError: Another field is given.
        """
        if fields not in ("*", "text", ["text"]):
            raise ValueError(f"csplade:{_NAME} has one field, 'text', found {fields!r}")
        return _TextLoader()

    def info_url(self) -> str:
        """Return the address of the documentation of the standard library."""
        return "https://docs.python.org/3/library/"

    def _describe_component(self, component: str) -> bool | None:
        return True if component in ("topics", "qrels", "corpus") else None

    def __repr__(self) -> str:
        return "PythonDocsDataset()"


class CspladeDatasetProvider(pt.datasets.DatasetProvider):
    """Provides PyTerrier with the datasets whose names begin with ``csplade:``."""

    def get_dataset(self, name: str) -> pt.datasets.Dataset:
        """Return the dataset with this name, which has no prefix ``csplade:``.

        Raises:
            KeyError: There is no such dataset.
        """
        if name != _NAME:
            raise KeyError(name)
        return PythonDocsDataset()

    def list_dataset_names(self) -> list[str]:
        """Return the names of all datasets."""
        return [_NAME]


class _TextLoader(Settings, pt.Transformer):
    schematic = {"label": "Text Loader", "help_url": None}

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the texts; raise DataError for a docno that is not in the collection."""
        pt.validate.columns(inp, includes=["docno"], context=self)
        if inp.empty:
            return inp.assign(text=pd.Series(index=inp.index, dtype=object))
        try:
            return inp.assign(text=[_texts()[docno] for docno in inp["docno"]])
        except KeyError as error:
            raise DataError(f"csplade:{_NAME} has no document {error}") from error

    def _maker(self) -> str:
        return "PythonDocsDataset().text_loader"


@cache
def _docs() -> list[PythonDoc]:
    docs = read_python_docs()
    if not docs:
        raise DataError("this Python comes without the source of its standard library: use one that includes it")
    return docs


@cache
def _texts() -> dict[str, str]:
    return {doc.docno: doc.body for doc in _docs()}


def _check_variant(variant: str | None) -> None:
    if variant is not None:
        raise ValueError(f"csplade:{_NAME} has no variants, found {variant!r}")


def _module_docs(path: Path, root: Path) -> Iterator[PythonDoc]:
    relative = path.relative_to(root)
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    if _LEFT_OUT & set(relative.parts) or not all(map(_is_public, module.split("."))):
        return
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # lib2to3 and other packages contain broken files as examples
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
