"""The query table: a transformer from queries to sparse vectors that needs no language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError, DataError
from pyterrier_csplade._settings import Settings
from pyterrier_csplade.vectors.checks import check_plain_queries
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import to_vectors
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .content import TableContent
from .encoder import TableEncoder
from .filling import Filling, fill
from .tokens import QueryTokens, twins, without_state


class Teacher(Protocol):
    """What a table needs of the model whose queries it imitates; :class:`~pyterrier_csplade.CSPLADE` has it."""

    @property
    def contract(self) -> Contract:
        """How the model's texts are encoded."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The index terms."""
        ...

    @property
    def backbone(self) -> Any:
        """The loaded model, with its ``tokenizer`` and the ``column_of_token`` of each row of its head."""
        ...

    def encode_queries(self, texts: Sequence[str], *, verbose: bool | None = None) -> csr_matrix:
        """Encode queries."""
        ...


class QueryTable(Settings, pt.Transformer):
    """Adds ``query_toks`` to queries by a table, without a language model: for documents that one has encoded.

    The vector of a query is the sum of the table's rows of its different tokens. A row holds a weight of the token itself and a
    few weights of other terms, its expansion. The query encoder of the documents' model is the teacher: :meth:`fit` chooses the
    rows so that the sums come close to its vectors. An index whose documents the model encoded accepts the vectors.

    Only numpy, scipy, tokenizers and PyTerrier are imported.

    Example::

        table = QueryTable.fit(csplade, topics["query"])
        table.save("my.table")
        pipeline = QueryTable.load("my.table") >> index.retriever()
    """

    schematic = {"label": "Query table", "help_url": None}

    def __init__(self, content: TableContent, path: str | None = None) -> None:
        """Make a transformer; :meth:`fit`, :meth:`load` and :meth:`from_weights` call it.

        Args:
            content: The table.
            path: The directory that it was read from.
        """
        self._content = content
        self._path = path

    @classmethod
    def fit(cls, model: Teacher, queries: Sequence[str], filling: Filling | None = None, *, verbose: bool = True) -> QueryTable:
        """Make a table that imitates a model's query encoder.

        Args:
            model: The :class:`~pyterrier_csplade.CSPLADE` that encoded the documents.
            queries: Queries like those to come; without any, titles or first sentences of documents. A few thousand are enough.
            filling: How the table is filled; :class:`Filling`'s defaults by default.
            verbose: Whether progress is shown.

        Raises:
            DataError: A query is no string; or the model gives most queries no terms, so that there is nothing to imitate.
        """
        filling = filling or Filling()
        tokens, vectors = teach(model, queries, counts=filling.counts, verbose=verbose)
        common = twins(model.vocabulary, bare=tokens_of(model).starts_bare)
        weights, expansion = fill(tokens, vectors, filling, common, verbose=verbose)
        training = {"filling": filling.to_dict(), "queries": tokens.shape[0]}
        return cls.from_weights(model, weights, expansion, counts=filling.counts, training=training)

    @classmethod
    def from_weights(
        cls,
        model: Teacher,
        weights: np.ndarray,
        expansion: csr_matrix | None = None,
        *,
        counts: bool = False,
        training: dict[str, Any] | None = None,
    ) -> QueryTable:
        """Make a table of given weights, such as ones (binary queries) or inverse document frequencies.

        Args:
            model: The :class:`~pyterrier_csplade.CSPLADE` that encoded the documents.
            weights: [terms of ``model.vocabulary``], the weight of each term in the vectors of queries that contain it.
            expansion: [terms, terms]; row x has the weights that the term x adds to terms. None by default.
            counts: Whether a term that a query repeats counts as often as it occurs, and not once.
            training: Description of how the table was made, for people to read.

        Raises:
            ContractError: A weight is negative or not finite, or the shapes differ from the vocabulary.
        """
        content = TableContent.make(model.contract, tokens_of(model), weights, expansion, counts=counts, training=training)
        return cls(content)

    @classmethod
    def load(cls, path: str | Path) -> QueryTable:
        """Read a table from its directory.

        Raises:
            FileNotFoundError: The directory holds no table.
            ContractError: A file is missing, damaged, or of a newer format; names it.
        """
        return cls(TableContent.load(Path(path)), str(path))

    def save(self, path: str | Path) -> None:
        """Write the table into a directory that :meth:`load` reads; a table there is replaced.

        The files are ``csplade_table.json`` (the contract, and digests of the other files), ``table.npz`` (arrays ``token_ids``
        and ``weights`` by term, and ``data``, ``indices`` and ``indptr`` of the expansion as a CSR matrix) and
        ``tokenizer.json``.
        """
        self._content.save(Path(path))

    @property
    def contract(self) -> Contract:
        """The contract of the table; ``queries_for`` is the fingerprint of the documents' encoder."""
        return self._content.contract

    @property
    def content(self) -> TableContent:
        """What the table consists of."""
        return self._content

    @property
    def vocabulary(self) -> Vocabulary:
        """The index terms, in the order of the columns."""
        return self._content.vocabulary

    @property
    def weights(self) -> np.ndarray:
        """The weight that each term of a query has in its vector, float32 [terms]."""
        return self._content.weights

    @property
    def counts(self) -> bool:
        """Whether a term that a query repeats counts as often as it occurs, and not once."""
        return self._content.counts

    @property
    def expansion(self) -> csr_matrix:
        """The weights that each term of a query adds to terms, float32 [terms, terms]."""
        return self._content.expansion

    @cached_property
    def _encoder(self) -> TableEncoder:
        return TableEncoder(self._content)

    def encode(self, texts: Sequence[str], *, names: Sequence[str] | None = None) -> csr_matrix:
        """Encode queries.

        Args:
            texts: Any number of queries; a blank one has an empty vector.
            names: Names of the queries in error messages; "text 0", "text 1" ... by default.

        Returns:
            float32 weights above 0, [texts, terms of ``vocabulary``].

        Raises:
            DataError: A query is no string or no valid Unicode; names it.
        """
        return self._encoder.encode(texts, names=names)

    def explain(self, query: str) -> dict[str, dict[str, float]]:
        """Return what each token of a query adds to its vector: token to (term to weight), the heaviest term first."""
        tokens = self._encoder.tokens(check_plain_queries([query], ["the query"]), counts=self._content.counts)
        return {
            self.vocabulary[column]: dict(to_vectors(self._encoder.rows[column] * count, self.vocabulary)[0])
            for column, count in zip(tokens.indices.tolist(), tokens.data.tolist())
        }

    def text_of(self, term: str) -> str:
        """Return the text that a term spells: `` the`` for ``Ġthe``."""
        return self._encoder.tokens.text_of(term)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``query_toks``; rows, order, index and other columns stay.

        Raises:
            DataError: A query is None, NaN, a number, bytes or no valid Unicode; names its qid.
        """
        pt.validate.columns(inp, includes=["qid", "query"], context=self)
        texts = inp["query"].tolist()
        matrix = self.encode(texts, names=[f"query {qid}" for qid in inp["qid"]])
        vectors = to_vectors(matrix, self.vocabulary, self.contract)
        return inp.assign(query_toks=pd.Series(vectors, index=inp.index, dtype=object))

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.contract.fingerprint,)

    def _maker(self) -> str:
        return "QueryTable" if self._path is None else "QueryTable.load"

    def _changed(self) -> list[str]:
        return [f"<fingerprint {self.contract.fingerprint[:12]}>" if self._path is None else repr(self._path)]

    def __str__(self) -> str:
        name = self.contract.fingerprint[:12] if self._path is None else Path(self._path).resolve().name
        return self._named(name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy a table that was read from a directory by its name, and any other by its content."""
        return (QueryTable, (self._content,)) if self._path is None else (QueryTable.load, (self._path,))


