"""A change of a vocabulary before it is written."""

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
        rewrites: Functions that make the rows of the changed tables.
        new_ids: The new id of each old one; None if ids do not change.
        old_ids: The old id of each new one, if rows are copied.
        same_texts: The tokenizer of ``old_ids``, to compare logits; None if they cannot be compared.
        report: Entries of the report about the change.
    """

    encoding: BytePairs
    rewrites: Mapping[str, Rewrite] = field(default_factory=dict)
    new_ids: Mapping[int, int] | None = None
    old_ids: Sequence[int] = ()
    same_texts: BytePairs | None = None
    report: dict[str, Any] = field(default_factory=dict)
