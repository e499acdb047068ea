"""Writes the file data.properties, with which Terrier opens an index."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

#: The properties that are numbers of an index: of documents, terms, postings, tokens, and the time of its making.
NUMBERS = ("num.Documents", "num.Terms", "num.Pointers", "num.Tokens", "index.created")

_STRUCTURES = "org.terrier.structures"
_POSTING = f"{_STRUCTURES}.postings.bit.BasicIterablePosting"
_INDEX_AND_NAME = ("org.terrier.structures.IndexOnDisk,java.lang.String", "index,structureName")
_NAME_AND_INDEX = ("java.lang.String,org.terrier.structures.IndexOnDisk", "structureName,index")

# Structure to class, types of the constructor's parameters, and their values.
_CLASSES = {
    "document": (f"{_STRUCTURES}.FSADocumentIndexInMem", *_INDEX_AND_NAME),
    "document-inputstream": (f"{_STRUCTURES}.FSADocumentIndex$FSADocumentIndexIterator", *_INDEX_AND_NAME),
    "document-factory": (f"{_STRUCTURES}.BasicDocumentIndexEntry$Factory", "", ""),
    "lexicon": (f"{_STRUCTURES}.FSOMapFileLexicon", *_NAME_AND_INDEX),
    "lexicon-inputstream": (f"{_STRUCTURES}.FSOMapFileLexicon$MapFileLexiconIterator", *_NAME_AND_INDEX),
    "lexicon-entry-inputstream": (f"{_STRUCTURES}.FSOMapFileLexicon$MapFileLexiconEntryIterator", *_NAME_AND_INDEX),
    "lexicon-keyfactory": (
        f"{_STRUCTURES}.seralization.FixedSizeTextFactory", "java.lang.String", "${max.term.length}",
    ),
    "lexicon-valuefactory": (f"{_STRUCTURES}.BasicLexiconEntry$Factory", "", ""),
    "meta": (f"{_STRUCTURES}.CompressingMetaIndex", *_INDEX_AND_NAME),
    "meta-inputstream": (f"{_STRUCTURES}.CompressingMetaIndex$InputStream", *_INDEX_AND_NAME),
}  # fmt: skip
_POSTING_TYPES = "org.terrier.structures.IndexOnDisk,java.lang.String,{}java.lang.Class"


def write_properties(
    directory: Path, *, documents: int, terms: int, postings: int, tokens: int, meta: Mapping[str, str]
) -> None:
    """Write data.properties; ``tokens`` is the sum of all impacts, and ``meta`` the result of :func:`write_meta`."""
    properties = {
        **dict(zip(NUMBERS, map(str, (documents, terms, postings, tokens, int(time.time() * 1000))))),
        **{f"index.meta.{name}": value for name, value in meta.items()},
        **fixed_properties(),
    }
    lines = [f"{name}={_escape(value)}\n" for name, value in sorted(properties.items())]
    (directory / "data.properties").write_text("".join(lines), encoding="ascii")


def fixed_properties() -> dict[str, str]:
    """Return the properties that are the same in every index."""
    properties = {
        "index.terrier.version": "5.11",
        "termpipelines": "",
        "max.term.length": "20",
        "index.lexicon.termids": "aligned",
        "index.lexicon.bsearchshortcut": "charmap",
    }
    classes = {**_CLASSES, **_posting_classes("direct", "document"), **_posting_classes("inverted", "lexicon-entry")}
    for structure, (name, types, values) in classes.items():
        properties[f"index.{structure}.class"] = name
        properties[f"index.{structure}.parameter_types"] = types
        properties[f"index.{structure}.parameter_values"] = values
    for structure in ("direct", "inverted"):
        counts = {"fields.count": "0", "fields.names": "", "blocks": "0", "blocks.max": "0"}
        properties.update({f"index.{structure}.{name}": value for name, value in counts.items()})
    return properties


def _posting_classes(structure: str, pointers: str) -> dict[str, tuple[str, str, str]]:
    return {
        structure: (f"{_STRUCTURES}.bit.BitPostingIndex", _POSTING_TYPES.format(""), f"index,structureName,{_POSTING}"),
        f"{structure}-inputstream": (
            f"{_STRUCTURES}.bit.BitPostingIndexInputStream",
            _POSTING_TYPES.format("java.util.Iterator,"),
            f"index,structureName,{pointers}-inputstream,{_POSTING}",
        ),
    }


def _escape(value: str) -> str:
    """Escape a value for Java's ``Properties``: backslashes and everything that is not printable ASCII."""
    units = value.encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(code) if 32 < code < 127 and code != 92 else f"\\u{code:04x}" for code in codes)
