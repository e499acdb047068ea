"""Directories of the project."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
#: Real collections; tests that need them are skipped if they are missing.
SHARED = ROOT.parent / "shared" / "data"
