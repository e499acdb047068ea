"""Contracts of encoders, the settings besides the weights that determine the vectors, and presets of published models."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade._warnings import warn

Variant = Literal["causal", "echo", "bidirectional"]
#: Which spellings of a word become one term: those that differ in case or in the space before it.
Fold = Literal["case+space"]
#: Number of the first layers of a model, or indices of some of its layers, ascending.
Layers = int | list[int]

#: The file of a checkpoint that holds its contract.
CONTRACT_FILE = "csplade_config.json"
#: The folder of a checkpoint that holds its query table, where queries were trained as a table.
QUERY_TABLE = "query_table"

#: Prefix of digests that cover a whole model. Digests of version 0.1.0 cover some of its weights and have no prefix.
WHOLE = "2:"

#: What a choice of layers must be, in messages.
LAYERS = "a positive number of layers, or indices of layers, ascending, from 0"

# Maximum number of tokens of a text, whose products with other numbers stay within 64 bits; our choice (not measured).
_LONGEST = 2**31 - 1
# Maximum nesting of objects and lists in the description of a training; our choice (not measured).
_DEEPEST = 50

#: Two encoders make comparable vectors if their contracts agree in these fields. Maximum lengths and the impact scale are left
#: out: they change how much of a text is read and how finely weights are stored, not what a weight means.
IDENTITY = (
    "weights",
    "vocabulary_sha256",
    "variant",
    "query_prefix",
    "document_prefix",
    "add_bos",
    "add_eos",
    "logit_scale",
)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Settings with which a checkpoint encodes texts.

    The defaults apply to a model without a contract. The paper does not give prefixes, BOS, EOS and lengths: their defaults are
    our choice (not measured).

    Attributes:
        variant: "causal", "echo" (the text is repeated and the second copy pooled) or "bidirectional" (no causal mask).
        query_prefix: Text put before every query.
        document_prefix: Text put before every document.
        add_bos: Whether to put the beginning-of-text token first. The wrong setting lowered the nDCG@10 of a published model
            from 0.752 to 0.022.
        add_eos: Whether to put the end-of-text token last.
        pool_special: Whether pooling includes the positions of special tokens, as Lion-SP does; the paper has no special
            tokens.
        fold: "case+space" merges spellings of a word that differ in case, or in the space before it, into one term with the
            largest of their weights. None makes each token a term. The digests are the digests of the model without folding.
        query_length: Maximum number of tokens of a query, including the prefix; for echo, of one copy.
        document_length: Maximum number of tokens of a document, including the prefix; for echo, of one copy.
        logit_scale: Factor of the logits before pooling (1 in the paper; hidden size ** -0.25 in Lion-SP).
        temperature: Temperature of the training loss.
        impact_scale: Impact of the weight 1 in an index.
        layers: Layers of the base model that are kept: a number of first layers, or ascending indices; None keeps all. Only
            the contract of an adapter sets it, because the files of a whole model contain its layers only. It is not part of
            the identity: the digest in ``weights`` covers the kept layers.
        base_model: Hub id or name of the model that was trained.
        base_revision: Revision of the base model.
        vocabulary_sha256: Digest of the index vocabulary.
        weights: Digest of everything that determines the model's vectors: weights, configuration, tokenizer and adapter. It
            begins with "2:". A digest without this prefix is from version 0.1.0 and covers some of the weights.
        other_weights: The digest of the other kind, if it is known.
        documents_for: Fingerprint of the text model for whose queries an image head makes document vectors; empty for a
            language model.
        queries_for: Fingerprint of the document encoder for which a query table, or a model of fewer layers, makes query
            vectors; empty for a language model, which encodes queries and documents itself.
        query_side: "table" if the documents were trained for queries of a query table, which is in the folder ``query_table``
            of the checkpoint; null if the language model encodes queries as well.
        training: Description of the training, for people to read.
        probes: Vectors of fixed texts, only in the file of a checkpoint; see ``model.probes``.
    """

    variant: Variant = "causal"
    query_prefix: str = ""
    document_prefix: str = ""
    add_bos: bool = False
    add_eos: bool = False
    pool_special: bool = False
    fold: str | None = None
    query_length: int = 64
    document_length: int = 512
    logit_scale: float = 1.0
    temperature: float = 1.0
    impact_scale: float = 100.0
    layers: Layers | None = None
    base_model: str | None = None
    base_revision: str | None = None
    vocabulary_sha256: str = ""
    weights: str = ""
    other_weights: str = ""
    documents_for: str = ""
    queries_for: str = ""
    query_side: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    probes: Sequence[dict[str, float]] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ContractError(f"variant must be one of {', '.join(get_args(Variant))}, found {_short(self.variant)}")
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.type in _KINDS:
                noun, is_valid, plain = _KINDS[f.type]
                if not is_valid(value):
                    raise ContractError(f"{f.name} must be {noun}, found {_short(value)}")
                object.__setattr__(self, f.name, plain(value))
        if self.fold not in (None, *get_args(Fold)):
            raise ContractError(f"fold must be null or one of {', '.join(get_args(Fold))}, found {_short(self.fold)}")
        if self.query_side not in (None, "table"):
            raise ContractError(f"query_side must be null or table, found {_short(self.query_side)}")
        for prefix in (self.query_prefix, self.document_prefix):
            if not _is_unicode(prefix):
                raise ContractError(f"a prefix must be valid Unicode, found {_short(prefix)}")
        if not _is_shallow(self.training):
            raise ContractError(f"training must have at most {_DEEPEST} levels")

    @property
    def attention(self) -> Literal["causal", "bidirectional"]:
        """The attention mask that the variant needs."""
        return "bidirectional" if self.variant == "bidirectional" else "causal"

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the settings that decide whether vectors are comparable; see also :meth:`matches`."""
        # Fields that were added later enter only if they are set, so that older fingerprints stay valid.
        later = [*(["pool_special"] if self.pool_special else []), *([self.queries_for] if self.queries_for else [])]
        later += [f"queries of a {self.query_side}"] if self.query_side else []
        later += [f"fold {self.fold}"] if self.fold else []
        later += [f"pictures for {self.documents_for}"] if self.documents_for else []
        identity = json.dumps([*(getattr(self, name) for name in IDENTITY), *later])
        return hashlib.sha256(identity.encode()).hexdigest()

    def matches(self, other: Contract) -> bool:
        """Whether the vectors of two encoders are comparable.

        Weights are compared by the digests of whole models or, where one contract has none, by the older digests.
        """
        later = ("pool_special", "documents_for", "queries_for", "query_side", "fold")
        compared = (*(name for name in IDENTITY if name != "weights"), *later)
        if any(getattr(self, name) != getattr(other, name) for name in compared):
            return False
        (new, old), (other_new, other_old) = self._digests, other._digests
        return new == other_new if new and other_new or not (old or other_old) else old == other_old

    def joins(self, other: Contract) -> bool:
        """Whether vectors of two encoders can share an index: from one encoder, or from an image head and its text model."""
        return self.matches(other) or self.made_for(other) or other.made_for(self)

    def made_for(self, texts: Contract) -> bool:
        """Whether this is the contract of an image head for a text model, and both or neither fold terms."""
        if not self.documents_for or self.fold != texts.fold:
            return False
        known = {texts.weights, *texts._digests}
        return self.documents_for in {texts.replace(weights=weights, fold=None).fingerprint for weights in known}

    def answers(self, documents: Contract) -> bool:
        """Whether query vectors can be scored against documents: the query encoder is the documents', or a query table for it.

        Documents of an image head are scored like those of the text model for which it was trained. Both are folded, or neither
        is; a table may have been made before or after the folding.
        """
        if not self.queries_for:
            return self.joins(documents)
        if self.fold != documents.fold:
            return False
        if documents.documents_for == self.queries_for:
            return True
        folds = {documents.fold, None}
        return self.queries_for in {
            documents.replace(weights=weights, fold=fold).fingerprint for weights in documents._digests for fold in folds
        }

    @property
    def _digests(self) -> tuple[str, str]:
        """The digest of the whole model, and the older digest; an unknown one is empty."""
        known = (self.weights, self.other_weights)
        new = next((digest for digest in known if digest.startswith(WHOLE)), "")
        return new, next((digest for digest in known if digest and not digest.startswith(WHOLE)), "")

    def warn_if_older(self, source: str) -> None:
        """Warn if the contract has a digest of version 0.1.0; ``source`` names its file."""
        if re.fullmatch("[0-9a-f]{64}", self.weights):
            warn(
                f"{source} was written by version 0.1.0: its digest covers only some of the weights. "
                "CSPLADE(...).save(directory) writes a checkpoint with a digest of all weights, which new indexes then store"
            )

    @property
    def summary(self) -> str:
        """Name of the encoder in messages."""
        name = self.base_model or "a model without a name"
        folded = ", folded terms" if self.fold else ""
        if self.documents_for:
            return f"an image head for {name} (fingerprint {self.fingerprint[:12]}, for the texts of {self.documents_for[:12]})"
        if self.queries_for:
            kind = "a model of fewer layers" if self.training.get("phase") in ("shallow", "distil-query") else "a query table"
            return f"{kind} for {name} (fingerprint {self.fingerprint[:12]}, for documents of {self.queries_for[:12]}{folded})"
        return f"{name} ({self.variant}, fingerprint {self.fingerprint[:12]}{folded})"

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def replace(self, **changes: Any) -> Contract:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a contract file, without probes."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "probes"}
        for name in ("layers", "documents_for", "queries_for", "query_side", "fold"):
            if not values[name]:  # earlier versions do not know the field
                del values[name]
        return {"format": 1, "attention": self.attention, **values}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = CONTRACT_FILE) -> Contract:
        """Read the content of a contract file, or a contract inside another file; warn if it is from version 0.1.0.

        Args:
            values: The fields, as :meth:`to_dict` returns them; missing fields have their defaults.
            source: Name of the file in error messages.

        Raises:
            ContractError: A field is unknown or has an invalid value; the message names the field and the file.
        """
        contract = cls._from_dict(values, source)
        contract.warn_if_older(source)
        return contract

    @classmethod
    def _from_dict(cls, values: Any, source: str) -> Contract:
        if not isinstance(values, dict):
            raise ContractError(f"{source} must contain an object, found {type(values).__name__}")
        values = dict(values)
        attention = values.pop("attention", None)
        if values.pop("format", 1) != 1:
            raise ContractError(f"{source} has a newer format: update pyterrier_csplade")
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ContractError(
                f"{source} contains the unknown field {_short(unknown[0])}: update pyterrier_csplade, or remove it"
            )
        try:
            contract = cls(**values)
        except ContractError as error:
            raise ContractError(f"{source}: {error}; correct the file, or copy it again") from error
        if attention not in (None, contract.attention):
            raise ContractError(f"{source}: attention {_short(attention)} contradicts variant {contract.variant!r}")
        return contract

    def save(self, directory: Path) -> None:
        """Write the contract file to the directory of a checkpoint."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        if self.probes:  # one line for each
            lines = ",\n    ".join(map(json.dumps, self.probes))
            text = f'{text[:-2]},\n  "probes": [\n    {lines}\n  ]\n}}'
        (directory / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Contract:
        """Read a contract file.

        Raises:
            ContractError: The file is not valid.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:  # includes integers with too many digits, and directories
            raise ContractError(f"{path} cannot be read as JSON: {error}; copy it again") from error
        return cls._from_dict(values, source=str(path))


def _short(value: object) -> str:
    """Represent a value in a message."""
    if isinstance(value, int) and abs(value) > _LONGEST:
        return "a larger number"  # str() refuses long ones
    return f"{value!r:.80}" if not isinstance(value, (dict, list)) else type(value).__name__


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_scale(value: Any) -> bool:
    """Whether a value is positive and finite; large integers are compared without conversion."""
    if _is_number(value) and not isinstance(value, int):
        value = float(value)  # numpy would round the limit to float32
    return _is_number(value) and 0 < value <= 1e300 and math.isfinite(value)


def _is_length(value: Any) -> bool:
    return _is_number(value) and hasattr(value, "__index__") and 0 < value <= _LONGEST


def are_layers(value: Any) -> bool:
    """Whether a value says which layers are kept; see :data:`LAYERS`."""
    if not isinstance(value, (list, tuple)):
        return _is_length(value)
    indices = [*value] if all(_is_number(index) and hasattr(index, "__index__") for index in value) else []
    return bool(indices) and indices == sorted({*indices}) and indices[0] >= 0 and indices[-1] < _LONGEST


def _plain_layers(value: Any) -> Layers:
    """Return plain integers; the indices of the first layers become their number."""
    if not isinstance(value, (list, tuple)):
        return int(value)
    indices = [int(index) for index in value]
    return len(indices) if indices == list(range(len(indices))) else indices


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_shallow(value: object) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list))]
        level = [inner for part in parts for inner in part]
        if not level:
            return True
    return False


def _are_probes(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(probe, dict) and all(_is_number(weight) and 0 <= weight < 1e6 for weight in probe.values())
        for probe in value
    )


# Annotations of fields: noun for messages, check, conversion to what JSON holds.
_KINDS: dict[Any, tuple[str, Any, Any]] = {
    "str": ("a string", lambda value: isinstance(value, str), str),
    "str | None": ("a string or null", lambda value: value is None or isinstance(value, str), lambda value: value),
    "bool": ("true or false", lambda value: isinstance(value, bool), bool),
    "int": (f"a positive integer up to {_LONGEST}", _is_length, int),
    "float": ("positive and finite", _is_scale, float),
    "dict[str, Any]": ("an object", lambda value: isinstance(value, dict), lambda value: value),
    "Layers | None": (
        LAYERS,
        lambda value: value is None or are_layers(value),
        lambda value: None if value is None else _plain_layers(value),
    ),
    "Sequence[dict[str, float]]": ("a list of objects of numbers", _are_probes, lambda value: value),
}


# Settings in the code of the models. Padding side and padded length, which also differ, do not change the vectors here.
_LACONIC: dict[str, Any] = {
    "variant": "bidirectional", "query_prefix": "query: ", "document_prefix": "passage: ", "query_length": 256,
    "document_length": 256,
}  # fmt: skip
_LION_SP: dict[str, Any] = {
    "variant": "bidirectional", "add_bos": True, "pool_special": True, "query_length": 64, "document_length": 192,
}  # fmt: skip
_PRESETS: dict[str, dict[str, Any]] = {
    "laconic": _LACONIC,
    "lion-sp-1b": {**_LION_SP, "logit_scale": 2048**-0.25},
    "lion-sp-8b": {**_LION_SP, "logit_scale": 4096**-0.25},
}


def contract_preset(name: str, **changes: Any) -> Contract:
    """Return the contract of a published family of models, for ``CSPLADE(..., contract=...)``.

    - "laconic" (arXiv 2601.01684; utahnlp/laconic-1b, -3b and -8b): bidirectional, prefixes, no special tokens. With a
      beginning-of-text token, nDCG@10 on SciFact falls from 0.752 to 0.022.
    - "lion-sp-1b", "lion-sp-8b" (arXiv 2502.15526; hzeng/Lion-SP-1B- and -8B-llama3-marco-mntp): bidirectional, the
      beginning-of-text token first and included in pooling, logits times hidden size ** -0.25. The published adapters name
      their base model by a local path of the authors, so pass the base model: ``CSPLADE(base, adapter=..., contract=...)``.

    Both papers evaluate BEIR with longer texts: ``contract_preset("lion-sp-8b", query_length=512, document_length=512)``.

    Args:
        name: One of the names above.
        **changes: Fields of the contract to change.

    Raises:
        ContractError: There is no such preset.
    """
    if name not in _PRESETS:
        raise ContractError(f"there is no preset {name!r}; the presets are {', '.join(_PRESETS)}")
    return Contract(**{**_PRESETS[name], **changes})
