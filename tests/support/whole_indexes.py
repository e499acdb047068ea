"""Small indexes whose completeness a search shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pyterrier_csplade import ImpactIndex

OLD = 50


def documents(count: int, prefix: str = "o") -> Iterator[dict[str, Any]]:
    return ({"docno": f"{prefix}{i}", "toks": {"all": 1, f"t{i % 50}": i + 1}} for i in range(count))


def found(path: Path) -> int:
    """Verify an index, and return how many documents a search for all of them finds."""
    index = ImpactIndex(path)
    index.verify()
    result = index.retriever(num_results=10_000).transform(pd.DataFrame([{"qid": "q", "query_toks": {"all": 1.0}}]))
    assert result["docno"].str[1:].tolist() == [str(i) for i in range(len(index))]
    return len(result)


def clean_writer_leaves_nothing_else(path: Path) -> None:
    ImpactIndex(path).toks_indexer(overwrite=True).index(documents(OLD))
    assert found(path) == OLD
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
