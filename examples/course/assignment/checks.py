"""Checks of the grader. Each one takes a student's module, and raises an AssertionError that describes what is wrong.

Hidden data is drawn with a seed, so that each cohort can get its own data. If a common mistake explains a wrong result, the
message names the mistake.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

#: Task and points.
POINTS = {
    "encode": 20, "quantise": 10, "choose_scale": 15, "prune": 10, "build_index": 10, "search": 15, "fusion": 5, "systems": 15,
}  # fmt: skip


def _explain(found: Any, expected: np.ndarray, mistakes: dict[str, np.ndarray]) -> None:
    """Compare arrays. If the student's result equals the result of a common mistake, name the mistake."""
    assert isinstance(found, np.ndarray), f"return a numpy array, not {type(found).__name__}"
    assert found.shape == expected.shape, f"the result has the shape {found.shape}, expected {expected.shape}"
    if np.allclose(found, expected, atol=1e-6):
        return
    for mistake, result in mistakes.items():
        if np.allclose(found, result, atol=1e-6, equal_nan=True):
            raise AssertionError(mistake)
    place = tuple(int(i) for i in np.argwhere(~np.isclose(found, expected, atol=1e-6))[0])
    raise AssertionError(f"the value at {place} is {found[place]:.4f}, expected {expected[place]:.4f}")


def check_encode(student: Any, seed: int) -> None:
    """Task 1."""
    rng = np.random.default_rng(seed)
    texts, positions, terms = 5, 7, 11
    logits = rng.normal(0, 3, size=(texts, positions, terms))
    mask = np.arange(positions) < rng.integers(1, positions, size=texts)[:, None]
    logits[~mask] += 20  # values in padding must not matter
    masked = np.where(mask[:, :, None], logits, -np.inf)
    highest, mean = masked.max(axis=1), np.where(mask[:, :, None], logits, 0).sum(axis=1) / mask.sum(axis=1)[:, None]

    def finish(values: np.ndarray) -> np.ndarray:
        return np.log1p(np.maximum(values, 0))

    with np.errstate(all="ignore"):
        mistakes = {
            "the logarithm is missing: the weight is log(1 + ReLU(x)), not ReLU(x)": np.maximum(highest, 0),
            "padding is part of the maximum: exclude positions where the mask is False": finish(logits.max(axis=1)),
            "the logarithm is missing, and padding is part of the maximum": np.maximum(logits.max(axis=1), 0),
            "the mean over positions is used: use the maximum, which keeps a term of which one position is certain": finish(
                mean
            ),
            "the mean over all positions is used, including padding: use the maximum over the tokens": finish(
                logits.mean(axis=1)
            ),
            "the ReLU is missing: negative logits must become 0": np.log1p(highest),
            "the logarithm of x is used instead of 1 + x: log(1 + ReLU(x)) is 0 where the logit is not positive": (
                np.log(np.maximum(highest, 0))
            ),
            "the logarithm is applied before the maximum, and padding is included": np.log1p(np.maximum(logits, 0)).max(axis=1),
            "the activations of all positions are summed: use the maximum": np.log1p(np.maximum(masked, 0)).sum(axis=1),
        }
        _explain(student.encode(logits.copy(), mask.copy()), finish(highest), mistakes)


def check_quantise(student: Any, seed: int) -> None:
    """Task 2."""
    rng = np.random.default_rng(seed + 1)
    weights = np.concatenate([rng.uniform(0, 3, 40), [0.0, 0.005, 0.015, 0.025, 0.125, 1.5]])
    for scale in (100.0, 2.0):
        product = weights * scale
        found = student.quantise(weights.copy(), scale)
        mistakes = {
            "impacts are truncated instead of rounded: 1.99 must become 2": np.floor(product),
            "impacts are rounded up: use the nearest integer": np.ceil(product),
            "the scale is not used": np.floor(weights + 0.5),
            "weights are divided by the scale: multiply": np.floor(weights / scale + 0.5),
            "halves are rounded to even numbers, as numpy.round does: 2.5 must become 3": np.round(product),
        }
        _explain(found, np.floor(product + 0.5), mistakes)
        assert np.issubdtype(found.dtype, np.integer), f"impacts must be integers, found the type {found.dtype}"


def _top(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=1, kind="stable")[:, :10]


def _agreement(documents: np.ndarray, queries: np.ndarray, scale: float) -> float:
    impacts = np.floor(documents * scale + 0.5)
    pairs = zip(_top(queries @ impacts.T), _top(queries @ documents.T))
    return float(np.mean([len(set(found) & set(wanted)) / 10 for found, wanted in pairs]))


