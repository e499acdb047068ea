"""Terms of the vocabulary as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyterrier_csplade.model.csplade import CSPLADE

_SHOWN = 12


def readable_terms(csplade: CSPLADE, weights: Mapping[str, float], query: str, form: str) -> str:
    """Return the first terms with their weights: ``-ing`` continues a word, ``[+term]`` is not in the query.

    Args:
        csplade: The model whose terms they are.
        weights: Term to weight, in the order to show.
        query: The text of the query.
        form: Format of a weight, such as ``.0%``.
    """
    shown = []
    for term, weight in islice(weights.items(), _SHOWN):
        text = csplade.backbone.tokenizer.convert_tokens_to_string([term])
        word = text.strip() or repr(text)
        label = word if text != word else f"-{word}"
        shown.append(f"{label if word.lower() in query.lower() else f'[+{label}]'} {weight:{form}}")
    return ", ".join(shown) + (", ..." if len(weights) > _SHOWN else "")
