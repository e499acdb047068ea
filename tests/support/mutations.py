"""Changes files at random and opens what they belong to, in processes of their own.

Usage: mutations.py KINDS DIRECTORY SEED COUNT [FILE]

KINDS are one or more of index, collection, checkpoint, table, head, gguf and assembly, with commas; DIRECTORY holds a folder of
each. The script prints one line for each file, and one for each failure: a process that ended by a signal, took more than 10 s
or 1 GB, or raised an error that is not this package's; and wrong results, unless the digests were made to fit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy

from pyterrier_csplade import CspladeError, EncodedCollection, ImpactIndex, QueryTable
from pyterrier_csplade.queries import TABLE_FILE, TableContent

SECONDS, BYTES = 10, 10**9
# Trials in one process.
BATCH = 100
# Seconds of computing, and six times as many of waiting, since other tests may be running.
TIMERS = ((signal.ITIMER_PROF, 1), (signal.ITIMER_REAL, 6))
QUERY = {"Ġa": 2.0, "Ġof": 1.5, "e": 1.0, "s": 0.5}
MAGIC = b"CSPLADE\x01"


# ------------------------------------------------------------------------------------------------- what is opened


def open_index(path: Path) -> Any:
    index = ImpactIndex(path)
    queries = pd.DataFrame([{"qid": "q", "query_toks": QUERY}])
    found = []
    for algorithm in ("exhaustive", "maxscore", "bmp", "guided"):
        own: list[dict[str, Any]] = [{}, {"reordered": False}] if algorithm == "bmp" else [{}]
        for options in own:
            result = index.retriever(algorithm=algorithm, num_results=5, **options)(queries)
            found.append(list(zip(result["docno"], result["score"])))
    scored = index.scorer()(queries.merge(pd.DataFrame({"docno": [docno for docno, _ in found[0]]}), how="cross"))
    return [*found, list(zip(scored["docno"], scored["score"]))]


def open_collection(path: Path) -> Any:
    collection = EncodedCollection(path)
    return [(list(docnos), matrix.toarray().tolist()) for docnos, matrix in collection.blocks()]


def open_checkpoint(path: Path) -> Any:
    from pyterrier_csplade import CSPLADE  # loads torch, which the others do not need

    csplade = CSPLADE(path)
    return csplade.encode_docs(["an inverted index", "dogs"]).toarray().round(4).tolist()


def open_table(path: Path) -> Any:
    return QueryTable.load(path).encode(["an inverted index", "dogs", "é", ""]).toarray().tolist()


def open_head(path: Path) -> Any:
    import torch

    from pyterrier_csplade.images import SavedHead

    saved = SavedHead.load(path)
    return saved.head(torch.arange(6.0)[None], torch.nn.Identity()).tolist()


def open_gguf(path: Path) -> Any:
    return open_checkpoint(path / "model.gguf")


OPENED: dict[str, Callable[[Path], Any]] = {
    "index": open_index, "collection": open_collection, "checkpoint": open_checkpoint, "assembly": open_checkpoint,
    "table": open_table, "head": open_head, "gguf": open_gguf,
}  # fmt: skip


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


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The footer of a file of arrays, and copies of the arrays."""
    length = int.from_bytes(content[-48:-40], "little")
    footer = json.loads(content[-48 - length : -48])
    arrays = {}
    for name, entry in footer["arrays"].items():
        count, dtype = int(np.prod(entry["shape"])), np.dtype(entry["dtype"])
        array = np.frombuffer(content, dtype, count, entry["start"]).copy() if count else np.zeros(0, dtype)
        arrays[name] = array.reshape(entry["shape"])
    return footer, arrays


