"""The file pt_meta.json of an index: PyTerrier's keys, and what this package adds under ``csplade``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import __version__
from ._contract import Contract
from ._errors import ImpactIndexError

_FILE = "pt_meta.json"


def write_metadata(directory: Path, *, documents: int, empty: int, postings: int, contract: Contract | None) -> None:
    """Write the file.

    Args:
        directory: Of the index.
        documents: How many there are.
        empty: How many of them have no impact.
        postings: How many there are.
        contract: The contract of the encoder of the documents; None if unknown.
    """
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
    """Return what this package has added; empty if it did not build the index.

    Raises:
        ImpactIndexError: The file is damaged.
    """
    path = directory / _FILE
    if not path.exists():
        return {}
    try:
        metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get("csplade", {})
    except (ValueError, AttributeError) as error:
        raise ImpactIndexError(f"{path} is damaged ({error}): build the index again") from error
    return metadata


def read_contract(directory: Path) -> Contract | None:
    """Return the contract of the encoder of the documents; None if it is unknown or there is no index.

    Raises:
        ContractError: It is not valid.
        ImpactIndexError: The file is damaged.
    """
    values = read_metadata(directory).get("contract")
    return None if values is None else Contract.from_dict(values, source=str(directory / _FILE))
