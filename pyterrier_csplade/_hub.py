"""Names of models: what the hub or its cache lacks, in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from ._errors import ContractError

# How much of another library's explanation a message repeats.
_LONGEST = 240


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
            f"{name!r} is no directory here, and of the hub no {file} was found under this name{at}. Check the name; a gated "
            f"model needs `hf auth login`, a machine without network needs it in its cache. The hub's client: {_short(error)}"
        ) from error


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model.

    Raises:
        ContractError: The model comes without one, or it needs a package that is not installed; says which.
    """
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        raise ContractError(
            f"{name}: its tokenizer cannot be loaded: are tokenizer.json and tokenizer_config.json there? ({_short(error)})"
        ) from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
