"""Exact retrieval of impacts from OpenSearch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pyterrier_csplade._retrieval import check_contracts, check_weights

from ._mapping import Metadata
from ._names import TermNames
from ._queries import impact_query
from ._results import EngineRetriever


class OpenSearchRetriever(EngineRetriever):
    """Retrieves by the dot product of query weights and impacts.

    Scores are sums of products in Lucene's single precision, within 1e-6 of the exact ones; documents with equal scores come
    in the order of their docnos. A query without a term of the index (empty, None, weights of 0, unknown terms only) has no
    rows in the result.
    """

    schematic = {"label": "OpenSearchRetriever", "help_url": None}
    _column, _factory = "query_toks", "retriever"

    def _check(self, queries: pd.DataFrame) -> bool:
        return any([check_weights(toks, qid) for qid, toks in zip(queries["qid"], queries["query_toks"])])

    def _bodies(self, queries: pd.DataFrame, metadata: Metadata) -> dict[str, tuple[dict[str, Any], float]]:
        check_contracts(queries, metadata.contract, str(self.index.remote))
        bodies = {}
        for qid, toks in zip(queries["qid"], queries["query_toks"]):
            weights = named_weights(toks, qid, self.index.names)
            if weights:
                bodies[qid] = impact_query(weights, qid)
        return bodies


def named_weights(toks: Any, qid: str, names: TermNames) -> Mapping[str, float]:
    """Return the weights above 0 of a query by the names of its terms; terms that no document can have are left out.

    Raises:
        DataError: A weight is negative or not finite.
    """
    named = {names(term): weight for term, weight in check_weights(toks, qid).items()}
    return {name: weight for name, weight in named.items() if name is not None}
