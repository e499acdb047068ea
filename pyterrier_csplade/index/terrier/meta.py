"""Writes the metadata of documents: compressed records, the start of each, and the sorted docnos."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# Terrier's defaults: larger files of records, or of their starts, are read from disk.
_RECORDS_IN_MEMORY = 400 * 2**20
_STARTS_IN_MEMORY = 100 * 2**20


class FieldLength:
    """The length that Terrier needs for all values of a field.

    Attributes:
        units: UTF-16 units of the longest value, or more if its UTF-8 needs them; at least Terrier's default of 20.
    """

    def __init__(self) -> None:
        self.units = 20

    def observe(self, units: int, size: int) -> None:
        """Make room for a value, given its length in UTF-16 units and in bytes of UTF-8."""
        self.units = max(self.units, units)
        while size + len(_vint(size)) > self.bytes:
            self.units += 1

    @property
    def bytes(self) -> int:
        """Bytes that Terrier reserves for a value."""
        return len(_vint(self.units)) + 3 * self.units


def write_meta(
    records: Iterable[Sequence[str]], docnos: Sequence[str], lengths: Mapping[str, FieldLength], directory: Path
) -> dict[str, str]:
    """Write the fields of each document (``records``), which have the order of ``lengths``, and the sorted docnos.

    Returns:
        The properties of the structure, without the prefix "index.meta.".
    """
    with (directory / "data.meta.zdata").open("wb") as data, (directory / "data.meta.idx").open("wb") as starts:
        for record in records:
            starts.write(struct.pack(">q", data.tell()))
            values = (value.encode().ljust(length.bytes, b"\0") for value, length in zip(record, lengths.values()))
            data.write(_compress(b"".join(values)))
        in_memory = data.tell() <= _RECORDS_IN_MEMORY, starts.tell() <= _STARTS_IN_MEMORY
    _write_docnos(docnos, lengths["docno"].bytes, directory)
    return {
        "entries": str(len(docnos)),
        "key-names": ",".join(lengths),
        "value-lengths": ",".join(str(length.units) for length in lengths.values()),
        "entry-length": str(sum(length.bytes for length in lengths.values())),
        "value-sorted": ",".join("false" for _ in lengths),
        "reverse-key-names": "docno",
        "data-source": "fileinmem" if in_memory[0] else "file",
        "index-source": "fileinmem" if in_memory[1] else "file",
    }


def _write_docnos(docnos: Sequence[str], size: int, directory: Path) -> None:
    with (directory / "data.meta-0.fsomapfile").open("wb") as file:
        for number in sorted(range(len(docnos)), key=docnos.__getitem__):  # by code points, which is the order of UTF-8
            key = docnos[number].encode()
            file.write((_vint(len(key)) + key).ljust(size, b"\0") + struct.pack(">i", number))


def _compress(record: bytes) -> bytes:
    # A window of 4 KiB: setting up the default window would take longer than compressing a record.
    compressor = zlib.compressobj(wbits=12, memLevel=5)
    return compressor.compress(record) + compressor.flush()


def _vint(number: int) -> bytes:
    """Encode a length as Hadoop's ``WritableUtils.writeVInt`` does."""
    if number <= 127:
        return bytes([number])
    digits = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([256 - 112 - len(digits)]) + digits
