"""Models and tokenizers by name: on the hub, in its cache, or in a directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from pyterrier_csplade._errors import ContractError

# Characters of another library's message that an error repeats.
_LONGEST = 240
# Arguments that only matter while a model is loaded.
_LOADING = ("adapter", "revision", "quantization", "dtype", "device", "attn_implementation")
_TOKENIZER_CONFIG = "tokenizer_config.json"
# transformers writes into that file how it loaded the tokenizer, and a copy would be loaded in the same way.
_TRACES = ("is_local", "local_files_only")


def check_published(name: str, file: str, revision: str | None = None) -> None:
    """Refuse a name under which the hub, or its cache where the hub cannot be reached, has no such file.

    Args:
        name: Hub id; directories are not looked at.
        file: What a model or an adapter must have.
        revision: Branch, tag or commit; the default branch by default.

    Raises:
        FileNotFoundError: There is no such repository, revision or file, it is gated, or it is neither in reach nor cached.
    """
    if Path(name).is_dir():
        return
    try:
        cached_file(name, file, revision=revision)
    except OSError as error:
        at = f" at revision {revision!r}" if revision else ""
        raise FileNotFoundError(
            f"{name!r} is not a directory, and the hub has no {file} under this name{at}. Check the name; a gated "
            f"model needs `hf auth login`, a machine without network needs the model in its cache. "
            f"The hub's client: {_short(error)}"
        ) from error


def optional_file(name: str, file: str, revision: str | None = None) -> str | None:
    """Find a file of a hub model or a directory; None where it has no such file.

    Raises:
        OSError: The hub has no such repository or revision, or it is gated.
    """
    try:
        return cached_file(name, file, revision=revision)
    except OSError as error:
        is_missing = error.__cause__ is None or isinstance(error.__cause__, LocalEntryNotFoundError)
        if type(error) is OSError and error.errno is None and is_missing:
            return None
        raise


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model.

    Raises:
        ContractError: The model comes without one, or it needs a package that is not installed; names it.
    """
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise ContractError(
            f"{name}: its tokenizer cannot be loaded: are tokenizer.json and tokenizer_config.json there? ({_short(error)})"
        ) from error


def check_source(model: Any, changed: Mapping[str, Any]) -> None:
    """Refuse what names no model, before anything is looked for on a hub.

    Args:
        model: Hub id, directory, or a pair.
        changed: The other arguments that are not their defaults; ``adapter`` is a hub id or directory.

    Raises:
        FileNotFoundError: A directory is missing, or holds no checkpoint.
        TypeError: ``model`` is neither a name nor a pair of a model and a tokenizer.
        ValueError: An argument for loading a model comes with a pair.
    """
    if not isinstance(model, str):
        parts = model if isinstance(model, tuple) else (model,)
        if not (len(parts) == 2 and hasattr(parts[0], "config") and hasattr(parts[1], "get_vocab")):
            found = ", ".join(type(part).__name__ for part in parts)
            raise TypeError(f"model must be a hub id, a directory or a pair (language model, tokenizer), found {found}")
        for name in _LOADING:
            if name in changed:
                raise ValueError(f"{name}={changed[name]!r} says how to load a model, but this one is loaded: leave it out")
        return
    adapters = [(changed["adapter"], "adapter_config.json")] if "adapter" in changed else []
    for name, file in ((model, "config.json"), *adapters):
        path = Path(name)
        if path.is_dir() and not (path / file).is_file():
            is_adapter = file == "config.json" and (path / "adapter_config.json").is_file()
            remedy = ": it is an adapter, CSPLADE(base model, adapter=...) takes it" if is_adapter else ""
            raise FileNotFoundError(f"{name} holds no {file}{remedy}")
        if not path.exists() and (path.is_absolute() or name.startswith(("./", "../", "~"))):
            raise FileNotFoundError(f"there is no directory {name}")


def save_tokenizer(tokenizer: Any, directory: str | Path) -> None:
    """Write a tokenizer's files into a directory, without traces of how the tokenizer was loaded."""
    tokenizer.save_pretrained(directory)
    remove_traces(directory)


def remove_traces(directory: str | Path) -> None:
    """Remove how tokenizers were loaded from their files in a directory and those below it."""
    for path in Path(directory).rglob(_TOKENIZER_CONFIG):
        settings = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in settings.items() if key not in _TRACES}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
