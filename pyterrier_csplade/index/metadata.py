"""``pt_meta.json``, from which PyTerrier knows the type of an index, and this package's part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import ImpactIndexError
from pyterrier_csplade._version import __version__
from pyterrier_csplade.storage.files import read_json
from pyterrier_csplade.vectors.contract import Contract

_FILE = "pt_meta.json"


def write_metadata(directory: Path, *, documents: int, empty: int, postings: int, contract: Contract | None) -> None:
    """Write ``pt_meta.json``; ``empty`` is the number of documents without any impact."""
    metadata = {
        "type": "sparse_index",
        "format": "terrier",
        "package_hint": "python-terrier",
        "csplade": {
            "version": __version__,
            "documents": documents,
            "empty_documents": empty,
            "postings": postings,
            "contract": None if contract is None else contract.to_dict(),
        },
    }
    (directory / _FILE).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def read_metadata(directory: Path) -> dict[str, Any]:
    """Return this package's part of ``pt_meta.json``; empty if another package built the index.

    Raises:
        ImpactIndexError: The file is damaged.
    """
    path = directory / _FILE
    if not path.exists():
        return {}
    try:
        return dict(read_json(path).get("csplade", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise ImpactIndexError(f"{path} is damaged ({error}): build the index again") from error


def read_contract(directory: Path) -> Contract | None:
    """Return the contract of the document encoder; None if it is unknown or there is no index.

    Raises:
        ContractError: The contract is not valid.
        ImpactIndexError: The file is damaged.
    """
    values = read_metadata(directory).get("contract")
    return None if values is None else Contract.from_dict(values, source=str(directory / _FILE))
