"""Runs of distributed_runs.py in several forks of one process, with the environment of torchrun but without its launcher.

Importing torch and transformers takes longer than most runs, and is done once here.

Usage: forked_runs.py PROCESSES BASE OUTPUT SETTINGS...
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback

from support import distributed_runs


def fork(environment: dict[str, str], arguments: list[str]) -> int:
    """Start a process with these environment variables; return its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.environ.update(environment)
            distributed_runs.main(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def main(processes: int, arguments: list[str]) -> int:
    """Start the processes; if one fails, end the others, which would wait for it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = map(str, range(processes))
    running = {fork(common | {"RANK": rank, "LOCAL_RANK": rank}, arguments) for rank in ranks}
    failed = 0
    while running:
        child, status = os.wait()
        running.remove(child)
        if status and not failed:
            failed = 1
            for other in running:
                os.kill(other, signal.SIGKILL)
    return failed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
