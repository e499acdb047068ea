"""Vectors of five fixed texts, stored with a checkpoint and compared when it is loaded."""

from __future__ import annotations

from typing import Any

import torch

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.vectors.contract import CONTRACT_FILE

from .backbone import Backbone, Role

_TEXTS: tuple[tuple[Role, str], ...] = (
    ("document", "An inverted index lists the documents of each term."),
    ("document", "In 1969, Dr. Müller's team measured 3.5% more rain in São Paulo."),
    ("document", "def add(a, b): return a + b  # e.g. add(2, 3) == 5"),
    ("query", "what causes high blood pressure"),
    ("query", "Best running shoes under $100?"),
)
# Maximum tokens of a probe, so that the contract's lengths make no difference; our choice (not measured).
_LENGTH = 48
# Number of stored terms of a vector, and decimal digits of their weights; our choice (not measured).
_TERMS, _DIGITS = 48, 3
# Largest accepted norm of the difference between two vectors, relative to the stored one, for other hardware and dtypes; our
# choice (measured: 0.02 in bfloat16, for random models and csplade-tiny).
_TOLERANCE = 0.1
# The same for models in 4 and 8 bits; our choice (measured: 0.3 for a random model in 4 bits).
_TOLERANCE_QUANTIZED = 0.6
# Smallest norm by which a difference is divided, because shorter vectors consist of rounding errors; our choice (not measured).
_SHORTEST = 0.5


def probe_vectors(backbone: Backbone) -> list[dict[str, float]]:
    """Encode the fixed texts, and return the weights of the heaviest terms of each by token id."""
    probes = []
    for vector in _encode(backbone):
        weights, columns = vector.topk(min(_TERMS, len(vector)))
        ids = backbone.columns[columns.to(backbone.columns.device)].tolist()
        probes.append({str(i): round(weight, _DIGITS) for i, weight in zip(ids, weights.tolist()) if round(weight, _DIGITS)})
    return probes


def compare_probes(backbone: Backbone, name: str, *, quantized: bool) -> None:
    """Compare the vectors of the fixed texts with the vectors in the contract, if it has any.

    Raises:
        ContractError: They differ by more than hardware, dtype or quantisation explain.
    """
    probes = backbone.contract.probes
    if not probes:
        return
    column_of = {str(token): column for column, token in enumerate(backbone.vocabulary.token_ids.tolist())}
    tolerance = _TOLERANCE_QUANTIZED if quantized else _TOLERANCE
    for (role, text), stored, vector in zip(_TEXTS, probes, _encode(backbone)):
        if not stored.keys() <= column_of.keys():
            raise ContractError(f"{name}: the probes in {CONTRACT_FILE} contain tokens that are not index terms: copy it again")
        expected = torch.zeros_like(vector)
        expected[[column_of[token] for token in stored]] = torch.tensor([float(weight) for weight in stored.values()])
        least = min(stored.values(), default=0.0) if len(stored) == _TERMS else 0.0
        difference = torch.where(expected > 0, vector - expected, (vector - least).relu()).norm()
        difference /= max(float(expected.norm()), _SHORTEST)
        if not difference <= tolerance:
            raise ContractError(
                f"{name}: the vector of the {role} {text!r} is not the one in {CONTRACT_FILE} (difference "
                f"{float(difference):.0%}): a setting in {CONTRACT_FILE} was changed, or a library computes this model "
                "differently. Undo the change, or install the versions with which the model was saved"
            )


def _encode(backbone: Backbone) -> Any:
    """Return the vectors of the fixed texts, float32 [texts, terms] on the CPU."""
    contract = backbone.contract.replace(query_length=backbone.longest(_LENGTH), document_length=backbone.longest(_LENGTH))
    sequences = [backbone.tokenize([text], role, contract)[0][0] for role, text in _TEXTS]
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        vectors = backbone(**backbone.collate(sequences)).float().cpu()
    backbone.train(training)
    return vectors
