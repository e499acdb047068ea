"""The order of documents in the blocks of block-max pruning, which puts similar documents side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.storage.arrays import ArrayFile, ArrayWriter
from pyterrier_csplade.storage.workspace import publishing

from .kernels.available import kernels
from .postings import Postings

#: The file of the order in the directory of an index.
ORDER_FILE = "csplade_order.bin"

# Number of heaviest terms by which documents are compared; our choice (not measured).
_TERMS = 32
# Maximum number of documents of a part that is not divided further, as published.
_SMALLEST = 16


def read_order(postings: Postings) -> np.ndarray | None:
    """Return the order that :func:`write_order` wrote for this index, int32 [documents]; None if there is none.

    Raises:
        ImpactIndexError: The file is damaged.
    """
    try:
        file = ArrayFile(postings.file.path.with_name(ORDER_FILE))
    except FileNotFoundError:
        return None
    return checked_order(file, len(postings)) if file.metadata.get("index") == postings.index else None


def checked_order(file: ArrayFile, documents: int) -> np.ndarray:
    """Return the array "order" of a file.

    Raises:
        ImpactIndexError: It is not an order of the documents.
    """
    order = file.array("order", np.int32, documents)
    file.require(np.array_equal(np.sort(order), np.arange(documents)), "order")
    return order


def write_order(postings: Postings, order: np.ndarray) -> None:
    """Write an order next to the postings: int32 [documents], numbers of the documents in the order of indexing.

    Raises:
        ImpactIndexError: The directory cannot be written.
    """
    with publishing(postings.file.path.parent, ORDER_FILE) as path:
        writer = ArrayWriter(path)
        writer.add("order", order)
        writer.finish({"index": postings.index})


def given_order(postings: Postings, docnos: Iterable[str]) -> np.ndarray:
    """Return the order of the given docnos.

    Raises:
        DataError: A docno is unknown, missing, or appears twice; the message names it.
    """
    places = postings.documents()
    order: list[int] = []
    for docno in docnos:
        if docno not in places:
            raise DataError(f"the order has the docno {docno!r} twice, or the index does not have it")
        order.append(places.pop(docno))
    if places:
        raise DataError(f"the order lacks {len(places):,} documents of the index, for example {next(iter(places))!r}")
    return np.array(order, dtype=np.int32)


def bisect(postings: Postings, *, verbose: bool = False) -> np.ndarray:
    """Return an order by recursive graph bisection (Dhulipala et al., KDD 2016; Mackenzie et al., ECIR 2019).

    Documents are compared by their 32 heaviest terms, which limits memory to 200 bytes for each document.

    Returns:
        int32 [documents]: numbers of the documents in the order of indexing.

    Raises:
        CspladeError: numba is not installed.
    """
    kernel = kernels("bisection", "reordering")
    postings.check(np.arange(len(postings.terms)))
    documents = len(postings)
    terms = np.full((documents, _TERMS), -1, np.int32)
    weights = np.zeros((documents, _TERMS), postings.impacts.dtype)
    kernel.heaviest_terms(postings.starts, postings.docids, postings.impacts, terms, weights)
    del weights
    logarithms = np.zeros(documents + 2, np.float32)
    logarithms[1:] = np.log2(np.arange(1, documents + 2))
    order, bounds = np.arange(documents, dtype=np.int32), np.array([0, documents])
    degrees = np.zeros((2, len(postings.terms)), np.int64)
    gains = np.full((2, len(postings.terms)), np.nan, np.float32)
    levels = max(0, math.ceil(math.log2(max(1, documents) / _SMALLEST)))
    for _ in pt.tqdm(range(levels), desc="reordering", unit="level", disable=not verbose):
        for start, end in pairwise(bounds.tolist()):
            kernel.bisect_part(order[start:end], terms, logarithms, degrees, gains)
        bounds = np.unique(np.concatenate([bounds, (bounds[:-1] + bounds[1:]) // 2]))
    return order
