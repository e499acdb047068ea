"""Encode a collection in processes that are killed: ``python kill_encoding.py DIRECTORY KILLS SEED``.

The processes are forks, so that each starts encoding at once instead of importing for seconds. ``DIRECTORY/log`` gets a line
with the process id for each encoded shard; ``DIRECTORY/whole/c`` is the collection that was encoded without kills.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from pyterrier_csplade import CSPLADE, EncodedCollection, Quantizer
from support.models import language_model, tokenizer
from support.vector_collections import documents

SHARDS, SHARD_SIZE = 40, 6


class Logging:
    """Quantises as usual, and logs each call."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __call__(self, matrix: object) -> object:
        with self._log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return Quantizer()(matrix)

    def __repr__(self) -> str:
        return repr(Quantizer())


def encode(csplade: CSPLADE, directory: Path, shards: int = SHARDS) -> None:
    encoder = csplade.doc_encoder(top_k=12, quantizer=Logging(directory / "log"))  # type: ignore[arg-type]
    EncodedCollection(directory / "c").encode(encoder, documents(shards * SHARD_SIZE), shard_size=SHARD_SIZE)


def start(csplade: CSPLADE, directory: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            encode(csplade, directory)
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    return pid


def main(directory: Path, kills: int, seed: int) -> int:
    torch.set_num_threads(1)
    csplade = CSPLADE((language_model(), tokenizer()))
    encode(csplade, directory / "warm-up", shards=2)
    begun = time.monotonic()
    encode(csplade, directory / "whole")
    seconds = (time.monotonic() - begun) / SHARDS
    moments = random.Random(seed)
    for finished in sorted(moments.sample(range(SHARDS - 5), kills)):
        pid = start(csplade, directory)
        while len(list((directory / "c").glob("shard-*.json"))) < finished:
            time.sleep(seconds / 10)
        time.sleep(moments.uniform(0, 2 * seconds))  # at any point of the next two shards
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            return 1
    _, status = os.waitpid(start(csplade, directory), 0)
    return status


if __name__ == "__main__":
    for name in ("warm-up", "whole"):
        (Path(sys.argv[1]) / name).mkdir()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
