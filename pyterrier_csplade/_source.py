"""What a user may name as a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check_source(model: Any, adapter: str | None) -> None:
    """Refuse what names no model, before anything is looked for on a hub.

    Args:
        model: Hub id, directory, or a pair.
        adapter: Hub id or directory; None if there is none.

    Raises:
        FileNotFoundError: A directory is missing, or holds no checkpoint.
        TypeError: ``model`` is neither a name nor a pair of a model and a tokenizer.
    """
    if not isinstance(model, str):
        parts = model if isinstance(model, tuple) else (model,)
        if not (len(parts) == 2 and hasattr(parts[0], "config") and hasattr(parts[1], "get_vocab")):
            found = ", ".join(type(part).__name__ for part in parts)
            raise TypeError(f"model must be a hub id, a directory or a pair (language model, tokenizer), found {found}")
        return
    for name, file in ((model, "config.json"), *([] if adapter is None else [(adapter, "adapter_config.json")])):
        path = Path(name)
        if path.is_dir() and not (path / file).is_file():
            adapters = file == "config.json" and (path / "adapter_config.json").is_file()
            remedy = ": it is an adapter, CSPLADE(base model, adapter=...) takes it" if adapters else ""
            raise FileNotFoundError(f"{name} holds no {file}{remedy}")
        if not path.exists() and (path.is_absolute() or name.startswith(("./", "../", "~"))):
            raise FileNotFoundError(f"there is no directory {name}")
