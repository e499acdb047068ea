"""BM25 on the text of the documents whose impacts are searched."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pyterrier_csplade._errors import DataError, ImpactIndexError

from ._mapping import Metadata
from ._results import EngineRetriever


class BM25Retriever(EngineRetriever):
    """Retrieves by BM25 (Lucene's, k1 = 1.2, b = 0.75) on the text field of an index.

    A query is text, never syntax. Its statistics are gathered from all shards first, so that scores do not depend on their
    number. A query of which the analyzer leaves nothing has no rows in the result.
    """

    schematic = {"label": "OpenSearch BM25", "help_url": None}
    _column, _factory = "query", "bm25"
    _header = {"search_type": "dfs_query_then_fetch"}

    def _check(self, queries: pd.DataFrame) -> bool:
        for qid, query in zip(queries["qid"], queries["query"]):
            if not isinstance(query, str):
                raise DataError(f"query {qid!r} must be a str, found {query!r}")
            try:
                query.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(f"query {qid!r} holds a lone surrogate, which UTF-8 cannot encode: remove it") from error
        return len(queries) > 0

    def _bodies(self, queries: pd.DataFrame, metadata: Metadata) -> dict[str, tuple[dict[str, Any], float]]:
        if metadata.text is None:
            raise ImpactIndexError(f"{self.index.remote} has no text to search: toks_indexer(text='text') indexes it")
        return {
            qid: ({"match": {metadata.text: {"query": query}}}, 1.0) for qid, query in zip(queries["qid"], queries["query"])
        }
