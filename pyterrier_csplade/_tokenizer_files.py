"""The files of a tokenizer, without traces of the machine that wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_CONFIG_FILE = "tokenizer_config.json"

# How the tokenizer was loaded, offline and from a directory: transformers writes it down, and whoever loads a copy inherits it.
_TRACES = frozenset({"is_local", "local_files_only"})


def save_tokenizer(tokenizer: Any, directory: str | Path) -> None:
    """Write a tokenizer's files into a directory; none of them says how the tokenizer was loaded here."""
    tokenizer.save_pretrained(directory)
    remove_traces(directory)


def remove_traces(directory: str | Path) -> None:
    """Remove how tokenizers were loaded from their files in a directory and those below it."""
    for path in Path(directory).rglob(_CONFIG_FILE):
        settings = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in settings.items() if key not in _TRACES}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
