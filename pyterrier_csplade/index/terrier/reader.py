"""Reads the postings of a Terrier index from its files, without Java."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyterrier as pt
from scipy.sparse import csc_matrix, csr_matrix

from pyterrier_csplade._errors import ImpactIndexError

from .lexicon import lexicon_entry

# The largest Java int, the longest term that a lexicon can describe, and the bytes of a docid.
_MAX_INT, _MAX_TERM, _DOCID = 2**31 - 1, 2**15, 4

_INVERTED = "org.terrier.structures.postings.bit.BasicIterablePosting"

# Decodes a list into arrays of documents and impacts, given the bytes of the file and the list's first and last bit.
Decoder = Callable[[np.ndarray, int, int, np.ndarray, np.ndarray], None]


class TerrierFiles:
    """The files of a Terrier index with one field, without positions, that finds documents by their docno.

    The indexes that :class:`ImpactIndex` builds are of this kind.

    Attributes:
        lexicon: Structured array with a record for each term, in the order of the file.
        terms: The term of each record.
    """

    def __init__(self, directory: Path) -> None:
        """Open the files.

        Raises:
            ImpactIndexError: The index is of another kind, or a file is damaged.
        """
        self.directory = directory
        self._properties = _read_properties(directory / "data.properties")
        self._check("index.inverted.parameter_values", f"index,structureName,{_INVERTED}")
        self._check("index.lexicon-keyfactory.class", "org.terrier.structures.seralization.FixedSizeTextFactory")
        self._check("index.lexicon-valuefactory.class", "org.terrier.structures.BasicLexiconEntry$Factory")
        self._documents = self._number("num.Documents", most=_MAX_INT)
        path = directory / "data.lexicon.fsomapfile"
        self.lexicon = np.fromfile(path, lexicon_entry(3 * self._number("max.term.length", "20", most=_MAX_TERM)))
        try:
            self.terms = [bytes(text[:length]).decode() for length, text in zip(self.lexicon["length"], self.lexicon["text"])]
        except UnicodeDecodeError as error:
            raise self._damaged(path) from error
        if (self.lexicon["bit"] < 0).any() or (self.lexicon["bit"] > 7).any():
            raise self._other("its postings are in several files")
        counts = self.lexicon["documents"]
        if (
            (len(counts), int(counts.sum(dtype=np.int64))) != (self._number("num.Terms"), self._number("num.Pointers"))
            or (counts < 1).any()
            or (counts > self._documents).any()
        ):
            raise self._damaged(path)
        self._data, self._first_bits, self._last_bits = self._lists()

    @property
    def pipeline(self) -> list[str]:
        """The names of the classes that turned words into terms."""
        return [name for name in self._properties.get("termpipelines", "").split(",") if name]

    def docnos(self) -> list[str]:
        """Read the docno of each document.

        Raises:
            ImpactIndexError: The index has no map from docnos to documents, or it is damaged.
        """
        if self._properties.get("index.meta.reverse-key-names", "").split(",")[0] != "docno":
            raise self._other("it cannot look up docnos")
        # The metadata of documents are compressed; the map from docnos to documents is not.
        path = self.directory / "data.meta-0.fsomapfile"
        size, rest = divmod(path.stat().st_size, max(self._documents, 1))
        if self._documents == 0 or size <= _DOCID or rest:
            raise self._damaged(path)
        records = np.fromfile(path, np.dtype([("text", "u1", (size - _DOCID,)), ("docid", ">i4")]))
        if not np.array_equal(np.sort(records["docid"]), np.arange(self._documents)):
            raise ImpactIndexError(f"{path} is damaged, or a docno names two documents: build the index again")
        text = records["text"][np.argsort(records["docid"])]
        try:
            return [_text(record.tobytes()) for record in text]
        except UnicodeDecodeError as error:
            raise self._damaged(path) from error

    def postings(
        self,
        order: np.ndarray,
        starts: np.ndarray,
        all_docids: np.ndarray,
        all_impacts: np.ndarray,
        *,
        verbose: bool = False,
    ) -> None:
        """Decode the lists of lexicon records into the arrays ``all_docids`` and ``all_impacts``.

        ``order`` contains the records in the order of the lists, and ``starts`` (int64, [terms + 1]) the start of each list in
        the arrays.

        Raises:
            ImpactIndexError: A list does not match the lexicon.
        """
        decode = decoder()
        for number, record in enumerate(pt.tqdm(order.tolist(), desc="reading postings", unit="term", disable=not verbose)):
            start, end = starts[number], starts[number + 1]
            docids, impacts = all_docids[start:end], all_impacts[start:end]
            with suppress(IndexError, StopIteration, OverflowError):  # the list is damaged, which its sum shows
                decode(self._data, int(self._first_bits[record]), int(self._last_bits[record]), docids, impacts)
            found = int(impacts.sum(dtype=np.int64)) % 2**32, int(impacts.max())
            # Terrier adds up the impacts of a term in a Java int.
            expected = int(self.lexicon["tokens"][record]) % 2**32, int(self.lexicon["largest"][record])
            ascending = docids[0] >= 0 and docids[-1] < self._documents and (docids[1:] > docids[:-1]).all()
            if found != expected or not ascending or impacts.min() < 1:
                raise ImpactIndexError(
                    f"the postings of {self.terms[record]!r} in {self.directory} are damaged: build it again"
                )

    def matrix(self, *, verbose: bool = False) -> csr_matrix:
        """Decode all lists into a matrix of frequencies [documents, terms], float64, in memory."""
        starts = np.concatenate([[0], np.cumsum(self.lexicon["documents"], dtype=np.int64)])
        docids, frequencies = np.zeros(starts[-1], np.int32), np.zeros(starts[-1])
        self.postings(np.arange(len(self.terms)), starts, docids, frequencies, verbose=verbose)
        shape = self._documents, len(self.terms)
        return csc_matrix((frequencies, docids, starts), shape=shape).tocsr()

    def _lists(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the bytes of the inverted file, the first bit of each list, and the bit after its last."""
        path = self.directory / "data.inverted.bf"
        data = np.fromfile(path, np.uint8) if path.stat().st_size == 0 else np.memmap(path, np.uint8, "r")
        bits, places = len(data) * 8, self.lexicon["byte"].astype(np.int64)
        if ((places < 0) | (places > len(data))).any():
            raise self._damaged(path.with_name("data.lexicon.fsomapfile"))
        first_bits = places * 8 + self.lexicon["bit"]
        # Each list ends where the next one of the file starts.
        in_file = np.sort(first_bits)
        last_bits = np.append(in_file, bits)[np.searchsorted(in_file, first_bits, side="right")]
        # A posting takes at least a bit for its document, and one for its impact.
        if (2 * self.lexicon["documents"].astype(np.int64) > last_bits - first_bits).any():
            raise self._damaged(path)
        return data, first_bits, last_bits

    def _number(self, name: str, default: str = "", *, most: int = 2**63 - 1) -> int:
        text = self._properties.get(name, default)
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
            path = self.directory / "data.properties"
            raise ImpactIndexError(f"{path} is damaged ({name} is {text[:40]!r}): build the index again")
        return int(text)

    def _damaged(self, path: Path) -> ImpactIndexError:
        return ImpactIndexError(f"{path} is damaged: build the index again")

    def _check(self, name: str, expected: str) -> None:
        found = self._properties.get(name)
        if found != expected:
            raise self._other(f"{name} is {found}")

    def _other(self, why: str) -> ImpactIndexError:
        return ImpactIndexError(f"{self.directory} is not an index of impacts built by ImpactIndex ({why}): build it again")


