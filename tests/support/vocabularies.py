"""Models and corpora for the vocabulary stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .encodings import SENTENCES, encoding
from .models import language_model


def save_model(
    directory: Path, kind: str = "gpt2", architecture: str = "llama-tied", *, size: int = 600, rows: int | None = None
) -> Path:
    """Save a random model whose tokenizer is of a kind.

    Args:
        directory: Where to.
        kind: As in ``encoding``.
        architecture: As in ``language_model``.
        size: Tokens of the tokenizer.
        rows: Rows of the tables; by default, as many as tokens.
    """
    tokenizer = encoding(kind, size)
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None,
    }  # fmt: skip
    language_model(architecture, vocab_size=rows or len(tokenizer), **ids).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_corpus(path: Path, texts: list[str] = SENTENCES) -> Path:
    """Write documents with these texts."""
    path.write_text("".join(json.dumps({"docno": str(n), "text": text}) + "\n" for n, text in enumerate(texts)))
    return path
