"""Guided traversal: a cheap model decides which documents the learned model scores."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade.storage.arrays import ArrayFile, ArrayWriter
from pyterrier_csplade.storage.workspace import publishing
from pyterrier_csplade.vectors.checks import check_one_of, check_share

from .algorithm import Algorithm, Searcher
from .maxscore import MaxScoreSearcher
from .postings import Postings

#: Replacement for the guide's impact of postings that the guide lacks.
Fill = Literal["zero", "one", "scaled"]

# Guides are quantised to 8 bits, as in Mallia et al.
_LARGEST = 255


@dataclass(frozen=True)
class Guided(Algorithm):
    """MaxScore over postings with two impacts, the learned one and a guide's (2GTI: Qiao et al., WWW 2023, arXiv 2305.01203).

    ``alpha``, ``beta`` and ``gamma`` are shares of the guide, from 0 to 1: in the bounds that exclude lists, in the bounds that
    exclude documents, and in the final score. (0, 0, 0) is exact MaxScore; (1, 1, 0) is GT and (1, 1, 0.5) is GTI of Mallia et
    al. (SIGIR 2022, arXiv 2204.11314). The search is a heuristic: it loses documents that the guide ranks low, so report recall
    along with latency.

    Both impacts are multiplied by the same query weights; the guide's are scaled to the range of the learned ones. Thresholds
    rise after each window of 4,096 documents, not after each document, so fewer documents are skipped than in the papers.

    Attributes:
        guide: Name of a guide that ``index.add_guide`` made.
        alpha: Share in global bounds.
        beta: Share in local bounds.
        gamma: Share in final scores.
        fill: Impact for postings without one in the guide: "zero"; "one", the smallest; or "scaled", the learned impact times
            the ratio of the guide's mean to the learned mean over postings that have both (2GTI's best).
    """

    name: ClassVar[str] = "guided"

    guide: str = "bm25"
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.0
    fill: Fill = "scaled"

    def __post_init__(self) -> None:
        check_share(alpha=self.alpha, beta=self.beta, gamma=self.gamma)
        check_one_of("fill", self.fill, get_args(Fill))
        _check_name(self.guide)

    def prepare(self, postings: Postings) -> Searcher:
        """Return a searcher of postings.

        Raises:
            CspladeError: numba is not installed.
            ImpactIndexError: The index has no such guide.
        """
        mix = float(self.alpha), float(self.beta), float(self.gamma)  # compiled for three numbers of one type
        return MaxScoreSearcher(postings, read_guide(postings, self.guide, self.fill), mix)


@dataclass(frozen=True)
class GuideSource:
    """The weights that a guide gives to terms of documents.

    Attributes:
        largest: The largest weight.
        description: A description for readers.
        list_of: Returns the numbers of the documents with a weight for a term, increasing, and the weights, above 0.
    """

    largest: float
    description: str
    list_of: Callable[[str], tuple[np.ndarray, np.ndarray]]


def write_guide(postings: Postings, name: str, source: GuideSource, *, verbose: bool = False) -> None:
    """Write a guide next to the postings of an index: one byte for each posting.

    Postings that only the guide has are left out, because they add nothing to a learned score.

    Raises:
        ImpactIndexError: The directory cannot be written.
        ValueError: The name is not valid.
    """
    path = _path(postings, name)
    with publishing(path.parent, path.name) as temporary:
        writer = ArrayWriter(temporary)
        guides = writer.allocate("guides", len(postings.docids), np.uint8)
        scale = _LARGEST / source.largest if source.largest > 0 else 0.0
        for number, term in enumerate(pt.tqdm(postings.terms, desc=f"guide {name}", unit="term", disable=not verbose)):
            docids, weights = source.list_of(term)
            postings.check(np.array([number]))
            indexed = postings.list_of(number)[0]
            places = np.searchsorted(indexed, docids)
            places[places == len(indexed)] = 0
            shared = indexed[places] == docids if len(docids) else np.zeros(0, bool)
            values = np.clip(np.rint(weights[shared] * scale), 1, _LARGEST)
            guides[postings.starts[number] + places[shared]] = values.astype(np.uint8)
        writer.finish({"index": postings.index, "description": source.description})


def read_guide(postings: Postings, name: str, fill: Fill) -> tuple[np.ndarray, np.ndarray, float]:
    """Open a guide of an index; :class:`Guided` explains ``fill``.

    Returns:
        uint8 [postings], the guide's largest impact of each term, and the learned impact that the guide's impact 1 corresponds
        to, so that both have the same maximum.

    Raises:
        ImpactIndexError: The index has no such guide, or the guide is damaged.
    """
    path = _path(postings, name)
    try:
        file = ArrayFile(path)
    except FileNotFoundError:
        raise ImpactIndexError(f"the index has no guide {name!r}: make it with index.add_guide(...)") from None
    if file.metadata.get("index") != postings.index:
        raise ImpactIndexError(f"{path} belongs to another index: make it again with index.add_guide(...)")
    guides = _filled(file.array("guides", np.uint8, len(postings.docids)), postings.impacts, fill)
    maxima = np.maximum.reduceat(guides, postings.starts[:-1]) if len(guides) else guides
    return guides, maxima, float(postings.max_impacts.max(initial=0)) / _LARGEST


def _check_name(name: object) -> None:
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)):
        raise ValueError(f"a guide's name has 1 to 64 letters, digits, - and _, found {name!r:.80}")


def _path(postings: Postings, name: str) -> Path:
    _check_name(name)
    return postings.file.path.with_name(f"csplade_guide_{name}.bin")


def _filled(guides: np.ndarray, impacts: np.ndarray, fill: Fill) -> np.ndarray:
    missing = guides == 0
    if fill == "zero" or not missing.any():
        return guides
    filled = guides.copy()
    if fill == "one" or missing.all():
        filled[missing] = 1
    else:
        ratio = float(guides[~missing].mean() / impacts[~missing].mean())
        filled[missing] = np.clip(np.rint(impacts[missing] * ratio), 1, _LARGEST).astype(np.uint8)
    return filled
