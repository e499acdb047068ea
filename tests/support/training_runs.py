"""Base models, data and settings for tests that run a training phase."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig, LoraSettings
from support import models

LORA = LoraSettings(rank=2, dropout=0.0)


def make_base(folder: Path) -> Path:
    """Fill a folder with two models and training data."""
    for name in ("llama", "llama-tied"):
        models.language_model(name).save_pretrained(folder / name)
        models.tokenizer().save_pretrained(folder / name)
    texts = models.TEXTS
    rows = [
        {
            "query": texts[i % 6][:20],
            "positive_passages": [{"text": texts[i % 6]}, {"text": texts[i % 6][:40], "title": "Title"}][: 1 + i % 2],
            "negative_passages": [{"text": texts[(i + k) % 6]} for k in range(1, 1 + i % 4)],
        }
        for i in range(24)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts * 10))
    return folder


def contrastive_config(base: Path, output: Path, model: Any = "llama", **settings: Any) -> ContrastiveConfig:
    """Return the settings of a contrastive run of two steps."""
    values = {"learning_rate": 1e-3, "steps": 2, "batch_size": 4, "logging_steps": 1, "bf16": False, "negatives": 2, **settings}
    return ContrastiveConfig(model=str(base / model), data=str(base / "rows.jsonl"), output=str(output), **values)


def adaptation_config(base: Path, output: Path, model: Any = "llama", **settings: Any) -> AdaptationConfig:
    """Return the settings of an adaptation run of three steps."""
    values = {"learning_rate": 1e-3, "steps": 3, "batch_size": 4, "logging_steps": 1, "bf16": False, "sequence_length": 16}
    return AdaptationConfig(model=str(base / model), corpus=str(base / "corpus.jsonl"), output=str(output), **values | settings)


def log_of(run: Path, name: str = "loss") -> list[float]:
    """Return the logged values of a figure."""
    return [point[name] for point in json.loads((run / "training_log.json").read_text()) if name in point]


DOCS = [{"docno": f"d{i}", "text": f"text {i}", **({"title": "T"} if i == 2 else {})} for i in range(4)]


TRIPLES = [{"qid": "1", "pos": ["d0"], "neg": ["d1", "d2"]}, {"qid": "2", "pos": ["d2", "d3"], "neg": []}]


def make_collection(directory: Path, *, docs: Any = DOCS, triples: Any = TRIPLES, compressed: bool = True) -> Path:
    directory.mkdir(exist_ok=True)
    for name, rows in (("docs.jsonl", docs), ("train.triples.jsonl", triples)):
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        if compressed:
            (directory / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (directory / name).write_text(text)
    (directory / "topics.train.tsv").write_text("1\tone\n2\ttwo\u2028still two\n", encoding="utf-8")
    (directory / "topics.tsv").write_text("3\tthree\n", encoding="utf-8")
    (directory / "qrels.dev.txt").write_text("9 0 d1 2\n9 0 d2 -1\n", encoding="utf-8")
    return directory
