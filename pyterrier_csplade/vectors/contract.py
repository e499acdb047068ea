"""Contracts of encoders: the settings besides the weights that determine the vectors, and presets of published models."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pyterrier_csplade._errors import ContractError

Variant = Literal["causal", "echo", "bidirectional"]

#: The file of a checkpoint that holds its contract.
CONTRACT_FILE = "csplade_config.json"

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
        add_bos: Whether to put the beginning-of-text token first. A wrong one lowered the nDCG@10 of a published model from
            0.752 to 0.022.
        add_eos: Whether to put the end-of-text token last.
        pool_special: Whether pooling includes the positions of special tokens, as Lion-SP does; the paper has no special
            tokens.
        query_length: Maximum number of tokens of a query, prefix included; for echo, of one copy.
        document_length: Maximum number of tokens of a document, prefix included; for echo, of one copy.
        logit_scale: Factor of the logits before pooling (1 in the paper; hidden size ** -0.25 in Lion-SP).
        temperature: Temperature of the training loss.
        impact_scale: Impact of the weight 1 in an index.
        base_model: Hub id or name of the model that was trained.
        base_revision: Revision of the base model.
        vocabulary_sha256: Digest of the index vocabulary.
        weights: Digest of the weights.
        training: Description of the training, for people to read.
    """

    variant: Variant = "causal"
    query_prefix: str = ""
    document_prefix: str = ""
    add_bos: bool = False
    add_eos: bool = False
    pool_special: bool = False
    query_length: int = 64
    document_length: int = 512
    logit_scale: float = 1.0
    temperature: float = 1.0
    impact_scale: float = 100.0
    base_model: str | None = None
    base_revision: str | None = None
    vocabulary_sha256: str = ""
    weights: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ContractError(f"variant must be one of {', '.join(get_args(Variant))}, found {self.variant!r}")
        for name in ("query_length", "document_length", "logit_scale", "temperature", "impact_scale"):
            if not getattr(self, name) > 0:
                raise ContractError(f"{name} must be positive, found {getattr(self, name)}")

    @property
    def attention(self) -> Literal["causal", "bidirectional"]:
        """The attention mask that the variant needs."""
        return "bidirectional" if self.variant == "bidirectional" else "causal"

    @property
    def fingerprint(self) -> str:
        """Digest in hexadecimal, equal for two contracts if and only if the vectors of their encoders are comparable."""
        # pool_special was added later: without it, fingerprints are the same as before.
        identity = json.dumps([*(getattr(self, name) for name in IDENTITY), *(["pool_special"] if self.pool_special else [])])
        return hashlib.sha256(identity.encode()).hexdigest()

    @property
    def summary(self) -> str:
        """Name of the encoder in messages."""
        return f"{self.base_model or 'a model without a name'} ({self.variant}, fingerprint {self.fingerprint[:12]})"

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def replace(self, **changes: Any) -> Contract:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a contract file."""
        return {"format": 1, "attention": self.attention, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = CONTRACT_FILE) -> Contract:
        """Read the content of a contract file.

        Args:
            values: The fields, as :meth:`to_dict` returns them; missing ones have their defaults.
            source: Name of the file in error messages.

        Raises:
            ContractError: A field is unknown or has an invalid value.
        """
        values = dict(values)
        attention = values.pop("attention", None)
        if values.pop("format", 1) != 1:
            raise ContractError(f"{source} has a newer format: update pyterrier_csplade")
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ContractError(f"{source} holds the unknown field {unknown[0]!r}: update pyterrier_csplade, or remove it")
        contract = cls(**values)
        if attention not in (None, contract.attention):
            raise ContractError(f"{source}: attention {attention!r} contradicts variant {contract.variant!r}")
        return contract

    def save(self, directory: Path) -> None:
        """Write the contract file to the directory of a checkpoint."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        (directory / CONTRACT_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Contract:
        """Read a contract file.

        Raises:
            ContractError: The file is not valid.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ContractError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ContractError(f"{path} must hold an object, found {type(values).__name__}")
        return cls.from_dict(values, source=str(path))


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
      their base model by a local path of the authors, so pass it yourself: ``CSPLADE(base, adapter=..., contract=...)``.

    Both papers evaluate BEIR with longer texts: ``contract_preset("lion-sp-8b", query_length=512, document_length=512)``.

    Args:
        name: One of the names above.
        **changes: Fields of the contract that differ.

    Raises:
        ContractError: There is no such preset.
    """
    if name not in _PRESETS:
        raise ContractError(f"there is no preset {name!r}; there are {', '.join(_PRESETS)}")
    return Contract(**{**_PRESETS[name], **changes})