def teach(model: Teacher, queries: Sequence[str], *, counts: bool, verbose: bool) -> tuple[csr_matrix, csr_matrix]:
    """Return the tokens of the distinct queries, and the model's vectors of them, each [queries, terms].

    Raises:
        DataError: A query is no string; or the model gives most queries no terms, so that there is nothing to imitate.
    """
    distinct = list(dict.fromkeys(check_plain_queries(list(queries), [f"query {i}" for i in range(len(queries))])))
    tokens, vectors = tokens_of(model), model.encode_queries(distinct, verbose=verbose)
    check_teacher(vectors)
    return tokens(distinct, counts=counts), vectors


def tokens_of(model: Teacher) -> QueryTokens:
    """Return the tokenizer of a model.

    Raises:
        ContractError: The tokenizer is not one of the library tokenizers, so that it cannot be used without transformers.
    """
    return tokens_for(model.backbone.tokenizer, model.backbone.column_of_token, model.contract)


def tokens_for(tokenizer: Any, column_of_token: Any, contract: Contract) -> QueryTokens:
    """Return a tokenizer with its index terms; the tensor ``column_of_token`` is -1 for tokens that are none.

    Raises:
        ContractError: As :func:`tokens_of`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ContractError(
            f"the tokenizer ({type(tokenizer).__name__}) of {contract.summary} has no file tokenizer.json, which a query table "
            "needs: load the model with a fast tokenizer"
        )
    split = bool(getattr(tokenizer, "split_special_tokens", False))
    token_ids = np.flatnonzero(column_of_token.cpu().numpy() >= 0)
    return QueryTokens(without_state(backend.to_str()), contract, token_ids, split_special_tokens=split)


def check_teacher(vectors: csr_matrix) -> None:
    """Refuse the vectors of queries of a model that give nothing to imitate.

    Raises:
        DataError: There are none, or most are empty.
    """
    empty, total = int((np.diff(vectors.indptr) == 0).sum()), vectors.shape[0]
    if not total:
        raise DataError("there are no queries to learn from")
    if 2 * empty > total:
        raise DataError(
            f"the model gives {empty:,} of {total:,} queries no terms, so that there is nothing to imitate: does the model "
            "encode queries as it should?"
        )
