"""What a user may name as a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What decides how a model is loaded, and says nothing of one that is in memory.
_LOADING = ("adapter", "revision", "quantization", "dtype", "device", "attn_implementation")


def check_source(model: Any, settings: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse what names no model, before anything is looked for on a hub.

    Args:
        model: Hub id, directory, or a pair.
        settings: The other arguments, name to value and default; among them ``adapter``, a hub id or directory, or None.

    Raises:
        FileNotFoundError: A directory is missing, or holds no checkpoint.
        TypeError: ``model`` is neither a name nor a pair of a model and a tokenizer.
        ValueError: An argument that says how to load a model comes with a pair.
    """
    if not isinstance(model, str):
        parts = model if isinstance(model, tuple) else (model,)
        if not (len(parts) == 2 and hasattr(parts[0], "config") and hasattr(parts[1], "get_vocab")):
            found = ", ".join(type(part).__name__ for part in parts)
            raise TypeError(f"model must be a hub id, a directory or a pair (language model, tokenizer), found {found}")
        for name in _LOADING:
            value, default = settings[name]
            if value != default:
                raise ValueError(f"{name}={value!r} says how to load a model, but this one is loaded: leave it out")
        return
    adapter = settings["adapter"][0]
    for name, file in ((model, "config.json"), *([] if adapter is None else [(adapter, "adapter_config.json")])):
        path = Path(name)
        if path.is_dir() and not (path / file).is_file():
            adapters = file == "config.json" and (path / "adapter_config.json").is_file()
            remedy = ": it is an adapter, CSPLADE(base model, adapter=...) takes it" if adapters else ""
            raise FileNotFoundError(f"{name} holds no {file}{remedy}")
        if not path.exists() and (path.is_absolute() or name.startswith(("./", "../", "~"))):
            raise FileNotFoundError(f"there is no directory {name}")
