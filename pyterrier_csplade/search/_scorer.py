"""Re-ranking with the impacts of an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._retrieval import check_contracts, check_weights, text_qids

from ._postings import Postings

if TYPE_CHECKING:
    from pyterrier_csplade._index import ImpactIndex


class PostingsScorer(pt.Transformer):
    """Scores given documents by the dot product of query weights and their impacts in an index.

    Scores are those of the index's retrievers, to the last bit; a document without a term of the query has the score 0. Rows
    keep their order; of equal scores the first ranks first.
    """

    schematic = {"label": "PostingsScorer", "help_url": None}

    def __init__(self, impact_index: ImpactIndex, *, verbose: bool = False) -> None:
        """Create a scorer; :meth:`ImpactIndex.scorer` explains the arguments."""
        self.impact_index = impact_index
        self.verbose = verbose
        self._numbers: tuple[Postings, dict[str, int]] | None = None

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``score`` and ``rank``, or replace them.

        Args:
            inp: Results with ``qid``, ``docno`` and ``query_toks`` (term to weight), the same in all rows of a qid.

        Raises:
            ContractError: The queries come from another encoder than the documents.
            DataError: A document is not in the index, a weight is negative or not finite, or a qid has two queries.
            ImpactIndexError: There is no index, or it is damaged.
        """
        pt.validate.columns(inp, includes=["qid", "docno", "query_toks"], context=self)
        scores = np.zeros(len(inp))
        if len(inp):
            postings = self.impact_index.postings(verbose=self.verbose)
            docids = self._docids(postings, inp["docno"])
            queries, rows = self._queries(inp)
            check_contracts(queries, postings.contract, str(self.impact_index.path))
            bar = pt.tqdm(zip(queries["qid"], queries["query_toks"]), desc="scoring", unit="q", disable=not self.verbose)
            for qid, toks in bar:
                scores[rows[qid]] = _scores(postings, check_weights(toks, qid), docids[rows[qid]])
        ranked: pd.DataFrame = pt.model.add_ranks(inp.assign(score=scores))
        return ranked

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that results need."""
        return [["qid", "docno", "query_toks"]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PostingsScorer) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return f"{self.impact_index!r}.scorer()"

    def _identity(self) -> tuple[Any, ...]:
        return type(self), self.impact_index.directory, self.impact_index.memory

    def _docids(self, postings: Postings, docnos: pd.Series) -> np.ndarray:
        if self._numbers is None or self._numbers[0] is not postings:  # the index may have been built again
            self._numbers = postings, {docno: number for number, docno in enumerate(postings.docnos)}
        numbers = self._numbers[1]
        missing = [docno for docno in docnos if docno not in numbers]
        if missing:
            raise DataError(f"document {missing[0]!r} is not in {self.impact_index.path}, nor are {len(missing) - 1:,} others")
        return np.array([numbers[docno] for docno in docnos], dtype=np.int64)

    def _queries(self, inp: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
        """Return a frame of the queries, and the places of each one's rows."""
        frame = pd.DataFrame({"qid": text_qids(inp).to_numpy(), "query_toks": inp["query_toks"].to_numpy()})
        queries = frame.drop_duplicates("qid")
        first = dict(zip(queries["qid"], queries["query_toks"]))
        for qid, toks in zip(frame["qid"], frame["query_toks"]):
            if toks is not first[qid] and toks != first[qid]:
                raise DataError(f"qid {qid!r} has two queries: a qid names one query")
        return queries, frame.groupby("qid", sort=False).indices


def _scores(postings: Postings, weights: dict[str, float], docids: np.ndarray) -> np.ndarray:
    scores = np.zeros(len(docids))
    query = postings.query(weights)
    postings.check(query.terms)
    for term, weight in zip(query.terms.tolist(), query.weights.tolist()):
        found, impacts = postings.list_of(term)
        places = np.minimum(np.searchsorted(found, docids), len(found) - 1)
        both = found[places] == docids
        scores[both] += weight * impacts[places[both]]
    return scores
