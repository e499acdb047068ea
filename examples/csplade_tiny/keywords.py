"""Short keyword queries, drawn from the words of a document."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable

WORD = re.compile(r"[a-z][a-z0-9-]+")
#: Largest share of the documents that have a word of a query.
MOST_DOCUMENTS = 0.03
LENGTHS = (1, 2, 2, 3, 3, 4, 5)
#: Smallest number of different such words in a document.
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
        """Draw a query for a text; empty if the text has too few words to draw from."""
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
