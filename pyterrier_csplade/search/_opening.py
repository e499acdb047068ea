"""Opening the postings of an index, and building them where they are missing or of another index."""

from __future__ import annotations

from pathlib import Path

from pyterrier_csplade._contract import Contract
from pyterrier_csplade._manifest import check_on_opening, has_manifest

from ._postings import POSTINGS_FILE, Postings, index_identity
from ._terrier import write_terrier_postings


def open_postings(directory: Path, contract: Contract | None, *, memory: bool = False, verbose: bool = False) -> Postings:
    """Open the postings of an index; build them first if there are none, or if the index was built again since.

    Args:
        directory: The directory of the index.
        contract: The contract of the encoder of its documents, for postings that are built.
        memory: Whether to read them into memory instead of mapping them.
        verbose: Whether to show a progress bar while they are built.

    Raises:
        ImpactIndexError: The index or its postings are damaged, or the directory cannot be written.
    """
    postings = _current(directory, memory)
    if postings is None:
        if has_manifest(directory):
            check_on_opening(directory)
        write_terrier_postings(directory, contract, unless=lambda: _current(directory, memory) is not None, verbose=verbose)
        postings = Postings(directory / POSTINGS_FILE, memory=memory)
    return postings


def _current(directory: Path, memory: bool) -> Postings | None:
    try:
        postings = Postings(directory / POSTINGS_FILE, memory=memory)
    except FileNotFoundError:
        return None
    return postings if postings.index == index_identity(directory) else None
