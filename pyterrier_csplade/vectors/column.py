"""Base class of transformers that change the vectors in one column of a frame or of a stream of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import pandas as pd
import pyterrier as pt

from pyterrier_csplade._settings import Settings

from .checks import check_names, check_record

Column = Literal["toks", "query_toks"]

# For each column, the column of the identifiers and the noun in messages.
_NAMES = {"toks": ("docno", "document"), "query_toks": ("qid", "query")}
# Records of a stream that are processed together; our choice (not measured).
_CHUNK = 1000


class ColumnTransformer(Settings, pt.Transformer):
    """Changes the vectors of one column.

    Attributes:
        on: The column: "toks" of documents or "query_toks" of queries.
    """

    on: Column

    def _check(self) -> None:
        raise NotImplementedError

    def _changed_vectors(self, names: Sequence[str], vectors: Sequence[Any]) -> list[Any]:
        """Return the changed vectors; missing ones stay as they are. ``names`` are the vectors' names in error messages."""
        raise NotImplementedError

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Change the vectors of a frame.

        Args:
            inp: ``docno`` and ``toks``, or ``qid`` and ``query_toks``.

        Raises:
            DataError: A vector is not a dict of finite weights of at least 0; the message names its docno or qid.
        """
        self._check()
        pt.validate.columns(inp, includes=self._inputs, context=self)
        check_names(inp.columns)
        changed = self._changed_vectors(*self._with_names(*(inp[column].tolist() for column in self._inputs)))
        return inp.assign(**{self.on: pd.Series(changed, index=inp.index, dtype=object)})

    def transform_iter(self, inp: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Change a stream of records as ``transform`` does, in constant memory; every record must have both columns."""
        self._check()
        records = iter(inp)
        while chunk := list(islice(records, _CHUNK)):
            for record in chunk:
                if not check_record(record, f"a {_NAMES[self.on][1]}").keys() >= set(self._inputs):
                    pt.validate.columns(list(record), includes=self._inputs, context=self)
            columns = ([record[column] for record in chunk] for column in self._inputs)
            for record, vector in zip(chunk, self._changed_vectors(*self._with_names(*columns))):
                yield {**record, self.on: vector}

    @property
    def _inputs(self) -> list[str]:
        return [_NAMES[self.on][0], self.on]

    def _with_names(self, identifiers: Sequence[Any], vectors: Sequence[Any]) -> tuple[list[str], Sequence[Any]]:
        return [f"{_NAMES[self.on][1]} {identifier!r}: {self.on}" for identifier in identifiers], vectors
