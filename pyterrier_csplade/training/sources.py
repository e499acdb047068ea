"""Records of what a run reads besides its settings and training data, to check that a resumed run reads the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyterrier_csplade.model.hub import is_gguf, optional_file
from pyterrier_csplade.storage.files import sha256

_FILE = "sources.json"
# Files that determine a model's vectors: weights, configuration, and all kinds of tokenizers.
_PATTERNS = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "*.model", "special_tokens_map.json",
    "added_tokens.json", "vocab*", "merges.txt",
)  # fmt: skip

Sources = Mapping[str, Mapping[str, Any]]


def base_files(model: str, revision: str | None) -> dict[str, dict[str, Any]]:
    """Describe the files of the base model by size and modification time, or a hub model by its commit.

    Digests are added when a checkpoint is written.
    """
    directory = Path(model)
    if not directory.is_dir() and not is_gguf(model):
        config = optional_file(model, "config.json", revision)
        return {f"{model} on the hub": {"commit": Path(config).parent.name}} if config else {}
    paths = sorted({path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()})
    if is_gguf(model):
        paths = [directory]
    return {f"{path.name} of the model": {"path": str(path), "bytes": path.stat().st_size, "changed": path.stat().st_mtime_ns}
            for path in paths}  # fmt: skip


def texts_digest(texts: Iterable[str]) -> dict[str, Any]:
    """Describe texts by a digest."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps(text).encode())
    return {"sha256": digest.hexdigest()}


def save_sources(checkpoint: Path, sources: dict[str, dict[str, Any]]) -> None:
    """Write the sources of a run into a checkpoint. The first call computes the digests of files."""
    for entry in sources.values():
        if "path" in entry and "sha256" not in entry:
            entry["sha256"] = sha256(Path(entry["path"]))
    (checkpoint / _FILE).write_text(json.dumps(sources, indent=1) + "\n", encoding="utf-8")


def changed_sources(checkpoint: Path, sources: Sources) -> list[str]:
    """Return the names of sources that differ from those of a checkpoint; empty for a checkpoint of an earlier version."""
    path = checkpoint / _FILE
    if not path.is_file():
        return []
    before: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [name for name in {**before, **sources} if not _same(before.get(name), sources.get(name))]


def _same(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    if before is None or now is None or "path" not in now:
        return before == now
    if before["bytes"] != now["bytes"]:
        return False
    return bool(before["changed"] == now["changed"] or before["sha256"] == sha256(Path(now["path"])))
