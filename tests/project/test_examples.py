"""The small example runs from start to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from support.paths import ROOT


def test_first_experiment_on_fifty_documents(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "first_experiment.py"), str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "out" / "results.csv").set_index("name")
    # Fifty documents in random order have an nDCG@10 below 0.1.
    assert list(table.index) == ["BM25", "CSPLADE", "BM25 + CSPLADE"] and (table["nDCG@10"] > 0.3).all()
    assert "Traceback" not in done.stderr and "nDCG@10" in done.stdout
