"""Training runs in several processes on this machine, as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys

from support.paths import TESTS


def torchrun(processes: int, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in several connected processes, and capture the output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments]
    paths = f"{TESTS.parent}{os.pathsep}{TESTS}"
    settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths} | (env or {})
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=900)
