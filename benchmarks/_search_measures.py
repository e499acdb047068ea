"""Speed, recall and exactness for benchmarks/search.py."""

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

from pyterrier_csplade.evaluation import _top
from pyterrier_csplade.index.search.algorithm import Budget, algorithm

#: Number of queries in a batch, and number of times that each batch is searched.
BATCH, TURNS = 25, 3


def compare(
    systems: list[tuple[str, str, Any]], queries: pd.DataFrame, qrels: pd.DataFrame | None, k: int
) -> list[dict[str, Any]]:
    """Search all batches with all systems in turns."""
    batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="bmp keeps scores in 16 bits")
        seconds, processor, results = race([make(k) for _, _, make in systems], batches)
    reference = next(i for i, (system, _, _) in enumerate(systems) if system == "exhaustive")
    rankings = [pd.concat(found) for found in results]
    exact = {qid: _top(rows, k) for qid, rows in rankings[reference].groupby("qid")}
    order = rankings[reference].groupby("qid")["docno"].agg(list)
    rows = []
    for (system, label, _), taken, used, ranking in zip(systems, seconds.tolist(), processor.tolist(), rankings):
        kept = {qid: set(found["docno"]) for qid, found in ranking.groupby("qid")}
        recall = [min(len(kept.get(qid, set()) & best), n) / n for qid, (best, n) in exact.items()]
        same = ranking.groupby("qid")["docno"].agg(list).reindex(order.index)
        row = {
            "system": system, "label": label, "k": k,
            "mrt": 1000 * statistics.median(taken), "processor": 1000 * statistics.mean(used),
            "ratio": statistics.median(own / other for own, other in zip(used, processor[reference])),
            f"exact_recall@{k}": float(np.mean(recall)), "same ranking": float((same == order).mean()),
        }  # fmt: skip
        if qrels is not None:
            run = ranking.rename(columns={"qid": "query_id", "docno": "doc_id"})
            row["nDCG@10"] = calc_aggregate([nDCG @ 10], qrels[qrels["query_id"].isin(order.index)], run)[nDCG @ 10]
        rows.append(row)
    return rows


def race(retrievers: list[Any], batches: list[pd.DataFrame]) -> tuple[np.ndarray, np.ndarray, list[list[pd.DataFrame]]]:
    """Let all retrievers search each batch in turns, in random order, because each of them leaves other data in the caches.

    Returns:
        Seconds and processor seconds per query, the minimum of the turns, [retrievers, batches]; and the results of each.
    """
    generator = np.random.default_rng(0)
    least = np.full((2, len(retrievers), len(batches)), np.inf)
    results: list[list[pd.DataFrame]] = [[] for _ in retrievers]
    for retriever in retrievers:  # everything is opened and compiled
        retriever.transform(batches[0])
    for number, batch in enumerate(batches):
        for turn in range(TURNS):
            for i in generator.permutation(len(retrievers)).tolist():
                before = time.process_time()
                taken, found = timed(lambda: retrievers[i].transform(batch))  # noqa: B023
                spent = np.array([taken, time.process_time() - before]) / len(batch)
                least[:, i, number] = np.minimum(least[:, i, number], spent)
                if turn == 0:
                    results[i].append(found[["qid", "docno", "score"]])
    return least[0], least[1], results


def exactness(index: Any, matrix: csr_matrix, terms: list[str], queries: pd.DataFrame) -> dict[str, Any]:
    """Compare order and scores of the top 1000 with scipy's product; scores to 1e-12, because the sums have another order."""
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
            # If two sums agree to the last digits, scipy's order may differ.
            found[name] += bool(close and np.allclose(scores[hits.docids], scores[best], rtol=1e-12, atol=0))
    return {"queries": len(queries), "top 1000 as scipy's": found}
