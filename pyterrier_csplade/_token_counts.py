"""How often each token stands in a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._impacts import ImpactVector

if TYPE_CHECKING:
    from ._model import CSPLADE


def token_counts(model: CSPLADE, texts: Sequence[str]) -> list[ImpactVector]:
    """Count the tokens of texts that are index terms, within the contract's document length, without prefix and special tokens.

    Args:
        model: Whose tokenizer and contract.
        texts: Any number of texts.

    Returns:
        Token to count, for each text.
    """
    if not texts:  # tokenizers refuse an empty list
        return []
    vocabulary, length = model.vocabulary, model.contract.document_length
    terms = dict(zip(vocabulary.token_ids.tolist(), vocabulary.terms))
    readable = model.backbone.readable(length)
    encoded = model.backbone.tokenizer([text[:readable] for text in texts], add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    counted = (Counter(ids[:length]) for ids in encoded)
    return [ImpactVector({terms[i]: n for i, n in counts.items() if i in terms}, model.contract) for counts in counted]
