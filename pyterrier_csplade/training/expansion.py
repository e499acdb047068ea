"""Expansion control: at first, vectors may use own terms only."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .config import ExpansionSettings

_SIDES = {"query": 0, "document": 1, "image": 2}


class ExpansionControl:
    """Draws for each text whether its vector is restricted to its own terms (Nguyen et al., 2024, arXiv 2402.17535).

    The probability of a restriction falls linearly with the steps. Texts are first matched by their own words, so terms keep
    their meaning when the model learns to expand. Draws are made for each text, as in the paper (its code draws once per
    batch). They depend only on seed, step and process, so a resumed run repeats them. Vectors are restricted in training only,
    not in validation.
    """

    def __init__(self, settings: ExpansionSettings, steps: int, seed: int) -> None:
        """Set the schedule for a run of ``steps`` optimizer steps."""
        self.start, self.seed = settings.start, seed
        self.end = settings.until * steps if settings.until <= 1 else settings.until

    def probability(self, step: int) -> float:
        """Return the probability of a restriction after ``step`` optimizer steps."""
        return self.start * max(0.0, 1.0 - step / self.end)

    def draw(self, count: int, step: int, side: str, process: int = 0) -> Tensor:
        """Draw the vectors of a batch to restrict.

        Args:
            count: Number of vectors.
            step: Number of completed optimizer steps.
            side: "query", "document" or "image", which have separate draws.
            process: Number of the process.

        Returns:
            bool [count], on the host.
        """
        draws = np.random.default_rng([self.seed, step, process, _SIDES[side]]).random(count)
        return torch.from_numpy(draws < self.probability(step))


def own_terms_only(weights: Tensor, own: Tensor, restricted: Tensor) -> Tensor:
    """Set the weights of restricted vectors to 0, except on own terms.

    Args:
        weights: [vectors, terms].
        own: Own terms, such as the tokens of a text or of a picture's caption, bool [vectors, terms].
        restricted: Vectors to restrict, bool [vectors].
    """
    return weights.masked_fill(restricted.to(weights.device)[:, None] & ~own, 0.0)
