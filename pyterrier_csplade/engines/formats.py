"""Sparse vectors as files of other tools: Anserini's JsonVectorCollection, CIFF, and directories for lsr-benchmark."""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.index.documents import to_impacts
from pyterrier_csplade.storage.docnos import Docnos
from pyterrier_csplade.storage.files import replacing
from pyterrier_csplade.storage.workspace import publish, workspace
from pyterrier_csplade.vectors.checks import (
    check_docno,
    check_finite_vector,
    check_names,
    check_record,
    check_weights,
    query_ids,
    text_length,
)

from .engine import require

# The range of positive float32 numbers.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max)


def export_json_vectors(documents: Iterable[Mapping[str, Any]], path: str | Path) -> int:
    """Write impacts as Anserini's JsonVectorCollection, one JSON object per line, which Pyserini can also index.

    Index the file with ``-collection JsonVectorCollection -impact -pretokenized``.

    Example::

        from pyterrier_csplade.engines import export_json_vectors

        export_json_vectors(csplade.doc_encoder().transform_iter(corpus), "vectors.jsonl")

    Args:
        documents: Documents with ``docno`` and ``toks``, for example ``EncodedCollection(path).get_corpus_iter()``. Weights are
            rounded as by :meth:`pyterrier_csplade.ImpactIndex.toks_indexer`.
        path: The file, which appears when it is complete.

    Returns:
        The number of documents.

    Raises:
        DataError: A document cannot be written exactly, a docno appears twice, or the file exists.
    """
    path, count = Path(path), 0
    _check_free(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}-", dir=path.parent) as directory:
        temporary = Path(directory) / "vectors"
        with temporary.open("w", encoding="utf-8") as file:
            for docno, toks in _checked(documents):
                count += 1
                impacts = to_impacts(toks, docno)
                for term in impacts:
                    if len(term.split()) != 1 or term.strip() != term:
                        raise DataError(
                            f"document {docno!r}: Anserini would split the term {term!r} at white space: leave it out"
                        )
                file.write(json.dumps({"id": docno, "contents": "", "vector": impacts}, ensure_ascii=False) + "\n")
        _check_any(count)
        with replacing(path, temporary):
            pass
    return count


def export_ciff(documents: Iterable[Mapping[str, Any]], path: str | Path) -> int:
    """Write impacts in the Common Index File Format (CIFF), which PISA, Terrier, Lucene and others import.

    Needs ``pip install "pyterrier-csplade[ciff]"``.

    Args:
        documents: Documents with ``docno`` and ``toks``; see :func:`export_json_vectors`.
        path: The file, whose name ends in ``.ciff``.

    Returns:
        The number of documents.

    Raises:
        CspladeError: pyterrier-ciff is not installed.
        DataError: A document cannot be written exactly, a docno appears twice, or the file exists or has another ending.
    """
    ciff, path, count = require("pyterrier_ciff", "ciff", "The Common Index File Format"), Path(path), 0
    if path.suffix != ".ciff":
        raise DataError(f"the name of a CIFF file ends in .ciff, found {path}")
    _check_free(path)

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal count
        for docno, toks in _checked(documents):
            count += 1
            yield {"docno": docno, "toks": to_impacts(toks, docno)}
        _check_any(count)

    with tempfile.TemporaryDirectory(prefix=f".{path.name[:100]}-", dir=path.parent) as directory:
        temporary = Path(directory) / "vectors.ciff"
        ciff.CiffIndex(temporary).indexer(scale=1, description="pyterrier-csplade", verbose=False).index(counted())
        with replacing(path, temporary):
            pass
    return count


