"""Samples of a run's data: its first rows or documents."""

from __future__ import annotations

import gzip
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pyterrier_csplade._errors import CspladeError
from pyterrier_csplade.data.directory import CollectionFiles
from pyterrier_csplade.data.files import count_documents
from pyterrier_csplade.data.jsonl import read_lines
from pyterrier_csplade.data.sources import read_corpus, source_files
from pyterrier_csplade.training.config import AdaptationConfig, ContrastiveConfig
from pyterrier_csplade.training.readers import read_rows
from pyterrier_csplade.training.rows import TrainingRow

from .plan import Plan

# Number of rows or documents to read; our choice (measured: reading takes a second or two).
_SAMPLE = 1000
# Characters per token if there is no tokenizer, as for English text and Llama 3's tokenizer.
_CHARACTERS = 4.5
# Mean tokens of MS MARCO's passages and queries, for data that is not read.
_PASSAGE_TOKENS, _QUERY_TOKENS = 75, 8


@dataclass(frozen=True)
class RowSample:
    """Statistics of sampled training rows.

    Attributes:
        query_tokens: Mean tokens of a truncated query.
        document_tokens: Mean tokens of a truncated passage.
        negatives: Mean number of negatives drawn for a query.
        padding: Number of tokens with padding, divided by the number without.
        longest: Maximum tokens of a truncated passage.
    """

    query_tokens: float
    document_tokens: float
    negatives: float
    padding: float
    longest: float


def sample_rows(config: ContrastiveConfig, tokenizer: Any, plan: Plan) -> RowSample:
    """Read the first rows of every source, measure their lengths, and record facts and problems in ``plan``."""
    rows: list[TrainingRow] = []
    total = 0.0
    for source in [config.data] if isinstance(config.data, str) else config.data:
        found, count = _first_rows(source, plan)
        rows += found
        total += count
    if not rows:
        return RowSample(
            query_tokens=min(_QUERY_TOKENS, config.query_length),
            document_tokens=min(_PASSAGE_TOKENS, config.document_length),
            negatives=config.negatives,
            padding=1.1,
            longest=config.document_length,
        )
    queries = _lengths([config.query_prefix + row.query for row in rows], tokenizer)
    texts = [text for row in rows for text in (*row.positives, *row.negatives)][: 10 * _SAMPLE]
    documents = _lengths([config.document_prefix + text for text in texts], tokenizer)
    _note_lengths("queries", queries, config.query_length, plan)
    _note_lengths("passages", documents, config.document_length, plan)
    if total:
        epochs = config.steps * config.batch_size / total
        plan.facts.append(("epochs", f"{epochs:,.2f} ({config.steps:,} steps of {config.batch_size} queries)"))
        if total < config.batch_size:
            plan.problems.append(f"about {total:,.0f} rows are fewer than a batch of {config.batch_size}: lower batch_size")
    cut = np.minimum(documents, config.document_length)
    negatives = _check_negatives(config, rows, plan)
    _check_teacher(config, rows, plan)
    return RowSample(
        query_tokens=float(np.minimum(queries, config.query_length).mean()),
        document_tokens=float(cut.mean()),
        negatives=negatives,
        padding=_padding(cut),
        longest=float(cut.max()),
    )


def sample_corpus(config: AdaptationConfig, tokenizer: Any, plan: Plan) -> float:
    """Read the first documents of a corpus, record findings in ``plan``, and return its estimated tokens; 0 if unknown."""
    if config.corpus.startswith("irds:"):
        _check_dataset(config.corpus, plan)
        return 0
    try:
        texts = list(islice(read_corpus(config.corpus, config.text_fields), _SAMPLE))
    except (CspladeError, OSError) as error:
        plan.problems.append(str(error))
        return 0
    if not texts:
        plan.problems.append(f"{config.corpus}: the corpus is empty")
        return 0
    lengths = _lengths(texts, tokenizer)
    files = source_files(config.corpus)
    if len(texts) < _SAMPLE or files is None:
        count = float(len(texts))
    elif len(files) == 1 and files[0].name.endswith((".jsonl", ".jsonl.gz")):
        count = _by_size(str(files[0]), len(texts))
    else:
        count = sum(map(count_documents, files))
    tokens = float(count * (lengths.mean() + 1))
    plan.facts.append(("corpus", f"{config.corpus}: about {count:,.0f} documents of {lengths.mean():,.0f} tokens"))
    if tokens < mean_length(config) * config.batch_size:
        plan.problems.append(f"{config.corpus} has about {tokens:,.0f} tokens, fewer than a batch: lower batch_size")
    if config.pooled and (lengths < config.passages.shortest).all():
        plan.problems.append(f"{config.corpus}: no document has {config.passages.shortest} tokens: lower passages.shortest")
    return tokens


