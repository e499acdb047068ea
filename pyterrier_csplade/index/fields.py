"""Adds metadata fields of an index to results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import DataError, ImpactIndexError
from pyterrier_csplade._settings import CheckedAttribute
from pyterrier_csplade.vectors.checks import as_names, check_names

from .opened import OpenIndex
from .stored import MadeByIndex, StoredIndex


class FieldLoader(MadeByIndex):
    """Adds metadata fields of an index to results, like PyTerrier's text loader, but from a single version of the index."""

    _method = "text_loader"

    #: The fields; "*" for all.
    fields = CheckedAttribute(
        lambda fields: "*" if isinstance(fields, str) and fields == "*" else as_names(fields, "fields") or []
    )

    def __init__(self, impact_index: StoredIndex, *, fields: list[str] | str = "*", verbose: bool = False) -> None:
        """Create a loader; :meth:`ImpactIndex.text_loader` explains the arguments."""
        super().__init__(impact_index)
        self.fields = fields
        self.verbose = verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add the fields; columns of the same names are replaced.

        Args:
            inp: Documents with ``docno``, ``docid``, or both.

        Raises:
            DataError: A document is not in the index.
            ImpactIndexError: There is no such field, or the ``docid`` belong to another index or version.
        """
        with pt.validate.any(inp, context=self) as columns:
            columns.columns(includes=["docno"])
            columns.columns(includes=["docid"])
        check_names(inp.columns)
        opened = self.impact_index.open()
        fields = opened.terrier().fields if self.fields == "*" else self.fields
        docids = self._docids(opened, inp)
        values = {field: opened.read_field(field, docids) for field in fields}
        return inp.drop(columns=fields, errors="ignore").reset_index(drop=True).assign(**values)

    def fuse_rank_cutoff(self, k: int) -> pt.Transformer:
        """Cut the ranking before its fields are read."""
        return pt.RankCutoff(k) >> self

    def _docids(self, opened: OpenIndex, inp: pd.DataFrame) -> np.ndarray:
        if "docid" not in inp:
            return self._look_up(opened, inp["docno"].tolist())
        given = inp["docid"].to_numpy()
        try:
            docids = given.astype(np.int64)
            whole = bool((docids == given).all())
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise DataError("docid of some results is not a whole number: leave the column out if the results have docno")
        outside = (docids < 0) | (docids >= opened.terrier().documents)
        if outside.any():
            raise DataError(f"docid {docids[outside][0]} is not in {self.impact_index.path}: leave the document out")
        if "docno" in inp and (opened.read_field("docno", docids) != inp["docno"].to_numpy()).any():
            raise ImpactIndexError(
                f"docid and docno of some results do not match in {self.impact_index.path}: they come from another index, or "
                "this index was built again; leave out docid, or search again"
            )
        return docids

    def _look_up(self, opened: OpenIndex, docnos: list[Any]) -> np.ndarray:
        terrier = opened.terrier()
        docids = []
        with terrier.lock:
            meta = terrier.index.getMetaIndex()
            for docno in docnos:
                docids.append(meta.getDocument("docno", str(docno)))
                if docids[-1] < 0:
                    raise DataError(f"document {docno!r} is not in {self.impact_index.path}: leave it out")
        return np.array(docids, dtype=np.int64)
