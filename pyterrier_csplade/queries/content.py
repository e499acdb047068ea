"""The content of a query table, and its files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.storage.files import needing, replacing
from pyterrier_csplade.storage.manifest import damages, describe, read_manifest, write_manifest
from pyterrier_csplade.vectors.contract import WHOLE, Contract
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .tokens import QueryTokens

#: The file with a table's contract and the digests of the other two files.
TABLE_FILE = "csplade_table.json"

_WEIGHTS_FILE, _TOKENIZER_FILE = "table.npz", "tokenizer.json"
_ARRAYS = {"token_ids": "iu", "weights": "f", "indptr": "iu", "indices": "iu", "data": "f"}
# Bytes of the arrays of a table, unpacked; our choice (not measured): 60 entries for each of a million terms are allowed.
_MOST_BYTES = 2**29
_REMEDY = "copy the table again, or make it again"


@dataclass(frozen=True)
class TableContent:
    """The immutable content of a query table.

    Attributes:
        contract: The table's contract; its ``queries_for`` identifies the document encoder.
        vocabulary: The index terms of the documents.
        token_ids: The tokens that are index terms, int64; more than terms if the contract folds terms.
        tokenizer: The tokenizer of the language model, as the content of its file ``tokenizer.json``.
        weights: float32 [terms], the weight that each term of a query has in its vector.
        expansion: float32 [terms, terms]; row x has the weights that the query term x adds to terms.
        counts: Whether a repeated term counts as often as it occurs instead of once.
        split_special_tokens: Whether the names of special tokens in a query are read as text.
    """

    contract: Contract
    vocabulary: Vocabulary
    token_ids: np.ndarray
    tokenizer: str
    weights: np.ndarray
    expansion: csr_matrix
    counts: bool = False
    split_special_tokens: bool = False

    @classmethod
    def make(
        cls,
        documents: Contract,
        tokens: QueryTokens,
        weights: np.ndarray,
        expansion: csr_matrix | None = None,
        *,
        counts: bool = False,
        training: dict[str, Any] | None = None,
    ) -> TableContent:
        """Make the content of a table for documents, from the tokenizer and index terms of their encoder.

        The class describes the arguments; ``expansion`` is empty by default, and ``training`` describes how the table was made.

        Raises:
            ContractError: A weight is negative or not finite, or the shapes differ from the vocabulary.
        """
        vocabulary = tokens.vocabulary
        empty = csr_matrix((len(vocabulary), len(vocabulary)), dtype=np.float32)
        expansion = empty if expansion is None else csr_matrix(expansion, dtype=np.float32)
        expansion.sum_duplicates()
        content = cls(
            documents, vocabulary, tokens.token_ids, tokens.tokenizer, np.asarray(weights, dtype=np.float32), expansion, counts,
            tokens.split_special_tokens,
        )  # fmt: skip
        content._check("the table")
        contract = documents.replace(
            queries_for=documents.fingerprint, weights=content._digest, other_weights="", training=training or {}
        )
        return dataclasses.replace(content, contract=contract)

    @property
    def tokens(self) -> QueryTokens:
        """The tokenizer as the contract uses it."""
        return QueryTokens(self.tokenizer, self.contract, self.token_ids, split_special_tokens=self.split_special_tokens)

    @property
    def rows(self) -> csr_matrix:
        """float32 [terms, terms]: row x is what the term x adds to the vector of a query."""
        size = len(self.vocabulary)
        own = csr_matrix((self.weights, np.arange(size), np.arange(size + 1)), shape=(size, size))
        rows = own + self.expansion
        rows.eliminate_zeros()
        return rows

    @property
    def _digest(self) -> str:
        """Digest of everything besides the contract that determines the vectors."""
        digest = hashlib.sha256(json.dumps([self.counts, self.split_special_tokens]).encode())
        digest.update(hashlib.sha256(self.tokenizer.encode()).digest())
        for array in self._arrays().values():
            digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return WHOLE + digest.hexdigest()

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "token_ids": self.token_ids.astype("<i4"),
            "weights": self.weights.astype("<f4"),
            "indptr": self.expansion.indptr.astype("<i4"),
            "indices": self.expansion.indices.astype("<i4"),
            "data": self.expansion.data.astype("<f4"),
        }

    def _check(self, name: str) -> None:
        size = len(self.vocabulary)
        if self.weights.shape != (size,) or self.expansion.shape != (size, size):
            raise ContractError(
                f"{name}: expected one weight for each of {size:,} index terms, and as many rows and columns of the expansion, "
                f"found {self.weights.shape} and {self.expansion.shape}"
            )
        for values in (self.weights, self.expansion.data):
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise ContractError(f"{name}: a weight is negative or not finite: {_REMEDY}")

    def save(self, directory: Path) -> None:
        """Write the files of a table; the contract comes last, and nothing is replaced before the others are on the disk."""
        directory.mkdir(parents=True, exist_ok=True)
        packed = io.BytesIO()
        np.savez_compressed(packed, **self._arrays())  # type: ignore[arg-type]
        with ExitStack() as replaced:
            for name, content in ((_WEIGHTS_FILE, packed.getvalue()), (_TOKENIZER_FILE, self.tokenizer.encode())):
                temporary = directory / f".{name}.{secrets.token_hex(8)}.tmp"
                replaced.enter_context(replacing(directory / name, temporary))
                with needing(len(content), directory / name), temporary.open("xb") as file:
                    file.write(content)
        values = {"kind": "table", "counts": self.counts, "split_special_tokens": self.split_special_tokens}
        files = {name: describe(directory / name) for name in (_WEIGHTS_FILE, _TOKENIZER_FILE)}
        write_manifest(directory, TABLE_FILE, files=files, **values, contract=self.contract.to_dict())

    @classmethod
    def load(cls, directory: Path) -> TableContent:
        """Read the files of a table.

        Raises:
            FileNotFoundError: There is no table.
            ContractError: A file is missing, damaged, or in a newer format; the message names it.
        """
        path = directory / TABLE_FILE
        try:
            values = read_manifest(path, ContractError, _REMEDY)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{directory} contains no query table: {TABLE_FILE} is missing") from error
        for damage in damages(directory, values["files"], digests=True):
            raise ContractError(f"{directory}: {damage}: {_REMEDY}")
        try:
            if values["kind"] != "table" or not {_WEIGHTS_FILE, _TOKENIZER_FILE} <= values["files"].keys():
                raise ValueError("it does not describe a table")
            contract = Contract.from_dict(values["contract"], source=str(path))
            counts, split = values["counts"], values["split_special_tokens"]
            content = cls._read(directory, contract, counts=counts, split=split)
        except Exception as error:  # zipfile, zlib, numpy and scipy raise errors of many kinds
            raise ContractError(f"{directory} is damaged ({error}): {_REMEDY}") from error
        content._check(str(directory))
        if not contract.queries_for or contract.weights != content._digest:
            raise ContractError(f"{path} does not belong to the other files of its directory: {_REMEDY}")
        return content

    @classmethod
    def _read(cls, directory: Path, contract: Contract, *, counts: Any, split: Any) -> TableContent:
        if type(counts) is not bool or type(split) is not bool:
            raise ValueError("counts and split_special_tokens must be true or false")
        with np.load(directory / _WEIGHTS_FILE, allow_pickle=False) as packed:
            if sum(member.file_size for member in packed.zip.infolist()) > _MOST_BYTES:
                raise ValueError(f"{_WEIGHTS_FILE} has more than {_MOST_BYTES:,} bytes when it is unpacked")
            arrays = {name: packed[name] for name in _ARRAYS}
        if wrong := [name for name, kinds in _ARRAYS.items() if arrays[name].ndim != 1 or arrays[name].dtype.kind not in kinds]:
            raise ValueError(f"{_WEIGHTS_FILE}: {wrong[0]} has another shape or type")
        tokenizer = (directory / _TOKENIZER_FILE).read_bytes().decode()
        tokens = QueryTokens(tokenizer, contract, arrays["token_ids"], split_special_tokens=split)
        size = len(tokens.vocabulary)
        expansion = csr_matrix(tuple(arrays[name] for name in ("data", "indices", "indptr")), shape=(size, size))
        expansion.check_format(full_check=True)
        return cls(contract, tokens.vocabulary, tokens.token_ids, tokenizer, arrays["weights"], expansion, counts, split)
