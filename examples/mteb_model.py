"""CSPLADE as a model for ``mteb.evaluate``, for retrieval and re-ranking tasks (mteb 2).

Usage: python mteb_model.py TASK ... [--model M], with names of tasks such as SciFact or NFCorpus.

In Python::

    import mteb
    from mteb_model import CspladeSearch
    from pyterrier_csplade import CSPLADE

    mteb.evaluate(CspladeSearch(CSPLADE.tiny(), "csplade-tiny"), mteb.get_tasks(tasks=["SciFact"]))

The vectors stay in memory, as sparse matrices of weights. The scores are exact dot products.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from mteb.models.model_meta import ModelMeta
from scipy.sparse import csr_matrix, vstack

from pyterrier_csplade import CSPLADE

# Number of documents to encode at once, and of queries to score at once.
_DOCUMENTS, _QUERIES = 10_000, 64


class CspladeSearch:
    """Implements ``mteb.models.models_protocols.SearchProtocol``."""

    def __init__(self, csplade: CSPLADE, name: str) -> None:
        """Wrap a model.

        Args:
            csplade: The model.
            name: Its name in the results, such as "organisation/model".
        """
        self._csplade = csplade
        self._name = name if "/" in name else f"pyterrier-csplade/{name}"
        self._docnos = np.array([], dtype=object)
        self._vectors: csr_matrix | None = None

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Describe the model."""
        return ModelMeta.create_empty({"name": self._name, "revision": "main", "framework": ["PyTorch"]})

    def index(self, corpus: Any, **_: Any) -> None:
        """Encode a corpus: a dataset with ``id``, ``text`` and perhaps ``title``."""
        self._docnos = np.array(list(map(str, corpus["id"])), dtype=object)
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(corpus)
        texts = [" ".join(filter(None, (title, text))) for title, text in zip(titles, corpus["text"])]
        blocks = [self._csplade.encode_docs(texts[at : at + _DOCUMENTS]) for at in range(0, len(texts), _DOCUMENTS)]
        self._vectors = vstack(blocks, format="csr")

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **_: Any
    ) -> dict[str, dict[str, float]]:
        """Return the best documents of queries: qid to docno to score.

        Args:
            queries: A dataset with ``id`` and ``text``.
            top_k: Maximum number of documents per query.
            top_ranked: In re-ranking tasks, the documents of each query.
        """
        if self._vectors is None:
            raise RuntimeError("index a corpus first")
        found: dict[str, dict[str, float]] = {}
        qids, texts = list(map(str, queries["id"])), list(queries["text"])
        place = {docno: row for row, docno in enumerate(self._docnos)}
        for at in range(0, len(qids), _QUERIES):
            encoded = self._csplade.encode_queries(texts[at : at + _QUERIES])
            scores = np.asarray((encoded @ self._vectors.T).todense())
            for qid, row in zip(qids[at : at + _QUERIES], scores):
                rows = np.arange(len(row)) if top_ranked is None else np.array([place[docno] for docno in top_ranked[qid]])
                best = rows[np.lexsort((rows, -row[rows]))[:top_k]]
                found[qid] = dict(zip(self._docnos[best].tolist(), row[best].astype(float).tolist()))
        return found


def main() -> None:
    import mteb

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--model", default="csplade-tiny", help="directory or hub id; default: %(default)s")
    arguments = parser.parse_args()
    csplade = CSPLADE.tiny(verbose=True) if arguments.model == "csplade-tiny" else CSPLADE(arguments.model, verbose=True)
    results = mteb.evaluate(CspladeSearch(csplade, Path(arguments.model).name), mteb.get_tasks(tasks=arguments.tasks))
    for result in results.task_results:
        print(f"{result.task_name}: {result.get_score():.4f}")


if __name__ == "__main__":
    main()
