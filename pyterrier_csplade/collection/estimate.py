"""What encoding will cost, measured on a sample."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import DataError

from .documents import divide
from .encoding import ShardEncoder

if TYPE_CHECKING:
    from pyterrier_csplade.model.transformers import DocEncoder


# Documents of the sample; ours: the mean of a length or of a number of terms is then known to about 3 %.
_SAMPLE = 512


@dataclass(frozen=True)
class Estimate:
    """What a sample says of a whole collection.

    Attributes:
        documents: Of the collection.
        sample: Documents that were measured.
        seconds: To encode all documents in this process, without loading the model.
        bytes: Of the encoded collection.
        postings: Of all documents.
        tokens: Of all documents, after cutting.
        padding: Tokens that the model computes for each of the sample's tokens, sorted by length; in the larger windows of a
            whole collection it is less.
        truncated: Share of documents that are cut.
    """

    documents: int
    sample: int
    seconds: float
    bytes: int
    postings: int
    tokens: int
    padding: float
    truncated: float

    @property
    def summary(self) -> str:
        """For people to read."""
        count = max(self.documents, 1)
        return (
            f"estimate from {self.sample:,} of {self.documents:,} documents\n"
            f"time      {_duration(self.seconds)} in one process ({self.documents / self.seconds:,.1f} documents/s)\n"
            f"disk      {self.bytes / 1e6:,.1f} MB\n"
            f"postings  {self.postings:,} ({self.postings / count:,.0f} for each document)\n"
            f"tokens    {self.tokens:,} ({self.tokens / count:,.0f} for each document), padding {self.padding:.2f}x\n"
            f"cut       {self.truncated:.1%} of the documents"
        )


def estimate(encoder: DocEncoder, documents: Iterable[Mapping[str, Any]]) -> Estimate:
    """Encode a random sample of documents, and count all of them.

    Args:
        encoder: Of the documents.
        documents: All of them, with ``docno`` and the encoder's text field.

    Raises:
        DataError: There are no documents, or one of the sample cannot be encoded.
    """
    count, chosen = _sample(documents)
    if not chosen:
        raise DataError("nothing to encode: the input has no documents")
    (shard,) = divide(chosen, encoder.text_field, len(chosen))
    encode = ShardEncoder(encoder, "", max_empty=1)
    (warm_up,) = divide(chosen[: encoder.model.batch_size], encoder.text_field, encoder.model.batch_size)
    list(encode([warm_up]))
    start = time.perf_counter()
    (encoded,) = encode([shard])
    seconds, record = time.perf_counter() - start, encoded.record
    sequences, _ = encoder.model.backbone.tokenize(shard.texts, "document")
    lengths = sorted(filter(None, map(len, sequences)), reverse=True)
    batches = encoder.model.batch_encoder.batches(lengths, encoder.model_batch_size)
    padded = sum(encoder.model.batch_encoder.padded(lengths[batch.start]) * (batch.stop - batch.start) for batch in batches)
    scale = count / len(chosen)
    return Estimate(
        documents=count,
        sample=len(chosen),
        seconds=seconds * scale,
        bytes=round(record.size * scale),
        postings=round(record.postings * scale),
        tokens=round(sum(lengths) * scale),
        padding=padded / max(sum(lengths), 1),
        truncated=record.truncated / len(chosen),
    )


def _sample(documents: Iterable[Mapping[str, Any]]) -> tuple[int, list[Mapping[str, Any]]]:
    """Choose documents, each with the same probability and always the same ones (reservoir sampling), and count all."""
    generator, count = random.Random(0), 0
    chosen: list[Mapping[str, Any]] = []
    for count, document in enumerate(documents, 1):  # noqa: B007
        if len(chosen) < _SAMPLE:
            chosen.append(document)
        elif (place := generator.randrange(count)) < _SAMPLE:
            chosen[place] = document
    return count, chosen


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
