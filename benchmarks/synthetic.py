"""A collection of learned sparse vectors of any size, made without a language model.

The statistical model; our choice (not measured):

- Documents belong to topics, and to one of ten subtopics of their topic. A topic has 400 terms that it prefers, a subtopic 60,
  both drawn from the background: a Zipf distribution over the vocabulary.
- A document has about 145 terms: 40 % from the background, 35 % from its topic, 25 % from its subtopic. The number of draws is
  log-normal with mean 170 and sigma 0.35; repeated terms count once.
- Impacts are log(1 + x) * 100 of an exponential variable x with a mean of 0.25, 0.6 or 1.2 for these three sources. A vector
  has few heavy and many light terms, as in SPLADE.
- A query is about a document: 24 of its terms, drawn in proportion to their impacts, and 8 terms of its subtopic that it may
  lack (expansion). Query weights are floats with the same distribution.
- Documents are in random order.

Every block of documents has its own seed, so that the collection is never in memory as a whole. Drawing takes longer than
building an index, so :class:`StoredVectors` draws once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, load_npz, save_npz

from pyterrier_csplade.index.search import Postings

_BLOCK = 10_000
_SUBTOPICS = 10
_SHARES = (0.4, 0.35, 0.25)
_MEANS = np.array([0.25, 0.6, 1.2])


@dataclass
class SyntheticVectors:
    """Encoded documents; implements ``EncodedVectors``.

    Attributes:
        documents: Number of documents.
        terms: Size of the vocabulary.
        mean_terms: Mean number of terms of a document before repeated terms are merged.
        seed: Seed of all draws.
    """

    documents: int
    terms: int = 32_000
    mean_terms: int = 170
    seed: int = 0

    contract = None

    @property
    def topics(self) -> int:
        """Number of topics; a topic has about 500 documents."""
        return max(20, self.documents // 500)

    @cached_property
    def vocabulary(self) -> Sequence[str]:
        """Names of the terms, the most frequent first."""
        return [f"t{i}" for i in range(self.terms)]

    def __len__(self) -> int:
        return self.documents

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and vectors."""
        for first in range(0, self.documents, _BLOCK):
            number = min(_BLOCK, self.documents - first)
            yield [f"d{i}" for i in range(first, first + number)], self._block(first, number)

    def queries(self, number: int) -> list[dict[str, float]]:
        """Return queries, each about a document."""
        generator = np.random.default_rng([self.seed, 1])
        _, matrix = next(self.blocks())
        subjects = self._subjects(0, matrix.shape[0])
        names, found = self.vocabulary, []
        for row in generator.integers(0, matrix.shape[0], number).tolist():
            columns, impacts = matrix[row].indices, matrix[row].data.astype(float)
            own = generator.choice(columns, min(24, len(columns)), replace=False, p=impacts / impacts.sum())
            related = generator.choice(self._preferred[2][subjects[1][row]], 8)
            weights = np.log1p(generator.exponential(0.8, len(own) + len(related)))
            found.append({names[c]: round(float(w) + 0.01, 6) for c, w in zip([*own.tolist(), *related.tolist()], weights)})
        return found

    def _subjects(self, first: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Topic and subtopic of documents."""
        generator = np.random.default_rng([self.seed, 2, first])
        topics = generator.integers(0, self.topics, number)
        return topics, topics * _SUBTOPICS + generator.integers(0, _SUBTOPICS, number)

    def _block(self, first: int, number: int) -> csr_matrix:
        generator = np.random.default_rng([self.seed, 3, first])
        lengths = np.clip(generator.lognormal(np.log(self.mean_terms), 0.35, number), 8, 2000).astype(int)
        rows = np.repeat(np.arange(number), lengths)
        kinds = generator.choice(3, len(rows), p=_SHARES)
        columns = self._zipf(generator.random(len(rows)))
        for kind, subjects in zip((1, 2), self._subjects(first, number)):
            at, preferred = np.flatnonzero(kinds == kind), self._preferred[kind]
            # Within a subject the first terms are the most frequent.
            places = (preferred.shape[1] * generator.random(len(at)) ** 2).astype(int)
            columns[at] = preferred[subjects[rows[at]], places]
        impacts = np.ceil(100 * np.log1p(generator.exponential(_MEANS[kinds]))).astype(np.int32)
        keys, kept = np.unique(rows * self.terms + columns, return_index=True)
        indptr = np.searchsorted(keys, np.arange(number + 1) * self.terms)
        return csr_matrix((impacts[kept], keys % self.terms, indptr), shape=(number, self.terms))

    @cached_property
    def _preferred(self) -> dict[int, np.ndarray]:
        """Terms that topics (kind 1) and subtopics (kind 2) prefer: [subjects, terms of a subject]."""
        return {
            kind: np.stack([self._zipf(np.random.default_rng([self.seed, salt, s]).random(size)) for s in range(number)])
            for kind, number, size, salt in ((1, self.topics, 400, 2), (2, self.topics * _SUBTOPICS, 60, 3))
        }

    def _zipf(self, uniform: np.ndarray) -> np.ndarray:
        """Convert uniform numbers to terms with a Zipf distribution that starts at rank 20."""
        offset = 20
        return (offset * ((self.terms + offset) / offset) ** uniform - offset).astype(np.int64)


class StoredVectors:
    """Vectors that are drawn once and kept in files, one per block; implements ``EncodedVectors``."""

    contract = None

    def __init__(self, vectors: SyntheticVectors, directory: Path) -> None:
        """Draw the vectors of missing files."""
        self.vocabulary, self._documents = vectors.vocabulary, len(vectors)
        self._files = [directory / f"{first}.npz" for first in range(0, len(vectors), _BLOCK)]
        if not all(file.exists() for file in self._files):
            directory.mkdir(parents=True, exist_ok=True)
            for file, (_, matrix) in zip(self._files, vectors.blocks()):
                save_npz(file, matrix, compressed=False)

    def __len__(self) -> int:
        return self._documents

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and vectors."""
        for number, file in enumerate(self._files):
            matrix = load_npz(file)
            yield [f"d{i}" for i in range(number * _BLOCK, number * _BLOCK + matrix.shape[0])], matrix


class DrawnGuide:
    """A guide (``GuideSource``) that is computed from the impacts of an index."""

    def __init__(self, postings: Postings, weigh: Callable[[int, np.ndarray], np.ndarray], description: str) -> None:
        """Make a guide from a function that maps a term's number and impacts to the guide's weights."""
        self._postings, self._weigh, self.description = postings, weigh, description
        self.largest = max(float(self.list_of(term)[1].max()) for term in postings.terms)

    def list_of(self, term: str) -> tuple[np.ndarray, np.ndarray]:
        """Return documents and weights."""
        number = self._postings.number(term)
        assert number is not None
        docids, impacts = self._postings.list_of(number)
        return docids, self._weigh(number, impacts)


def guide_of_noise(postings: Postings) -> DrawnGuide:
    """Return a guide that agrees with the learned impacts: the impacts times log-normal noise with sigma 0.3."""

    def weigh(number: int, impacts: np.ndarray) -> np.ndarray:
        return impacts * np.exp(0.3 * np.random.default_rng([4, number]).standard_normal(len(impacts)))

    return DrawnGuide(postings, weigh, "impacts times noise")


def guide_of_rarity(postings: Postings) -> DrawnGuide:
    """Return a guide shaped like BM25: saturated impacts (k1 = 0.82, at the mean impact) times the term's IDF."""
    mean = float(postings.impacts[:1_000_000].mean())

    def weigh(number: int, impacts: np.ndarray) -> np.ndarray:
        idf = np.log1p((len(postings) - len(impacts) + 0.5) / (len(impacts) + 0.5))
        return idf * 1.82 * impacts / (impacts + 0.82 * mean)

    return DrawnGuide(postings, weigh, "saturated impacts times IDF")
