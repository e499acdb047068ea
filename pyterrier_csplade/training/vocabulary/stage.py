"""The vocabulary stage: from the files of a model to the files of a model with another vocabulary."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.data.sources import read_corpus
from pyterrier_csplade.model.terms import never_produced

from .base import Base, read_base, write_settings, write_tokenizer
from .bpe import BytePairs
from .checks import changed_documents, check_kept, check_tokenizer, largest_difference
from .config import VocabularyConfig
from .counts import Counts, count_tokens
from .measuring import load, measure, some_logits
from .report import encoding_sha256, lost_occurrences, merged_groups, used_tokens, write_report
from .shards import Rewrite, rewrite

# Documents whose texts are checked.
_CHECKED = 1000


def make_vocabulary(config: VocabularyConfig) -> Path:
    """Run the vocabulary stage.

    Args:
        config: The settings.

    Returns:
        The directory of the new model, ``config.output``: a causal language model for every later stage, with
        ``vocabulary_report.json``.

    Raises:
        ConfigError: ``config.output`` holds something already.
        ContractError: The model cannot be changed, or a check of the result fails.
        DataError: The corpus is empty, or a document has no text.

    Examples:
        Lower-case the texts, and keep the tokens that a corpus uses::

            make_vocabulary(VocabularyConfig(
                model="HuggingFaceTB/SmolLM2-135M", output="runs/vocabulary", kind="cut", normalise=["nfkc", "lowercase"],
                corpus="docs.jsonl.gz", text_fields=["title", "text"], min_documents=2))
    """
    started = time.monotonic()
    with _fresh(Path(config.output)) as directory:
        base = read_base(config)
        normal = base.encoding.normalised(config.steps)
        counts = _count(config, normal) if config.corpus is not None else None
        new, old_ids = normal, None
        if config.kind == "cut" and counts is not None:
            new, old_ids = normal.cut(_kept(config, base, normal, counts))
        _write_weights(base, directory, old_ids)
        write_settings(base, directory, old_ids)
        write_tokenizer(base, new, directory, normalised=bool(config.steps))
        texts = counts.sample if counts else []
        check_tokenizer(directory, new, [*texts, *_prompts(config)])
        report = _sizes(base, new, old_ids)
        if counts is not None:
            report["corpus"] = _describe(config, counts)
            if config.steps:
                report["merged_groups"] = merged_groups(base.encoding, _count(config, base.encoding))
            if old_ids is not None:
                check_kept(normal, new, _prompts(config))
                report["cut"] = _compare(config, counts, new, old_ids)
            report |= _measure(config, base, directory, texts[: config.measured_documents], normal, old_ids)
        write_report(directory, {"settings": asdict(config), **report, "seconds": time.monotonic() - started})
    return Path(config.output)


@contextmanager
def _fresh(output: Path) -> Iterator[Path]:
    """Make a directory that gets its name when it is complete.

    Raises:
        ConfigError: Something of this name is there.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"output: {output} exists already: remove it, or name another output")
    directory = output.with_name(f".{output.name}.{secrets.token_hex(8)}.tmp")
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"output: cannot make the directory {output} ({error.strerror}): name another one") from error
    try:
        yield directory
        directory.replace(output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _count(config: VocabularyConfig, encoding: BytePairs) -> Counts:
    corpus = str(config.corpus)
    size = max(config.measured_documents, _CHECKED)
    texts = read_corpus(corpus, config.text_fields)
    return count_tokens(texts, encoding.tokenizer, sample=size, seed=config.seed, name=corpus)


def _prompts(config: VocabularyConfig) -> list[str]:
    """Return the texts that are kept; a space at their end is part of the next token, the first of a query or a document."""
    return [form for text in config.keep_texts for form in dict.fromkeys((text, text.rstrip(), f"{text}a"))]


def _kept(config: VocabularyConfig, base: Base, normal: BytePairs, counts: Counts) -> set[int]:
    """Return the ids of tokens that stay."""
    tokenizer = normal.tokenizer
    kept = {*base.named_ids, *normal.byte_ids.values(), *np.flatnonzero(counts.documents >= config.min_documents).tolist()}
    for text in _prompts(config):
        kept.update(tokenizer.encode(text, add_special_tokens=False).ids)
    return normal.closed(kept)


def _write_weights(base: Base, directory: Path, old_ids: Sequence[int] | None) -> None:
    copied = [base.tables.copied] if base.tables.copied else []
    if old_ids is None:
        rewrite(base.tensors, directory, {}, 0, copied)
        return
    ids = np.asarray(old_ids)
    changes: dict[str, Rewrite] = dict.fromkeys(base.tables.changed, lambda table: table.rows(ids))
    rewrite(base.tensors, directory, changes, len(ids), copied)


def _sizes(base: Base, new: BytePairs, old_ids: Sequence[int] | None) -> dict[str, Any]:
    unused = never_produced(new.tokenizer) if new is not base.encoding else set()
    return {
        "rows": {"before": base.rows, "after": base.rows if old_ids is None else len(old_ids)},
        "tokens": {"before": len(base.encoding.tokens), "after": len(new.tokens)},
        "merges": {"before": len(base.encoding.merges), "after": len(new.merges)},
        "tokens_that_no_text_has": len(unused),
        "tied": base.tables.outputs is None,
        "sha256": {"before": encoding_sha256(base.encoding), "after": encoding_sha256(new)},
    }


def _describe(config: VocabularyConfig, counts: Counts) -> dict[str, Any]:
    return {
        "documents": counts.texts,
        "words": counts.words,
        "tokens_per_word": float(counts.occurrences.sum() / counts.words),
        "bytes_per_token": float(counts.bytes / counts.occurrences.sum()),
        "tokens_in_documents": used_tokens(counts),
    }


def _compare(config: VocabularyConfig, counts: Counts, new: BytePairs, old_ids: Sequence[int]) -> dict[str, Any]:
    texts, name = read_corpus(str(config.corpus), config.text_fields), str(config.corpus)
    changed = changed_documents(texts, new, old_ids, counts.digests, lossless=config.min_documents == 1, name=name)
    return {
        "documents_with_other_tokens": changed,
        "share_of_occurrences_removed": lost_occurrences(counts, old_ids),
    }


def _measure(
    config: VocabularyConfig,
    base: Base,
    directory: Path,
    texts: Sequence[str],
    normal: BytePairs,
    old_ids: Sequence[int] | None,
) -> dict[str, Any]:
    """Run the model before and after, one at a time."""
    if not texts:
        return {}
    new_ids = {old: new for new, old in enumerate(old_ids or ())}
    encoded = normal.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    sequences = [encoding.ids for encoding in encoded if encoding.ids and new_ids.keys() >= set(encoding.ids)]
    lm, tokenizer = load(config.model, config.revision)
    before = measure(lm, tokenizer, texts)
    logits = some_logits(lm, sequences, old_ids)
    del lm
    lm, tokenizer = load(str(directory))
    found = {"measured_documents": len(texts), "before": asdict(before), "after": asdict(measure(lm, tokenizer, texts))}
    if old_ids is not None:
        after = some_logits(lm, [[new_ids[old] for old in ids] for ids in sequences])
        found["largest_difference_of_logits"] = largest_difference(logits, after)
    return found
