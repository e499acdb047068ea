"""Queries of a few words drawn from a document, as people type them into a search box."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable

WORD = re.compile(r"[a-z][a-z0-9-]+")
#: Words in more of the documents than this say too little.
MOST_DOCUMENTS = 0.03
LENGTHS = (1, 2, 2, 3, 3, 4, 5)
#: Different telling words that a document needs.
FEWEST_WORDS = 6


class Keywords:
    """Draws words by ``sqrt(tf) * idf``."""

    def __init__(self, texts: Iterable[str]) -> None:
        frequencies: Counter[str] = Counter()
        documents = 0
        for text in texts:
            documents += 1
            frequencies.update(set(WORD.findall(text.lower())))
        self.idf = {w: math.log(documents / n) for w, n in frequencies.items() if n <= MOST_DOCUMENTS * documents}

    def draw(self, text: str, rng: random.Random) -> str:
        """A query for a text; empty where it has too few telling words."""
        counts = Counter(w for w in WORD.findall(text.lower()) if len(w) > 2 and w in self.idf)
        if len(counts) < FEWEST_WORDS:
            return ""
        words = list(counts)
        weights = [math.sqrt(counts[w]) * self.idf[w] for w in words]
        drawn = []
        for _ in range(rng.choice(LENGTHS)):
            (at,) = rng.choices(range(len(words)), weights)
            drawn.append(words.pop(at))
            weights.pop(at)
        return " ".join(drawn)
