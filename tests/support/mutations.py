"""Changes files at random and opens what they belong to, each time in a process of its own.

Usage: mutations.py KIND DIRECTORY SEED COUNT [FILE]

KIND is index, collection or checkpoint. The script prints one line for each file, and one for each failure: a process that
ended by a signal, took more than 10 s or 1 GB, or raised an error that is not this package's; and wrong results, unless the
digests were made to fit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_csplade import CSPLADE, CspladeError, EncodedCollection, ImpactIndex

SECONDS, BYTES = 10, 10**9
QUERY = {"Ġa": 2.0, "Ġof": 1.5, "e": 1.0, "s": 0.5}
MAGIC = b"CSPLADE\x01"


# ------------------------------------------------------------------------------------------------- what is opened


def open_index(path: Path) -> Any:
    index = ImpactIndex(path)
    queries = pd.DataFrame([{"qid": "q", "query_toks": QUERY}])
    found = []
    for algorithm in ("exhaustive", "maxscore", "bmp", "guided"):
        result = index.retriever(algorithm=algorithm, num_results=5)(queries)
        found.append(list(zip(result["docno"], result["score"])))
    scored = index.scorer()(queries.merge(pd.DataFrame({"docno": [docno for docno, _ in found[0]]}), how="cross"))
    return [*found, list(zip(scored["docno"], scored["score"]))]


def open_collection(path: Path) -> Any:
    collection = EncodedCollection(path)
    return [(list(docnos), matrix.toarray().tolist()) for docnos, matrix in collection.blocks()]


def open_checkpoint(path: Path) -> Any:
    csplade = CSPLADE(path)
    return csplade.encode_docs(["an inverted index", "dogs"]).toarray().round(4).tolist()


OPENED: dict[str, Callable[[Path], Any]] = {"index": open_index, "collection": open_collection, "checkpoint": open_checkpoint}


# ------------------------------------------------------------------------------------------------------- mutations


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, a number, or the length."""
    data = bytearray(content)
    kind = rng.choice(["bit", "bytes", "number", "cut", "longer", "zeros", "swap", "text"])
    at = rng.randrange(max(1, len(data)))
    if kind == "bit" and data:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        data[at : at + 4] = rng.randbytes(4)
    elif kind == "number":
        value = rng.choice([-1, 0, 1, 2**31 - 1, 2**31, -(2**31), 2**40, 2**63 - 1])
        size = rng.choice([4, 8])
        at -= at % size
        data[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, rng.choice(["little", "big"]))
    elif kind == "cut":
        del data[at:]
    elif kind == "longer":
        data += rng.randbytes(rng.randrange(1, 64))
    elif kind == "zeros":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif kind == "swap":
        other = rng.randrange(max(1, len(data)))
        data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
    else:
        data[at : at + 1] = rng.choice([b'"', b"{", b"[" * 5000, b"-", b"9" * 5000, b"null", b"\xff", b"1e999"])
    return bytes(data)


def signed(original: bytes, changed: bytes) -> bytes:
    """A file of arrays whose contents were changed, with digests that fit, as somebody would craft it."""
    length = int.from_bytes(original[-48:-40], "little")
    start = len(original) - 48 - length
    footer = json.loads(original[start:-48])
    body = changed[:start].ljust(start, b"\0")
    for entry in footer["arrays"].values():
        size = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
        entry["sha256"] = hashlib.sha256(body[entry["start"] : entry["start"] + size]).hexdigest()
    text = json.dumps(footer, ensure_ascii=False).encode()
    return body + text + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + MAGIC


def sign_manifest(directory: Path) -> None:
    """Make the manifest of an index fit its files."""
    path = directory / "csplade_manifest.json"
    with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError):
        manifest = json.loads(path.read_text())
        for name in manifest["files"]:
            content = (directory / name).read_bytes()
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        path.write_text(json.dumps(manifest))


# ----------------------------------------------------------------------------------------------------------- trials


def in_child(work: Callable[[], str]) -> str:
    """Run in a forked process; return what went wrong, or nothing."""
    read, write = os.pipe()
    sys.stdout.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            message = work()
        except BaseException:
            message = traceback.format_exc()
        os.write(write, message.encode()[-4000:])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        message = pipe.read().decode(errors="replace")
    _, status, usage = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return f"took more than {SECONDS} s" if number == signal.SIGALRM else f"ended by signal {number}"
    if usage.ru_maxrss * 1024 > before + BYTES:
        return f"took {usage.ru_maxrss / 1024:.0f} MiB"
    return message


def trial(kind: str, directory: Path, expected: Any, exact: bool) -> str:
    def work() -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = OPENED[kind](directory)
        except (CspladeError, FileNotFoundError):
            return ""
        return f"wrong results: {str(found)[:200]}" if exact and found != expected else ""

    return in_child(work)


def run(kind: str, directory: Path, seed: int, count: int, only: str | None) -> None:
    expected = OPENED[kind](directory)
    files = sorted(path for path in directory.iterdir() if path.is_file() and (only is None or path.name == only))
    arrays = {path for path in files if path.name.startswith("csplade_") and path.suffix == ".bin"}
    derived = {path: path.read_bytes() for path in arrays}
    for path in files:
        original, failures = path.read_bytes(), 0
        manifest = directory / "csplade_manifest.json"
        stored = manifest.read_bytes() if manifest.exists() else b""
        rng = random.Random(f"{seed} {path.name}")
        for number in range(count):
            changed = mutated(original, rng)
            # Half of the files of an index are crafted: their digests fit.
            crafted = kind == "index" and path != manifest and number % 2 == 1
            path.write_bytes(signed(original, changed) if crafted and path in arrays else changed)
            if crafted and path not in arrays:
                sign_manifest(directory)
                (directory / "csplade_postings.bin").unlink(missing_ok=True)  # so that it is made from the changed files
            message = trial(kind, directory, expected, exact=not crafted)
            if message:
                failures += 1
                last = message.strip().splitlines()
                print(f"FAILED {path.name} number {number}{' crafted' if crafted else ''}: {' | '.join(last[-4:])[-600:]}")
            path.write_bytes(original)
            if manifest.exists():
                manifest.write_bytes(stored)
            for name, content in derived.items():
                if not name.exists() or name.stat().st_size != len(content) or name.read_bytes() != content:
                    name.write_bytes(content)
            for extra in set(directory.iterdir()) - set(files) if only is None else ():
                if extra.is_file() and extra.name != "csplade_manifest.json":
                    extra.unlink()
        print(f"{path.name}: {count} mutations, {failures} failures")


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] if len(sys.argv) > 5 else None)