def mean_length(config: AdaptationConfig) -> float:
    """Return the mean tokens of a packed sequence, or of a passage, whose length is drawn uniformly."""
    passages = config.passages
    return (passages.shortest + passages.longest) / 2 if config.pooled else config.sequence_length


def _first_rows(source: str, plan: Plan) -> tuple[list[TrainingRow], float]:
    """Return the first rows of a source, and the estimated number of all rows."""
    if source.startswith("irds:"):
        _check_dataset(source, plan)
        return [], 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = list(islice(read_rows(source, max_bad_rows=0), _SAMPLE))
    except (CspladeError, OSError) as error:
        plan.problems.append(str(error))
        return [], 0
    if not rows:
        plan.problems.append(f"{source} has no rows")
        return [], 0
    total, about = float(len(rows)), ""
    if len(rows) == _SAMPLE:
        about = "about "
        if Path(source).is_dir():  # triples are short, so all are counted
            total = float(sum(1 for _ in read_lines(CollectionFiles(source).find("train.triples.jsonl"))))
        else:
            total = _by_size(source, len(rows))
    plan.facts.append(("data", f"{source}: {about}{total:,.0f} rows, the first {len(rows):,} of them read"))
    return rows, total


def _check_dataset(source: str, plan: Plan) -> None:
    import ir_datasets

    try:
        dataset = ir_datasets.load(source.removeprefix("irds:"))
    except KeyError:
        plan.problems.append(f"{source}: ir_datasets has no dataset of this name")
        return
    kinds = [kind for kind in ("docs", "queries", "qrels", "docpairs", "scoreddocs") if getattr(dataset, f"has_{kind}")()]
    plan.facts.append(("data", f"{source}: {', '.join(kinds)}; not read by the dry run, since that may download it"))
    if "docs" not in kinds:
        plan.problems.append(f"{source} has no documents")


def _by_size(file: str, lines: int) -> float:
    """Estimate the number of lines of a file from the size of the first ``lines``."""
    with open(file, "rb") as raw:
        reader: Any = gzip.open(raw) if file.endswith(".gz") else raw
        for _ in range(lines):
            reader.readline()
        return lines * os.path.getsize(file) / max(1, raw.tell())


def _lengths(texts: Sequence[str], tokenizer: Any) -> np.ndarray:
    if tokenizer is None:
        return np.array([max(1.0, len(text) / _CHARACTERS) for text in texts])
    return np.array([len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]])


def _note_lengths(kind: str, lengths: np.ndarray, longest: int, plan: Plan) -> None:
    share = float((lengths > longest).mean())
    text = f"{lengths.mean():,.1f} tokens, 99% up to {np.percentile(lengths, 99):,.0f}; cut at {longest}: {share:.1%}"
    plan.facts.append((kind, text))
    if share > 0.1:
        plan.warnings.append(f"{share:.0%} of the {kind} are longer than {longest} tokens and will be truncated")


def _check_negatives(config: ContrastiveConfig, rows: Sequence[TrainingRow], plan: Plan) -> float:
    counts = np.array([len(row.negatives) for row in rows])
    drawn = np.minimum(counts, config.negatives)
    short = float((counts < config.negatives).mean())
    in_batch = config.batch_size * (1 + drawn.mean()) - 1
    plan.facts.append(
        ("negatives", f"{drawn.mean():.1f} of {config.negatives} hard negatives per query, {in_batch:,.0f} in a batch")
    )
    if short:
        plan.warnings.append(f"{short:.0%} of the rows have fewer than {config.negatives} negatives")
    false = sum(bool(set(row.positives) & set(row.negatives)) for row in rows)
    if false:
        plan.warnings.append(f"{false / len(rows):.1%} of the rows have a passage among both positives and negatives")
    return float(drawn.mean())


def _check_teacher(config: ContrastiveConfig, rows: Sequence[TrainingRow], plan: Plan) -> None:
    spreads = [np.ptp(row.scores or [0.0]) for row in rows if row.scores is not None]
    if spreads:
        spread = float(np.mean(spreads)) / config.teacher_temperature
        plan.facts.append(
            ("teacher scores", f"{len(spreads) / len(rows):.0%} of the rows, spread {spread:.3g} over temperature")
        )
        if not config.needs_teacher:
            plan.warnings.append("the rows have a teacher's scores, but kl_weight and margin_mse_weight are 0")
    if config.needs_teacher and len(spreads) < len(rows):
        plan.problems.append(
            f"{1 - len(spreads) / len(rows):.0%} of the rows have no teacher's scores, which kl_weight and "
            "margin_mse_weight need: mine them with mine_negatives(..., teacher=...)"
        )


def _padding(lengths: np.ndarray, size: int = 32) -> float:
    """Return padded tokens divided by tokens, for batches that are sorted by length and divided into parts."""
    ordered = np.sort(lengths[: 16 * size])[::-1]
    parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return float(sum(part.max() * len(part) for part in parts) / ordered.sum())
