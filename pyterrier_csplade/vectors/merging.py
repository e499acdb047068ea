"""Merging two sparse vectors of a document, for example of its picture and its text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any, Literal, get_args

import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade._settings import Settings

from .checks import OneEncoder, check_finite_vector, check_names, check_one_of, check_record
from .impacts import ImpactVector

Method = Literal["max", "sum"]


class MergeToks(Settings, pt.Transformer):
    """Merges the vectors of another column into ``toks``, term by term, so that one document contains a text and its picture.

    "max" keeps the larger of a term's two weights. "sum" adds the other column's weights times ``weight``; tune this factor on
    development queries. Missing vectors (None, NaN) count as empty. Integer impacts stay integers: a sum is rounded half up,
    and terms that round to 0 are left out. The origin of a merged vector is known if the origins of both vectors are.

    Examples:
        Index texts with their pictures::

            encoder = csplade.doc_encoder() >> csplade.image_encoder("runs/head", output="image_toks")
            (encoder >> MergeToks(method="sum", weight=0.2) >> index).index(figures)
    """

    def __init__(self, *, other: str = "image_toks", method: Method = "max", weight: float = 1.0) -> None:
        """Choose how to merge.

        Args:
            other: The column that is merged into ``toks`` and removed.
            method: "max" or "sum".
            weight: Factor of the other column's weights, at least 0 and finite.

        Raises:
            ValueError: ``other`` does not name another column, ``method`` is neither, or ``weight`` is out of range.
        """
        super().__init__()
        self.other = other
        self.method = method
        self.weight = weight
        self._check()

    def _check(self) -> None:
        if not (isinstance(self.other, str) and self.other) or self.other == "toks":
            raise ValueError(f"other must be the name of a column besides 'toks', found {self.other!r}")
        check_one_of("method", self.method, get_args(Method))
        if not (isinstance(self.weight, Real) and 0 <= float(self.weight) < math.inf):
            raise ValueError(f"weight must be a number, finite and not negative, found {self.weight!r}")

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Merge the vectors of a frame with ``docno``, ``toks`` and the other column.

        Raises:
            ContractError: The vectors of a document come from encoders whose vectors cannot be compared.
            DataError: A vector is not a dict of finite weights of at least 0; the message names its docno.
        """
        self._check()
        pt.validate.columns(inp, includes=["docno", "toks", self.other], context=self)
        check_names(inp.columns)
        rows = zip(inp["docno"].tolist(), inp["toks"].tolist(), inp[self.other].tolist())
        merged = [self._merged(*row) for row in rows]
        return inp.assign(toks=pd.Series(merged, index=inp.index, dtype=object)).drop(columns=[self.other])

    def transform_iter(self, inp: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Merge the vectors of a stream of records as ``transform`` does."""
        self._check()
        for record in inp:
            pt.validate.columns(list(check_record(record, "a document")), includes=["docno", "toks", self.other], context=self)
            merged = self._merged(record["docno"], record["toks"], record[self.other])
            yield {**{name: value for name, value in record.items() if name != self.other}, "toks": merged}

    def _merged(self, docno: Any, text: Any, picture: Any) -> ImpactVector:
        encoder = OneEncoder()
        for vector, column in ((text, "toks"), (picture, self.other)):
            encoder.observe(vector, f"document {docno!r}: {column}")
        first = check_finite_vector(text, f"document {docno!r}: toks")
        second = check_finite_vector(picture, f"document {docno!r}: {self.other}")
        are_impacts = [isinstance(weight, Integral) for vector in (first, second) for weight in vector.values()]
        whole = all(are_impacts)
        if first and second and not whole and any(are_impacts):
            raise ContractError(
                f"document {docno!r}: toks and {self.other} mix impacts and float weights: make both with one quantizer"
            )
        factor, merged = float(self.weight), dict(first)
        for term, weight in second.items():
            scaled = weight * factor
            merged[term] = max(merged.get(term, 0), scaled) if self.method == "max" else merged.get(term, 0) + scaled
        if whole:
            merged = {term: math.floor(weight + 0.5) for term, weight in merged.items()}
        ordered = sorted(((term, weight) for term, weight in merged.items() if weight > 0), key=lambda item: -item[1])
        # Together with terms of unknown origin, all are of unknown origin.
        origins = [getattr(vector, "contract", None) for vector, checked in ((text, first), (picture, second)) if checked]
        return ImpactVector(ordered, None if None in origins else encoder.contract)
