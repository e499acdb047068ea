"""Fills a query table from queries and a teacher's vectors of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import pyterrier as pt
from scipy.sparse import csc_matrix, csr_matrix

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.vectors.checks import check_positive
from pyterrier_csplade.vectors.impacts import top_k

Kind = Literal["ridge", "counts"]

# Number of terms that are fitted between two steps of the progress bar, whose candidates are in memory at once; our choice (not
# measured).
_BLOCK = 512
# Maximum number of passes over the candidates of a term; our choice (measured: 3 to 8 are enough on medquad and openstax).
_PASSES = 50
# The fit of a term ends when weights change by less than this share of the term's mean weight; our choice (not measured).
_TOLERANCE = 0.005


@dataclass(frozen=True, kw_only=True)
class Filling:
    """Settings of :meth:`QueryTable.fit`.

    Attributes:
        kind: "ridge" fits rows with expansion: non-negative ridge regression from the tokens of queries to the teacher's
            vectors. "counts" sets only the weight of each token itself, to the mean of the teacher's weights for it.
        entries: Maximum number of terms in a token's row besides the token itself; only for "ridge".
        threshold: Minimum weight in a row, as a share of the mean weight in the teacher's vectors; only for "ridge".
        ridge: Strength of the pull towards the prior, a table without expansion, as a number of queries: a token that occurs
            in fewer queries keeps most of the prior.
        counts: Whether a repeated token counts as often as it occurs instead of once.
    """

    kind: Kind = "ridge"
    entries: int = 4
    threshold: float = 0.3
    ridge: float = 1.0
    counts: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"kind must be one of {', '.join(get_args(Kind))}, found {self.kind!r:.60}")
        check_positive(entries=self.entries)
        for name, least in (("threshold", 0.0), ("ridge", 1e-6)):
            value = getattr(self, name)
            if not (isinstance(value, Real) and least <= float(value) < math.inf):
                raise ConfigError(f"{name} must be a finite number of at least {least:g}, found {value!r:.60}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that have an effect on this kind."""
        names = ["kind", "ridge", "counts"] if self.kind == "counts" else list(asdict(self))
        return {name: getattr(self, name) for name in names}


def fill(
    tokens: csr_matrix,
    vectors: csr_matrix,
    filling: Filling,
    twins: Mapping[int, int] | None = None,
    *,
    verbose: bool = False,
) -> tuple[np.ndarray, csr_matrix]:
    """Fill a table.

    A token that is in no query gets the mean weight of a query's own tokens. If it has a twin, its common spelling, a table
    with expansion adds the twin with the same weight.

    Args:
        tokens: The tokens of queries, [queries, terms], 1 or a count for each.
        vectors: The teacher's vectors of the same queries, [queries, terms].
        filling: The settings.
        twins: Terms, and the common spelling of each.
        verbose: Whether to show a progress bar.

    Returns:
        The weight of each token itself, float32 [terms], and the expansion, float32 [terms, terms].
    """
    tokens, vectors = csr_matrix(tokens, dtype=np.float32), csr_matrix(vectors, dtype=np.float32)
    prior, size = own_weight(tokens, vectors), vectors.shape[1]
    if filling.kind == "counts":
        return mean_weights(tokens, vectors, prior, filling.ridge), csr_matrix((size, size), dtype=np.float32)
    smallest = filling.threshold * float(vectors.data.mean()) if vectors.nnz else 0.0
    rows = nonnegative_ridge(tokens, vectors, prior, filling.ridge, smallest, verbose=verbose)
    seen = np.diff(tokens.tocsc().indptr) > 0
    weights = np.where(seen, rows.diagonal(), prior).astype(np.float32)
    rows.setdiag(0)
    rows.eliminate_zeros()
    unseen = [(token, twin) for token, twin in (twins or {}).items() if not seen[token]]
    places = tuple(np.array(unseen, dtype=np.int64).reshape(-1, 2).T)
    common = csr_matrix((np.full(len(unseen), prior, dtype=np.float32), places), shape=(size, size))
    return weights, csr_matrix(top_k(rows, filling.entries) + common)


def own_weight(tokens: csr_matrix, vectors: csr_matrix) -> float:
    """Return the mean of the positive weights of queries' own tokens in the teacher's vectors; 1 if there are none."""
    shared = vectors.multiply(tokens > 0).tocsr()
    shared.eliminate_zeros()
    return float(shared.data.mean()) if shared.nnz else 1.0


def mean_weights(tokens: csr_matrix, vectors: csr_matrix, prior: float, strength: float) -> np.ndarray:
    """Return each token's mean weight over the queries that contain it and ``strength`` more queries with the prior weight.

    Up to the prior, this minimises the squared error over tables without expansion.
    """
    sums = np.asarray(vectors.multiply(tokens > 0).sum(axis=0), dtype=np.float64).ravel()
    queries = np.diff(tokens.tocsc().indptr)
    return ((sums + strength * prior) / (queries + strength)).astype(np.float32)


