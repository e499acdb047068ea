"""Vectors in an encoded collection, an index, or a file of documents or queries."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import DataError

from .models import named_query_side, query_encoder

if TYPE_CHECKING:
    import pandas as pd

    from pyterrier_csplade.collection.collection import EncodedCollection
    from pyterrier_csplade.data.sources import Source


def stored_collection(name: str) -> EncodedCollection | None:
    """Return the encoded collection in a directory; None if the directory contains none."""
    from pyterrier_csplade.collection.collection import EncodedCollection
    from pyterrier_csplade.collection.recipe import PLAN_FILE

    return EncodedCollection(name) if name and (Path(name) / PLAN_FILE).is_file() else None


def given_vectors(source: Source, field: str) -> Iterable[Mapping[str, Any]]:
    """Yield the documents of a source with their vectors as ``toks``.

    Raises:
        DataError: A document has no vector; the message names the document.
    """
    for document in source.read():
        if not isinstance(document.get(field), Mapping):
            raise DataError(
                f"{source.name}, document {document.get('docno')}: the field {field!r} must be an object of term to weight"
            )
        yield {**document, "toks": document[field]}


def vectors_of(name: str) -> Iterable[Mapping[str, Any]]:
    """Return the documents of an encoded collection, an index, or a file of vectors, with ``docno`` and ``toks``.

    Raises:
        DataError: The name is none of these, or the file contains no vectors.
    """
    from pyterrier_csplade.data.sources import open_source
    from pyterrier_csplade.index.index import ImpactIndex

    collection = stored_collection(name)
    if collection is not None:
        return collection.get_corpus_iter(verbose=True)
    if name and (Path(name) / "data.properties").is_file():
        return ImpactIndex(name).get_corpus_iter()
    source = open_source(name)
    field = source.vector_field()
    if field is None:
        raise DataError(f"{name} contains texts, not vectors: encode them with pyterrier-csplade encode {name} --output DIR")
    return given_vectors(source, field)


def encoded_topics(arguments: argparse.Namespace) -> pd.DataFrame:
    """Return the queries of ``--topics`` with ``query_toks``. The model is loaded only if they have no vectors.

    Raises:
        DataError: The queries cannot be read, or only some of them have vectors.
    """
    from pyterrier_csplade.data.topics import read_topics

    if arguments.split is not None and Path(arguments.topics).is_file():
        raise DataError(f"{arguments.topics} is a file, which has no split {arguments.split!r}: leave out --split")
    topics = read_topics(arguments.topics, split=arguments.split, field=arguments.field)
    if "query_toks" not in topics.columns:
        return query_encoder(named_query_side(arguments), verbose=True)(topics)
    if (missing := topics["query_toks"].isna()).any():
        raise DataError(
            f"{arguments.topics}: the query {topics.loc[missing, 'qid'].iloc[0]!r} has no vector, but other queries have one"
        )
    return topics
