"""Texts of mined passages: from the results, from documents, or from a transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import DataError

from ._rows import passage_text

#: Documents with docno and text, or a transformer that adds ``text`` to rows with a docno.
Corpus: TypeAlias = "pt.Transformer | Iterable[Mapping[str, Any]]"


class PassageTexts:
    """Finds the text of passages."""

    def __init__(self, corpus: Corpus | None) -> None:
        """Say where texts come from.

        Args:
            corpus: Documents, all of whose texts are kept in memory, or a transformer; None: the results have them.
        """
        self._lookup = corpus if isinstance(corpus, pt.Transformer) else None
        self._texts: dict[str, str] = {}
        if corpus is not None and self._lookup is None:
            self._texts = {str(document["docno"]): passage_text(dict(document)) for document in corpus}

    def of(self, passages: pd.DataFrame, results: pd.DataFrame) -> list[str]:
        """Return the text of every row of ``passages``.

        Args:
            passages: With qid, query and docno.
            results: Perhaps with ``text``, which is used where there is no corpus.

        Raises:
            DataError: A text is missing; names the query and the document.
        """
        texts = self._texts
        if self._lookup is not None:
            needed = passages[["qid", "query", "docno"]].drop_duplicates("docno")
            found = self._lookup.transform(needed)
            texts = dict(zip(found["docno"].astype(str), found["text"]))
        elif not texts and "text" in results.columns:
            texts = dict(zip(results["docno"], results["text"]))
        for qid, docno in zip(passages["qid"], passages["docno"]):
            if docno not in texts:
                raise DataError(
                    f"query {qid}, document {docno}: no text was found; give corpus= documents, or a transformer such as "
                    "pt.text.get_text(dataset)"
                )
        return [texts[docno] for docno in passages["docno"]]
