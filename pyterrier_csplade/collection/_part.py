"""Which shards a process encodes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pyterrier_csplade._errors import CollectionError


@dataclass(frozen=True)
class Part:
    """Every ``count``-th shard, from shard ``index`` on.

    Attributes:
        index: From 0.
        count: Into how many parts the shards are divided.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise CollectionError(f"there is no part {self.index} of {self.count}: parts count from 0 to {self.count - 1}")

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read "i/n".

        Raises:
            CollectionError: The text is something else, or i is not below n.
        """
        numbers = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
        if numbers is None:
            raise CollectionError(f"expected a part such as 0/4 (the first of four), found {text!r}")
        return cls(int(numbers[1]), int(numbers[2]))

    def __contains__(self, shard: int) -> bool:
        return shard % self.count == self.index

    def overlaps(self, other: Part) -> bool:
        """Whether some shard belongs to both parts (Chinese remainder theorem)."""
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
