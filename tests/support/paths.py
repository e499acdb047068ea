"""Where things are."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
#: Real test collections; tests that use them are skipped where they are missing.
SHARED = ROOT.parent / "shared" / "data"
