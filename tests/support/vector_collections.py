"""Small encoded collections for tests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from pyterrier_csplade import CSPLADE, EncodedCollection

_WORDS = "an inverted index maps every term to its postings sparse retrieval expands text by related language models".split()


def documents(count: int = 23, start: int = 0) -> list[dict[str, Any]]:
    """Make distinct documents of one to nine words."""
    return [
        {"docno": f"d{i}", "text": " ".join(_WORDS[(i * 7 + j * 3) % len(_WORDS)] for j in range(1 + i % 9)) + f" {i}"}
        for i in range(start, start + count)
    ]


def encode(path: Path, csplade: CSPLADE, inp: list[dict[str, Any]] | None = None, **settings: Any) -> EncodedCollection:
    """Encode documents in shards of five."""
    shard_size, part = settings.pop("shard_size", 5), settings.pop("part", "0/1")
    encoder = csplade.doc_encoder(**{"top_k": 12, **settings})
    return EncodedCollection(path).encode(encoder, documents() if inp is None else inp, shard_size=shard_size, part=part)


def content(path: Path) -> dict[str, bytes]:
    """Return the content of all files of a collection, hidden ones included."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return str(path)
