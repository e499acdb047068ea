"""Guided traversal: a cheap model decides which documents are scored by the learned one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._algorithm import Algorithm, Searcher
from ._guide import Fill, check_fill, read_guide
from ._maxscore import MaxScoreSearcher
from ._postings import Postings


@dataclass(frozen=True)
class Guided(Algorithm):
    """MaxScore over postings with two impacts, the learned one and a guide's (2GTI: Qiao et al., WWW 2023, arXiv 2305.01203).

    Each share is that of the guide, from 0 to 1, in a score: alpha in the bounds by which lists are left out, beta in those by
    which documents are, gamma in the final score. (0, 0, 0) is exact MaxScore, (1, 1, 0) is GT and (1, 1, 0.5) GTI of Mallia et
    al. (SIGIR 2022, arXiv 2204.11314). A heuristic: what the guide ranks low is lost, so report recall with latency.

    Both impacts are multiplied by the same query weights, and the guide's are brought to the scale of the learned ones.
    Thresholds rise after each window of 4,096 documents, not after each document: less is left out than in the papers.

    Attributes:
        guide: Name of a guide that ``index.add_guide`` made.
        alpha: Share in global bounds.
        beta: Share in local bounds.
        gamma: Share in final scores.
        fill: What stands where the guide has no impact: "zero", "one", or "scaled" (2GTI's best).
    """

    name: ClassVar[str] = "guided"

    guide: str = "bm25"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.0
    fill: Fill = "scaled"

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, found {getattr(self, name)}")
        check_fill(self.fill)

    def prepare(self, postings: Postings) -> Searcher:
        """Make ready to search.

        Raises:
            CspladeError: numba is not installed.
            ImpactIndexError: The index has no such guide.
        """
        guides, maxima, scale = read_guide(postings, self.guide, self.fill)
        mix = float(self.alpha), float(self.beta), float(self.gamma)  # compiled for three numbers of one type
        return MaxScoreSearcher(postings, guides=guides, max_guides=maxima, scale=scale, mix=mix)
