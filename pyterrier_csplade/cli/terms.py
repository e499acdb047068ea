"""Terms of the vocabulary as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyterrier_csplade.model.csplade import CSPLADE
    from pyterrier_csplade.queries.table import QueryTable

_SHOWN = 12


def readable_terms(csplade: CSPLADE | QueryTable, weights: Mapping[str, float], query: str, form: str) -> str:
    """Return the first terms with their weights: ``-ing`` continues a word, ``[+term]`` is not in the query.

    Args:
        csplade: The model or the query table whose terms they are.
        weights: Term to weight, in the order to show.
        query: The text of the query.
        form: Format of a weight, such as ``.0%``.
    """
    shown = []
    for term, weight in islice(weights.items(), _SHOWN):
        text = _text_of(csplade, term)
        word = text.strip() or repr(text)
        label = word if text != word else f"-{word}"
        shown.append(f"{label if word.lower() in query.lower() else f'[+{label}]'} {weight:{form}}")
    return ", ".join(shown) + (", ..." if len(weights) > _SHOWN else "")


def _text_of(csplade: CSPLADE | QueryTable, term: str) -> str:
    from pyterrier_csplade.queries.table import QueryTable

    if isinstance(csplade, QueryTable):
        return csplade.text_of(term)
    return str(csplade.backbone.tokenizer.convert_tokens_to_string([term]))
