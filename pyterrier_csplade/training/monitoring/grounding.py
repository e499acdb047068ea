"""Lexical grounding in training, and detection of its decline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy.sparse import csr_matrix
from torch import Tensor

from pyterrier_csplade.training.own_tokens import OwnTokens
from pyterrier_csplade.vectors.grounding import lexical_grounding

# Number of texts of a batch for which grounding is computed; our choice (not measured).
_TEXTS = 64
#: Lexical grounding below which terms may have lost their meaning; our choice (measured: .40 at the start and .78 at the end of
#: the lexical warm start in examples/csplade_small).
LEAST_GROUNDED = 0.2
_NAMES = ("grounding_query", "grounding_document", "eval_grounding_query", "eval_grounding_document")


def batch_grounding(weights: Tensor, own: OwnTokens, side: str) -> dict[str, float]:
    """Compute the lexical grounding of the first texts of a batch.

    Args:
        weights: [texts, terms].
        own: The own tokens of these texts.
        side: "query" or "document".
    """
    vectors = csr_matrix(weights[:_TEXTS].detach().float().cpu().numpy())
    return lexical_grounding(vectors, own.matrix(*weights.shape)[:_TEXTS]).figures(side)


def fallen(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Describe the figures that fell below the limit at the last point of the curves."""
    found = []
    for name in _NAMES:
        values = [point[name] for point in history if name in point]
        if len(values) > 1 and name in history[-1] and values[-2] >= LEAST_GROUNDED > values[-1]:
            found.append(f"{name} fell from {values[-2]:.2f} to {values[-1]:.2f}")
    return found
