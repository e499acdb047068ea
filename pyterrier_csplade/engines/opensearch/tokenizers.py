"""How a tokenizer of a language model reads a text, for a server that has only Painless scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pyterrier_csplade._errors import ContractError

_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
# How Llama 3 splits a text into words; Qwen 2 does the same with single digits.
_LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {_LLAMA_3 % "{1,3}": 3, _LLAMA_3 % "": 1}
_UNLIMITED = 2**31 - 1


def reading(tokenizer: str, *, split_special_tokens: bool) -> dict[str, Any]:
    """Describe byte-level BPE for ``query_table.painless``.

    Args:
        tokenizer: The content of a file ``tokenizer.json``.
        split_special_tokens: Whether the names of special tokens are read as text.

    Returns:
        Parameters of the script: ``normalizers``, ``splits``, ``merges`` (pair of tokens to rank), ``ignore_merges``, ``bytes``
        (the sign of each byte) and ``special`` (names of special tokens).

    Raises:
        ContractError: The tokenizer is of another kind; the message names the part that differs.
    """
    parts = json.loads(tokenizer)
    model = parts["model"]
    if model["type"] != "BPE":
        raise _unknown(f"model {model['type']}")
    unusual = [
        name for name in ("continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback") if model.get(name)
    ]
    if unusual:
        raise _unknown(unusual[0])
    splits = [split for step in _steps(parts["pre_tokenizer"], "pretokenizers") for split in _splits(step)]
    if not any(step["type"] == "ByteLevel" for step in _steps(parts["pre_tokenizer"], "pretokenizers")):
        raise _unknown("pre-tokenizer without bytes")
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    return {
        "normalizers": [_normalizer(step) for step in _steps(parts["normalizer"], "normalizers")],
        "splits": splits,
        "merges": {pair: rank for rank, pair in enumerate(pairs)},
        "ignore_merges": bool(model.get("ignore_merges")),
        "bytes": [_sign(byte) for byte in range(256)],
        "special": list(_special(parts["added_tokens"], split_special_tokens=split_special_tokens)),
    }


def _steps(part: Mapping[str, Any] | None, inner: str) -> list[Any]:
    if part is None:
        return []
    return list(part[inner]) if part["type"] == "Sequence" else [part]


def _normalizer(step: Mapping[str, Any]) -> str:
    if step["type"] not in (*_FORMS, "Lowercase"):
        raise _unknown(f"normalizer {step['type']}")
    return str(step["type"])


def _splits(step: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    kind = step["type"]
    if kind == "Digits":
        yield {"kind": "digits", "longest": 1 if step["individual_digits"] else _UNLIMITED}
    elif kind == "ByteLevel":
        if step["add_prefix_space"]:
            yield {"kind": "space"}
        if step.get("use_regex", True):
            yield {"kind": "gpt2"}
    else:
        pattern = step["pattern"].get("Regex") if kind == "Split" and step["behavior"] == "Isolated" else None
        if pattern not in _PATTERNS or step["invert"]:
            raise _unknown(f"pre-tokenizer {kind}")
        yield {"kind": "llama3", "longest": _PATTERNS[pattern]}


def _special(added: Iterable[Mapping[str, Any]], *, split_special_tokens: bool) -> Iterable[str]:
    for token in added:
        if token["special"] and split_special_tokens:
            continue
        if any(token[name] for name in ("single_word", "lstrip", "rstrip", "normalized")):
            raise _unknown(f"token {token['content']!r}, which takes what is beside it")
        yield token["content"]


def _sign(byte: int) -> str:
    """Return the sign of a byte in the vocabulary: GPT-2's list, printable ones as they are, all others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return chr(byte) if byte in printable else chr(256 + sorted(set(range(256)) - set(printable)).index(byte))


def _unknown(part: str) -> ContractError:
    return ContractError(
        f"a server without machine learning cannot read queries as this tokenizer does ({part}): encode them with QueryTable, "
        "and send query_toks"
    )
