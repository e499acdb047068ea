"""Checked documents on disk, between a pipeline and Terrier."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import lz4.frame

from ._contract import Contract
from ._documents import check_docno, check_field, check_order, may_be_misplaced, text_length, to_impacts
from ._errors import ContractError, DataError

#: What to do with a docno that was seen before.
OnDuplicate = Literal["refuse", "skip", "last"]

# Terrier's default; lengths below would save nothing.
_MIN_LENGTH = 20

_KEPT = (0, 0)


class Spool:
    """Documents that passed all checks, in a compressed file.

    Terrier must know the longest docno before the first document, and must never see a document that it cannot index or an
    exception of the pipeline; so all documents wait here until the last one has come. Memory is constant but for a digest of
    each docno (about 100 bytes a document).

    Attributes:
        lengths: Metadata field to the length in UTF-16 units that holds its longest value.
        documents: Documents to index.
        empty: Those of them without any impact.
        postings: Impacts in all.
        contract: The contract of the encoder of the documents; None if unknown.
        fractional: Whether a weight was rounded.
    """

    def __init__(self, path: Path, *, fields: Iterable[str] = (), on_duplicate: OnDuplicate = "refuse") -> None:
        """Prepare an empty spool.

        Args:
            path: The file to write.
            fields: Metadata fields to keep beside the docno.
            on_duplicate: "refuse" a docno that comes again, "skip" the later document, or keep the "last" one.
        """
        self.path = path
        self.lengths = dict.fromkeys(("docno", *fields), _MIN_LENGTH)
        self.documents = self.empty = self.postings = 0
        self.contract: Contract | None = None
        self.fractional = False
        self._on_duplicate = on_duplicate
        # Digest of a docno to position and postings of its document; these only where a later document may replace it.
        self._seen: dict[bytes, tuple[int, int]] = {}
        self._replaced: set[int] = set()
        self._misplaced: set[str] = set()

    def fill(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Check and write documents.

        Raises:
            ContractError: Two documents come from different encoders.
            DataError: A document cannot be indexed exactly, or two terms not together; names them.
            OSError: The file cannot be written.
        """
        with lz4.frame.open(self.path, "wt", encoding="utf-8") as file:
            for position, document in enumerate(documents, start=1):
                docno = check_docno(document, position)
                digest = hashlib.blake2b(docno.encode(), digest_size=16).digest()
                if digest in self._seen and self._skips(docno, position):
                    continue
                record = self._record(document, docno)
                self._count(digest, position, len(record["toks"]))
                file.write(json.dumps({"position": position, **record}) + "\n")
        check_order(self._misplaced)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the documents for Terrier: metadata fields and ``toks``."""
        with lz4.frame.open(self.path, "rt", encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                if record.pop("position") not in self._replaced:
                    yield record

    def _skips(self, docno: str, position: int) -> bool:
        if self._on_duplicate == "refuse":
            raise DataError(
                f"docno {docno!r} of document {position} stands twice: a docno names one document; on_duplicate='skip' keeps "
                "the first, on_duplicate='last' the last"
            )
        return self._on_duplicate == "skip"

    def _record(self, document: Mapping[str, Any], docno: str) -> dict[str, Any]:
        if "toks" not in document:
            raise DataError(f"document {docno!r} has no toks: put a document encoder before the index")
        toks = document["toks"]
        impacts = to_impacts(toks, docno)
        self._misplaced.update(filter(may_be_misplaced, impacts))
        self._observe_contract(getattr(toks, "contract", None), docno)
        self.fractional = self.fractional or any(weight % 1 for weight in toks.values())
        fields = {name: docno if name == "docno" else check_field(document, name, docno) for name in self.lengths}
        for name, value in fields.items():
            self.lengths[name] = max(self.lengths[name], text_length(value, f"document {docno!r}: field {name!r}"))
        return {**fields, "toks": impacts}

    def _observe_contract(self, contract: Contract | None, docno: str) -> None:
        if contract is None or contract is self.contract:
            return
        if self.contract is not None and contract.fingerprint != self.contract.fingerprint:
            raise ContractError(
                f"document {docno!r} was encoded by {contract.summary}, the documents before it by {self.contract.summary}: "
                "an index holds the vectors of one encoder"
            )
        self.contract = self.contract or contract

    def _count(self, digest: bytes, position: int, postings: int) -> None:
        if digest in self._seen:
            replaced, old_postings = self._seen[digest]
            self._replaced.add(replaced)
            self._add(-1, old_postings)
        self._seen[digest] = (position, postings) if self._on_duplicate == "last" else _KEPT
        self._add(1, postings)

    def _add(self, sign: int, postings: int) -> None:
        self.documents += sign
        self.postings += sign * postings
        self.empty += sign * (postings == 0)
