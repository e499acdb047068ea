"""Encoding of a collection from beginning to end: the lock, what is said beforehand, progress, completion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyterrier as pt

from ._locks import writing
from ._part import Part
from ._run import Engine, InProcess, Outcome, Outlook, Pending, ShardEncoder, finish
from ._store import Store, check_place

if TYPE_CHECKING:
    from pyterrier_csplade._transformers import DocEncoder


def encode_collection(
    encoder: DocEncoder,
    documents: Iterable[Mapping[str, Any]],
    directory: Path,
    *,
    shard_size: int,
    part: Part,
    max_empty: float = 0.5,
    total: int | None = None,
    verbose: bool = False,
    say: Callable[[str], None] = lambda text: None,
    engine: Engine | None = None,
) -> Outcome:
    """Encode documents into a directory; :meth:`EncodedCollection.encode` explains arguments and errors.

    Args:
        encoder: Of the documents.
        documents: With ``docno`` and the encoder's text field.
        directory: Of the collection.
        shard_size: Documents of a shard.
        part: Which shards to encode.
        max_empty: Largest share of a shard's texts without any impact.
        total: Number of documents, for progress; None if unknown.
        verbose: Whether to show a progress bar.
        say: Takes lines for people to read.
        engine: Where to encode; in this process by default.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be positive, found {shard_size}")
    check_place(directory)  # before the model is loaded
    engine = engine or InProcess()
    plan, vocabulary = engine.describe(encoder, shard_size)
    store = Store(directory, plan, vocabulary)
    with writing(directory, part):
        outlook = None if total is None else Outlook.of(store, part, total)
        if outlook:
            say(announcement(outlook, directory, part, shard_size))
        pending = Pending(store, documents, encoder.text_field, part)
        bar = pt.tqdm(desc="encoding", unit="d", total=outlook and outlook.own_documents, disable=not verbose)
        with bar:
            engine.run(store, pending, ShardEncoder(encoder, plan.fingerprint, max_empty), bar.update)
        return finish(store, pending)


def announcement(outlook: Outlook, directory: Path, part: Part, shard_size: int) -> str:
    """Say what a run will do."""
    parts = "" if part.count == 1 else f" (part {part})"
    return (
        f"{outlook.documents:,} documents in {outlook.shards:,} shards of {shard_size:,}, of which {outlook.present:,} are in "
        f"{directory}; {outlook.own:,} to encode{parts}: {outlook.own_documents:,} documents"
    )