def export_lsr_benchmark(documents: Iterable[Mapping[str, Any]], queries: pd.DataFrame, path: str | Path) -> int:
    """Write vectors of documents and queries as a directory of embeddings for lsr-benchmark.

    ``doc/doc-embeddings.npz`` and ``query/query-embeddings.npz`` are CSR matrices over the same columns. ``doc/doc-ids.txt``
    and ``query/query-ids.txt`` name their rows, and ``terms.json`` names the columns.

    Args:
        documents: Documents with ``docno`` and ``toks``; weights may be floats.
        queries: A frame with ``qid`` and ``query_toks``.
        path: The directory, which appears when it is complete. It must not exist.

    Returns:
        The number of documents.

    Raises:
        DataError: A vector or a name cannot be written exactly, a docno or qid appears twice, or the directory exists.
    """
    path, terms = Path(path), dict[str, int]()
    _check_free(path)
    check_names(queries.columns)
    for column in ("qid", "query_toks"):
        if column not in queries.columns:
            raise DataError(f"the queries have no column {column!r}: encode them with csplade.query_encoder()")
    with workspace(path.absolute()) as directory:
        built = directory / "embeddings"
        count = _write_matrix(built / "doc", "doc", _weights(documents), terms)
        _check_any(count)
        rows = zip(query_ids(queries), queries["query_toks"])
        queries_of = ((qid, _singles(check_weights(toks, qid), f"query {qid!r}")) for qid, toks in rows)
        _write_matrix(built / "query", "query", queries_of, terms)
        (built / "terms.json").write_text(json.dumps(list(terms), ensure_ascii=False) + "\n", encoding="utf-8")
        publish(built, path.absolute())
    return count


def _weights(documents: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, float]]]:
    for docno, toks in _checked(documents):
        yield docno, _singles(check_finite_vector(toks, f"document {docno!r}"), f"document {docno!r}")


def _singles(weights: Mapping[Any, Any], name: str) -> dict[str, float]:
    """Return the weights above 0, which float32 must be able to hold, of terms that UTF-8 can."""
    kept = {}
    for term, weight in weights.items():
        if not isinstance(term, str) or text_length(term, f"{name}: the term {term!r}") == 0:
            raise DataError(f"{name}: a term must be a text that is not empty, found {term!r:.60}")
        if weight > 0:
            kept[term] = value = float(weight)
            if not _SMALLEST <= value <= _LARGEST:
                raise DataError(f"{name}: float32 cannot hold the weight {value!r} of {term!r}: scale the weights")
    return kept


def _checked(documents: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield docno and ``toks`` of documents."""
    seen = Docnos()
    for position, document in enumerate(documents, start=1):
        record = check_record(document, f"document {position}")
        docno = check_docno(record, position)
        seen.add([docno])
        if "toks" not in record:
            raise DataError(f"document {docno!r} has no toks: encode it first")
        yield docno, record["toks"]


def _write_matrix(directory: Path, kind: str, rows: Iterable[tuple[str, Mapping[str, float]]], terms: dict[str, int]) -> int:
    """Write rows, and number the terms that have no number yet."""
    names: list[str] = []
    columns, weights, ends = array("q"), array("f"), array("q", [0])
    for name, vector in rows:
        text_length(name, f"{name!r}")
        if not name or any(character in name for character in "\r\n") or name.strip() != name:
            raise DataError(f"{name!r} cannot be a line of {kind}-ids.txt")
        names.append(name)
        columns.extend(terms.setdefault(term, len(terms)) for term in vector)
        weights.extend(vector.values())
        ends.append(len(columns))
    directory.mkdir(parents=True)
    np.savez(
        directory / f"{kind}-embeddings.npz",
        data=np.frombuffer(weights, np.float32) if len(weights) else np.zeros(0, np.float32),
        indices=np.array(columns, np.int64),
        indptr=np.array(ends, np.int64),
    )
    (directory / f"{kind}-ids.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return len(names)


def _check_free(path: Path) -> None:
    if path.exists():
        raise DataError(f"{path} exists: choose another name, or remove it")


def _check_any(count: int) -> None:
    if not count:
        raise DataError("there are no documents to export")
