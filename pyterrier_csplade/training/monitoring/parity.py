"""A report on the effect of merging an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.model.encoder import BatchEncoder
from pyterrier_csplade.storage.files import write_atomically
from pyterrier_csplade.training.batches import RowDataset

# File in a run's directory.
_PARITY_FILE = "merge_parity.json"
# Number of training rows to compare; our choice (not measured).
_ROWS = 32
_BATCH = 16


class Probe:
    """Queries and passages of the training data to encode before and after merging."""

    def __init__(self, dataset: RowDataset) -> None:
        """Read the first rows of a dataset."""
        rows = [dataset[number] for number in range(min(_ROWS, len(dataset)))]
        self.queries = [row["query"] for row in rows]
        self.passages = list(dict.fromkeys(text for row in rows for text in [row["positive"], *row["negatives"]]))
        self.relevant = [set(row["positives"]) for row in rows]

    def encode(self, backbone: Backbone) -> tuple[csr_matrix, csr_matrix]:
        """Encode the queries and the passages."""
        training = backbone.training
        backbone.eval()
        encoder = BatchEncoder(backbone)
        queries = encoder.encode(backbone.tokenize(self.queries, "query")[0], _BATCH, self.queries)
        passages = encoder.encode(backbone.tokenize(self.passages, "document")[0], _BATCH, self.passages)
        backbone.train(training)
        return queries, passages

    def report(self, before: tuple[csr_matrix, csr_matrix], after: tuple[csr_matrix, csr_matrix]) -> dict[str, Any]:
        """Compare vectors by the largest and mean absolute difference of weights, and by nDCG@10 of the probe's queries.

        The mean is over the weights that are positive before or after merging.
        """
        differences = [abs(second - first) for first, second in zip(before, after)]
        active = sum(((first > 0) + (second > 0)).nnz for first, second in zip(before, after))
        return {
            "queries": len(self.queries),
            "passages": len(self.passages),
            "largest_weight": max(float(matrix.max()) for matrix in before),
            "largest_difference": max(float(difference.max()) for difference in differences),
            "mean_difference": float(sum(difference.sum() for difference in differences)) / max(active, 1),
            "ndcg@10_before": self._ndcg(*before),
            "ndcg@10_after": self._ndcg(*after),
        }

    def _ndcg(self, queries: csr_matrix, passages: csr_matrix) -> float:
        scores = np.asarray((queries @ passages.T).todense())
        names = [str(number) for number in range(len(self.passages))]
        qrels = {str(q): {names[p]: int(text in found) for p, text in enumerate(self.passages)}
                 for q, found in enumerate(self.relevant)}  # fmt: skip
        run = {str(q): dict(zip(names, map(float, row))) for q, row in enumerate(scores)}
        return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10])


def write_report(report: dict[str, Any], directory: Path) -> None:
    """Write a report into a run's directory."""
    write_atomically(directory / _PARITY_FILE, (json.dumps(report, indent=2) + "\n").encode())