def nonnegative_ridge(
    tokens: csr_matrix, vectors: csr_matrix, prior: float, strength: float, smallest: float, *, verbose: bool = False
) -> csr_matrix:
    """Fit a table by ridge regression with weights of at least 0, one column (a term of the vectors) after another.

    With B the tokens, P the vectors and D the prior on the diagonal, T minimises ``|BT - P|^2 + strength |T - D|^2``. At the
    minimum, an entry is at most ``(B^T P + strength D) / (diag(B^T B) + strength)``, because the other entries only reduce what
    is left of P. Entries whose bound is below ``smallest`` are therefore left out from the start. The few remaining ones are
    fitted by coordinate descent. Memory is needed for the input, the result, and the candidates of some hundred terms.

    Args:
        tokens: B, [queries, terms].
        vectors: P, [queries, terms], non-negative.
        prior: Weight on the diagonal of D.
        strength: As above.
        smallest: Minimum entry of the result.
        verbose: Whether to show a progress bar.

    Returns:
        T without entries below ``smallest``, float32 [terms, terms].
    """
    columns, by_term = _Columns(tokens, strength), vectors.tocsc()
    terms = np.union1d(np.flatnonzero(np.diff(by_term.indptr)), columns.occurring)
    rows = [np.empty(0, dtype=np.int64)]
    values = [np.empty(0, dtype=np.float64)]
    lengths = np.zeros(vectors.shape[1] + 1, dtype=np.int64)
    with pt.tqdm(total=len(terms), desc="Fitting the table", unit="term", disable=not verbose) as bar:
        for block in (terms[start : start + _BLOCK] for start in range(0, len(terms), _BLOCK)):
            products = columns.products(by_term[:, block])
            for position, term in enumerate(block.tolist()):
                candidates = columns.candidates(products.getcol(position), term, prior, smallest)
                weights = columns.fit(by_term.getcol(term), candidates, term, prior)
                kept = (weights >= smallest) & (weights > 0)
                rows.append(candidates[kept])
                values.append(weights[kept])
                lengths[term + 1] = kept.sum()
            bar.update(len(block))
    shape = tokens.shape[1], vectors.shape[1]
    found = np.concatenate(values).astype(np.float32), np.concatenate(rows), np.cumsum(lengths)
    return csr_matrix(csc_matrix(found, shape=shape))


class _Columns:
    """The columns of B, and what the fit of each term needs from them."""

    def __init__(self, tokens: csr_matrix, strength: float) -> None:
        self._tokens = tokens.tocsc()
        self._strength = strength
        self._scale = np.asarray(tokens.multiply(tokens).sum(axis=0), dtype=np.float64).ravel() + strength

    @property
    def occurring(self) -> np.ndarray:
        """The tokens that occur in a query."""
        return np.flatnonzero(np.diff(self._tokens.indptr))

    def products(self, vectors: csc_matrix) -> csc_matrix:
        """Return ``B^T P`` of some columns of P."""
        return (self._tokens.T @ vectors).tocsc()

    def candidates(self, products: csc_matrix, term: int, prior: float, smallest: float) -> np.ndarray:
        """Return the tokens whose weight for a term may reach ``smallest``; if the term is one of them, it comes first."""
        found, sums = products.indices, products.data.astype(np.float64)
        itself = found == term
        own = (float(sums[itself].sum()) + self._strength * prior) / self._scale[term]
        others = found[~itself & (sums / self._scale[found] >= smallest)]
        occurs = self._tokens.indptr[term] < self._tokens.indptr[term + 1]
        return np.concatenate([np.array([term] if occurs and own >= smallest else [], dtype=np.int64), np.sort(others)])

    def fit(self, target: csc_matrix, candidates: np.ndarray, term: int, prior: float) -> np.ndarray:
        """Return the weights of the candidates that minimise the squared error of a term, by cyclic coordinate descent."""
        error = np.zeros(self._tokens.shape[0])
        error[target.indices] = -target.data
        columns = [self._column(token) for token in candidates]
        scales = self._scale[candidates].tolist()
        priors = [prior if token == term else 0.0 for token in candidates.tolist()]
        weights = [0.0] * len(candidates)
        smallest_change = _TOLERANCE * (float(target.data.mean()) if target.nnz else prior)
        active: Sequence[int] = range(len(candidates))
        for _ in range(_PASSES):
            largest = 0.0
            for at in active:
                queries, values = columns[at]
                errors = error[queries]
                gradient = float(values @ errors) + self._strength * (weights[at] - priors[at])
                change = max(-gradient / scales[at], -weights[at])
                if change:
                    error[queries] = errors + change * values
                    weights[at] += change
                    largest = max(largest, abs(change))
            if largest > smallest_change:  # most weights that are 0 now stay 0
                active = [at for at in active if weights[at] > 0]
            elif len(active) == len(candidates):
                break
            else:
                active = range(len(candidates))
        return np.array(weights, dtype=np.float64)

    def _column(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        inside = slice(self._tokens.indptr[token], self._tokens.indptr[token + 1])
        return self._tokens.indices[inside], self._tokens.data[inside].astype(np.float64)
