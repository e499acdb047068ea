"""The report on a new vocabulary, ``vocabulary_report.json``."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyterrier_csplade.model.terms import never_produced

from .base import Base
from .bpe import BytePairs
from .change import Change
from .counts import Counts

REPORT_FILE = "vocabulary_report.json"
# Number of groups of merged tokens in the report.
_GROUPS = 50


def write_report(directory: Path, report: Mapping[str, Any]) -> None:
    """Write the report into the directory of the new model."""
    text = json.dumps(_rounded(dict(report)), indent=2, ensure_ascii=False)
    (directory / REPORT_FILE).write_text(text + "\n", encoding="utf-8")


def describe_change(base: Base, change: Change) -> dict[str, Any]:
    """Describe the tokens and rows before and after."""
    old, new = base.encoding, change.encoding
    return {
        "rows": {"before": base.rows, "after": base.rows if change.new_ids is None else len(new.tokens)},
        "tokens": {"before": len(old.tokens), "after": len(new.tokens)},
        "merges": {"before": len(old.merges), "after": len(new.merges)},
        "tokens_that_no_text_has": len(never_produced(new.tokenizer)),
        "tied": base.tables.outputs is None,
        "sha256": {"before": encoding_sha256(old), "after": encoding_sha256(new)},
        **change.report,
    }


def describe(counts: Counts) -> dict[str, Any]:
    """Describe a corpus by the tokens of the model before the change."""
    return {
        "documents": counts.texts,
        "words": counts.words,
        "tokens_per_word": float(counts.occurrences.sum() / counts.words),
        "bytes_per_token": float(counts.bytes / counts.occurrences.sum()),
        "tokens_in_documents": used_tokens(counts),
    }


def encoding_sha256(encoding: BytePairs) -> str:
    """Return the digest of tokens and ids."""
    return hashlib.sha256(json.dumps(sorted(encoding.tokens.items())).encode()).hexdigest()


def used_tokens(counts: Counts) -> dict[str, int]:
    """Return how many tokens occur in at least 1, 2, 5, 10 and 100 documents of the corpus."""
    return {str(least): int((counts.documents >= least).sum()) for least in (1, 2, 5, 10, 100)}


def lost_occurrences(counts: Counts, old_ids: Sequence[int]) -> float:
    """Return the share of the corpus's tokens that are occurrences of removed ones."""
    kept = np.zeros(len(counts.occurrences), bool)
    kept[np.asarray(old_ids)] = True
    return float(counts.occurrences[~kept].sum() / max(1, counts.occurrences.sum()))


def merged_groups(encoding: BytePairs, before: Counts) -> list[dict[str, Any]]:
    """Return the most frequent groups of tokens that differ only in case.

    Readers of the report must judge whether different meanings were merged, as in US and us.
    """
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for token, token_id in encoding.tokens.items():
        if token not in encoding.added and before.documents[token_id]:
            text = encoding.bytes_of(token).decode("utf-8", "replace")
            groups[text.lower()].append((int(before.documents[token_id]), text))
    merged = [(sum(n for n, _ in forms), key, forms) for key, forms in groups.items() if len(forms) > 1]
    return [
        {"term": key, "documents": {text: n for n, text in sorted(forms, reverse=True)}}
        for _, key, forms in sorted(merged, reverse=True)[:_GROUPS]
    ]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