def check_choose_scale(student: Any, seed: int) -> None:
    """Task 3."""
    rng = np.random.default_rng(seed + 2)
    scales = [500.0, 1.0, 50.0, 2.0, 20.0, 5.0, 0.5, 100.0]
    for terms in (30, 120):
        documents = rng.gamma(1.0, 0.5, size=(150, terms)) * (rng.random((150, terms)) < 0.3)
        queries = rng.gamma(1.0, 0.5, size=(40, terms)) * (rng.random((40, terms)) < 0.2)
        found = student.choose_scale(documents.copy(), queries.copy(), list(scales))
        assert found in scales, f"return one of the candidates {sorted(scales)}, found {found!r}"
        kept = {scale: _agreement(documents, queries, scale) for scale in scales}
        expected = min((scale for scale in scales if kept[scale] >= 0.95), default=max(scales))
        if found < expected:
            raise AssertionError(
                f"scale {found:g} is too coarse: it keeps only {kept[found]:.0%} of the ten best documents; 95 % are required"
            )
        assert found == expected, f"scale {found:g} is finer than needed: {expected:g} already keeps {kept[expected]:.0%}"


def check_prune(student: Any, seed: int) -> None:
    """Task 4."""
    rng = np.random.default_rng(seed + 3)
    for k in (1, 3, 5, 40):
        names = [f"t{number:02d}" for number in rng.permutation(30)]
        vector = dict(zip(names, (int(impact) for impact in rng.integers(1, 12, size=30))))
        given = dict(vector)
        found = student.prune(vector, k)
        assert vector == given, "prune modifies its argument: return a new dictionary"
        order = sorted(given.items(), key=lambda item: (-item[1], item[0]))
        expected = dict(order[:k])
        if dict(found) == expected:
            continue
        lightest = sorted(given.values())[:k]
        if sorted(found.values()) == lightest and len(found) == k:
            raise AssertionError(f"pruned from the wrong side: the {k} lightest of 30 terms are kept instead of the heaviest")
        if sorted(found.values()) == sorted(expected.values()):
            raise AssertionError("among terms with equal impacts, keep the first ones in the alphabet")
        raise AssertionError(
            f"with k = {k}, {len(found)} terms are kept with the impacts {sorted(found.values(), reverse=True)[:8]}"
        )


def _documents(seed: int) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed + 4)
    return [
        {f"t{term}": int(rng.integers(1, 9)) for term in rng.choice(25, size=int(rng.integers(0, 7)), replace=False)}
        for _ in range(40)
    ]


def check_build_index(student: Any, seed: int) -> None:
    """Task 5."""
    documents = _documents(seed)
    found = student.build_index([dict(vector) for vector in documents])
    expected: dict[str, list[tuple[int, int]]] = {}
    for number, vector in enumerate(documents):
        for term, impact in vector.items():
            expected.setdefault(term, []).append((number, impact))
    assert set(found) == set(expected), f"the index has {len(found)} terms, expected {len(expected)}"
    for term, postings in expected.items():
        own = [tuple(posting) for posting in found[term]]
        if [(number + 1, impact) for number, impact in postings] == own:
            raise AssertionError("documents are numbered from 1: the first document must have the number 0")
        if own != postings and sorted(own) == postings:
            raise AssertionError(f"the postings of {term!r} are not in the order of the documents")
        assert own == postings, f"the postings of {term!r} are {own[:5]}, expected {postings[:5]}"


class _Counting(dict):  # type: ignore[type-arg]
    """An index that records which postings are read."""

    def __init__(self, index: dict[str, list[tuple[int, int]]]) -> None:
        super().__init__(index)
        self.read: set[str] = set()

    def __getitem__(self, term: str) -> Any:
        self.read.add(term)
        return super().__getitem__(term)

    def get(self, term: str, default: Any = None) -> Any:
        """Return postings, and record the term."""
        self.read.add(term)
        return super().get(term, default)

    def items(self) -> Any:
        """Return all postings, and record all terms."""
        self.read |= set(self)
        return super().items()


