"""Waiting between attempts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Pauses that grow exponentially, each drawn anew between 0 and its bound, so that clients do not come back in step.

    "Full jitter" of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The defaults are ours: a node
    that is killed has been seen to need up to 70 seconds until it answers again.

    Attributes:
        first: Bound of the first pause, in seconds; it doubles from one to the next.
        longest: Bound of any pause.
        patience: Seconds since the first attempt after which there is no further one. 0: only one attempt.
    """

    first: float = 0.5
    longest: float = 30.0
    patience: float = 300.0

    def pauses(self) -> Iterator[float]:
        """Yield how long to wait before the next attempt, until patience is exhausted."""
        end = time.monotonic() + self.patience
        bound = self.first
        while (left := end - time.monotonic()) > 0:
            yield min(random.uniform(0, bound), left)
            bound = min(2 * bound, self.longest)
