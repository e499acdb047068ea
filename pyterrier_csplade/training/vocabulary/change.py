"""A new vocabulary, before it is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .bpe import BytePairs
from .shards import Rewrite


@dataclass(frozen=True)
class Change:
    """A new vocabulary.

    Attributes:
        encoding: The new tokenizer.
        rewrites: What makes the rows of the tables that change.
        new_ids: New ids of old ones; None if all ids stay.
        old_ids: The old id of each new one, if the rows are old ones.
        same_texts: A tokenizer whose ids ``old_ids`` are, to compare logits; None if there is nothing to compare.
        report: What the report says about the change.
    """

    encoding: BytePairs
    rewrites: Mapping[str, Rewrite] = field(default_factory=dict)
    new_ids: Mapping[int, int] | None = None
    old_ids: Sequence[int] = ()
    same_texts: BytePairs | None = None
    report: dict[str, Any] = field(default_factory=dict)
