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
from pyterrier_csplade.vectors.checks import check_names, check_plain_queries, digest_of_text
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import to_vectors
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .content import TableContent
from .encoder import TableEncoder
from .filling import Filling, fill
from .tokens import QueryTokens, twins, without_state


class Teacher(Protocol):
    """The part of a model that a table imitates and uses; :class:`~pyterrier_csplade.CSPLADE` implements it."""

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
    """Adds ``query_toks`` to queries with a table instead of a language model, for documents that a language model has encoded.

    The vector of a query is the sum of the table's rows for its distinct tokens. A row contains a weight of the token itself
    and a few weights of other terms, its expansion. The query encoder of the documents' model is the teacher: :meth:`fit`
    chooses the rows so that the sums approximate the teacher's vectors. An index of documents that the model encoded accepts
    the vectors.

    Only numpy, scipy, tokenizers and PyTerrier are imported.

    Example::

        table = QueryTable.fit(csplade, topics["query"])
        table.save("my.table")
        pipeline = QueryTable.load("my.table") >> index.retriever()
    """

    schematic = {"label": "Query table", "help_url": None}

    def __init__(self, content: TableContent, path: str | None = None) -> None:
        """Make a transformer; :meth:`fit`, :meth:`load` and :meth:`from_weights` call this.

        Args:
            content: The content of the table.
            path: The directory from which it was read.
        """
        self._content = content
        self._path = path

    @classmethod
    def fit(cls, model: Teacher, queries: Sequence[str], filling: Filling | None = None, *, verbose: bool = True) -> QueryTable:
        """Make a table that imitates a model's query encoder.

        Args:
            model: The :class:`~pyterrier_csplade.CSPLADE` that encoded the documents.
            queries: Queries like future ones; if you have none, titles or first sentences of documents. A few thousand are
                enough.
            filling: How to fill the table; the defaults of :class:`Filling` by default.
            verbose: Whether to show progress bars.

        Raises:
            DataError: A query is not a string, or most queries get no terms from the model, so that there is nothing to
                imitate.
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
        """Make a table from given weights, such as ones (binary queries) or inverse document frequencies.

        Args:
            model: The :class:`~pyterrier_csplade.CSPLADE` that encoded the documents.
            weights: [terms of ``model.vocabulary``], the weight of each term in the vectors of queries that contain it.
            expansion: [terms, terms]; row x has the weights that the term x adds to terms. Empty by default.
            counts: Whether a repeated term counts as often as it occurs instead of once.
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
            FileNotFoundError: The directory contains no table.
            ContractError: A file is missing, damaged, or in a newer format; the message names it.
        """
        return cls(TableContent.load(Path(path)), str(path))

    def save(self, path: str | Path) -> None:
        """Write the table into a directory that :meth:`load` reads; an existing table is replaced.

        The files are ``csplade_table.json`` (the contract, and digests of the other files), ``table.npz`` (arrays ``token_ids``
        and ``weights`` by term, and ``data``, ``indices`` and ``indptr`` of the expansion as a CSR matrix) and
        ``tokenizer.json``.
        """
        self._content.save(Path(path))

    @property
    def contract(self) -> Contract:
        """The contract of the table; ``queries_for`` is the fingerprint of the document encoder."""
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
        """Whether a repeated term counts as often as it occurs instead of once."""
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
            texts: The queries; a blank query has an empty vector.
            names: Names of the queries in error messages; "text 0", "text 1" ... by default.

        Returns:
            float32 weights above 0, [texts, terms of ``vocabulary``].

        Raises:
            DataError: A query is not a string or not valid Unicode; the message names it.
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
            DataError: A query is None, NaN, a number, bytes or not valid Unicode; the message names its qid.
        """
        pt.validate.columns(inp, includes=["qid", "query"], context=self)
        check_names(inp.columns)
        texts = inp["query"].tolist()
        matrix = self.encode(texts, names=[f"query {qid}" for qid in inp["qid"]])
        vectors = to_vectors(matrix, self.vocabulary, self.contract)
        for vector, text in zip(vectors, texts):
            vector.text_digest = digest_of_text(text)
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
        """Pickle a table that was read from a directory by its name, and any other by its content."""
        if self._path is None:
            return QueryTable, (self._content,)
        return _load_same, (self._path, self.contract.fingerprint)

    def __copy__(self) -> QueryTable:
        return QueryTable(self._content, self._path)

    def __deepcopy__(self, memo: dict[int, Any]) -> QueryTable:
        """Share the content, which does not change; its directory may hold another table by now."""
        return self.__copy__()


def _load_same(path: str, fingerprint: str) -> QueryTable:
    """Load the table that was pickled.

    Raises:
        ContractError: Its directory contains another table now.
    """
    table = QueryTable.load(path)
    if table.contract.fingerprint != fingerprint:
        raise ContractError(f"{path} contains another query table than when this one was pickled: load it again")
    return table


def teach(model: Teacher, queries: Sequence[str], *, counts: bool, verbose: bool) -> tuple[csr_matrix, csr_matrix]:
    """Return the tokens of the distinct queries, and the model's vectors of them, each [queries, terms].

    Raises:
        DataError: A query is not a string, or most queries get no terms from the model, so that there is nothing to imitate.
    """
    listed = queries if isinstance(queries, str) else list(queries)  # a single text is refused
    distinct = list(dict.fromkeys(check_plain_queries(listed, [f"query {i}" for i in range(len(listed))])))
    tokens, vectors = tokens_of(model), model.encode_queries(distinct, verbose=verbose)
    check_teacher(vectors)
    return tokens(distinct, counts=counts), vectors


def tokens_of(model: Teacher) -> QueryTokens:
    """Return the tokenizer of a model.

    Raises:
        ContractError: The tokenizer is not of the library tokenizers, and cannot be used without transformers.
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
            "needs: use a model with a fast tokenizer"
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
            f"{empty:,} of {total:,} queries get no terms from the model, so that there is nothing to imitate: check that the "
            "model encodes queries correctly"
        )
