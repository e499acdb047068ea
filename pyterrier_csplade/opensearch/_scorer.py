"""Scores of given documents from OpenSearch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import DataError
from pyterrier_csplade._retrieval import check_contracts, check_positive, check_weights, text_qids

from ._mapping import DOCNO
from ._queries import impact_query, search_body
from ._results import hits
from ._retriever import named_weights

if TYPE_CHECKING:
    from ._index import OpenSearchIndex

# Documents of a search (ours): below OpenSearch's index.max_result_window of 10,000.
_DOCUMENTS = 1000


class OpenSearchScorer(pt.Transformer):
    """Scores documents by the dot product of the query's weights and the impacts in the index.

    Rows keep their order; of equal scores the first ranks first. A document without a term of the query has the score 0.
    """

    schematic = {"label": "OpenSearchScorer", "help_url": None}

    def __init__(self, index: OpenSearchIndex, *, batch_size: int = 32, verbose: bool = False) -> None:
        """Create a scorer; :meth:`OpenSearchIndex.scorer` explains the arguments."""
        check_positive(batch_size=batch_size)
        self.index = index
        self.batch_size = batch_size
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``score`` and ``rank``, or replace them.

        Args:
            inp: Results with ``qid``, ``query_toks`` and ``docno``.

        Raises:
            ContractError: A query comes from another encoder than the documents.
            DataError: A weight is negative or not finite, or the index holds no such document; names it.
            ImpactIndexError: There is no complete index, the cluster is not reached, or it refused a query.
        """
        pt.validate.columns(inp, includes=["qid", "query_toks", DOCNO], context=self)
        scores: dict[tuple[str, str], float] = {}
        if len(inp):
            frame = inp.assign(qid=text_qids(inp))
            metadata = self.index.remote.open(self.index.names.scheme)
            check_contracts(frame, metadata.contract, str(self.index.remote))
            scores = self._scores(frame)
        rows = zip(inp["qid"].astype(str), inp[DOCNO])
        return pt.model.add_ranks(inp.assign(score=pd.Series([scores[row] for row in rows], index=inp.index, dtype="float64")))

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that results need."""
        return [["qid", "query_toks", DOCNO]]

    def transform_outputs(self, input_columns: list[str]) -> list[str]:
        """Return the columns of the result."""
        pt.validate.columns(input_columns, includes=["qid", "query_toks", DOCNO], context=self)
        return [column for column in input_columns if column not in ("score", "rank")] + ["score", "rank"]

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Return none: the index is where the results come from, not a step of a pipeline."""
        return {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OpenSearchScorer) and (self.index, self.batch_size) == (other.index, other.batch_size)

    def __hash__(self) -> int:
        return hash((OpenSearchScorer, self.index, self.batch_size))

    def __repr__(self) -> str:
        return f"{self.index!r}.scorer({'' if self.batch_size == 32 else f'batch_size={self.batch_size}'})"

    def _scores(self, frame: pd.DataFrame) -> dict[tuple[str, str], float]:
        searches = list(self._searches(frame))
        starts = range(0, len(searches), self.batch_size)
        scores: dict[tuple[str, str], float] = {}
        for start in pt.tqdm(starts, desc="OpenSearchScorer", unit="batch") if self.verbose else starts:
            batch = searches[start : start + self.batch_size]
            for (qid, docnos, factor, _), answer in zip(batch, self.index.remote.search([search[3] for search in batch])):
                found = {hit[DOCNO]: hit["score"] for hit in hits(answer, qid, self.index.remote, factor)}
                missing = next((docno for docno in docnos if docno not in found), None)
                if missing is not None:
                    raise DataError(f"query {qid!r}: {self.index.remote} holds no document {missing!r}")
                scores |= {(qid, docno): found[docno] for docno in docnos}
        return scores

    def _searches(self, frame: pd.DataFrame) -> Iterator[tuple[str, list[str], float, dict[str, Any]]]:
        """Yield qid, docnos, factor of the scores and body of each search."""
        for qid, rows in frame.groupby("qid", sort=False):
            toks = rows["query_toks"].tolist()
            weights = [check_weights(vector, str(qid)) for vector in toks if vector is not toks[0]]
            first = check_weights(toks[0], str(qid))
            if any(vector != first for vector in weights):
                raise DataError(f"query {qid!r} has several query_toks: a qid names one query")
            named = named_weights(toks[0], str(qid), self.index.names)
            query, factor = impact_query(named, str(qid)) if named else ({"bool": {}}, 1.0)
            query["bool"].pop("minimum_should_match", None)
            docnos = rows[DOCNO].drop_duplicates().tolist()
            for start in range(0, len(docnos), _DOCUMENTS):
                part = docnos[start : start + _DOCUMENTS]
                scored = {"bool": {**query["bool"], "filter": [{"terms": {DOCNO: part}}]}}
                yield str(qid), part, factor, search_body(scored, len(part), [])
