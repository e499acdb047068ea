"""Side lists of block-max pruning: the largest impact of each term in each block of documents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyterrier_csplade.storage.arrays import ArrayFile, ArrayWriter
from pyterrier_csplade.storage.workspace import publishing

from .kernels.available import kernels
from .order import read_order
from .postings import Postings

_FORMAT = 2

# Blocks of a group; terms in many blocks have an offset for each group; our choice (not measured).
BLOCKS_OF_GROUP = 16
# The largest of the stored maxima.
_LARGEST = 255
# Values of k for which the k-th largest impact of each term is stored, as in the authors' implementation.
DEPTHS = (10, 100, 1000)


class BlockLists:
    """Side lists that are open for searching: arrays mapped into memory.

    Documents are divided into blocks of ``block_size``. The largest impact of a term in a block takes one byte, rounded up to a
    multiple of the term's step. A term in many blocks has a maximum for every block, in the order of the blocks. Any other term
    has maxima only for the blocks that it is in, with the numbers of these blocks.

    Attributes:
        block_size: Documents of a block.
        docids: int32 [postings]: documents, numbered in the order of the blocks.
        impacts: [postings]: their impacts.
        order: int32 [documents]: place of each document in the order of indexing; empty if the two orders are the same.
        steps: uint32 [terms]: impact of one unit of the term's maxima.
        starts: int64 [terms + 1]: where the maxima of each term start.
        maxima: uint8: largest impacts, in steps.
        block_starts: int64 [terms + 1]: where the block numbers of each term start; terms in many blocks have no numbers.
        blocks: Block numbers, of the smallest type that holds them.
        offset_starts: int64 [terms + 1]: where the offsets of each term start; only terms in many blocks have offsets.
        offsets: uint32: first posting of each group of blocks, counted from the first of the term.
        kth_impacts: [depths, terms]: the 10th, 100th and 1000th largest impact of each term, 0 where it has fewer.
    """

    def __init__(self, path: Path, postings: Postings) -> None:
        """Open side lists.

        Args:
            path: The file.
            postings: The postings that they belong to.

        Raises:
            FileNotFoundError: There is no such file.
            ImpactIndexError: The file is truncated or has changed.
        """
        self.file = file = ArrayFile(path)
        self.identity: list[Any] = file.metadata["identity"]
        self.block_size: int = file.metadata["block_size"]
        reordered = "docids" in file
        self.docids = file["docids"] if reordered else postings.docids
        self.impacts = file["impacts"] if reordered else postings.impacts
        self.order = file["order"] if reordered else np.zeros(0, np.int32)
        if self.identity[0] == _FORMAT:  # other formats are written again
            self.steps, self.starts, self.maxima = file["steps"], file["starts"], file["maxima"]
            self.block_starts, self.blocks, self.kth_impacts = file["block_starts"], file["blocks"], file["kth_impacts"]
            self.offset_starts, self.offsets = file["offset_starts"], file["offsets"]


def open_blocks(postings: Postings, block_size: int, *, reordered: bool) -> BlockLists:
    """Open the side lists of postings; build them first if there are none, or if the index or its order has changed.

    Building takes about 0.1 s for a million postings, and twice as long if documents are reordered.

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
            # Opened before it is published: a process with another index open may replace the published file at once.
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
    kernel = kernels("blocks", "block-max pruning")
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
    steps = np.maximum(1, -(-postings.max_impacts.astype(np.int64) // _LARGEST)).astype(np.uint32)
    _write_maxima(writer, kernel, (starts, docids, impacts), steps, block_size, len(postings))
    kth = np.zeros((len(DEPTHS), terms), impacts.dtype)
    for k, found in zip(DEPTHS, kth):
        kernel.kth_impacts(starts, impacts, k, found)
    writer.add("steps", steps)
    writer.add("kth_impacts", kth)
    writer.finish({"identity": identity, "block_size": block_size})


def _write_maxima(
    writer: ArrayWriter,
    kernel: ModuleType,
    lists: tuple[np.ndarray, np.ndarray, np.ndarray],
    steps: np.ndarray,
    block_size: int,
    documents: int,
) -> None:
    """Write ``maxima``, ``blocks`` and ``offsets``, and where each term's start."""
    blocks, found = -(-documents // block_size), np.zeros(len(steps), np.int64)
    kernel.count_blocks(lists[0], lists[1], block_size, found)
    number = np.min_scalar_type(max(1, blocks) - 1)
    many = (
        found * (1 + number.itemsize) >= blocks
        # With block numbers, the maxima of such a term would take as much space as a maximum for every block.
    )
    groups = -(-blocks // BLOCKS_OF_GROUP)
    counts = np.stack([np.where(many, blocks, found), np.where(many, 0, found), np.where(many, groups, 0)])
    starts, block_starts, offset_starts = np.concatenate([np.zeros((3, 1), np.int64), np.cumsum(counts, axis=1)], axis=1)
    maxima = writer.allocate("maxima", int(starts[-1]), np.uint8)
    numbers = writer.allocate("blocks", int(block_starts[-1]), number)
    kernel.fill_maxima(lists, block_size, steps, (starts, block_starts), maxima, numbers)
    offsets = writer.allocate("offsets", int(offset_starts[-1]), np.uint32)
    kernel.fill_offsets(lists[0], lists[1], block_size * BLOCKS_OF_GROUP, offset_starts, offsets)
    for name, array in {"starts": starts, "block_starts": block_starts, "offset_starts": offset_starts}.items():
        writer.add(name, array)
