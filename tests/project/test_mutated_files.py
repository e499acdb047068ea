"""Files that were damaged or crafted end in this package's own error or in right results: never in a signal or a hang."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyterrier_csplade import CSPLADE
from support.models import language_model, tokenizer
from support.paths import ROOT, TESTS

KINDS = ("index", "collection", "checkpoint")


@pytest.mark.parametrize(
    ("kinds", "count"),
    [(KINDS, 4), *(pytest.param([kind], 1000, marks=pytest.mark.slow) for kind in KINDS)],
)
def test_no_mutation_of_a_file_crashes_or_passes_for_whole(kinds: Sequence[str], count: int, tmp_path: Path) -> None:
    pytest.importorskip("numba")
    for kind in kinds:
        if kind == "checkpoint":  # with the digests of today
            CSPLADE((language_model(), tokenizer())).save(tmp_path / kind)
        else:
            shutil.copytree(TESTS / "fixtures" / "landed" / kind, tmp_path / kind)
    script = str(TESTS / "support" / "mutations.py")
    paths = os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, script, ",".join(kinds), str(tmp_path), "1", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "FAILED" not in done.stdout, done.stdout[-6000:]
    assert done.stdout.count("mutations, 0 failures") >= 5 * len(kinds)
