"""Exact retrieval with Terrier."""

from __future__ import annotations

import base64
import math
import re
import threading
from functools import partial
from typing import Any

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import CspladeError, ImpactIndexError
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.index.terrier.java import summary
from pyterrier_csplade.index.terrier.opened import OpenTerrier

from .opened import OpenIndex
from .retrieval import IndexRetriever
from .stored import StoredIndex

# Too long for Terrier's lexicon, so never a term of an index.
_NO_TERM = "\u00e9" * 31

# Terrier reads weights with six decimals, which is exact for whole numbers, and all doubles from 2**53 are whole. Weights are
# scaled to lie between 2**53 and 2**1000, so they may differ by a factor of up to 1e285.
_WHOLE = 53
_LARGEST = 1000

# Only Terrier's matching language is parsed. Metadata are not looked up, because they are read for all documents together.
_CONTROLS = {"terrierql": "off", "parsecontrols": "off", "parseql": "off", "matchopql": "on", "decorate": "off"}

# Held for calls whose receivers differ between threads: pyjnius keeps a receiver in an object that all threads share.
_CALLS = threading.Lock()


class ImpactRetriever(IndexRetriever):
    """Retrieves with Terrier by the dot product of query weights and impacts, in double precision.

    Documents with equal scores are in the order of indexing. A query without a term of the index (empty, None, weights of 0,
    unknown terms only) has no rows in the result.
    """

    def __init__(
        self,
        impact_index: StoredIndex,
        *,
        num_results: int = 1000,
        exact_scores: bool = True,
        include_fields: list[str] | None = None,
        threads: int = 1,
        verbose: bool = False,
    ) -> None:
        """Create a retriever; :meth:`ImpactIndex.retriever` explains the arguments."""
        super().__init__(impact_index, num_results=num_results, include_fields=include_fields, threads=threads, verbose=verbose)
        self.exact_scores = exact_scores

    def _open(self) -> OpenIndex:
        opened = self.impact_index.open()
        opened.terrier()
        return opened

    def _search(self, opened: OpenIndex, queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        terrier = opened.terrier()
        known = terrier.known({term for query in queries.values() for term in query})
        queries = {qid: {term: weight for term, weight in query.items() if known[term]} for qid, query in queries.items()}
        queries = {qid: query for qid, query in queries.items() if query}
        try:
            if self.threads == 1:
                return self._in_threads(partial(_locked, self._search_one, terrier), queries)
            return self._in_threads(partial(_detached, self._search_one, opened.terrier(concurrent=True)), queries)
        except CspladeError:
            raise
        except Exception as error:
            raise ImpactIndexError(f"Terrier could not search {self.impact_index.path}: {summary(error)}") from error

    def _search_one(self, terrier: OpenTerrier, query: dict[str, float]) -> Hits:
        weights, factor = _scale(query) if self.exact_scores else (query, 1.0)
        text, last = _to_terrier(weights), str(min(self.num_results, terrier.documents) - 1)
        controls = {**terrier.retriever.controls, **_CONTROLS, "end": last}
        manager = terrier.retriever.manager
        with _CALLS:
            request = manager.newSearchRequest("q")
            for control, value in controls.items():
                request.setControl(control, value)
            request.setOriginalQuery(text)
        manager.runSearchRequest(request)
        # The public view of results is a list of objects, each of which takes several calls into Java to read.
        with _CALLS:
            request = pt.java.cast("org.terrier.querying.Request", request)
            results = request.getResultSet()
            size, docids, scores = results.getResultSize(), results.getDocids(), results.getScores()
        return Hits(np.array(docids[:size], np.int64), np.array(scores[:size], np.float64) * factor)

    def _read(self, opened: OpenIndex, field: str, docids: np.ndarray) -> Any:
        return opened.read_field(field, docids)


def _locked(function: Any, terrier: OpenTerrier, *args: Any) -> Any:
    """Call a function while no other thread uses the index."""
    with terrier.lock:
        return function(terrier, *args)


def _detached(function: Any, *args: Any) -> Any:
    """Call a function, and then detach the thread from Java, which would otherwise keep it."""
    from jnius import detach

    try:
        return function(*args)
    finally:
        detach()


def _scale(query: dict[str, float]) -> tuple[dict[str, float], float]:
    """Scale a query so that Terrier computes with its exact weights.

    Terrier prints weights with six decimals and divides them by the largest. Powers of two make both steps exact: all weights
    are multiplied by a power of two, and a term that no document has gets the next power of two above the largest weight.

    Returns:
        The weights for Terrier, and the factor that turns its scores into the dot product.
    """
    above = math.frexp(max(query.values()))[1]
    shift = min(_WHOLE + 1 - math.frexp(min(query.values()))[1], _LARGEST - above)
    scaled = {term: math.ldexp(weight, shift) for term, weight in query.items()}
    return {**scaled, _NO_TERM: math.ldexp(1.0, above + shift)}, math.ldexp(1.0, above)


def _to_terrier(query: dict[str, float]) -> str:
    """Return a query in Terrier's matching language; terms that could be parsed as syntax are encoded."""
    plain = re.compile("[A-Za-z0-9]+")
    terms = {
        term if plain.fullmatch(term) else f"#base64({base64.b64encode(term.encode()).decode()})": weight
        for term, weight in query.items()
    }
    return " ".join(f"#combine:0={weight:f}({term})" for term, weight in terms.items())
