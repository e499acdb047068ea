"""Vectors of a model for benchmarks/query_table.py, encoded once and kept on disk, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, load_npz, save_npz, vstack

from pyterrier_csplade import CSPLADE, Quantizer
from pyterrier_csplade.data import Source, read_jsonl, suggested_queries
from pyterrier_csplade.training.rows import passage_text

#: Number of texts in a piece. An interrupted run encodes at most one piece again.
PIECE = 2000
#: Number of documents whose titles and first sentences serve as queries.
SUGGESTING = 1000


class Encoded:
    """A collection with a model's vectors of its documents and queries.

    Attributes:
        name: Name of the collection's folder.
        model: The model.
    """

    def __init__(self, folder: Path, cache: Path, model: CSPLADE, documents: int | None = None) -> None:
        """Name a collection.

        Args:
            folder: Its folder.
            cache: Directory in which vectors are kept.
            model: The model.
            documents: Number of first documents to use, with the test queries whose judged documents are all among them; None
                uses all documents.
        """
        self.name = folder.name
        self.model = model
        self._limit = documents
        self._folder = folder
        self._cache = cache / folder.name

    @cached_property
    def _rows(self) -> list[dict[str, str]]:
        return [row for _, row in read_jsonl(self._folder / "docs.jsonl.gz")][: self._limit]

    @cached_property
    def docnos(self) -> list[str]:
        """The docno of each document."""
        return [row["docno"] for row in self._rows]

    @cached_property
    def _kept(self) -> np.ndarray:
        """Whether each test query is searched, bool [queries]."""
        qrels = self.qrels("test")
        missing = set(qrels["query_id"][~qrels["doc_id"].isin(self.docnos)])
        return ~self._topics("test")["qid"].isin(missing).to_numpy()

    @cached_property
    def documents(self) -> csr_matrix:
        """Impacts of all documents, int32 [documents, terms]."""
        quantizer = Quantizer()
        texts = [passage_text(row) for row in self._rows]
        return self._pieces("documents", texts, lambda piece: self.model.encode_docs(piece, quantizer=quantizer))

    def topics(self, split: str) -> pd.DataFrame:
        """Return qid and query of a split; "test" has no split in its file's name."""
        topics = self._topics(split)
        return topics[self._kept] if split == "test" else topics

    def _topics(self, split: str) -> pd.DataFrame:
        return self._read(split, "topics", "tsv", "\t", ["qid", "query"])

    def qrels(self, split: str) -> pd.DataFrame:
        """Return query_id, doc_id and relevance of a split."""
        names = ["query_id", "_", "doc_id", "relevance"]
        return self._read(split, "qrels", "txt", r"\s+", names).astype({"relevance": int})

    def queries(self, split: str) -> csr_matrix:
        """Return the full encoder's vectors of a split's queries, float32 [queries, terms]."""
        found = self._pieces(f"queries-{split}", self._topics(split)["query"].tolist(), self.model.encode_queries)
        return found[self._kept] if split == "test" else found

    def suggested(self) -> tuple[list[str], csr_matrix]:
        """Return titles and first sentences of documents as queries, and the full encoder's vectors of them."""
        source = Source(self.name, lambda: self._rows, lambda: len(self._rows))
        texts = suggested_queries(source, ["title", "text"], SUGGESTING)
        return texts, self._pieces("queries-suggested", texts, self.model.encode_queries)

    def _read(self, split: str, kind: str, suffix: str, sep: str, names: list[str]) -> pd.DataFrame:
        path = self._folder / f"{kind}{'' if split == 'test' else f'.{split}'}.{suffix}"
        return pd.read_csv(path, sep=sep, names=names, dtype=str, quoting=3, keep_default_na=False, engine="python")

    def _pieces(self, name: str, texts: Sequence[str], encode: Callable[[list[str]], csr_matrix]) -> csr_matrix:
        self._cache.mkdir(parents=True, exist_ok=True)
        found = []
        for start in range(0, len(texts), PIECE):
            path = self._cache / f"{name}-{start:07d}.npz"
            if not path.exists():
                temporary = path.with_suffix(".tmp.npz")
                save_npz(temporary, encode(list(texts[start : start + PIECE])))
                temporary.replace(path)
                print(f"{self.name}: {name} up to {min(start + PIECE, len(texts)):,} of {len(texts):,}", flush=True)
            found.append(load_npz(path).tocsr())
        return vstack(found, format="csr")
