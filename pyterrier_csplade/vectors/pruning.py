"""Static pruning of sparse vectors, in pipelines and in bulk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from numbers import Real
from typing import Any, get_args

import numpy as np
from scipy.sparse import csr_matrix

from .checks import check_finite_vector, check_one_of, check_share, check_top_k
from .column import Column, ColumnTransformer
from .impacts import ImpactVector, heaviest_mass, minimum_weight, top_k
from .matrices import ChangedVectors, EncodedVectors


class PruneToks(ColumnTransformer):
    """Keeps the heaviest terms of each sparse vector, for any index or engine.

    In "Static Pruning Across Sparse Retrieval Regimes" (CIKM 2026), pruning documents to 90 % of their mass made every engine
    1.4 times as fast, at a cost of 0.003 nDCG@10. The kept terms have the same order and weights as before, and the vector
    keeps its contract. Missing vectors (None, NaN) are left as they are.

    Example::

        (csplade.doc_encoder() >> PruneToks(mass=0.9) >> index).index(corpus)
        pipeline = csplade.query_encoder() >> PruneToks(top_k=20, on="query_toks") >> index.retriever()
    """

    def __init__(
        self,
        *,
        mass: float | None = None,
        top_k: int | None = None,
        min_weight: float | None = None,
        on: Column = "toks",
    ) -> None:
        """Choose what to keep with exactly one of ``mass``, ``top_k`` and ``min_weight``.

        Args:
            mass: Keep the fewest heaviest terms that make up this share of the vector's sum; above 0 and at most 1.
            top_k: Keep this many of the heaviest terms; equally heavy terms keep their order.
            min_weight: Keep the terms of at least this weight; above 0 and finite.
            on: The column to prune: "toks" of documents or "query_toks" of queries.

        Raises:
            ValueError: Not exactly one of the three is given, a value is out of range, or ``on`` is another column.
        """
        super().__init__()
        self.mass = mass
        self.top_k = top_k
        self.min_weight = min_weight
        self.on = on
        self._check()

    def _check(self) -> None:
        """Check the settings at each use, because ``set_parameter`` changes them one by one."""
        given = [name for name in ("mass", "top_k", "min_weight") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of mass, top_k and min_weight, found {', '.join(given) or 'none of them'}")
        if self.mass is not None:
            check_share(mass=self.mass, above_zero=True)
        check_top_k(self.top_k)
        if self.min_weight is not None and not (isinstance(self.min_weight, Real) and 0 < self.min_weight < math.inf):
            raise ValueError(f"min_weight must be above 0 and finite, found {self.min_weight!r}")
        check_one_of("on", self.on, get_args(Column))

    def vectors(self, encoded: EncodedVectors) -> EncodedVectors:
        """Return encoded documents that are pruned block by block as they are read.

        Args:
            encoded: Documents of a bulk encoder, or other documents in matrices.
        """
        self._check()
        return ChangedVectors(encoded, copy(self)._cut, encoded.vocabulary, encoded.contract)

    def _cut(self, matrix: csr_matrix) -> csr_matrix:
        if self.mass is not None:
            return heaviest_mass(matrix, self.mass)
        if self.top_k is not None:
            return top_k(matrix, int(self.top_k))
        return minimum_weight(matrix, self.min_weight)  # type: ignore[arg-type]  # the constructor checked it

    def _changed_vectors(self, names: Sequence[str], vectors: Sequence[Any]) -> list[Any]:
        checked = [check_finite_vector(vector, name) for name, vector in zip(names, vectors)]
        # A term's column is its position in the dict.
        lengths = np.array([len(vector) for vector in checked], dtype=np.int64)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        weights = np.fromiter((weight for vector in checked for weight in vector.values()), np.float64, indptr[-1])
        columns = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
        kept = self._cut(csr_matrix((weights, columns, indptr), shape=(len(checked), int(lengths.max(initial=1)))))
        changed = []
        for vector, terms, start, end in zip(vectors, checked, kept.indptr[:-1], kept.indptr[1:]):
            if isinstance(vector, Mapping):
                items = list(terms.items())
                selected = [items[column] for column in kept.indices[start:end].tolist()]
                vector = ImpactVector(selected, getattr(vector, "contract", None), getattr(vector, "text_digest", None))
            changed.append(vector)
        return changed