def packed(footer: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """A file of arrays with digests and checksums that fit, as somebody would craft it."""
    if "checksums" in arrays:
        bounds = np.clip(arrays["starts"], 0, len(arrays["docids"])).tolist()
        lists = [(arrays["docids"][a:b], arrays["impacts"][a:b]) for a, b in itertools.pairwise(bounds)]
        sums = [zlib.crc32(impacts.tobytes(), zlib.crc32(docids.tobytes())) for docids, impacts in lists]
        arrays = arrays | {"checksums": np.array(sums, np.uint32)}
    body = b""
    for name, array in arrays.items():
        body += bytes(-len(body) % 64)
        entry = footer["arrays"][name]
        keep = entry.get("kept", ())
        entry["sha256"] = hashlib.sha256(array.tobytes()).hexdigest()
        own = {"start": len(body), "dtype": array.dtype.str, "shape": list(array.shape)}
        entry.update({key: value for key, value in own.items() if key not in keep})
        body += array.tobytes()
    text = json.dumps(footer, ensure_ascii=False).encode()
    return body + text + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + MAGIC


def signed(original: bytes, changed: bytes) -> bytes:
    """A file of arrays whose contents were changed, with digests that fit."""
    start = len(original) - 48 - int.from_bytes(original[-48:-40], "little")
    return packed(*unpacked(changed[:start].ljust(start, b"\0") + original[start:]))


def attacked(original: bytes, rng: random.Random) -> bytes:
    """A file of arrays with values that somebody would choose who wants compiled loops to leave the arrays."""
    footer, arrays = unpacked(original)
    name = rng.choice(list(arrays))
    entry = footer["arrays"][name]
    kind = rng.choice(["values"] * 7 + ["dtype", "shape", "start", "lost", "about"])
    if kind == "values":
        arrays[name] = attacked_array(arrays[name], rng)
    elif kind == "dtype":
        entry.update(dtype=rng.choice(["|O", "<f8", ">i4", "<i8", "<u2", "|S4", "|V8", "<M8[s]", "x", 3, None]), kept=["dtype"])
    elif kind == "shape":
        length = len(arrays[name])
        shapes = [[2**62], [-1], [0, 2**63], [2**32, 2**32], [], "ab", [1.5], [None], [[1]], [10**30], [length, 1], None]
        entry.update(shape=rng.choice(shapes), kept=["shape"])
    elif kind == "start":
        entry.update(start=rng.choice([-64, 1, 2**62, 10**30, "0", None, 1.5, 0]), kept=["start"])
    elif kind == "lost":
        del arrays[name], footer["arrays"][name]
        if name in ("starts", "docids", "impacts"):
            arrays.pop("checksums", None)
    else:
        values: list[Any] = [None, 0, -1, 1, [], {}, "x", 2**40, [[]], [2, 16, "x", None]]
        footer["metadata"][rng.choice(list(footer["metadata"]))] = rng.choice(values)
        if rng.random() < 0.2:
            footer["metadata" if rng.random() < 0.5 else "format"] = rng.choice(values)
    return packed(footer, arrays)


def attacked_array(original: np.ndarray, rng: random.Random) -> np.ndarray:
    """An array whose values are out of range, out of order or too few."""
    array = original.copy()
    flat = array.reshape(-1)
    at = rng.randrange(max(1, len(flat)))
    kind = rng.choice(["end", "value", "repeat", "reverse", "shift", "shorter", "longer"])
    with np.errstate(all="ignore"):
        far = np.array(rng.choice([-1, -(2**31), 2**31 - 1, len(flat), len(flat) + 1, 2**15]), np.int64).astype(flat.dtype)
        if kind == "end" and len(flat):  # still monotone
            flat[-1] = far
        elif kind == "value" and len(flat):
            flat[at : at + rng.choice([1, len(flat)])] = far
        elif kind == "repeat" and len(flat):
            flat[at:] = flat[at]
        elif kind == "reverse":
            return flat[::-1].copy()
        elif kind == "shift":  # into the middle of a character, a list or a block
            flat[at:] += np.array(rng.choice([-1, 1, 3]), np.int64).astype(flat.dtype)
        elif kind == "shorter":
            return flat[: rng.randrange(len(flat) + 1)].copy()
        elif kind == "longer":
            return np.concatenate([flat, flat])
    return array


def attacked_shard(original: bytes, rng: random.Random) -> bytes:
    """A shard of a collection with such arrays, or with arrays of other types."""
    arrays = safetensors.numpy.load(original)
    name = rng.choice(list(arrays))
    if rng.random() < 0.1:
        arrays[name] = arrays[name].astype(rng.choice([np.int64, np.int32, np.float32, np.uint8, np.uint16]))
    else:
        arrays[name] = attacked_array(arrays[name], rng)
    return safetensors.numpy.save(arrays)


def craft_table(directory: Path, rng: random.Random) -> None:
    """Change an array or the tokenizer of a query table, and make all its digests fit."""
    with np.load(directory / "table.npz") as packed_arrays:
        arrays = dict(packed_arrays)
    tokenizer = (directory / "tokenizer.json").read_bytes()
    name = rng.choice([*arrays, "tokenizer"])
    if name == "tokenizer":
        tokenizer = mutated(tokenizer, rng)
    else:
        arrays[name] = attacked_array(arrays[name], rng)
    np.savez_compressed(directory / "table.npz", **arrays)
    (directory / "tokenizer.json").write_bytes(tokenizer)
    values = json.loads((directory / TABLE_FILE).read_text())
    parts = {"counts": values["counts"], "split_special_tokens": values["split_special_tokens"]}
    text = tokenizer.decode(errors="replace")
    content = SimpleNamespace(tokenizer=text, _arrays=lambda: {name: arrays[name] for name in arrays}, **parts)
    values["contract"]["weights"] = TableContent._digest.fget(content)  # type: ignore[attr-defined]
    for file in values["files"]:
        found = (directory / file).read_bytes()
        values["files"][file] = {"bytes": len(found), "sha256": hashlib.sha256(found).hexdigest()}
    (directory / TABLE_FILE).write_text(json.dumps(values))


# Place and type of the numbers in a record of 86 bytes of a lexicon.
LEXICON = {"length": (0, "u1"), "tokens": (65, ">i4"), "documents": (69, ">i4"), "largest": (73, ">i4"), "byte": (77, ">i8")}


def attacked_terrier(name: str, original: bytes, rng: random.Random) -> bytes:
    """A lexicon or properties with numbers that somebody would choose."""
    far = rng.choice([-1, 0, 1, 255, -(2**31), 2**31 - 1, len(original), 2**62])
    if name == "data.properties":
        key = rng.choice(["num.Documents", "num.Terms", "num.Pointers", "max.term.length"])
        text = rng.choice([str(far), "", "x", "1e9", "9" * 5000, "²", "0x10", "1.5"])
        return re.sub(rf"(?m)^{key}=.*$", f"{key}={text}", original.decode("latin-1")).encode("latin-1", "replace")
    place, dtype = LEXICON[rng.choice(list(LEXICON))]
    record, data = rng.randrange(len(original) // 86), bytearray(original)
    value = np.array(far, np.int64).astype(dtype).tobytes()
    data[record * 86 + place : record * 86 + place + len(value)] = value
    if place == 69 and rng.random() < 0.8:  # with a sum that fits, if the sum is what is checked
        other = (record + 1) % (len(original) // 86) * 86 + place
        sums = [int.from_bytes(original[at : at + 4], "big") for at in (record * 86 + place, other)]
        data[other : other + 4] = ((sum(sums) - far) % 2**32).to_bytes(4, "big")
    return bytes(data)


def sign_manifest(directory: Path) -> None:
    """Make the manifest of an index or of a collection fit its files."""
    with contextlib.suppress(ValueError, KeyError, AttributeError, TypeError, OSError):
        (path,) = (path for name in ("csplade_manifest.json", "manifest.json") if (path := directory / name).exists())
        manifest = json.loads(path.read_text())
        for name in manifest["files"]:
            content = (directory / name).read_bytes()
            manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        path.write_text(json.dumps(manifest))


# ----------------------------------------------------------------------------------------------------------- trials


@dataclasses.dataclass
class Target:
    """A directory whose files are changed one after the other.

    Attributes:
        kind: What it is.
        directory: Its path.
        files: The content of each file.
        expected: The results of the whole directory.
    """

    kind: str
    directory: Path
    files: dict[str, bytes]
    expected: Any

    def restore(self) -> None:
        """Put back what a trial has changed, and remove what it has added."""
        for path in self.directory.iterdir():
            if path.name not in self.files:
                path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
        for name, content in self.files.items():
            path = self.directory / name
            if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
                path.write_bytes(content)

    def change(self, name: str, seed: str) -> bool:
        """Change a file; return whether somebody may have crafted it, so that its results need not be right."""
        rng, path, original = random.Random(seed), self.directory / name, self.files[name]
        if self.kind == "table" and name != TABLE_FILE and rng.random() < 0.6:
            craft_table(self.directory, rng)
            return True
        arrays = name.startswith("csplade_") and name.endswith(".bin")
        crafted = self.kind == "index" and name != "csplade_manifest.json" and rng.random() < 0.6
        if crafted and arrays:
            path.write_bytes(attacked(original, rng) if rng.random() < 0.7 else signed(original, mutated(original, rng)))
            return True
        shard = name.endswith(".safetensors") and self.kind == "collection" and rng.random() < 0.6
        if crafted and name in ("data.properties", "data.lexicon.fsomapfile") and rng.random() < 0.7:
            path.write_bytes(attacked_terrier(name, original, rng))
        else:
            path.write_bytes(attacked_shard(original, rng) if shard else mutated(original, rng))
        if crafted or shard or (self.kind == "collection" and name != "manifest.json" and rng.random() < 0.5):
            crafted = True
            sign_manifest(self.directory)
            (self.directory / "csplade_postings.bin").unlink(missing_ok=True)  # so that it is made from the changed files
        return crafted or self.kind == "gguf"  # which has no digest

    def trial(self, crafted: bool) -> str:
        """Open the directory; return what is wrong with that, or nothing."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = OPENED[self.kind](self.directory)
        except (CspladeError, FileNotFoundError):
            return ""
        except Exception:
            return " | ".join(traceback.format_exc().strip().splitlines()[-4:])[-600:]
        return "" if crafted or found == self.expected else f"wrong results: {str(found)[:200]}"


def in_child(target: Target, name: str, seeds: list[str]) -> list[str]:
    """Run trials in a forked process; return their messages, of which the last may be of the trial that ended the process."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for seed in seeds:
            crafted = target.change(name, seed)
            for timer, factor in TIMERS:
                signal.setitimer(timer, factor * SECONDS)
            message = target.trial(crafted)
            for timer, _ in TIMERS:
                signal.setitimer(timer, 0)
            size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            if not message and size > before + BYTES:
                message, before = f"took {size / 2**20:.0f} MiB", size
            os.write(write, json.dumps(message).encode() + b"\n")
            target.restore()
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        messages = [json.loads(line) for line in pipe]
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number:
        late = number in (-signal.SIGALRM, -signal.SIGPROF)
        messages.append(f"took more than {SECONDS} s" if late else f"ended with {number}")
    return messages


def run(kind: str, directory: Path, seed: int, count: int, only: str | None) -> None:
    files = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}
    target = Target(kind, directory, files, OPENED[kind](directory))
    for name in files:  # compile the loops that make these files, too
        if name.endswith(".bin") and "guide" not in name and "order" not in name:
            (directory / name).unlink()
    assert kind != "index" or OPENED[kind](directory) == target.expected
    target.restore()
    for name in files if only is None else [only]:
        seeds, failures = [f"{seed} {name} {number}" for number in range(count)], 0
        while seeds:
            messages = in_child(target, name, seeds[:BATCH])
            target.restore()
            for place, message in zip(seeds, messages):
                if message:
                    failures += 1
                    print(f"FAILED {place}: {message}")
            del seeds[: len(messages)]
        print(f"{name}: {count} mutations, {failures} failures", flush=True)


if __name__ == "__main__":
    for kind in sys.argv[1].split(","):
        only = sys.argv[5] if len(sys.argv) > 5 else None
        run(kind, Path(sys.argv[2]) / kind, int(sys.argv[3]), int(sys.argv[4]), only)
