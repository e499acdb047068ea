"""Files that were damaged or crafted end in this package's own error or in right results: never in a signal or a hang."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyterrier_csplade import CSPLADE
from support.models import language_model, tokenizer
from support.paths import ROOT, TESTS


@pytest.mark.parametrize("kind", ["index", "collection", "checkpoint"])
@pytest.mark.parametrize("count", [4, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_mutation_of_a_file_crashes_or_passes_for_whole(kind: str, count: int, tmp_path: Path) -> None:
    if kind == "index":
        pytest.importorskip("numba")
    directory = tmp_path / kind
    if kind == "checkpoint":  # with the digests of today
        CSPLADE((language_model(), tokenizer())).save(directory)
    else:
        shutil.copytree(TESTS / "fixtures" / "landed" / kind, directory)
    script = str(TESTS / "support" / "mutations.py")
    paths = os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, script, kind, str(directory), "1", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "FAILED" not in done.stdout, done.stdout[-6000:]
    assert done.stdout.count("mutations, 0 failures") >= 5
