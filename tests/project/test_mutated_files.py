"""Files that were damaged or crafted end in this package's own error or in right results: never in a signal or a hang."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from inside.model import store_without_base
from pyterrier_csplade import CSPLADE, QueryTable
from support.gguf_files import write_gguf
from support.models import language_model, tokenizer
from support.paths import ROOT, TESTS
from support.pictures import random_head

KINDS = ("index", "collection", "checkpoint", "table", "head")


def make(kind: str, path: Path, place: Path) -> None:
    """Make what is changed, with the digests of today unless version 0.1.0 wrote it."""
    pair = language_model(), tokenizer()
    if kind in ("index", "collection"):
        shutil.copytree(TESTS / "fixtures" / "landed" / kind, path)
    elif kind == "table":
        csplade = CSPLADE(pair)
        expansion = csr_matrix(np.eye(len(csplade.vocabulary), k=1, dtype=np.float32))
        QueryTable.from_weights(csplade, np.arange(1.0, len(csplade.vocabulary) + 1), expansion).save(path)
    elif kind == "head":
        random_head(CSPLADE(pair), path)
    elif kind == "gguf":
        path.mkdir()
        write_gguf(language_model(intermediate_size=64), pair[1], path / "model.gguf")
    elif kind == "assembly":
        for part in pair:
            part.save_pretrained(place / "base")
        CSPLADE(pair).save(place / "trained")
        store_without_base(place / "trained", path, base=str(place / "base"))
    else:
        CSPLADE(pair).save(path)


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        (KINDS, 4),
        *(pytest.param([kind], 1000, marks=pytest.mark.slow) for kind in KINDS),
        *(pytest.param([kind], 200, marks=pytest.mark.slow) for kind in ("gguf", "assembly")),
    ],
)
def test_no_mutation_of_a_file_crashes_or_passes_for_whole(kinds: Sequence[str], count: int, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    for kind in kinds:
        make(kind, tmp_path / kind, tmp_path)
    script = str(TESTS / "support" / "mutations.py")
    paths = os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {
        "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTERRIER_CSPLADE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    command = [sys.executable, script, ",".join(kinds), str(tmp_path), "1", str(count)]
    files = sum(path.is_file() for kind in kinds for path in (tmp_path / kind).iterdir())
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "FAILED" not in done.stdout, done.stdout[-6000:]
    assert done.stdout.count("mutations, 0 failures") == files
