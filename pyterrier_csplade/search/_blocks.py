"""Side lists of block-max pruning: the largest impact of each term in each block of documents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ._arrays import ArrayFile, ArrayWriter
from ._builder import publishing
from ._fast import kernels
from ._order import read_order
from ._postings import Postings

_FORMAT = 1
# Blocks that have a bound in common, by which all of them may be left out at once (ours, measured: see benchmarks/search.py).
BLOCKS_OF_GROUP = 16
# Results for which the k-th largest impact of each term is known, as in the authors' implementation.
DEPTHS = (10, 100, 1000)


class BlockLists:
    """Side lists, open to be searched: arrays that are mapped into memory.

    Documents are cut into blocks of ``block_size``, and blocks into groups. A block of a term takes 3 bytes: its number in the
    group, its largest impact in one byte (rounded up to a multiple of the term's step), and how many postings it has.

    Attributes:
        block_size: Documents of a block.
        group_size: Documents of a group.
        docids: int32 [postings]: documents in the order of the blocks; those of the postings if that is the order of indexing.
        impacts: [postings]: their impacts.
        order: int32 [documents]: place of each document in the order of indexing; empty if the two orders are the same.
        steps: uint32 [terms]: what a unit of the stored maxima stands for.
        group_starts: int64 [terms + 1]: where the groups of each term start.
        groups: uint32: their numbers.
        group_maxima: uint8: largest impact, in steps.
        group_postings: uint32: first posting, counted from the first of the term.
        group_blocks: uint32: first block, counted from the first of the term.
        block_starts: int64 [terms + 1]: where the blocks of each term start.
        blocks: uint8: their numbers in the group.
        maxima: uint8: largest impact, in steps.
        lengths: uint8: postings less one.
        kth_impacts: [depths, terms]: the 10th, 100th and 1000th largest impact of each term, 0 where it has fewer.
    """

    def __init__(self, path: Path, postings: Postings) -> None:
        """Open side lists.

        Args:
            path: The file.
            postings: The postings that they belong to.

        Raises:
            FileNotFoundError: There is none.
            ImpactIndexError: It is cut off or has changed, or is of another version.
        """
        self.file = ArrayFile(path)
        self.identity: list[Any] = self.file.metadata["identity"]
        self.block_size: int = self.file.metadata["block_size"]
        self.group_size = self.block_size * BLOCKS_OF_GROUP
        reordered = "docids" in self.file
        self.docids = self.file["docids"] if reordered else postings.docids
        self.impacts = self.file["impacts"] if reordered else postings.impacts
        self.order = self.file["order"] if reordered else np.zeros(0, np.int32)
        for name in _SIDES:
            setattr(self, name, self.file[name])

    steps: np.ndarray
    group_starts: np.ndarray
    groups: np.ndarray
    group_maxima: np.ndarray
    group_postings: np.ndarray
    group_blocks: np.ndarray
    block_starts: np.ndarray
    blocks: np.ndarray
    maxima: np.ndarray
    lengths: np.ndarray
    kth_impacts: np.ndarray


_SIDES = (
    "steps", "group_starts", "groups", "group_maxima", "group_postings", "group_blocks", "block_starts", "blocks", "maxima",
    "lengths", "kth_impacts",
)  # fmt: skip


def open_blocks(postings: Postings, block_size: int, *, reordered: bool) -> BlockLists:
    """Open the side lists of postings; build them first if there are none, or if the index or its order has changed since.

    Building takes about 0.1 s for a million postings, twice that if documents are reordered.

    Args:
        postings: The postings.
        block_size: Documents of a block, at most 256.
        reordered: Whether blocks follow the order that ``ImpactIndex.reorder`` made, if there is one.

    Raises:
        CspladeError: numba is not installed.
        ImpactIndexError: The lists are damaged, or cannot be written beside the index.
    """
    directory = postings.file.path.parent
    order = read_order(postings) if reordered else None
    identity = _identity(postings, order)
    path = directory / f"csplade_blocks-{block_size}{'' if order is None else '-reordered'}.bin"
    found = _current(path, postings, identity)
    if found is not None:
        return found
    with publishing(directory, path.name) as temporary:
        found = _current(path, postings, identity)
        if found is None:
            _write(temporary, postings, block_size, order, identity)
            # Opened under this name: a process that has another index open may replace the published file at once.
            found = BlockLists(temporary, postings)
    return found


def _current(path: Path, postings: Postings, identity: list[Any]) -> BlockLists | None:
    try:
        found = BlockLists(path, postings)
    except FileNotFoundError:
        return None
    return found if found.identity == identity else None


def _identity(postings: Postings, order: np.ndarray | None) -> list[Any]:
    digest = None if order is None else hashlib.sha256(order.tobytes()).hexdigest()
    return [_FORMAT, BLOCKS_OF_GROUP, postings.index, digest]


def _write(path: Path, postings: Postings, block_size: int, order: np.ndarray | None, identity: list[Any]) -> None:
    kernel = kernels("_kernel_blocks", "block-max pruning")
    postings.check(np.arange(len(postings.terms)))
    writer, starts, terms = ArrayWriter(path), postings.starts, len(postings.terms)
    docids, impacts = postings.docids, postings.impacts
    if order is not None:
        places = np.empty_like(order)
        places[order] = np.arange(len(order), dtype=order.dtype)
        new_docids = writer.allocate("docids", len(docids), docids.dtype)
        new_impacts = writer.allocate("impacts", len(impacts), impacts.dtype)
        kernel.reorder_lists(starts, docids, impacts, places, new_docids, new_impacts)
        docids, impacts = new_docids, new_impacts
        writer.add("order", order)
    sizes = block_size, block_size * BLOCKS_OF_GROUP
    steps = np.maximum(1, -(-postings.max_impacts.astype(np.int64) // 255)).astype(np.uint32)
    counts = np.zeros((2, terms), np.int64)
    for count, size in zip(counts, sizes):
        kernel.count_blocks(starts, docids, size, count)
    block_starts, group_starts = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(counts, axis=1)], axis=1)
    blocks = [writer.allocate(name, int(block_starts[-1]), np.uint8) for name in ("blocks", "maxima", "lengths")]
    types = {"groups": np.uint32, "group_maxima": np.uint8, "group_postings": np.uint32, "group_blocks": np.uint32}
    groups = [writer.allocate(name, int(group_starts[-1]), dtype) for name, dtype in types.items()]
    lists = starts, docids, impacts
    kernel.fill_blocks(lists, sizes, steps, (group_starts, block_starts), tuple(groups), tuple(blocks))
    kth = np.zeros((len(DEPTHS), terms), impacts.dtype)
    for k, found in zip(DEPTHS, kth):
        kernel.kth_impacts(starts, impacts, k, found)
    for name, array in {"steps": steps, "group_starts": group_starts, "block_starts": block_starts, "kth_impacts": kth}.items():
        writer.add(name, array)
    writer.finish({"identity": identity, "block_size": block_size})
