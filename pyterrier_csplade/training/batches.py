"""Training rows on disk, reproducible draws of their passages, and batches."""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.model.encoder import plan

from .checkpoints import prepared
from .distributed import gather
from .own_tokens import OwnTokenFinder
from .rows import TrainingRow

# Texts in a part of a batch. They are sorted by length, so that small parts have little padding; our choice (measured: on a
# CPU, 8 and 16 are no faster, and 128 is slower).
_CHUNK = 32
# On an accelerator, which idles between kernels if parts are small, a part may contain up to this many times _CHUNK short
# texts, but not more tokens than _CHUNK texts of full length. The factor bounds the memory of the vectors; our choice
# (measured: on an H200, an 8B model takes 1.5 times as long for texts of 64 tokens in parts of 32 as in parts of 96).
_SHORT_TEXTS = 4


class RowDataset(Dataset[dict[str, Any]]):
    """Training rows with one positive and some hard negatives each.

    The rows stay in a file, and only their offsets are in memory, so that the data can be larger than the memory. Draws depend
    only on seed, epoch and row, so they are the same after resuming and for any number of processes.
    """

    def __init__(self, path: Path, *, negatives: int, seed: int) -> None:
        """Open a file from ``write_rows``, to draw ``negatives`` hard negatives, or all of a row that has fewer."""
        self.path, self.negatives, self.seed, self.epoch = path, negatives, seed, 0
        self._places = [0]
        with path.open("rb") as lines:
            for line in lines:
                self._places.append(self._places[-1] + len(line))

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
        positives, negatives, scores = row["positives"], row["negatives"], row["scores"]
        positive = rng.randrange(len(positives))
        drawn = rng.sample(range(len(negatives)), min(self.negatives, len(negatives)))
        return {
            "query": row["query"],
            "positive": positives[positive],
            "negatives": [negatives[place] for place in drawn],
            "positives": positives,
            "scores": scores and [scores[positive], *(scores[len(positives) + place] for place in drawn)],
        }


def write_rows(rows: Iterable[TrainingRow], path: Path, *, scored: bool) -> None:
    """Write training rows to a file, which appears when it is complete.

    Raises:
        DataError: There are no rows, a row lacks scores, or the run in this directory began with other rows.
    """
    number = 0
    with prepared(path) as out:
        for number, row in enumerate(rows, 1):
            if scored and row.scores is None:
                raise DataError(
                    f"row {number}, {row.query[:60]!r}: the passages have no teacher's scores, which kl_weight and "
                    "margin_mse_weight require: mine them with mine_negatives(..., teacher=...)"
                )
            out.write(json.dumps(asdict(row)).encode() + b"\n")
        if not number:
            raise DataError("the training data has no rows")


