"""Exact retrieval with Terrier."""

from __future__ import annotations

import base64
import math
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.index.terrier.java import summary
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.vocabulary import is_index_term

from .retrieval import IndexRetriever
from .stored import StoredIndex

# Too long for Terrier's lexicon, so never a term of an index.
_NO_TERM = "\u00e9" * 31

# Terrier reads weights with six decimals, which is exact for whole numbers, as all doubles from 2**53 are. Weights are scaled
# to lie between 2**53 and 2**1000, so they may differ by a factor of up to 1e285.
_WHOLE = 53
_LARGEST = 1000

# Only Terrier's matching language, and no look-up of metadata, which are read for all documents together.
_CONTROLS = {"terrierql": "off", "parsecontrols": "off", "parseql": "off", "matchopql": "on", "decorate": "off"}


class ImpactRetriever(IndexRetriever):
    """Retrieves with Terrier by the dot product of query weights and impacts, in double precision.

    Documents with equal scores come in the order of indexing. A query without a term of the index (empty, None, weights of 0,
    unknown terms only) has no rows in the result.
    """

    schematic = {"label": "ImpactRetriever", "help_url": None}

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
        self._opened: tuple[Any, pt.Transformer] | None = None
        # Whether the index has a term, for the terms of past queries: each look-up is a call into Java.
        self._looked_up: tuple[Any, dict[str, bool]] | None = None

    def _open(self) -> Contract | None:
        self.impact_index.index_obj()
        return self.impact_index.contract

    def _search(self, queries: dict[str, dict[str, float]]) -> dict[str, Hits]:
        queries = self._known(queries)
        if not queries:
            return {}
        terrier = self._terrier()
        try:
            with ThreadPoolExecutor(self.threads) as executor:
                hits: Iterator[Hits]
                if self.threads > 1:
                    hits = executor.map(lambda query: _detached(self._search_one, terrier, query), queries.values())
                else:
                    hits = (self._search_one(terrier, query) for query in queries.values())
                if self.verbose:
                    hits = pt.tqdm(hits, desc="ImpactRetriever", total=len(queries), unit="q")
                return dict(zip(queries, hits))
        except Exception as error:
            raise ImpactIndexError(f"Terrier could not search {self.impact_index.path}: {summary(error)}") from error

    def _search_one(self, terrier: pt.Transformer, query: dict[str, float]) -> Hits:
        weights, factor = _scale(query) if self.exact_scores else (query, 1.0)
        request = terrier.manager.newSearchRequest("q")
        for control, value in {**terrier.controls, **_CONTROLS}.items():
            request.setControl(control, value)
        request.setOriginalQuery(_to_terrier(weights))
        terrier.manager.runSearchRequest(request)
        # The public view of results is a list of objects, and reading each takes several calls into Java.
        results = pt.java.cast("org.terrier.querying.Request", request).getResultSet()
        size = results.getResultSize()
        docids, scores = (np.array(values[:size]) for values in (results.getDocids(), results.getScores()))
        return Hits(docids.astype(np.int64), scores.astype(np.float64) * factor)

    def _read(self, field: str, docids: np.ndarray) -> Any:
        return self.impact_index.read_field(field, docids)

    def _known(self, queries: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        """Leave out terms that are not in the index, and queries without any other term."""
        index = self.impact_index.index_obj()
        if self._looked_up is None or self._looked_up[0] is not index:
            self._looked_up = index, {}
        found, lexicon = self._looked_up[1], index.getLexicon()
        for term in {term for query in queries.values() for term in query}.difference(found):
            found[term] = is_index_term(term) and term in lexicon
        known = {qid: {term: weight for term, weight in query.items() if found[term]} for qid, query in queries.items()}
        return {qid: query for qid, query in known.items() if query}

    def _terrier(self) -> pt.Transformer:
        index = self.impact_index.index_obj()
        if self._opened is None or self._opened[0] is not index:  # the index may have been built again
            with warnings.catch_warnings():
                # PyTerrier calls threads experimental because its rows come in any order of queries; these rows do not.
                warnings.filterwarnings("ignore", message="Multi-threaded|Upgrading")
                retriever = pt.terrier.Retriever(
                    # For threads Terrier changes the index object, which others use, so it opens one of its own.
                    index if self.threads == 1 else str(self.impact_index.directory),
                    wmodel="Tf",
                    num_results=self.num_results,
                    threads=self.threads,
                )
            self._opened = (index, retriever)
        return self._opened[1]


def _detached(function: Any, *args: Any) -> Any:
    """Call a function, and then detach the thread from Java, which would keep it otherwise."""
    from jnius import detach

    try:
        return function(*args)
    finally:
        detach()


def _scale(query: dict[str, float]) -> tuple[dict[str, float], float]:
    """Scale a query so that Terrier computes with its exact weights.

    Terrier prints weights with six decimals and divides them by the largest. Powers of two make both steps exact: all weights
    are multiplied by a power of two, and a term that no document has gets the next power above the largest weight.

    Returns:
        The weights for Terrier, and the factor that turns its scores into the dot product.
    """
    above = math.frexp(max(query.values()))[1]
    shift = min(_WHOLE + 1 - math.frexp(min(query.values()))[1], _LARGEST - above)
    scaled = {term: math.ldexp(weight, shift) for term, weight in query.items()}
    return {**scaled, _NO_TERM: math.ldexp(1.0, above + shift)}, math.ldexp(1.0, above)


def _to_terrier(query: dict[str, float]) -> str:
    """Return a query in Terrier's matching language; terms that could be mistaken for syntax are encoded."""
    plain = re.compile("[A-Za-z0-9]+")
    terms = {
        term if plain.fullmatch(term) else f"#base64({base64.b64encode(term.encode()).decode()})": weight
        for term, weight in query.items()
    }
    return " ".join(f"#combine:0={weight:f}({term})" for term, weight in terms.items())
