"""A slice of a collection to validate on: queries, everything judged for them, and other documents."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_csplade._errors import DataError

from ._collection_files import CollectionFiles
from ._corpus import find_dataset
from ._monitoring_config import ValidationSettings
from ._rows import passage_text

# The slice is the same in every run, so that runs compare.
_SEED = 0


@dataclass(frozen=True)
class Slice:
    """Queries, judgements and documents.

    Attributes:
        topics: With qid and query.
        qrels: With qid, docno and label.
        docnos: Of the documents.
        texts: Of the documents.
    """

    topics: pd.DataFrame
    qrels: pd.DataFrame
    docnos: list[str]
    texts: list[str]


def read_slice(settings: ValidationSettings) -> Slice:
    """Read a slice; documents are drawn in one pass, so that the collection may be larger than the memory.

    Raises:
        DataError: There is no such collection or split, a judged document is missing, or no query has a judgement.
    """
    if Path(settings.collection).is_dir():
        files = CollectionFiles(settings.collection)
        topics, qrels, documents = files.topics(settings.split), files.qrels(settings.split), files.documents()
    else:
        dataset = find_dataset(settings.collection)
        topics, qrels = dataset.get_topics()[["qid", "query"]], dataset.get_qrels()[["qid", "docno", "label"]]
        documents = dataset.get_corpus_iter(verbose=False)
    topics = topics.astype({"qid": str})
    qrels = qrels.astype({"qid": str, "docno": str})
    topics = judged_topics(topics, qrels, settings)
    if len(topics) > settings.queries:
        topics = topics.sample(settings.queries, random_state=_SEED)
    qrels = qrels[qrels["qid"].isin(set(topics["qid"]))]
    docnos, texts = _draw(documents, set(qrels["docno"]), settings)
    return Slice(topics.reset_index(drop=True), qrels.reset_index(drop=True), docnos, texts)


def judged_topics(topics: pd.DataFrame, qrels: pd.DataFrame, settings: ValidationSettings) -> pd.DataFrame:
    """The queries that have a relevant document.

    Raises:
        DataError: None has.
    """
    judged = topics[topics["qid"].isin(set(qrels["qid"][qrels["label"] > 0]))]
    if not len(judged):
        raise DataError(f"{settings.collection}: no query of the split {settings.split!r} has a relevant document")
    return judged


def _draw(documents: Iterable[dict[str, Any]], judged: set[str], settings: ValidationSettings) -> tuple[list[str], list[str]]:
    """All judged documents, and as many others as there is room for (reservoir sampling)."""
    room = max(0, settings.documents - len(judged))
    rng = random.Random(_SEED)
    kept: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    seen = 0
    for document in documents:
        pair = str(document["docno"]), passage_text(document)
        if pair[0] in judged:
            kept.append(pair)
            continue
        seen += 1
        if len(others) < room:
            others.append(pair)
        elif (place := rng.randrange(seen)) < room:
            others[place] = pair
    missing = judged - {docno for docno, _ in kept}
    if missing:
        raise DataError(f"{settings.collection}: {len(missing)} judged documents are not there, such as {min(missing)!r}")
    pairs = [*kept, *others]
    return [docno for docno, _ in pairs], [text for _, text in pairs]
