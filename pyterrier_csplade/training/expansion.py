"""Expansion control: vectors that may use own terms only at first, and any term later."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .config import ExpansionSettings

_SIDES = {"query": 0, "document": 1, "image": 2}


class ExpansionControl:
    """Draws for each text whether its vector may have terms besides its own (Nguyen et al., 2024, arXiv 2402.17535).

    The probability of a restriction falls linearly with the steps, so that texts meet on their own words first, and terms keep
    their meaning when expansion is learnt. Draws are made text by text, as in the paper (its code draws once for a whole
    batch), and depend on seed, step and process alone, so that a resumed run repeats them. Vectors are restricted in training
    only, never when a model is validated or used.
    """

    def __init__(self, settings: ExpansionSettings, steps: int, seed: int) -> None:
        """Set the schedule.

        Args:
            settings: First probability, and when it is 0.
            steps: Optimizer steps of the run.
            seed: Seed of the draws.
        """
        self.start, self.seed = settings.start, seed
        self.end = settings.until * steps if settings.until <= 1 else settings.until

    def probability(self, step: int) -> float:
        """Return the probability of a restriction after ``step`` optimizer steps."""
        return self.start * max(0.0, 1.0 - step / self.end)

    def draw(self, count: int, step: int, side: str, process: int = 0) -> Tensor:
        """Draw the restricted vectors of a batch.

        Args:
            count: Number of vectors.
            step: Optimizer steps done.
            side: "query", "document" or "image"; each has draws of its own.
            process: Number of the process.

        Returns:
            bool [count], on the host.
        """
        draws = np.random.default_rng([self.seed, step, process, _SIDES[side]]).random(count)
        return torch.from_numpy(draws < self.probability(step))


def own_terms_only(weights: Tensor, own: Tensor, restricted: Tensor) -> Tensor:
    """Set the weights of restricted vectors to 0, except those of own terms.

    Args:
        weights: [vectors, terms].
        own: Terms that a vector may always have, such as the tokens of a text or of a picture's caption, bool [vectors, terms].
        restricted: Vectors that may have no other terms, bool [vectors].
    """
    return weights.masked_fill(restricted.to(weights.device)[:, None] & ~own, 0.0)
