"""Side lists of block-max pruning: the largest impact of each term in each block of documents."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyterrier_csplade.storage.arrays import ArrayFile, ArrayWriter, are_starts
from pyterrier_csplade.storage.workspace import publishing

from .kernels.available import kernels
from .order import checked_order, read_order
from .postings import Postings, are_documents

_FORMAT = 2

# Number of blocks in a group, for each of which terms in many blocks have an offset; our choice (not measured).
BLOCKS_OF_GROUP = 16
# The largest of the stored maxima.
_LARGEST = 255
# Values of k for which the k-th largest impact of each term is stored, as in the authors' implementation.
DEPTHS = (10, 100, 1000)


class BlockLists:
    """Side lists that are open for searching: arrays mapped into memory.

    Documents are divided into blocks of ``block_size``. The largest impact of a term in a block takes one byte, rounded up to a
    multiple of the term's step. A term in many blocks has a maximum for every block, in the order of the blocks. Any other term
    has maxima only for the blocks that contain it, with the numbers of these blocks.

    Attributes:
        block_size: Number of documents in a block.
        docids: int32 [postings]: documents, numbered in the order of the blocks.
        impacts: [postings]: their impacts.
        order: int32 [documents]: position of each document in the order of indexing; empty if the two orders are the same.
        steps: uint32 [terms]: impact of one unit of the term's maxima.
        starts: int64 [terms + 1]: start of each term's maxima.
        maxima: uint8: largest impacts, in steps.
        block_starts: int64 [terms + 1]: start of each term's block numbers; terms in many blocks have no numbers.
        blocks: Block numbers, of the smallest type that can represent them.
        offset_starts: int64 [terms + 1]: start of each term's offsets; only terms in many blocks have offsets.
        offsets: uint32: first posting of each group of blocks, counted from the first posting of the term.
        kth_impacts: [depths, terms]: the 10th, 100th and 1000th largest impact of each term, 0 where there are fewer.
    """

    def __init__(self, file: ArrayFile, postings: Postings, block_size: int, *, reordered: bool) -> None:
        """Open the side lists of postings; with ``reordered``, documents have their own order.

        Raises:
            ImpactIndexError: The file has changed.
        """
        self.file, self.block_size = file, block_size
        self.docids, self.impacts, self.order = postings.docids, postings.impacts, np.zeros(0, np.int32)
        if reordered:
            self.docids = file.array("docids", np.int32, len(postings.docids))
            self.impacts = file.array("impacts", postings.impacts.dtype, len(postings.docids))
            self.order = checked_order(file, len(postings))
            lists = zip(postings.starts[:-1].tolist(), postings.starts[1:].tolist())
            file.require(all(are_documents(self.docids[start:end], len(postings)) for start, end in lists), "docids")
        terms = len(postings.terms)
        self.steps = file.array("steps", np.uint32, terms)
        self.kth_impacts = file.array("kth_impacts", postings.impacts.dtype, len(DEPTHS), terms)
        self.maxima = file.array("maxima", np.uint8, None)
        self.blocks = file.array("blocks", np.unsignedinteger, None)
        self.offsets = file.array("offsets", np.uint32, None)
        names = ("starts", "block_starts", "offset_starts")
        self.starts, self.block_starts, self.offset_starts = (file.array(name, np.int64, terms + 1) for name in names)
        self._check(postings)

    def _check(self, postings: Postings) -> None:
        """Refuse positions outside the arrays, at which compiled loops would read or write."""
        ends = {"starts": self.maxima, "block_starts": self.blocks, "offset_starts": self.offsets}
        for name, values in ends.items():
            self.file.require(are_starts(getattr(self, name), len(values)), name)
        blocks = -(-len(postings) // self.block_size)
        numbers, offsets = np.diff(self.block_starts), np.diff(self.offset_starts)
        many = numbers == 0
        self.file.require((np.diff(self.starts) == np.where(many, blocks, numbers)).all(), "starts")
        self.file.require((offsets == np.where(many, -(-blocks // BLOCKS_OF_GROUP), 0)).all(), "offset_starts")
        self.file.require((self.blocks < blocks).all(), "blocks")
        self.file.require((self.offsets <= np.repeat(np.diff(postings.starts), offsets)).all(), "offsets")


def open_blocks(postings: Postings, block_size: int, *, reordered: bool) -> BlockLists:
    """Open the side lists of postings; build them first if they are missing, or if the index or its order has changed.

    With ``reordered``, blocks follow the order that ``ImpactIndex.reorder`` made, if there is one. Building takes about 0.1 s
    for a million postings, and twice as long if documents are reordered.

    Raises:
        CspladeError: numba is not installed.
        ImpactIndexError: The lists are damaged, or cannot be written into the directory of the index.
    """
    directory = postings.file.path.parent
    order = read_order(postings) if reordered else None
    identity = _identity(postings, order)
    path = directory / f"csplade_blocks-{block_size}{'' if order is None else '-reordered'}.bin"
    file = _current(path, identity, block_size)
    if file is None:
        with publishing(directory, path.name) as temporary:
            file = _current(path, identity, block_size)
            if file is None:
                _write(temporary, postings, block_size, order, identity)
                # Opened before it is published, because a process with another index open may replace the published file.
                file = ArrayFile(temporary)
    return BlockLists(file, postings, block_size, reordered=order is not None)


def _current(path: Path, identity: list[Any], block_size: int) -> ArrayFile | None:
    try:
        file = ArrayFile(path)
    except FileNotFoundError:
        return None
    found = file.metadata.get("identity"), file.metadata.get("block_size")
    return file if found == (identity, block_size) else None


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
    """Write ``maxima``, ``blocks`` and ``offsets``, and the start of each term in them."""
    blocks, found = -(-documents // block_size), np.zeros(len(steps), np.int64)
    kernel.count_blocks(lists[0], lists[1], block_size, found)
    number = np.min_scalar_type(max(1, blocks) - 1)
    # With block numbers, the maxima of such a term would take as much space as a maximum for every block.
    many = found * (1 + number.itemsize) >= blocks
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
