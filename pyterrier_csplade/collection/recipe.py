"""The recipe of an encoded collection: everything besides the documents that determines its content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import CollectionError, ContractError
from pyterrier_csplade.storage.files import read_json
from pyterrier_csplade.vectors.contract import IDENTITY, Contract
from pyterrier_csplade.vectors.folding import fold_vocabulary
from pyterrier_csplade.vectors.impacts import Quantizer
from pyterrier_csplade.vectors.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pyterrier_csplade.images.encoder import ImageEncoder
    from pyterrier_csplade.model.transformers import DocEncoder


#: The file with the recipe of a collection.
PLAN_FILE = "plan.json"
TERMS_FILE = "terms.json"
META_FILE = "pt_meta.json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How documents are encoded and divided.

    Attributes:
        model: Name of the model, for messages.
        contract: The contract of the encoder.
        tokenizer: Digest of the tokenizer.
        dtype: The type in which the model computes.
        quantization: Quantisation of the model's weights: None, "int8" or "nf4".
        top_k: Number of heaviest terms that are kept; None for all.
        min_weight: Minimum weight of a term that is kept.
        quantizer: The quantizer that makes integer impacts; None for float weights.
        shard_size: Number of documents in each shard but the last.
    """

    model: str
    contract: Contract
    tokenizer: str
    dtype: str
    quantization: str | None
    top_k: int | None
    min_weight: float
    quantizer: str | None
    shard_size: int

    @classmethod
    def of(cls, encoder: DocEncoder | ImageEncoder, shard_size: int) -> Recipe:
        """Return the recipe of an encoder; loads its model."""
        model, quantizer = encoder.model, encoder.quantizer
        if quantizer == "default":
            quantizer = Quantizer(model.contract.impact_scale)
        return cls(
            model=repr(model),
            contract=encoder.vector_contract(),
            tokenizer=_tokenizer_digest(model.backbone.tokenizer),
            dtype=str(next(model.backbone.model.parameters()).dtype).removeprefix("torch."),
            quantization=model.quantization,
            top_k=encoder.top_k,
            min_weight=encoder.min_weight,
            quantizer=None if quantizer is None else repr(quantizer),
            shard_size=shard_size,
        )

    @property
    def compared(self) -> dict[str, Any]:
        """The settings that decide whether two runs make the same vectors. Models are compared by digests, not by name."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("model", "contract")]
        # The field fold was added later: without folding, fingerprints are the same as before.
        folding = ("fold",) if self.contract.fold else ()
        of_contract = {name: getattr(self.contract, name) for name in (*IDENTITY, "pool_special", "document_length", *folding)}
        return {**of_contract, **{name: getattr(self, name) for name in names}}

    @property
    def fingerprint(self) -> str:
        """Digest of the compared settings, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.compared).encode()).hexdigest()

    def differences(self, other: Recipe) -> str:
        """Name the settings that differ from another recipe, with both values; empty if none do."""
        new, old = self.compared, other.compared
        if new["weights"] != old["weights"]:
            new["weights"] += f" ({self.model})"
            old["weights"] += f" ({other.model})"
        changed = [name for name in {**old, **new} if new.get(name) != old.get(name)]
        return "; ".join(f"{name} {new.get(name)!r} instead of {old.get(name)!r}" for name in changed)

    def to_json(self) -> bytes:
        """Return the content of the recipe's file."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["contract"] = self.contract.to_dict()
        return (json.dumps({"format": 1, **values}, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def load(cls, directory: Path) -> Recipe:
        """Read the recipe of a collection.

        Raises:
            CollectionError: The file is missing, damaged, or in a newer format.
        """
        path = directory / PLAN_FILE
        try:
            values = read_json(path)
            if values.pop("format") != 1:
                raise CollectionError(f"{path} has a newer format: update pyterrier_csplade")
            return cls(**{**values, "contract": Contract.from_dict(values["contract"], source=str(path))})
        except FileNotFoundError as error:
            raise CollectionError(f"{directory} is not an encoded collection: {PLAN_FILE} is missing") from error
        except (ValueError, KeyError, TypeError, AttributeError, ContractError) as error:
            raise CollectionError(f"{path} is damaged ({error}): restore it, or encode into another directory") from error


def terms_to_json(vocabulary: Vocabulary) -> bytes:
    """Return the content of the file of index terms."""
    values = {"terms": list(vocabulary.terms), "token_ids": vocabulary.token_ids.tolist()}
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()


def load_terms(directory: Path, recipe: Recipe) -> Vocabulary:
    """Read the index terms of a collection.

    Raises:
        CollectionError: The file is missing or damaged, or contains another vocabulary than the contract's.
    """
    path = directory / TERMS_FILE
    try:
        values = read_json(path)
        vocabulary = Vocabulary(values["terms"], values["token_ids"])
        digest = vocabulary.sha256
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CollectionError(f"{path} is damaged ({error}): copy the collection again") from error
    # The digest of the contract is of the terms before folding.
    is_folded = recipe.contract.fold is not None and fold_vocabulary(vocabulary)[0].terms == vocabulary.terms
    if not is_folded and digest != recipe.contract.vocabulary_sha256:
        raise CollectionError(
            f"{path} does not contain the vocabulary of the contract: files of different collections were mixed"
        )
    return vocabulary


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.dumps(tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
    return hashlib.sha256(content.encode()).hexdigest()
