"""Estimates of time and disk space, from the encoding of a sample."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.data.queries import draw

from .documents import divide
from .encoding import ShardEncoder

if TYPE_CHECKING:
    from pyterrier_csplade.model.transformers import DocEncoder


# Number of documents in the sample; our choice (measured: mean lengths and numbers of terms are accurate to about 3 %).
_SAMPLE = 512


def estimate(encoder: DocEncoder, documents: Iterable[Mapping[str, Any]]) -> str:
    """Encode a random sample of documents, count all of them, and return an estimate of the whole collection's cost as text.

    The time is for one process, without loading the model. Padding is higher than in the larger windows of a whole collection.

    Args:
        encoder: The encoder.
        documents: All documents, with ``docno`` and the encoder's text field.

    Raises:
        DataError: There are no documents, or a document of the sample cannot be encoded.
    """
    count, chosen = draw(documents, _SAMPLE, random.Random(0))
    if not chosen:
        raise DataError("nothing to encode: the input has no documents")
    (shard,) = divide(chosen, encoder.contents, len(chosen))
    encode = ShardEncoder(encoder, "", max_empty=1)
    (warm_up,) = divide(chosen[: encoder.model.batch_size], encoder.contents, encoder.model.batch_size)
    list(encode([warm_up]))
    start = time.perf_counter()
    (encoded,) = encode([shard])
    seconds, record = time.perf_counter() - start, encoded.record
    sequences, _ = encoder.model.backbone.tokenize(shard.texts, "document")
    lengths = sorted(filter(None, map(len, sequences)), reverse=True)
    batches = encoder.model.batch_encoder.batches(lengths, encoder.model_batch_size)
    padded = sum(encoder.model.batch_encoder.padded(lengths[batch.start]) * (batch.stop - batch.start) for batch in batches)
    sample, tokens = len(chosen), sum(lengths)
    scale, padding = count / sample, padded / max(tokens, 1)
    return (
        f"estimate from {sample:,} of {count:,} documents\n"
        f"time      {_duration(seconds * scale)} in one process ({sample / seconds:,.1f} documents/s)\n"
        f"disk      {record.size * scale / 1e6:,.1f} MB\n"
        f"postings  {round(record.postings * scale):,} ({record.postings / sample:,.0f} for each document)\n"
        f"tokens    {round(tokens * scale):,} ({tokens / sample:,.0f} for each document), padding {padding:.2f}x\n"
        f"truncated {record.truncated / sample:.1%} of the documents"
    )


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
