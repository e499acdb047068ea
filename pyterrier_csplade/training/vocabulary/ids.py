"""The ids of tokens in the configuration files of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pyterrier_csplade._errors import ContractError

# Settings of generation that hold lists of ids.
_LISTS = ("suppress_tokens", "begin_suppress_tokens")


def named_ids(settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the settings that name tokens, such as ``eos_token_id``, and the ids."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from named_ids(value)
        elif _names_tokens(key):
            yield from ((key, one) for one in (value if isinstance(value, list) else [value]) if _is_id(one))


def renumbered(settings: Mapping[str, Any], new_ids: Mapping[int, int], rows: Mapping[str, int]) -> dict[str, Any]:
    """Return settings with new ids of tokens.

    Args:
        settings: The content of config.json or generation_config.json.
        new_ids: The new id of each old one.
        rows: New values of other settings, such as ``vocab_size``, at any place.
    """
    changed: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            value = renumbered(value, new_ids, rows)
        elif key in rows:
            value = rows[key]
        elif key in _LISTS and isinstance(value, list):
            value = [new_ids[old] for old in value if old in new_ids]
        elif _names_tokens(key) and isinstance(value, list):
            value = [new_ids[old] if _is_id(old) else old for old in value]
        elif _names_tokens(key) and _is_id(value):
            value = new_ids[value]
        changed[key] = value
    return changed


def check_ids(settings: Mapping[str, Any], source: str, tokens: Mapping[str, int]) -> set[int]:
    """Return the ids that settings name.

    Raises:
        ContractError: An id belongs to no token; the message names the setting.
    """
    known = set(tokens.values())
    found = set()
    for key, token_id in named_ids(settings):
        if token_id not in known:
            raise ContractError(f"{source}: {key} is {token_id}, but the tokenizer has no token of this id: correct it")
        found.add(token_id)
    return found


def _names_tokens(key: str) -> bool:
    return key.endswith(("_token_id", "_token_index"))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
