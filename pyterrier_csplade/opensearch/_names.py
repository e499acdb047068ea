"""What terms are called in OpenSearch."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pyterrier_csplade._vocabulary import Vocabulary

# Lucene refuses terms above 32,766 bytes.
_MAX_BYTES = 32_766


class TermNames:
    """Names for the terms of an index, a different one for each.

    The server answers 201 to a term with a dot and never finds it, so a name has none. With a vocabulary, a term is called by
    its token id, ``t12345``, which every implementation of a tokenizer knows. Without, by itself, with ``%25`` for ``%``,
    ``%2E`` for ``.`` and ``%`` for the empty term, so that no two terms share a name.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        """Choose the scheme."""
        self._vocabulary = vocabulary

    @property
    def scheme(self) -> dict[str, Any]:
        """What an index must know of it: two that are equal give every term the same name."""
        if self._vocabulary is None:
            return {"terms": "strings"}
        return {"terms": "token ids", "vocabulary_sha256": self._vocabulary.sha256}

    def __call__(self, term: str) -> str | None:
        """Return the name of a term; None if it cannot have one."""
        if self._vocabulary is None:
            return escape(term)
        column = self._vocabulary.column(term)
        return None if column is None else f"t{self._vocabulary.token_ids[column]}"


@lru_cache(maxsize=2**18)
def escape(term: str) -> str | None:
    """Return a term without dots; None if UTF-8 cannot encode it or it is too long."""
    name = term.replace("%", "%25").replace(".", "%2E") or "%"
    try:
        return name if len(name.encode("utf-8")) <= _MAX_BYTES else None
    except UnicodeEncodeError:  # a lone surrogate
        return None
