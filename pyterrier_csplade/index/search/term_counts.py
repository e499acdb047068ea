"""Sources of guides: BM25 over the tokens of a language model, BM25 of a Terrier index, or another learned index."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt
from scipy.sparse import csc_matrix, csr_matrix

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade.index.terrier.java import start
from pyterrier_csplade.index.terrier.reader import TerrierFiles
from pyterrier_csplade.vectors.checks import check_finite_vector, check_record, check_share

from .guided import GuideSource
from .postings import Postings


def counts_source(postings: Postings, documents: Iterable[Mapping[str, Any]], k1: float, b: float) -> GuideSource:
    """Return BM25 over token counts; tokens that differ only in case or a leading space are the same.

    The documents have ``docno`` and ``toks_tf`` (token to count), and may be in any order.

    Raises:
        DataError: A document has no counts or counts that are no numbers of at least 0, is not in the index, or appears twice;
            or there are no documents.
    """
    numbers, keys, position = postings.documents(), dict[str, int](), 0
    rows, columns, counts = list[int](), list[int](), list[float]()
    for position, document in enumerate(documents, start=1):
        record = check_record(document, f"document {position}")
        docno, given = record.get("docno"), record.get("toks_tf")
        if not isinstance(given, Mapping):
            raise DataError(f"document {docno!r} has no toks_tf: make them with csplade.doc_encoder(counts=True)")
        toks = check_finite_vector(given, f"document {docno!r}: toks_tf")
        if docno not in numbers:
            raise DataError(f"document {docno!r} appears twice, or is not in the index")
        rows += [numbers.pop(docno)] * len(toks)
        columns += [keys.setdefault(folded(token), len(keys)) for token in toks]
        counts += toks.values()
    if not position:
        raise DataError("there are no documents for a guide")
    # Counts of tokens with the same key are added up.
    matrix = csr_matrix((counts, (rows, columns)), shape=(len(postings), len(keys)), dtype=np.float64)
    return _matrix_source(bm25(matrix, k1, b), lambda term: keys.get(folded(term)), f"BM25 over tokens, k1={k1}, b={b}")


def terrier_source(postings: Postings, directory: Path, k1: float, b: float, *, verbose: bool = False) -> GuideSource:
    """Return BM25 of the Terrier index in a directory; documents are matched by docno, terms by the folded and stemmed token.

    Raises:
        ImpactIndexError: The Terrier index cannot be read, or has no document in common with the index.
    """
    files = TerrierFiles(directory)
    stem = _stemmer(files.pipeline)
    numbers = postings.documents()
    docids = np.array([numbers.get(docno, -1) for docno in files.docnos()], dtype=np.int64)
    if not (docids >= 0).any():
        raise ImpactIndexError(f"the index and {directory} have no document in common")
    matrix = files.matrix(verbose=verbose)
    weights = bm25(matrix, k1, b).tocoo()
    kept = docids[weights.row] >= 0
    mapped = csc_matrix(
        (weights.data[kept], (docids[weights.row[kept]], weights.col[kept])), shape=(len(postings), len(files.terms))
    )
    mapped.sort_indices()
    columns = {term: column for column, term in enumerate(files.terms)}
    return _matrix_source(mapped, lambda term: columns.get(stem(folded(term))), f"BM25 of a Terrier index, k1={k1}, b={b}")


def learned_source(postings: Postings, other: Postings) -> GuideSource:
    """Return the impacts of another index of the same terms; documents are matched by docno.

    Raises:
        ImpactIndexError: The two indexes have no document in common.
    """
    numbers = postings.documents()
    # Documents that are not in the index get a number that no posting uses.
    places = np.array([numbers.get(docno, len(postings)) for docno in other.docnos], dtype=np.int64)
    if not (places < len(postings)).any():
        raise ImpactIndexError("the two indexes have no document in common")

    def list_of(term: str) -> tuple[np.ndarray, np.ndarray]:
        number = other.number(term)
        if number is None:
            return np.zeros(0, np.int64), np.zeros(0)
        other.check(np.array([number]))
        docids, impacts = other.list_of(number)
        order = np.argsort(places[docids])
        return places[docids][order], impacts[order]

    return GuideSource(float(other.max_impacts.max(initial=0)), "another learned index", list_of)


def _matrix_source(weights: csc_matrix, key: Callable[[str], int | None], description: str) -> GuideSource:
    """Return the weights of a matrix [documents of the index, keys]; ``key`` returns a term's column, or None."""

    def list_of(term: str) -> tuple[np.ndarray, np.ndarray]:
        column = key(term)
        start, end = (0, 0) if column is None else weights.indptr[column : column + 2]
        return weights.indices[start:end], weights.data[start:end]

    return GuideSource(float(weights.data.max(initial=0)), description, list_of)


def bm25(counts: csr_matrix, k1: float, b: float) -> csc_matrix:
    """Return the BM25 weights of counts [documents, terms] (Robertson and Zaragoza, 2009, with Lucene's positive IDF)."""
    if not (isinstance(k1, Real) and 0 <= float(k1) < math.inf):
        raise ValueError(f"k1 must be a number, finite and not negative, found {k1!r:.60}")
    check_share(b=b)
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    frequencies = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log1p((counts.shape[0] - frequencies + 0.5) / (frequencies + 0.5))
    norms = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-9))
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    data = idf[counts.indices] * counts.data * (k1 + 1) / (counts.data + norms[rows])
    weights = csr_matrix((data, counts.indices, counts.indptr), shape=counts.shape).tocsc()
    weights.sort_indices()
    return weights


_TO_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def folded(term: str) -> str:
    """Return a token in lower case, without its leading space.

    Only ASCII letters change their case, because byte-level vocabularies use other letters for bytes.
    """
    return term.lstrip("Ġ▁ ").translate(_TO_LOWER) or term


def _stemmer(pipeline: list[str]) -> Callable[[str], str]:
    """Return the stemmer of a Terrier index, ignoring its stop words, which are not in the index."""
    names = [name for name in pipeline if name != "Stopwords"]
    if not names:
        return str
    if len(names) > 1:
        raise ImpactIndexError(f"a Terrier index with several term pipelines ({', '.join(names)}) cannot be a guide")
    start()
    name = names[0] if "." in names[0] else f"org.terrier.terms.{names[0]}"
    return pt.java.autoclass(name)().stem  # type: ignore[no-any-return]
