"""The benchmark of search runs at a small size, and finds exact results where it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.paths import ROOT

SCRIPT = ROOT / "benchmarks/search.py"
SIZES = ["--synthetic", "300", "--queries", "30", "--exactness", "30", "--terrier-up-to", "0", "--engines-up-to", "0"]
EXACT = {("exhaustive", ""), ("MaxScore", ""), ("bmp, order of indexing", "1"), ("bmp", "1.0")}


def test_synthetic_vectors(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path), *SIZES], check=True, capture_output=True, env=environment)
    found = json.loads((tmp_path / "results.json").read_text())["synthetic-300"]
    assert found["exactness"]["top 1000 as scipy's"] == dict.fromkeys(["exhaustive", "maxscore", "bmp"], 30)
    assert found["facts"]["documents"] == 300
    assert found["facts"]["peak MB of the build"] > found["facts"]["MB before"] > 0
    rows = {(row["system"], row["label"], row["k"]): row for row in found["rows"]}
    assert {(system, label) for system, label, _ in rows} > EXACT
    for (system, label, k), row in rows.items():
        assert row["processor"] > 0 and row["mrt"] > 0 and 0 < row[f"exact_recall@{k}"] <= 1
        if (system, label) in EXACT:
            assert row["same ranking"] == row[f"exact_recall@{k}"] == 1
    assert rows["exhaustive", "", 10]["ratio"] == 1
    # A rough guide and fewer terms lose documents, which shows that recall is measured.
    assert rows["bmp, beta 0.7", "0.8", 10]["exact_recall@10"] < 1
    table = (tmp_path / "results.md").read_text().split("## Growth")[1]
    assert "| 300 |" in table
    assert (tmp_path / "synthetic-300-10.png").stat().st_size > 0
