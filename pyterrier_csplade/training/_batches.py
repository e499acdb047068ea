"""Training rows on disk, drawn reproducibly, and their batches."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from pyterrier_csplade._backbone import Backbone
from pyterrier_csplade._errors import DataError

from ._rows import TrainingRow

# Passages that go through the model together. They are sorted by length, so that small parts hold little padding. Ours,
# measured on a CPU: 8 and 16 are no faster, 128 are slower.
_CHUNK = 32


class RowDataset(Dataset[dict[str, Any]]):
    """Training rows with one positive and some hard negatives each.

    The rows lie in a file and only their places in memory, so that the data may be larger than the memory. What is drawn from a
    row depends on seed, epoch and row alone: the same after resuming and in any number of processes.
    """

    def __init__(self, rows: Iterable[TrainingRow], path: Path, *, negatives: int, seed: int) -> None:
        """Write the rows to a file.

        Args:
            rows: The rows.
            path: The file.
            negatives: Hard negatives to draw; all where a row has fewer.
            seed: Of the draws.

        Raises:
            DataError: There is no row.
        """
        self.path, self.negatives, self.seed, self.epoch = path, negatives, seed, 0
        self._places = [0]
        with path.open("wb") as out:
            for row in rows:
                self._places.append(self._places[-1] + out.write(json.dumps(asdict(row)).encode() + b"\n"))
        if len(self._places) == 1:
            raise DataError("the training data has no rows")

    def set_epoch(self, epoch: int) -> None:
        """Draw other passages in another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._places) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.path.open("rb") as lines:
            lines.seek(self._places[index])
            row = json.loads(lines.readline())
        rng = random.Random(f"{self.seed} {self.epoch} {index}")
        return {
            "query": row["query"],
            "positive": rng.choice(row["positives"]),
            "negatives": rng.sample(row["negatives"], min(self.negatives, len(row["negatives"]))),
            "positives": row["positives"],
        }


class Collator:
    """Makes a batch: the queries, and all their passages sorted by length and cut into parts."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tokenise and pad.

        Returns:
            ``queries``, as ``Backbone.collate`` makes it; ``passages``, a list of such; ``targets``, int64 [queries], the
            place of each query's positive among the passages; ``excluded``, bool [queries, passages], true for other passages
            whose text is a positive of the query: they are relevant and no negatives (ours).
        """
        texts = [row["positive"] for row in rows] + [text for row in rows for text in row["negatives"]]
        sequences = self.backbone.tokenize(texts, "document")[0]
        order = sorted(range(len(texts)), key=lambda i: -len(sequences[i]))
        place = {i: rank for rank, i in enumerate(order)}
        relevant = [set(row["positives"]) for row in rows]
        excluded = torch.tensor([[i != own and texts[i] in relevant[own] for i in order] for own in range(len(rows))])
        parts = [[sequences[i] for i in order[start : start + _CHUNK]] for start in range(0, len(order), _CHUNK)]
        queries = self.backbone.tokenize([row["query"] for row in rows], "query")[0]
        return {
            "queries": self.backbone.collate(queries),
            "passages": [self.backbone.collate(part) for part in parts],
            "targets": torch.tensor([place[own] for own in range(len(rows))]),
            "excluded": excluded,
        }
