"""The datasets of this package for ``pt.get_dataset("csplade:...")``."""

from __future__ import annotations

from functools import cache

import pandas as pd
import pyterrier as pt

from ._errors import DataError
from ._python_docs import PythonDoc, python_docs

_PYTHON_DOCS = "python-docs"

# Terrier's query language takes them as operators even in a plain query: "on Windows:" would be an error.
_OPERATORS = str.maketrans(":^", "  ")


class PythonDocsDataset(pt.datasets.Dataset):
    """A known-item collection: the documentation of the running Python's standard library.

    A document is the body of a docstring, a query the summary line of one (colons and carets left out, which Terrier would take
    as operators), and its only relevant document (label 1) the body below it. docnos are qualified names such as
    ``textwrap.dedent``; the qid of a summary is the docno of its body. About 2,600 documents and as many queries; how many
    depends on the version of Python.

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
            DataError: This Python has no source of its standard library.
        """
        docs = pt.tqdm(_docs(), desc="csplade:python-docs documents", unit="d") if verbose else _docs()
        return ({"docno": doc.docno, "text": doc.body} for doc in docs)

    def get_corpus_lang(self) -> str:
        """Return the language of the documents."""
        return "en"

    def get_topics(self, variant: str | None = None) -> pd.DataFrame:
        """Return the queries: ``qid`` and ``query``.

        Args:
            variant: There are none.

        Raises:
            DataError: This Python has no source of its standard library.
            ValueError: A variant was asked for.
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
        """Return a transformer that adds the ``text`` of documents to results; ``pt.text.get_text`` calls this.

        Args:
            fields: "*", or "text", the only one.
            verbose: Nothing is slow enough to be shown.

        Raises:
            ValueError: Another field was asked for.
        """
        if fields not in ("*", "text", ["text"]):
            raise ValueError(f"csplade:{_PYTHON_DOCS} has one field, 'text', found {fields!r}")
        return _TextLoader()

    def info_url(self) -> str:
        """Return the address of the documentation that most of the docstrings belong to."""
        return "https://docs.python.org/3/library/"

    def _describe_component(self, component: str) -> bool | None:
        return True if component in ("topics", "qrels", "corpus") else None

    def __repr__(self) -> str:
        return "PythonDocsDataset()"


class _TextLoader(pt.Transformer):
    schematic = {"label": "Text Loader", "help_url": None}

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the texts; raises DataError for a docno that the collection does not hold."""
        pt.validate.columns(inp, includes=["docno"], context=self)
        if inp.empty:
            return inp.assign(text=pd.Series(index=inp.index, dtype=object))
        try:
            return inp.assign(text=[_texts()[docno] for docno in inp["docno"]])
        except KeyError as error:
            raise DataError(f"csplade:{_PYTHON_DOCS} has no document {error}") from error

    def __repr__(self) -> str:
        return "PythonDocsDataset().text_loader()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TextLoader)

    def __hash__(self) -> int:
        return hash(_TextLoader)


class CspladeDatasetProvider(pt.datasets.DatasetProvider):
    """Gives PyTerrier the datasets whose names begin with ``csplade:``."""

    def get_dataset(self, name: str) -> pt.datasets.Dataset:
        """Return a dataset.

        Args:
            name: Its name without ``csplade:``.

        Raises:
            KeyError: There is none of this name.
        """
        if name != _PYTHON_DOCS:
            raise KeyError(name)
        return PythonDocsDataset()

    def list_dataset_names(self) -> list[str]:
        """Return the names of all datasets."""
        return [_PYTHON_DOCS]


@cache
def _docs() -> list[PythonDoc]:
    docs = python_docs()
    if not docs:
        raise DataError("this Python comes without the source of its standard library, so there are no docstrings to read")
    return docs


@cache
def _texts() -> dict[str, str]:
    return {doc.docno: doc.body for doc in _docs()}


def _check_variant(variant: str | None) -> None:
    if variant is not None:
        raise ValueError(f"csplade:{_PYTHON_DOCS} has no variants, found {variant!r}")
