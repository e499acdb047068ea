"""A transformer that scores documents without an index."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import ContractError, DataError
from pyterrier_csplade.vectors.checks import check_names, check_texts, first_of_another_encoder, first_of_another_text

from .transformers import DocEncoder, ModelTransformer, QueryEncoder, ReadsDocuments, TextModel


class Scorer(ReadsDocuments, ModelTransformer):
    """Scores documents for queries by the dot product of their vectors; created by :meth:`CSPLADE.scorer`.

    The columns ``query_toks`` and ``toks`` are used if the contracts of all their vectors show that this model made them, or a
    query table for this model, and no text was changed afterwards. Otherwise, ``query`` and text are encoded, each distinct one
    once, and not quantised. Rows keep their order. Of equal scores, the first row ranks first.

    Example::

        pipeline = bm25 % 100 >> pt.text.get_text(dataset, "text") >> csplade.scorer()
    """

    schematic = {"label": "CSPLADE scorer", "help_url": None}
    _factory = "scorer"

    def __init__(
        self, model: TextModel, *, text_field: str | None = None, batch_size: int | None = None, verbose: bool | None = None
    ) -> None:
        """Create a scorer; :meth:`CSPLADE.scorer` explains the arguments."""
        super().__init__(model, batch_size, verbose)
        self.text_field = text_field  # type: ignore[assignment]  # the property takes None

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``score`` and ``rank``, or replace them.

        Args:
            inp: Results with ``qid``, ``docno``, ``query`` or ``query_toks``, and the text or ``toks``.

        Raises:
            ContractError: It is not known that this model made a vector, and there is no text to encode instead.
            DataError: A text or a vector cannot be used; the message names its qid or docno.
        """
        with pt.validate.any(inp, context=self) as frame:
            for document in (self.text_field, "toks"):
                for query in ("query", "query_toks"):
                    frame.columns(includes=["qid", query, "docno", document], mode=f"{query}, {document}")
        check_names(inp.columns)
        scores = pd.Series(self._scores(inp), index=inp.index, dtype=np.float64)
        return pt.model.add_ranks(inp.assign(score=scores))

    def transform_iter(self, inp: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Score records. All records are read before the first is returned, because ranks need all scores."""
        records = list(inp)
        if records:
            self._check_strings(records)  # pandas 3 with pyarrow would refuse some without naming them
            yield from self.transform(pd.DataFrame(records)).to_dict(orient="records")  # type: ignore[misc]

    def _check_strings(self, records: Iterable[Mapping[str, Any]]) -> None:
        for column, key, noun in (("query", "qid", "query"), (self.text_field, "docno", "document")):
            given = [record for record in records if isinstance(record.get(column), str)]
            check_texts([record[column] for record in given], (f"{noun} {record.get(key)}" for record in given))

    def _scores(self, inp: pd.DataFrame) -> np.ndarray:
        scores = np.zeros(len(inp))
        qids, docnos = inp["qid"].tolist(), inp["docno"].tolist()
        queries = self._query_vectors(inp)
        for vector, rows in self._document_vectors(inp):
            for row in rows:
                scores[row] = _dot(queries[row], vector, f"query {qids[row]}, document {docnos[row]}")
        return scores

    def _query_vectors(self, inp: pd.DataFrame) -> list[Any]:
        given = self._given(inp, "query_toks", "query", "qid")
        if given is not None:
            return given
        encoded = QueryEncoder(self.model, batch_size=self.batch_size, verbose=self.verbose).transform(inp)
        return encoded["query_toks"].tolist()  # type: ignore[no-any-return]

    def _document_vectors(self, inp: pd.DataFrame) -> Iterator[tuple[Any, list[int]]]:
        """Yield the vector of each distinct document and its rows."""
        given = self._given(inp, "toks", self.text_field, "docno")
        if given is not None:
            yield from ((toks, [row]) for row, toks in enumerate(given))
            return
        docnos = inp["docno"].tolist()
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(check_texts(inp[self.text_field].tolist(), (f"document {docno}" for docno in docnos))):
            rows.setdefault(text, []).append(row)
        encoder = DocEncoder(
            self.model, text_field=self.text_field, quantizer=None, batch_size=self.batch_size, verbose=self.verbose
        )
        documents = ({"docno": docnos[at[0]], self.text_field: text} for text, at in rows.items())
        yield from ((document["toks"], at) for document, at in zip(encoder.transform_iter(documents), rows.values()))

    def _given(self, inp: pd.DataFrame, column: str, text: str, key: str) -> list[Any] | None:
        """Return the vectors of a column; None if the text must be encoded instead."""
        if column not in inp.columns:
            return None
        vectors = inp[column].tolist()
        row = first_of_another_encoder(vectors, lambda: self.model.contract, queries=column == "query_toks")
        if text in inp.columns and (row is not None or first_of_another_text(vectors, inp[text].tolist()) is not None):
            return None
        if row is None:
            return vectors
        contract = getattr(vectors[row], "contract", None)
        origin = "of unknown origin" if contract is None else f"of {contract.summary}"
        raise ContractError(
            f"{key} {inp[key].iloc[row]!r}: {column} contains a vector {origin}, not of {self.model}: add the column {text!r}, "
            f"which is then encoded, or compute {column} with this model"
        )


def _dot(query: object, document: object, name: str) -> float:
    if not (isinstance(query, Mapping) and isinstance(document, Mapping)):
        raise DataError(
            f"{name}: query_toks and toks must be dicts of term to weight, found {query!r:.40} and {document!r:.40}"
        )
    try:
        score = float(sum(weight * document.get(term, 0) for term, weight in query.items()))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: weights must be numbers ({error})") from error
    if not math.isfinite(score):
        raise DataError(f"{name}: the score is {score}: a weight is not finite")
    return score
