"""Searches in OpenSearch's query DSL."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pyterrier_csplade._errors import DataError

from ._mapping import DOCNO, IMPACTS

# Lucene computes in single precision, whose numbers end at 2**128. Weights up to 2**96, times impacts up to 2**9, may be summed
# over any vocabulary; a weight below 2**-126 would lose digits.
_LARGEST_EXPONENT, _SMALLEST_EXPONENT = 96, -126


def impact_query(weights: Mapping[str, float], qid: str) -> tuple[dict[str, Any], float]:
    """Return the query for the dot product with positive weights, and the factor by which its scores are to be multiplied.

    Where weights are very large or small, all are multiplied by one power of two, which is exact.

    Args:
        weights: Name of a term to weight, at least one.
        qid: The query, for messages.

    Raises:
        DataError: The largest weight is 2**222 times the smallest, or nearly; up to 2**221 all are taken.
    """
    largest, smallest = (math.frexp(value)[1] for value in (max(weights.values()), min(weights.values())))
    shift = 0
    if largest > _LARGEST_EXPONENT or smallest - 1 < _SMALLEST_EXPONENT:
        shift = _LARGEST_EXPONENT - largest
        if smallest + shift - 1 < _SMALLEST_EXPONENT:
            raise DataError(f"query {qid!r}: OpenSearch cannot add weights as far apart as these, more than a factor of 1e66")
    clauses = [
        {"rank_feature": {"field": f"{IMPACTS}.{name}", "boost": math.ldexp(weight, shift), "linear": {}}}
        for name, weight in weights.items()
    ]
    return {"bool": {"should": clauses, "minimum_should_match": 1}}, math.ldexp(1.0, -shift)


def with_filter(query: Mapping[str, Any], filter: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a query whose results also match a filter."""
    return dict(query) if filter is None else {"bool": {"must": [query], "filter": [filter]}}


def search_body(query: Mapping[str, Any], size: int, fields: Sequence[str]) -> dict[str, Any]:
    """Return the body of a search: the best documents, of equal scores in the order of their docnos.

    That order is the same for any number of shards. The docno is read from the sort value, five times faster than from the
    stored document, which is read only for the fields.
    """
    return {
        "size": size,
        "track_total_hits": False,
        "query": query,
        "sort": [{"_score": "desc"}, {DOCNO: "asc"}],
        **({"_source": list(fields)} if fields else {"_source": False, "stored_fields": "_none_"}),
    }
