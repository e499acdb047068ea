"""The mapping of an index, the metadata in it, and the names of terms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from pyterrier_csplade._errors import ContractError, ImpactIndexError
from pyterrier_csplade._version import __version__
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .connection import part

#: Field of the impacts, and of the docno.
IMPACTS, DOCNO = "impacts", "docno"

_FORMAT = 1


class Fields:
    """The fields of documents besides docno and impacts.

    Attributes:
        types: Field to OpenSearch type; these fields are stored and can be filtered by.
        text: Field that BM25 searches; None if there is none.
        analyzer: Analyzer of its text.
    """

    def __init__(self, meta: Iterable[str] | Mapping[str, str], text: str | None, analyzer: str) -> None:
        """Read the arguments of an indexer."""
        types = dict(meta) if isinstance(meta, Mapping) else dict.fromkeys([meta] if isinstance(meta, str) else meta, "keyword")
        self.types = {name: kind for name, kind in types.items() if name not in (DOCNO, text)}
        self.text = text
        self.analyzer = analyzer
        for name in self.names:
            if not isinstance(name, str) or not name or name in (IMPACTS, "toks") or name[0] == "_" or "." in name:
                raise ValueError(
                    f"{name!r} cannot be the name of a field: it is reserved, empty, or has a dot or leading underscore"
                )

    @property
    def names(self) -> list[str]:
        """All names."""
        return [*self.types, *([] if self.text is None else [self.text])]

    @property
    def properties(self) -> dict[str, Any]:
        """The properties of the mapping."""
        properties: dict[str, Any] = {DOCNO: {"type": "keyword"}, IMPACTS: {"type": "rank_features"}}
        properties |= {name: {"type": kind} for name, kind in self.types.items()}
        if self.text is not None:
            properties[self.text] = {"type": "text", "analyzer": self.analyzer}
        return properties


@dataclass(frozen=True)
class Metadata:
    """The ``csplade`` part of the mapping's ``_meta``.

    Attributes:
        names: Scheme of the names of terms: ``TermNames.scheme``.
        scale: Factor of the weights before they were rounded to impacts.
        fields: The stored fields besides the docno.
        text: Field that BM25 searches; None if there is none.
        contract: The contract of the document encoder; None if unknown.
        complete: Whether all documents are loaded.
        documents: Number of documents; this and the following are known when the index is complete.
        empty_documents: Number of documents without any impact.
        postings: Total number of impacts.
        dropped: Number of weights above 0 that were rounded to 0.
        quantization_loss: Share of the sum of the weights that rounding changed.
        build: Random name of the load, which changes after ``overwrite=True``; empty in indexes of older versions.
    """

    names: Mapping[str, Any]
    scale: float
    fields: list[str]
    text: str | None
    contract: Contract | None
    complete: bool = False
    documents: int = 0
    empty_documents: int = 0
    postings: int = 0
    dropped: int = 0
    quantization_loss: float = 0.0
    build: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``_meta``."""
        values = {name: value for name, value in asdict(self).items() if name not in ("names", "contract", "build")}
        contract = None if self.contract is None else self.contract.to_dict()
        values = {"format": _FORMAT, "version": __version__, **self.names, **values, "contract": contract}
        return {"csplade": values, "csplade_build": self.build}  # older versions would refuse an unknown value in "csplade"

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], index: str) -> Metadata:
        """Read a mapping.

        Raises:
            ContractError: The contract in the mapping was changed.
            ImpactIndexError: The mapping was changed, or belongs to an index of another program or of a newer version of this
                package.
        """
        meta, properties = part(mapping, "_meta"), part(mapping, "properties")
        values = dict(part(meta, "csplade"))
        types = [part(properties, name).get("type") for name in (DOCNO, IMPACTS)]
        if not values or types != ["keyword", "rank_features"]:
            raise ImpactIndexError(f"{index} is not an index of impacts: its mapping lacks the metadata of this package")
        number = values.pop("format", None)
        if type(number) is int and number > _FORMAT:
            raise ImpactIndexError(f"{index} has a newer format: update pyterrier_csplade")
        contract = values.pop("contract", None)
        values.pop("version", None)
        values["build"] = meta.get("csplade_build", "")
        wrong = next((name for name, is_valid in _VALID.items() if not is_valid(values.get(name))), None)
        if number != _FORMAT or wrong or values.keys() - _VALID.keys():
            what = "format" if number != _FORMAT else wrong or min(values.keys() - _VALID.keys())
            raise ImpactIndexError(
                f"{index} is not an index of impacts, or its mapping was changed: this package does not write such a {what!r}; "
                "build it again"
            )
        values["names"] = {name: values.pop(name) for name in ("terms", "vocabulary_sha256") if name in values}
        return cls(
            contract=None if contract is None else Contract.from_dict(contract, source=f"the mapping of {index}"), **values
        )

    @classmethod
    def join(cls, parts: Mapping[str, Metadata], index: str) -> Metadata:
        """Return the metadata of one or more indexes (``parts``, by name) together; their loss is the largest of the losses.

        Raises:
            ImpactIndexError: Their scores cannot be compared.
        """
        (first_name, first), *others = parts.items()
        for name, other in others:
            for what in ("contract", "scale", "fields", "text"):
                one, two = (getattr(part, what) for part in (first, other))
                same = one.joins(two) if what == "contract" and one and two else one == two
                if not same:
                    raise ImpactIndexError(f"{index} joins {first_name!r} and {name!r}, which differ in {what}: remove one")
        sums = ("documents", "empty_documents", "postings", "dropped")
        return replace(
            first,
            quantization_loss=max(part.quantization_loss for part in parts.values()),
            **{name: sum(getattr(part, name) for part in parts.values()) for name in sums},
        )

    def check_same_build(self, wanted: Metadata, index: str) -> None:
        """Refuse to continue a load that was begun differently.

        Raises:
            ContractError: Its documents come from another encoder.
            ImpactIndexError: Its documents were quantised or named differently.
        """
        pairs = {"scale": (self.scale, wanted.scale), "names of terms": (self.names, wanted.names)}
        if self.contract is not None and wanted.contract is not None:
            if not self.contract.joins(wanted.contract):
                raise ContractError(
                    f"{index} was begun with documents of {self.contract.summary}, but these come from "
                    f"{wanted.contract.summary}: an index contains the vectors of one encoder; start again with overwrite=True"
                )
            pairs["the encoder's impact scale"] = (self.contract.impact_scale, wanted.contract.impact_scale)
        for what, (found, given) in pairs.items():
            if found != given:
                raise ImpactIndexError(
                    f"{index} was begun with {what} {found}, not {given}: use the same, or start again with overwrite=True"
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


# Checks of the values in a mapping, which another program may have written.
_VALID: dict[str, Callable[[Any], bool]] = {
    "terms": lambda value: isinstance(value, str),
    "vocabulary_sha256": lambda value: value is None or isinstance(value, str),
    "scale": lambda value: _is_number(value) and value > 0,
    "fields": _are_names,
    "text": lambda value: value is None or isinstance(value, str),
    "complete": lambda value: isinstance(value, bool),
    "documents": _is_count,
    "empty_documents": _is_count,
    "postings": _is_count,
    "dropped": _is_count,
    "quantization_loss": lambda value: _is_number(value) and value >= 0,
    "build": lambda value: isinstance(value, str),
}


# Lucene refuses terms above 32,766 bytes.
_MAX_BYTES = 32_766


class TermNames:
    """Names for the terms of an index, a different one for each.

    The server accepts a term with a dot but never finds it, so names have no dots. With a vocabulary, the name of a term is its
    token id, ``t12345``, which every implementation of a tokenizer knows. Without, it is the term itself, with ``%25`` for
    ``%``, ``%2E`` for ``.`` and ``%`` for the empty term, so that no two terms share a name.
    """

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        """Choose the scheme."""
        self._vocabulary = vocabulary

    @property
    def scheme(self) -> dict[str, Any]:
        """What an index records about its names: equal schemes give every term the same name."""
        if self._vocabulary is None:
            return {"terms": "strings"}
        return {"terms": "token ids", "vocabulary_sha256": self._vocabulary.sha256}

    @property
    def requirement(self) -> str:
        """End of a message about a term that cannot have a name."""
        strings = f"(a str of up to {_MAX_BYTES:,} bytes of valid UTF-8)"
        return strings if self._vocabulary is None else "which is not in the vocabulary"

    def __call__(self, term: str) -> str | None:
        """Return the name of a term; None if it cannot have one."""
        if self._vocabulary is None:
            return escape(term)
        column = self._vocabulary.column(term)
        return None if column is None else f"t{self._vocabulary.token_ids[column]}"


@lru_cache(maxsize=2**18)  # larger than a language model's vocabulary
def escape(term: str) -> str | None:
    """Return a term without dots; None if UTF-8 cannot encode it or it is too long."""
    name = term.replace("%", "%25").replace(".", "%2E") or "%"
    try:
        return name if len(name.encode("utf-8")) <= _MAX_BYTES else None
    except UnicodeEncodeError:  # a lone surrogate
        return None
