"""Readable lists of terms."""

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
        csplade: The model or the query table that the terms belong to.
        weights: Term to weight, in the order to show.
        query: Text of the query.
        form: Format of a weight, such as ``.0%``.
    """
    from pyterrier_csplade.model.spelling import readable, spelled
    from pyterrier_csplade.queries.table import QueryTable

    first = dict(islice(weights.items(), _SHOWN))
    if isinstance(csplade, QueryTable):
        words = [spelled(term, csplade.text_of(term)) for term in first]
    else:
        words = readable(csplade.backbone.tokenizer, first, folded=csplade.contract.fold is not None)
    shown = [
        f"{word if word.strip('-').lower() in query.lower() else f'[+{word}]'} {weight:{form}}"
        for word, weight in zip(words, first.values())
    ]
    return ", ".join(shown) + (", ..." if len(weights) > _SHOWN else "")
