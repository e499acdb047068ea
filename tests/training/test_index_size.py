"""The estimated size of an index against the size of real indexes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix, random

from inside.planning import POSTING_BYTES
from pyterrier_csplade import CSPLADE, ImpactIndex, MatrixVectors, Quantizer
from pyterrier_csplade.training.monitoring import index_bytes


def real_bytes(impacts: csr_matrix, path: Path) -> int:
    docnos, terms = ([f"{letter}{i}" for i in range(size)] for letter, size in zip("dt", impacts.shape))
    index = ImpactIndex(path).index_vectors(MatrixVectors(docnos, impacts, terms), max_empty=1)
    return sum(file.stat().st_size for file in index.directory.iterdir())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("documents", "terms", "density", "largest"), [(2000, 300, 0.2, 150), (300, 3000, 0.01, 20)])
def test_random_impacts(tmp_path: Path, documents: int, terms: int, density: float, largest: int) -> None:
    impacts = csr_matrix(random(documents, terms, density, format="csr", random_state=0))
    impacts.data = np.ceil(impacts.data * largest)
    assert index_bytes(impacts.astype(np.int32)) == pytest.approx(
        real_bytes(impacts.astype(np.int32), tmp_path / "i"), rel=0.05
    )


def test_postings_of_a_trained_model() -> None:
    """The postings alone, without the bytes per term and per document."""
    texts = ["An inverted index maps every term to its postings.", "Cats sleep for most of the day."] * 200
    impacts = Quantizer()(CSPLADE.tiny().encode_docs(texts))
    used = len(np.unique(impacts.indices))
    assert (index_bytes(impacts) - 87 * used - 110 * len(texts)) / impacts.nnz == pytest.approx(POSTING_BYTES, rel=0.25)
