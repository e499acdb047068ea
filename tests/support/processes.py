"""Training runs in several processes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

from support.paths import TESTS


def torchrun(processes: int, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in several connected processes, and capture the output."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments]
    return _python(command, env or {})


def forked(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run distributed_runs.py with these arguments in several connected processes, which import the libraries once."""
    return _python([str(TESTS / "support" / "forked_runs.py"), str(processes), *arguments], {})


def _python(arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    paths = f"{TESTS.parent}{os.pathsep}{TESTS}"
    settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths} | env
    return subprocess.run([sys.executable, *arguments], env=settings, capture_output=True, text=True, timeout=900)
