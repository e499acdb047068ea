"""Arrays in files that are named by the digest of everything that determines them, so that they are computed only once."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from pyterrier_csplade.storage.files import write_atomically

_PARTS = ("data", "indices", "indptr", "shape")


def kept(directory: str | None, name: str, key: Any, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return arrays from a directory, or make them and store them there.

    Args:
        directory: The directory, made if it does not exist. With None, nothing is stored.
        name: Beginning of the file's name.
        key: Everything that determines the arrays, as JSON values. The file's name ends with its digest.
        make: The function that makes the arrays. It is also called if the file is damaged.

    Raises:
        OSError: The file cannot be written.
    """
    if directory is None:
        return make()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = Path(directory) / f"{name}-{digest}.npz"
    try:
        with np.load(path) as file:
            return {part: file[part] for part in file.files}
    except Exception:  # it is missing or damaged, for which zipfile, zlib and numpy raise errors of many kinds
        arrays = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_atomically(path, content.getvalue())
    return arrays


def as_arrays(matrices: Mapping[str, csr_matrix]) -> dict[str, np.ndarray]:
    """Return the arrays of matrices, for ``as_matrices``."""
    return {f"{name}.{part}": np.asarray(getattr(matrix, part)) for name, matrix in matrices.items() for part in _PARTS}


def as_matrices(arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, csr_matrix]:
    """Return named matrices from the arrays of ``as_arrays``."""
    parts = {name: [arrays[f"{name}.{part}"] for part in _PARTS] for name in names}
    return {name: csr_matrix((data, indices, indptr), tuple(shape)) for name, (data, indices, indptr, shape) in parts.items()}
