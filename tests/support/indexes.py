"""Documents of small indexes, and functions that read the indexes."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_csplade import Contract, ImpactIndex, ImpactVector

CONTRACT = Contract(weights="w", base_model="lm-one")


def documents(count: int = 10, contract: Contract | None = None) -> list[dict[str, Any]]:
    return [{"docno": f"d{i}", "toks": ImpactVector({"a": i + 1, f"Ġb{i}": 2}, contract)} for i in range(count)]


def search(index: ImpactIndex, query: dict[str, float]) -> list[tuple[str, float]]:
    result = index.retriever().transform(pd.DataFrame([{"qid": "q", "query_toks": query}]))
    return list(zip(result["docno"], result["score"]))


def docnos(index: pt.terrier.TerrierIndex) -> list[str]:
    return [index.meta_index().getItem("docno", i) for i in range(len(index))]