def check_search(student: Any, seed: int) -> None:
    """Task 6."""
    documents = _documents(seed)
    index: dict[str, list[tuple[int, int]]] = {}
    for number, vector in enumerate(documents):
        for term, impact in vector.items():
            index.setdefault(term, []).append((number, impact))
    rng = np.random.default_rng(seed + 5)
    for k in (3, 100):
        query = {f"t{term}": float(rng.integers(1, 4)) / 2 for term in rng.choice(30, size=4, replace=False)}
        counting = _Counting(index)
        found = [(int(number), float(score)) for number, score in student.search(counting, dict(query), k)]
        scores = {n: sum(w * vector.get(t, 0) for t, w in query.items()) for n, vector in enumerate(documents)}
        expected = sorted(((n, s) for n, s in scores.items() if s), key=lambda item: (-item[1], item[0]))[:k]
        assert not any(score == 0 for _, score in found), "documents without a term of the query must not be returned"
        matches = {n: sum(vector.get(t, 0) for t in query) for n, vector in enumerate(documents)}
        if found and all(score == matches[number] for number, score in found) and found != expected:
            raise AssertionError("the weights of the query are not used: a score is the sum of weight times impact")
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True), "the best document must come first"
        assert sorted(s for _, s in found) == sorted(s for _, s in expected), (
            f"with k = {k}, the scores are {[s for _, s in found][:5]}, expected {[s for _, s in expected][:5]}"
        )
        assert found == expected, "among documents with equal scores, the lower number must come first"
        assert counting.read <= set(query), "search reads postings of terms that are not in the query"


def check_fusion(student: Any, seed: int) -> None:
    """Task 7."""
    rng = np.random.default_rng(seed + 6)
    for _ in range(4):
        rankings = [[f"d{n:02d}" for n in rng.permutation(25)[: int(rng.integers(3, 20))]] for _ in range(3)]

        def fused(first: int, rankings: list[list[str]] = rankings) -> list[str]:
            scores: dict[str, float] = {}
            for ranking in rankings:
                for rank, docno in enumerate(ranking, start=first):
                    scores[docno] = scores.get(docno, 0.0) + 1 / (60 + rank)
            return sorted(scores, key=lambda docno: (-scores[docno], docno))

        found = list(student.reciprocal_rank_fusion([list(ranking) for ranking in rankings]))
        assert set(found) == {docno for ranking in rankings for docno in ranking}, (
            "a document is missing, or is in none of the rankings"
        )
        assert found != fused(1)[::-1], "the worst document comes first: sort by descending scores"
        assert found == fused(1), f"the fused ranking begins with {found[:4]}, expected {fused(1)[:4]}"


def check_systems(student: Any, seed: int) -> None:
    """Task 8. The model, which loads for seconds, comes after the student's code, so that a missing solution costs little."""
    dataset = pt.get_dataset("csplade:python-docs")
    corpus = pd.DataFrame(dataset.get_corpus_iter(verbose=False))
    corpus = corpus[corpus["text"].str.len() < 300]  # short documents, so that the grader takes only seconds
    corpus = corpus.sample(60, random_state=seed).reset_index(drop=True)
    topics = dataset.get_topics()
    topics = topics[topics["qid"].isin(set(corpus["docno"].head(12)))].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as directory:
        systems = student.systems(corpus[["docno", "text"]].copy(), directory)
        assert {"BM25", "CSPLADE", "hybrid"} <= set(systems), f"return BM25, CSPLADE and hybrid, found {', '.join(systems)}"
        found = {name: systems[name](topics) for name in ("BM25", "CSPLADE", "hybrid")}
    from pyterrier_csplade import CSPLADE

    csplade = CSPLADE.tiny()
    dots = csplade.encode_queries(list(topics["query"])) @ csplade.encode_docs(list(corpus["text"])).T
    for name, results in found.items():
        assert {"qid", "docno", "score", "rank"} <= set(results.columns), f"{name} must return qid, docno, score and rank"
        assert results.groupby("qid").size().max() <= 20, f"{name} returns more than 20 documents for a query"
    for row, qid in enumerate(topics["qid"]):
        own = found["CSPLADE"][found["CSPLADE"]["qid"] == qid].sort_values("rank")["docno"].head(1).tolist()
        exact = dict(zip(corpus["docno"], dots[row].toarray()[0]))
        assert own and exact[own[0]] >= 0.97 * max(exact.values()), (
            f"for {qid}, CSPLADE's first document is {own}, which does not have the highest dot product: does the pipeline "
            "encode documents and queries with the same model?"
        )
    order = {name: _rankings(results) for name, results in found.items()}
    for name in ("CSPLADE", "BM25"):
        same = np.mean([order["hybrid"][qid][:5] == order[name].get(qid, [])[:5] for qid in order["hybrid"]])
        assert same < 0.9, (
            f"the hybrid ranks like {name} alone, as if scores of different scales were added: fuse ranks or normalised scores"
        )


def _rankings(results: pd.DataFrame) -> dict[str, list[str]]:
    return {qid: list(rows.sort_values("rank")["docno"]) for qid, rows in results.groupby("qid")}