def decoder() -> Decoder:
    """Return the compiled decoder of posting lists if numba is installed, else the one in Python."""
    with suppress(ImportError):
        from pyterrier_csplade.index.search.kernels.common import decode

        return decode  # type: ignore[no-any-return]
    return decode_in_python


def decode_in_python(data: np.ndarray, first: int, last: int, docids: np.ndarray, impacts: np.ndarray) -> None:
    """Decode a posting list: gaps between documents in Elias' gamma code, impacts in unary code.

    Args:
        data: The bytes of the file; the highest bit of a byte comes first.
        first: The first bit of the list.
        last: The bit after its last.
        docids: [postings], filled by this function.
        impacts: [postings], filled by this function.
    """
    # Both codes count zeros up to the next one, so only the places of ones matter.
    ones = iter((np.flatnonzero(np.unpackbits(data[first // 8 : -(-last // 8)])) + first // 8 * 8).tolist())
    one, position, docid = next(ones), first, -1
    while one < first:
        one = next(ones)
    found_docids, found_impacts = [], []
    for _ in range(len(docids)):
        length = one - position
        if length >= _DOCID * 8:
            raise OverflowError("a gap is larger than any document")
        end, gap = one + 1 + length, 1 << length
        one = next(ones)
        while one < end:
            gap += 1 << (end - 1 - one)
            one = next(ones)
        docid += gap
        found_docids.append(docid)
        found_impacts.append(one - end + 1)
        position, one = one + 1, next(ones, last)
    docids[:] = found_docids
    impacts[:] = found_impacts


def _read_properties(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="latin-1").splitlines()
    except OSError as error:
        raise ImpactIndexError(f"{path} cannot be read ({error.strerror}): build the index again") from error
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().replace("\\:", ":") for name, _, value in pairs}


def _text(field: bytes) -> str:
    """Return a text: its length as Hadoop's variable-length integer, then UTF-8."""
    length, start = field[0], 1
    if length > 127:  # 143: one byte of the length follows; 142: two bytes; ...
        start = 1 + 144 - length
        length = int.from_bytes(field[1:start], "big")
    return field[start : start + length].decode()
