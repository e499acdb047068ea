"""A query table that is trained together with the documents, in place of the language model on the side of the queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.queries.content import TableContent
from pyterrier_csplade.queries.table import QueryTable, tokens_for
from pyterrier_csplade.vectors.contract import CONTRACT_FILE, QUERY_TABLE, Contract

# Weights that the start lacks begin here, because softplus is never 0; our choice (not measured).
_SMALLEST = 1e-3


class LearnedTable(nn.Module):
    """Weights of tokens, and of the terms that they add: the vector of a query is the sum of its tokens' rows.

    A weight is softplus(x) of a parameter x, as in V-SPLADE (arXiv 2605.30917), so that none becomes negative. Which terms a
    token adds is fixed by the start; their weights are learned.

    Attributes:
        own: Parameters of the weights of the tokens themselves, [terms].
        added: Parameters of the weights of the terms that tokens add, [entries].
    """

    starts: Tensor
    columns: Tensor

    def __init__(self, weights: np.ndarray, expansion: csr_matrix | None = None) -> None:
        """Start from a table.

        Args:
            weights: [terms], the weight of each token itself.
            expansion: [terms, terms]; row x has the weights of the terms that x adds. None adds none.
        """
        super().__init__()
        expansion = csr_matrix((len(weights), len(weights)), dtype=np.float32) if expansion is None else expansion
        self.own = nn.Parameter(_inverse(weights))
        self.added = nn.Parameter(_inverse(expansion.data))
        self.register_buffer("starts", torch.from_numpy(expansion.indptr.astype(np.int64)), persistent=False)
        self.register_buffer("columns", torch.from_numpy(expansion.indices.astype(np.int64)), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the vectors of queries.

        Args:
            tokens: The different index terms of each query, int64 [queries, most], filled up with -1.

        Returns:
            float32 [queries, terms].
        """
        rows, places = torch.nonzero(tokens >= 0, as_tuple=True)
        read = tokens[rows, places]
        vectors = self.own.new_zeros(len(tokens), len(self.own))
        vectors = vectors.index_put((rows, read), softplus(self.own)[read], accumulate=True)
        lengths = self.starts[read + 1] - self.starts[read]
        firsts = torch.cumsum(lengths, dim=0) - lengths
        entries = torch.arange(int(lengths.sum()), device=tokens.device)
        entries = entries + torch.repeat_interleave(self.starts[read] - firsts, lengths)
        added = torch.repeat_interleave(rows, lengths), self.columns[entries]
        return vectors.index_put(added, softplus(self.added)[entries], accumulate=True)

    @property
    def nothing(self) -> Tensor:
        """0, with a gradient of 0 for every parameter: what a pass of documents adds in a run of several processes."""
        return 0.0 * (self.own.sum() + self.added.sum())

    def content(self, tokenizer: Any, column_of_token: Tensor, documents: Contract) -> TableContent:
        """Return the table as it is now.

        Args:
            tokenizer: The tokenizer of the documents' model.
            column_of_token: Index term of each token, -1 for others.
            documents: The contract of the trained model.
        """
        with torch.no_grad():
            weights, data = (softplus(values).float().cpu().numpy() for values in (self.own, self.added))
        size = len(weights)
        expansion = csr_matrix((data, self.columns.cpu().numpy(), self.starts.cpu().numpy()), shape=(size, size))
        tokens = tokens_for(tokenizer, column_of_token, documents)
        training = {"filling": {"kind": "trained with the documents"}}
        return TableContent.make(documents, tokens, weights, expansion, training=training)


def _inverse(weights: np.ndarray) -> Tensor:
    """Return x with softplus(x) equal to the weights, or to a small one where they are smaller."""
    values = torch.from_numpy(np.maximum(np.asarray(weights, dtype=np.float64), _SMALLEST))
    return (values + torch.log(-torch.expm1(-values))).float()


def starting_table(start: str | None, backbone: Backbone) -> LearnedTable:
    """Return the table that a run begins with: all weights 1, or the weights of a table on disk.

    Raises:
        ConfigError: The table has other terms than the model, or counts repeated tokens.
        FileNotFoundError: There is no table in the directory.
    """
    if start is None:
        return LearnedTable(np.ones(len(backbone.vocabulary), dtype=np.float32))
    table = QueryTable.load(start)
    if table.vocabulary.sha256 != backbone.vocabulary.sha256:
        raise ConfigError(f"query: start: the table {start} has other terms than the model: make it with the same tokenizer")
    if table.counts:
        raise ConfigError(
            f"query: start: the table {start} counts repeated tokens, which training does not: make it without counts"
        )
    return LearnedTable(table.weights, table.expansion)


def padded_tokens(rows: Tensor, columns: Tensor, texts: int) -> Tensor:
    """Return the own tokens of texts as :meth:`LearnedTable.forward` takes them.

    Args:
        rows: The text of each own token, ascending.
        columns: Its index term.
        texts: Number of texts.
    """
    lengths = torch.bincount(rows, minlength=texts)
    places = torch.arange(len(rows), device=rows.device) - torch.repeat_interleave(torch.cumsum(lengths, 0) - lengths, lengths)
    tokens = torch.full((texts, max(1, int(lengths.max()))), -1, dtype=torch.long, device=rows.device)
    tokens[rows, places] = columns
    return tokens


def save_table(table: LearnedTable, tokenizer: Any, column_of_token: Tensor, output: Path) -> None:
    """Write the table of a trained model into its directory, where ``CSPLADE`` finds it."""
    documents = Contract.load(output / CONTRACT_FILE)
    QueryTable(table.content(tokenizer, column_of_token, documents)).save(output / QUERY_TABLE)
