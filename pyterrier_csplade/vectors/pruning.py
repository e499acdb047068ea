"""Static pruning of sparse vectors, in a pipeline or in bulk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import DataError

from .contract import Contract
from .impacts import ImpactVector, heaviest_mass, minimum_weight, top_k
from .matrices import EncodedVectors

Column = Literal["toks", "query_toks"]

_NAMES = {"toks": ("docno", "document"), "query_toks": ("qid", "query")}
# Records of a stream that are pruned together; enough for numpy.
_CHUNK = 1000


class PruneToks(pt.Transformer):
    """Keeps the heaviest terms of each sparse vector, whatever engine it goes to.

    Static pruning (of documents) and query term cuts are the best supported speed-up of learned sparse retrieval: pruning
    documents to 90 % of their mass gave 1.4 times the speed for 0.003 nDCG@10 on every engine compared in "Static Pruning
    Across Sparse Retrieval Regimes" (CIKM 2026). Terms keep their order, their weights and the vector its contract. What
    stands for "no vector" (None, NaN) stays.

    Example::

        (csplade.doc_encoder() >> PruneToks(mass=0.9) >> index).index(corpus)
        pipeline = csplade.query_encoder() >> PruneToks(top_k=20, on="query_toks") >> index.retriever()
    """

    schematic = {"label": "PruneToks", "help_url": None}

    def __init__(
        self,
        *,
        mass: float | None = None,
        top_k: int | None = None,
        min_weight: float | None = None,
        on: Column = "toks",
    ) -> None:
        """Say what is kept; exactly one of the first three.

        Args:
            mass: The fewest heaviest terms that carry this share, above 0 and at most 1, of the vector's sum.
            top_k: This many heaviest terms; of equally heavy ones those that come first.
            min_weight: Terms of at least this weight, above 0 and finite.
            on: The column: "toks" of documents or "query_toks" of queries.

        Raises:
            ValueError: None or several of the three are given, a value is outside its range, or there is no such column.
        """
        super().__init__()
        given = {name: value for name, value in _arguments(mass, top_k, min_weight).items() if value is not None}
        if len(given) != 1:
            raise ValueError(f"give one of mass, top_k and min_weight, found {', '.join(given) or 'none'}")
        if mass is not None and not 0 < mass <= 1:
            raise ValueError(f"mass must be above 0 and at most 1, found {mass}")
        if top_k is not None and (top_k < 1 or top_k != int(top_k)):
            raise ValueError(f"top_k must be a whole number of at least 1, found {top_k}")
        if min_weight is not None and not 0 < min_weight < math.inf:
            raise ValueError(f"min_weight must be above 0 and finite, found {min_weight}")
        if on not in get_args(Column):
            raise ValueError(f"on must be one of {', '.join(get_args(Column))}, found {on!r}")
        self.mass = mass
        self.top_k = top_k
        self.min_weight = min_weight
        self.on = on

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Prune a frame.

        Args:
            inp: ``docno`` and ``toks``, or ``qid`` and ``query_toks``.

        Raises:
            DataError: A vector is no dict of finite weights of at least 0; names its docno or qid.
        """
        pt.validate.columns(inp, includes=self._inputs, context=self)
        pruned = self._prune_all(*(inp[column].tolist() for column in self._inputs))
        return inp.assign(**{self.on: pd.Series(pruned, index=inp.index, dtype=object)})

    def transform_iter(self, inp: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Prune a stream of records in constant memory; otherwise as ``transform``."""
        records = iter(inp)
        while chunk := list(islice(records, _CHUNK)):
            pt.validate.columns(list(chunk[0]), includes=self._inputs, context=self)
            pruned = self._prune_all(*([record.get(column) for record in chunk] for column in self._inputs))
            for record, vector in zip(chunk, pruned):
                yield {**record, self.on: vector}

    def vectors(self, encoded: EncodedVectors) -> EncodedVectors:
        """Return encoded documents that are pruned block by block as they are read.

        Args:
            encoded: Documents of a bulk encoder, or any others in matrices.
        """
        return _PrunedVectors(encoded, self._cut)

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that are needed."""
        return [self._inputs]

    def transform_outputs(self, input_columns: list[str]) -> list[str]:
        """Return the columns of the result: those of the input."""
        pt.validate.columns(input_columns, includes=self._inputs, context=self)
        return input_columns

    @property
    def _inputs(self) -> list[str]:
        return [_NAMES[self.on][0], self.on]

    @property
    def _cut(self) -> Callable[[csr_matrix], csr_matrix]:
        if self.mass is not None:
            return partial(heaviest_mass, mass=self.mass)
        if self.top_k is not None:
            return partial(top_k, k=int(self.top_k))
        return partial(minimum_weight, weight=self.min_weight)  # type: ignore[arg-type]  # the constructor saw to it

    def _prune_all(self, identifiers: Sequence[Any], vectors: Sequence[Any]) -> list[Any]:
        noun = _NAMES[self.on][1]
        given = [vector if isinstance(vector, Mapping) else {} for vector in vectors]
        for identifier, vector in zip(identifiers, vectors):
            _check_vector(vector, f"{noun} {identifier!r}: {self.on}")
        # As many columns as the longest vector has terms: a term's column is its place in the dict.
        lengths = np.array([len(vector) for vector in given], dtype=np.int64)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        weights = np.fromiter((weight for vector in given for weight in vector.values()), np.float64, indptr[-1])
        places = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
        kept = self._cut(csr_matrix((weights, places, indptr), shape=(len(given), int(lengths.max(initial=1)))))
        rows = zip(kept.indptr[:-1], kept.indptr[1:])
        return [
            _select(vector, kept.indices[start:end]) if isinstance(vector, Mapping) else vector
            for vector, (start, end) in zip(vectors, rows)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PruneToks) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        given = _arguments(self.mass, self.top_k, self.min_weight)
        arguments = [f"{name}={value!r}" for name, value in given.items() if value is not None]
        return f"PruneToks({', '.join([*arguments, *([f'on={self.on!r}'] if self.on != 'toks' else [])])})"

    def _identity(self) -> tuple[Any, ...]:
        return PruneToks, self.mass, self.top_k, self.min_weight, self.on


@dataclass(frozen=True)
class _PrunedVectors:
    encoded: EncodedVectors
    cut: Callable[[csr_matrix], csr_matrix]

    @property
    def vocabulary(self) -> Sequence[str]:
        return self.encoded.vocabulary

    @property
    def contract(self) -> Contract | None:
        return self.encoded.contract

    def __len__(self) -> int:
        return len(self.encoded)

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        for docnos, matrix in self.encoded.blocks():
            yield docnos, self.cut(matrix)


def _arguments(mass: float | None, top_k: int | None, min_weight: float | None) -> dict[str, float | None]:
    return {"mass": mass, "top_k": top_k, "min_weight": min_weight}


def _check_vector(vector: object, name: str) -> None:
    if not isinstance(vector, Mapping):
        if vector is None or vector is pd.NA or (isinstance(vector, float) and math.isnan(vector)):
            return
        raise DataError(f"{name} must be a dict of term to weight, found {vector!r:.40}")
    for term, weight in vector.items():
        if not (isinstance(weight, Real) and 0 <= float(weight) < math.inf):
            raise DataError(f"{name}: the weight of {term!r} must be finite and at least 0, found {weight!r:.40}")


def _select(vector: Mapping[str, float], places: np.ndarray) -> ImpactVector:
    items = list(vector.items())
    return ImpactVector([items[place] for place in places.tolist()], getattr(vector, "contract", None))
