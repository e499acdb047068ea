"""Speed, recall and exactness, for benchmarks/search.py."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
from _search_indexes import timed
from ir_measures import calc_aggregate, nDCG
from scipy.sparse import csr_matrix

from pyterrier_csplade._recall import _top
from pyterrier_csplade.search._algorithm import Budget, algorithm

BATCH = 25


def compare(
    systems: list[tuple[str, str, Any]], queries: pd.DataFrame, qrels: pd.DataFrame | None, k: int
) -> list[dict[str, Any]]:
    """Search all batches with all systems in turns."""
    retrievers = [make(k) for _, _, make in systems]
    batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    reference = next(i for i, (system, _, _) in enumerate(systems) if system == "exhaustive")
    seconds: list[list[float]] = [[] for _ in systems]
    processor = [0.0] * len(systems)
    results: list[list[pd.DataFrame]] = [[] for _ in systems]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="bmp keeps scores in 16 bits")
        for number, batch in enumerate([batches[0], *batches]):
            for i, retriever in enumerate(retrievers):
                before = time.process_time()
                taken, found = timed(lambda: retriever.transform(batch))  # noqa: B023
                if number:  # the first time everything is opened and compiled
                    processor[i] += time.process_time() - before
                    seconds[i].append(taken / len(batch))
                    results[i].append(found[["qid", "docno", "score"]])
    rankings = [pd.concat(found) for found in results]
    exact = {qid: _top(rows, k) for qid, rows in rankings[reference].groupby("qid")}
    order = rankings[reference].groupby("qid")["docno"].agg(list)
    rows = []
    for (system, label, _), taken, used, ranking in zip(systems, seconds, processor, rankings):
        kept = {qid: set(found["docno"]) for qid, found in ranking.groupby("qid")}
        recall = [min(len(kept.get(qid, set()) & best), n) / n for qid, (best, n) in exact.items()]
        same = ranking.groupby("qid")["docno"].agg(list).reindex(order.index)
        row = {
            "system": system, "label": label, "k": k, "mrt": 1000 * statistics.median(taken),
            "processor": 1000 * used / len(queries),
            "ratio": statistics.median(own / other for own, other in zip(taken, seconds[reference])),
            f"exact_recall@{k}": float(np.mean(recall)), "same ranking": float((same == order).mean()),
        }  # fmt: skip
        if qrels is not None:
            run = ranking.rename(columns={"qid": "query_id", "docno": "doc_id"})
            row["nDCG@10"] = calc_aggregate([nDCG @ 10], qrels[qrels["query_id"].isin(order.index)], run)[nDCG @ 10]
        rows.append(row)
    return rows


def exactness(index: Any, matrix: csr_matrix, terms: list[str], queries: pd.DataFrame) -> dict[str, Any]:
    """Compare order and scores of the top 1000 with scipy's product; sums are added up in other orders, so scores to 1e-12."""
    columns = {term: column for column, term in enumerate(terms)}
    systems = {name: algorithm(name, {}).prepare(index.postings()) for name in ("exhaustive", "maxscore", "bmp")}
    found = dict.fromkeys(systems, 0)
    documents = matrix.astype(np.float64).tocsr()
    for toks in queries["query_toks"]:
        weights = np.zeros(len(terms))
        weights[[columns[t] for t in toks if t in columns]] = [w for t, w in toks.items() if t in columns]
        scores = documents @ weights
        best = np.lexsort((np.arange(len(scores)), -scores))[:1000]
        best = best[scores[best] > 0]
        for name, searcher in systems.items():
            hits = searcher(index.postings().query(toks), 1000, Budget())
            close = len(hits.docids) == len(best) and np.allclose(hits.scores, scores[best], rtol=1e-12, atol=0)
            # Where two sums agree to the last digits, scipy may have them the other way round.
            found[name] += bool(close and np.allclose(scores[hits.docids], scores[best], rtol=1e-12, atol=0))
    return {"queries": len(queries), "top 1000 as scipy's": found}
