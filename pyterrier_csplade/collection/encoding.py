"""The run that encodes a collection: from documents to shards on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import pyterrier as pt
from scipy.sparse import csr_matrix, vstack

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.model.pipelining import Behind, pipelined
from pyterrier_csplade.vectors.checks import check_share, positive

from .documents import DocumentShard, Part, Reader, divide, document_names
from .recipe import Recipe
from .shard import EncodedShard, pack
from .store import Store, add_up, check_place, writing

if TYPE_CHECKING:
    from pyterrier_csplade.images.encoder import ImageEncoder
    from pyterrier_csplade.model.transformers import DocEncoder
    from pyterrier_csplade.vectors.vocabulary import Vocabulary

    Encoder: TypeAlias = DocEncoder | ImageEncoder


# Number of documents that are sorted by length together, and after which progress is shown; our choice (measured: with lengths
# as in MS MARCO, padding adds 0.4 % to the tokens on a CPU, and 0.8 % instead of 4.1 % in an accelerator's larger batches).
_WINDOW = {"cpu": 4096}
_WINDOW_ELSEWHERE = 20_480

# Documents of a shard that are encoded together.
_Window: TypeAlias = tuple[DocumentShard, slice]


class Runner(Protocol):
    """Where shards are encoded."""

    def describe(self, encoder: Encoder, shard_size: int) -> tuple[Recipe, Vocabulary]:
        """Load the model and return the recipe and the index terms."""
        ...

    def run(self, store: Store, pending: Pending, encode: ShardEncoder, advance: Callable[[int], Any]) -> None:
        """Encode pending shards and write them."""
        ...


class Outcome(NamedTuple):
    """The result of a run.

    Attributes:
        documents: Number of documents of the input.
        complete: Whether all of them are in the collection now.
    """

    documents: int
    complete: bool


def encode_collection(
    encoder: Encoder,
    documents: Iterable[Mapping[str, Any]],
    directory: Path,
    *,
    shard_size: int,
    part: Part,
    max_empty: float = 0.5,
    total: int | None = None,
    verbose: bool = False,
    say: Callable[[str], None] = lambda text: None,
    runner: Runner | None = None,
) -> Outcome:
    """Encode documents into a directory; see :meth:`EncodedCollection.encode` for the other arguments and the errors.

    Args:
        encoder: The encoder.
        documents: The documents, with ``docno`` and what the encoder reads.
        directory: The directory of the collection.
        shard_size: Number of documents in a shard.
        part: Which shards to encode.
        max_empty: Maximum share of a shard's texts without any impact.
        total: Number of documents, for progress; None if unknown.
        verbose: Whether to show a progress bar.
        say: Receives lines for people to read.
        runner: Where to encode; in this process by default.
    """
    shard_size = positive("shard_size")(shard_size)
    check_share(max_empty=max_empty)
    if not hasattr(encoder, "vector_contract") or not hasattr(encoder, "quantizer"):
        raise TypeError(f"encoder must be csplade.doc_encoder() or csplade.image_encoder(...), found {encoder!r:.80}")
    check_place(directory)  # before the model is loaded
    runner = runner or InProcess()
    recipe, vocabulary = runner.describe(encoder, shard_size)
    store = Store(directory, recipe, vocabulary)
    with writing(directory, part):
        own = None
        if total is not None:
            text, own = _announcement(store, part, total)
            say(text)
        pending = Pending(store, documents, encoder.contents, part)
        with pt.tqdm(desc="encoding", unit="d", total=own, disable=not verbose) as bar:
            runner.run(store, pending, ShardEncoder(encoder, recipe.fingerprint, max_empty), bar.update)
        if not pending.documents:
            raise DataError("nothing to encode: the input has no documents")
        complete = store.finish(pending.shards)
        if complete:
            _warn_of_losses(add_up(store.records(range(pending.shards))))
        return Outcome(pending.documents, complete)


def _announcement(store: Store, part: Part, documents: int) -> tuple[str, int]:
    """Describe what a run will do with this number of documents, and count the documents that it will encode."""
    size, present = store.recipe.shard_size, set(store.finished)
    shards = -(-documents // size)
    own = [number for number in range(shards) if number in part and number not in present]
    own_documents = sum(min(size, documents - number * size) for number in own)
    parts = "" if part.count == 1 else f" as part {part}"
    noun = "shard" if shards == 1 else "shards"
    text = (
        f"{documents:,} documents in {shards:,} {noun} of {size:,}: {len(present):,} already in {store.directory}, "
        f"{len(own):,} to encode{parts} ({own_documents:,} documents)"
    )
    return text, own_documents


def _warn_of_losses(totals: Mapping[str, int]) -> None:
    consequences = {"empty": "have no impact above 0, so no query can find them", "truncated": "were truncated"}
    for name, consequence in consequences.items():
        if totals[name]:
            share = totals[name] / totals["documents"]
            warn(f"{totals[name]:,} of {totals['documents']:,} documents ({share:.1%}) {consequence}")


class Pending:
    """The shards of an input that a part has yet to encode.

    Attributes:
        documents: Number of documents read so far.
        shards: Number of shards read so far.
    """

    def __init__(self, store: Store, documents: Iterable[Mapping[str, Any]], read: Reader, part: Part) -> None:
        self._store = store
        self._input = divide(documents, read, store.recipe.shard_size)
        self._part = part
        self.documents = self.shards = 0

    def __iter__(self) -> Iterator[DocumentShard]:
        for shard in self._input:
            self.documents += len(shard.docnos)
            self.shards += 1
            if self._store.wants(shard, self._part):
                yield shard


class InProcess:
    """Encodes in this process, one shard after another: one thread prepares documents, this one runs the model, one writes."""

    def describe(self, encoder: Encoder, shard_size: int) -> tuple[Recipe, Vocabulary]:
        """Load the model and return the recipe and the index terms."""
        return Recipe.of(encoder, shard_size), encoder.model.vocabulary

    def run(self, store: Store, pending: Pending, encode: ShardEncoder, advance: Callable[[int], Any]) -> None:
        """Encode pending shards and write them."""
        with Behind(store.write) as writer:
            # No shard is completed before the previous one is on disk, so that a kill costs at most one whole shard.
            for shard in encode(pending, advance, before_last=writer.wait):
                writer.put(shard)


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes shards.

    Attributes:
        encoder: The encoder.
        recipe: Fingerprint of the recipe.
        max_empty: Maximum share of texts without any impact.
    """

    encoder: Encoder
    recipe: str
    max_empty: float = 0.5

    def __call__(
        self,
        shards: Iterable[DocumentShard],
        advance: Callable[[int], Any] = lambda count: None,
        before_last: Callable[[], Any] = lambda: None,
    ) -> Iterator[EncodedShard]:
        """Encode shards, one after another; a background thread prepares the next documents.

        Args:
            shards: The shards; besides the current one, the documents of up to three windows are in memory.
            advance: Called with the number of documents that were encoded since the last call.
            before_last: Called before the last window of each shard is encoded.

        Raises:
            DataError: A text cannot be encoded, or more than ``max_empty`` of a shard have no impact.
        """
        blocks: list[csr_matrix] = []
        truncated = 0
        for (shard, rows), batch in pipelined(self._windows(shards), self._prepared):
            last = rows.stop >= len(shard.docnos)
            if last:
                before_last()
            blocks.append(self.encoder.prepared_impacts(batch))
            truncated += batch.truncated
            advance(blocks[-1].shape[0])
            if last:
                yield self._packed(shard, vstack(blocks, format="csr"), truncated)
                blocks, truncated = [], 0

    def _windows(self, shards: Iterable[DocumentShard]) -> Iterator[_Window]:
        size = _WINDOW.get(self.encoder.model.backbone.device.type, _WINDOW_ELSEWHERE)
        for shard in shards:
            for start in range(0, len(shard.docnos), size):
                yield shard, slice(start, start + size)

    def _prepared(self, window: _Window) -> tuple[_Window, Any]:
        shard, rows = window
        return window, self.encoder.prepared(shard.texts[rows], document_names(shard.docnos[rows]))

    def _packed(self, shard: DocumentShard, matrix: csr_matrix, truncated: int) -> EncodedShard:
        self._check_empty(shard, np.diff(matrix.indptr) == 0)
        return pack(shard.number, shard.docnos, matrix, truncated=truncated, input_sha256=shard.sha256, recipe=self.recipe)

    def _check_empty(self, shard: DocumentShard, empty: np.ndarray) -> None:
        filled = np.array([not isinstance(text, str) or bool(text.strip()) for text in shard.texts])
        count, total = int(np.sum(empty & filled)), int(filled.sum())
        if count > self.max_empty * total:
            raise DataError(
                f"shard {shard.number}: {count:,} of {total:,} texts ({count / total:.0%}) have no impact above 0: no query "
                "finds them; check the model, or encode them anyway with max_empty=1"
            )
