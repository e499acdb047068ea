"""The run that encodes a collection: from documents to shards on disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix, vstack

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.model.pipelining import Behind, pipelined

from .documents import DocumentShard, Part, divide
from .locks import writing
from .recipe import Plan
from .shard import EncodedShard, pack
from .store import Store, add_up, check_place

if TYPE_CHECKING:
    from pyterrier_csplade.model.backbone import TokenizedBatch
    from pyterrier_csplade.model.transformers import DocEncoder
    from pyterrier_csplade.vectors.vocabulary import Vocabulary


# Documents that are sorted by length together, and after which progress is shown; ours. With lengths as in MS MARCO, padding
# adds 0.4 % to the tokens on a CPU. The larger batches of an accelerator need more documents: 0.8 %, instead of 4.1 %.
_WINDOW = {"cpu": 4096}
_WINDOW_ELSEWHERE = 20_480


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        documents: Of the input.
        shards: Of the input.
        complete: Whether all of them are in the collection now.
    """

    documents: int
    shards: int
    complete: bool


@dataclass(frozen=True)
class Window:
    """Documents of a shard that are encoded together.

    Attributes:
        shard: Theirs.
        texts: Of the documents.
        names: How messages call the documents.
        last: Whether they are the last of the shard.
    """

    shard: DocumentShard
    texts: Sequence[str]
    names: Sequence[str]
    last: bool


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes shards.

    Attributes:
        encoder: Of the documents.
        plan: Fingerprint of the plan.
        max_empty: Largest share of texts without any impact.
    """

    encoder: DocEncoder
    plan: str
    max_empty: float = 0.5

    def __call__(
        self,
        shards: Iterable[DocumentShard],
        advance: Callable[[int], Any] = lambda count: None,
        before_last: Callable[[], Any] = lambda: None,
    ) -> Iterator[EncodedShard]:
        """Encode shards, one after the other; a background thread tokenises what comes next.

        Args:
            shards: Any number; the documents of up to three windows more than those of the shard under way are in memory.
            advance: Called with the number of documents that were encoded since the last call.
            before_last: Called before the last window of each shard is encoded.

        Raises:
            DataError: A text cannot be encoded, or more than ``max_empty`` of a shard have no impact.
        """
        blocks: list[csr_matrix] = []
        cut = 0
        for window, batch in pipelined(self._windows(shards), self._tokenized):
            if window.last:
                before_last()
            blocks.append(self.encoder.tokenized_impacts(batch))
            cut += batch.truncated
            advance(len(batch.texts))
            if window.last:
                yield self._packed(window.shard, vstack(blocks, format="csr"), cut)
                blocks, cut = [], 0

    def _windows(self, shards: Iterable[DocumentShard]) -> Iterator[Window]:
        size = _WINDOW.get(self.encoder.model.backbone.device.type, _WINDOW_ELSEWHERE)
        for shard in shards:
            names = shard.names
            for start in range(0, len(names), size):
                part = slice(start, start + size)
                yield Window(shard, shard.texts[part], names[part], last=start + size >= len(names))

    def _tokenized(self, window: Window) -> tuple[Window, TokenizedBatch]:
        return window, self.encoder.model.tokenize(window.texts, "document", window.names)

    def _packed(self, shard: DocumentShard, matrix: csr_matrix, cut: int) -> EncodedShard:
        self._check_empty(shard, np.diff(matrix.indptr) == 0)
        return pack(shard.number, shard.docnos, matrix, truncated=cut, input_sha256=shard.sha256, plan=self.plan)

    def _check_empty(self, shard: DocumentShard, empty: np.ndarray) -> None:
        filled = np.array([bool(text.strip()) for text in shard.texts])
        count, total = int(np.sum(empty & filled)), int(filled.sum())
        if count > self.max_empty * total:
            raise DataError(
                f"shard {shard.number}: {count:,} of {total:,} texts ({count / total:.0%}) have no impact above 0: no query "
                "will find them. Does the model work? max_empty=1 encodes them all the same"
            )


class Pending:
    """The shards of an input that a part has still to encode.

    Attributes:
        documents: Of the input, as far as it was read.
        shards: Likewise.
    """

    def __init__(self, store: Store, documents: Iterable[Mapping[str, Any]], text_field: str, part: Part) -> None:
        self._store = store
        self._input = divide(documents, text_field, store.plan.shard_size)
        self._part = part
        self.documents = self.shards = 0

    def __iter__(self) -> Iterator[DocumentShard]:
        for shard in self._input:
            self.documents += len(shard.docnos)
            self.shards += 1
            if self._store.wants(shard, self._part):
                yield shard


class Engine(Protocol):
    """Where shards are encoded."""

    def describe(self, encoder: DocEncoder, shard_size: int) -> tuple[Plan, Vocabulary]:
        """Load the model and return plan and index terms."""
        ...

    def run(self, store: Store, pending: Pending, encode: ShardEncoder, advance: Callable[[int], Any]) -> None:
        """Encode what is pending, and write it."""
        ...


class InProcess:
    """Encodes in this process, one shard after the other: one thread tokenises, this one runs the model, one writes."""

    def describe(self, encoder: DocEncoder, shard_size: int) -> tuple[Plan, Vocabulary]:
        """Load the model and return plan and index terms."""
        return Plan.of(encoder, shard_size), encoder.model.vocabulary

    def run(self, store: Store, pending: Pending, encode: ShardEncoder, advance: Callable[[int], Any]) -> None:
        """Encode what is pending, and write it."""
        with Behind(store.write) as writer:
            # No shard is completed while the one before is not on the disk: a kill costs one whole shard at most.
            for shard in encode(pending, advance, before_last=writer.wait):
                writer.put(shard)


def finish(store: Store, pending: Pending) -> Outcome:
    """Complete the collection, if all of its shards are there; warn of documents that are empty or were cut.

    Raises:
        CollectionError: There are shards beyond the end of the input.
        DataError: The input has no documents.
    """
    if not pending.documents:
        raise DataError("nothing to encode: the input has no documents")
    complete = store.finish(pending.shards)
    if complete:
        _warn_of_losses(add_up(store.records(range(pending.shards))))
    return Outcome(pending.documents, pending.shards, complete)


def _warn_of_losses(totals: Mapping[str, int]) -> None:
    """Warn of documents that are empty or were cut."""
    for name, consequence in (("empty", "have no impact above 0: no query finds them"), ("truncated", "were cut")):
        if totals[name]:
            share = totals[name] / totals["documents"]
            warnings.warn(f"{totals[name]:,} of {totals['documents']:,} documents ({share:.1%}) {consequence}", stacklevel=2)


@dataclass(frozen=True)
class Outlook:
    """What a run has before it, when the number of documents is known.

    Attributes:
        documents: Of the input.
        shards: Of the input.
        present: Shards that are there.
        own: Shards that this run encodes.
        own_documents: Their documents.
    """

    documents: int
    shards: int
    present: int
    own: int
    own_documents: int

    @classmethod
    def of(cls, store: Store, part: Part, documents: int) -> Outlook:
        """Compare an input of so many documents with what is there."""
        size, present = store.plan.shard_size, set(store.finished)
        shards = -(-documents // size)
        own = [number for number in range(shards) if number in part and number not in present]
        own_documents = sum(min(size, documents - number * size) for number in own)
        return cls(documents, shards, len(present), len(own), own_documents)


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
