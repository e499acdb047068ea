"""What is relevant to what in a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ._processes import gather


@dataclass(frozen=True)
class Labels:
    """Relevance within a batch of queries and passages, and a teacher's scores.

    Attributes:
        targets: The passage that is each query's positive, int64 [queries].
        owners: The query for which each passage was drawn, int64 [passages].
        texts: Identifies each passage's text, int64 [passages].
        relevant_queries: With ``relevant_texts``, the pairs of a query and a text that is relevant to it, int64 [pairs].
        relevant_texts: As ``texts``, int64 [pairs].
        teacher: A teacher's score of each passage for its owner, float32 [passages]; NaN without a teacher.
    """

    targets: Tensor
    owners: Tensor
    texts: Tensor
    relevant_queries: Tensor
    relevant_texts: Tensor
    teacher: Tensor

    @property
    def excluded(self) -> Tensor:
        """Bool [queries, passages]: no negatives, since their text is another positive of the query (ours)."""
        matches = self.relevant_texts[:, None] == self.texts[None, :]
        relevant = torch.zeros(len(self.targets), len(self.texts), dtype=torch.int32, device=matches.device)
        relevant.index_add_(0, self.relevant_queries, matches.int())
        excluded = relevant > 0
        excluded[torch.arange(len(self.targets), device=matches.device), self.targets] = False
        return excluded

    @property
    def own(self) -> Tensor:
        """Bool [queries, passages]: the passages that were drawn for the query."""
        return self.owners[None, :] == torch.arange(len(self.targets), device=self.owners.device)[:, None]

    def gathered(self) -> Labels:
        """The labels of the batches of all processes, one after the other in the order of the ranks."""
        names = ("targets", "owners", "texts", "relevant_queries", "relevant_texts", "teacher")
        parts = dict(zip(names, gather([getattr(self, name) for name in names])))
        first_query = [0, *accumulate(map(len, parts["targets"]))]
        first_passage = [0, *accumulate(map(len, parts["texts"]))]
        for name, offsets in (("targets", first_passage), ("owners", first_query), ("relevant_queries", first_query)):
            parts[name] = [part + offset for part, offset in zip(parts[name], offsets)]
        return Labels(**{name: torch.cat(part) for name, part in parts.items()})


def make_labels(rows: Sequence[dict[str, Any]], texts: Sequence[str], owners: Sequence[int], order: Sequence[int]) -> Labels:
    """Make the labels of a batch whose first passages are the rows' positives.

    Args:
        rows: As ``RowDataset`` gives them.
        texts: The passages; passage i is the positive of row i while there is a row i.
        owners: The row of each passage.
        order: The passages as they stand in the batch.
    """
    place = {passage: rank for rank, passage in enumerate(order)}
    pairs = [(own, text_id(text)) for own, row in enumerate(rows) for text in row["positives"]]
    taken = [0] * len(rows)
    teacher = []
    for owner in owners:
        scores = rows[owner]["scores"]
        teacher.append(float("nan") if scores is None else scores[taken[owner]])
        taken[owner] += 1
    return Labels(
        targets=torch.tensor([place[own] for own in range(len(rows))]),
        owners=torch.tensor([owners[passage] for passage in order]),
        texts=torch.tensor([text_id(texts[passage]) for passage in order]),
        relevant_queries=torch.tensor([own for own, _ in pairs]),
        relevant_texts=torch.tensor([text for _, text in pairs]),
        teacher=torch.tensor([teacher[passage] for passage in order], dtype=torch.float32),
    )


def text_id(text: str) -> int:
    """A 64-bit digest of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
