"""The contracts of published models that come without one."""

from __future__ import annotations

from typing import Any

from ._contract import Contract
from ._errors import ContractError

# What their code does. Padding side and padded length, in which they differ, change no vector here.
_LACONIC: dict[str, Any] = {
    "variant": "bidirectional", "query_prefix": "query: ", "document_prefix": "passage: ", "query_length": 256,
    "document_length": 256,
}  # fmt: skip
_LION_SP: dict[str, Any] = {
    "variant": "bidirectional", "add_bos": True, "pool_special": True, "query_length": 64, "document_length": 192,
}  # fmt: skip
_PRESETS: dict[str, dict[str, Any]] = {
    "laconic": _LACONIC,
    "lion-sp-1b": {**_LION_SP, "logit_scale": 2048**-0.25},
    "lion-sp-8b": {**_LION_SP, "logit_scale": 4096**-0.25},
}


def contract_preset(name: str, **changes: Any) -> Contract:
    """Return the contract of a published family of models, for ``CSPLADE(..., contract=...)``.

    - "laconic" (arXiv 2601.01684; utahnlp/laconic-1b, -3b and -8b): bidirectional, prefixes, no special tokens. With a
      beginning-of-text token, nDCG@10 on SciFact falls from 0.752 to 0.022.
    - "lion-sp-1b", "lion-sp-8b" (arXiv 2502.15526; hzeng/Lion-SP-1B- and -8B-llama3-marco-mntp): bidirectional, the
      beginning-of-text token first and part of the maximum, logits times hidden size ** -0.25. The published adapters name a
      base model by a path of their authors: give the base yourself, ``CSPLADE(base, adapter=..., contract=...)``.

    Both evaluate BEIR with longer texts: ``contract_preset("lion-sp-8b", query_length=512, document_length=512)``.

    Args:
        name: One of these.
        **changes: Fields of the contract that differ.

    Raises:
        ContractError: There is no such preset.
    """
    if name not in _PRESETS:
        raise ContractError(f"there is no preset {name!r}; there are {', '.join(_PRESETS)}")
    return Contract(**{**_PRESETS[name], **changes})