class Collator:
    """Makes a batch of queries and all their passages, divided into parts."""

    def __init__(self, backbone: Backbone, pieces: int = 1) -> None:
        """Create a collator.

        Args:
            backbone: The model, which tokenises and pads.
            pieces: Minimum number of parts of the passages. Parts of queries have the same maximum size.
        """
        self.backbone, self.pieces, self.find = backbone, pieces, OwnTokenFinder(backbone)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tokenise and pad.

        Returns:
            ``queries`` and ``passages``, lists of parts from ``Backbone.collate``, with passages sorted by length; ``labels``,
            the fields of ``Labels``; and ``own_queries`` and ``own_passages``, the fields of ``OwnTokens``.
        """
        texts = [row["positive"] for row in rows] + [text for row in rows for text in row["negatives"]]
        owners = [*range(len(rows)), *(own for own, row in enumerate(rows) for _ in row["negatives"])]
        sequences = self.backbone.tokenize(texts, "document")[0]
        order = sorted(range(len(texts)), key=lambda i: -len(sequences[i]))
        labels = _make_labels(rows, texts, owners, order)
        queries = self.backbone.tokenize([row["query"] for row in rows], "query")[0]
        passages = [sequences[passage] for passage in order]
        limits, device = part_limits(self.backbone, len(texts), self.pieces), self.backbone.device
        own = {"own_queries": self.find(queries, "query"), "own_passages": self.find(passages, "document")}
        return {
            "queries": cut_parts(self.backbone, queries, [max(map(len, queries))] * len(queries), *limits),
            "passages": cut_parts(self.backbone, passages, list(map(len, passages)), *limits),
            "labels": {name: values.to(device) for name, values in vars(labels).items()},
            **{side: {name: values.to(device) for name, values in vars(found).items()} for side, found in own.items()},
        }


def cut_parts(
    backbone: Backbone, sequences: Sequence[Sequence[int]], lengths: Sequence[int], tokens: int, size: int
) -> list[dict[str, Any]]:
    """Divide sequences into padded parts of at most ``tokens`` tokens and ``size`` texts; lengths must not increase."""
    return [backbone.collate(sequences[part]) for part in plan([max(1, n) for n in lengths], tokens, size)]


def part_limits(backbone: Backbone, texts: int, pieces: int) -> tuple[int, int]:
    """Return the maximum numbers of tokens and of texts in a part, for ``texts`` in at least ``pieces`` parts."""
    accelerator = backbone.device.type != "cpu"
    tokens = part_tokens(backbone.contract.document_length) if accelerator else sys.maxsize
    return tokens, part_size(texts, pieces, accelerator=accelerator)


def part_size(texts: float, pieces: int, *, accelerator: bool) -> int:
    """Return the maximum number of texts in a part, for ``texts`` in at least ``pieces`` parts."""
    return min(_SHORT_TEXTS * _CHUNK if accelerator else _CHUNK, math.ceil(texts / pieces))


def part_tokens(document_length: int) -> int:
    """Return the maximum number of tokens in a part on an accelerator; echo counts one copy."""
    return _CHUNK * document_length


@dataclass(frozen=True)
class Labels:
    """Relevance within a batch of queries and passages, and a teacher's scores.

    Attributes:
        targets: The positive passage of each query, int64 [queries].
        owners: The query for which each passage was drawn, int64 [passages].
        texts: Digest of each passage's text, int64 [passages].
        relevant_queries: The queries of all pairs of a query and a relevant text, int64 [pairs].
        relevant_texts: Digests of the texts of these pairs, int64 [pairs].
        teacher: Score of each passage for its owner by a teacher, float32 [passages]; NaN without a teacher.
    """

    targets: Tensor
    owners: Tensor
    texts: Tensor
    relevant_queries: Tensor
    relevant_texts: Tensor
    teacher: Tensor

    @property
    def excluded(self) -> Tensor:
        """Passages with the text of another positive of a query, bool [queries, passages].

        They are excluded from the negatives of the query; our choice (not measured).
        """
        matches = self.relevant_texts[:, None] == self.texts[None, :]
        relevant = torch.zeros(len(self.targets), len(self.texts), dtype=torch.int32, device=matches.device)
        relevant.index_add_(0, self.relevant_queries, matches.int())
        excluded = relevant > 0
        excluded[torch.arange(len(self.targets), device=matches.device), self.targets] = False
        return excluded

    @property
    def own(self) -> Tensor:
        """Passages that were drawn for a query, bool [queries, passages]."""
        return self.owners[None, :] == torch.arange(len(self.targets), device=self.owners.device)[:, None]

    def gathered(self) -> Labels:
        """Return the labels of the batches of all processes, concatenated in the order of the ranks."""
        parts = dict(zip(vars(self), gather(list(vars(self).values()))))
        first_query = [0, *accumulate(map(len, parts["targets"]))]
        first_passage = [0, *accumulate(map(len, parts["texts"]))]
        for name, offsets in (("targets", first_passage), ("owners", first_query), ("relevant_queries", first_query)):
            parts[name] = [part + offset for part, offset in zip(parts[name], offsets)]
        return Labels(**{name: torch.cat(part) for name, part in parts.items()})


def _make_labels(rows: Sequence[dict[str, Any]], texts: Sequence[str], owners: Sequence[int], order: Sequence[int]) -> Labels:
    """Make the labels of a batch.

    Args:
        rows: Rows from ``RowDataset``.
        texts: The passages, beginning with the positives of the rows.
        owners: The row of each passage.
        order: Indices of the passages in the order of the batch.
    """
    place = {passage: rank for rank, passage in enumerate(order)}
    pairs = [(own, _text_id(text)) for own, row in enumerate(rows) for text in row["positives"]]
    taken = [0] * len(rows)
    teacher = []
    for owner in owners:
        scores = rows[owner]["scores"]
        teacher.append(float("nan") if scores is None else scores[taken[owner]])
        taken[owner] += 1
    return Labels(
        targets=torch.tensor([place[own] for own in range(len(rows))]),
        owners=torch.tensor([owners[passage] for passage in order]),
        texts=torch.tensor([_text_id(texts[passage]) for passage in order]),
        relevant_queries=torch.tensor([own for own, _ in pairs]),
        relevant_texts=torch.tensor([text for _, text in pairs]),
        teacher=torch.tensor([teacher[passage] for passage in order], dtype=torch.float32),
    )


def _text_id(text: str) -> int:
    """Return a 64-bit digest of a text that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
