"""The vocabulary stage: from the files of a model to the files of a model with another vocabulary."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.data.sources import read_corpus

from .base import Base, read_base, write_settings, write_tokenizer
from .checks import check_tokenizer
from .config import VocabularyConfig
from .counts import Counts, count_tokens
from .kinds import cut_vocabulary, lower_vocabulary, prompts, train_vocabulary
from .measuring import compare_models
from .report import describe, describe_change, merged_groups, write_report
from .shards import rewrite

# Number of documents whose texts are checked; our choice (not measured).
_CHECKED = 1000


def make_vocabulary(config: VocabularyConfig) -> Path:
    """Run the vocabulary stage.

    Args:
        config: The settings.

    Returns:
        The directory of the new model, ``config.output``: a causal language model for every later stage, with
        ``vocabulary_report.json``.

    Raises:
        ConfigError: ``config.output`` is not empty, or ``size`` is too small.
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
        before = _count(config, base)
        change = _CHANGES[config.kind](config, base, before)
        copied = [base.tables.copied] if base.tables.copied else []
        rewrite(base.tensors, directory, change.rewrites, len(change.encoding.tokens), copied)
        write_settings(base, directory, change.new_ids, len(change.encoding.tokens))
        write_tokenizer(base, change.encoding, directory, normalised=bool(config.steps))
        texts = before.sample if before else []
        check_tokenizer(directory, change.encoding, [*texts, *prompts(config)])
        report = describe_change(base, change)
        if before is not None:
            report["corpus"] = describe(before)
            report["merged_groups"] = merged_groups(base.encoding, before) if config.steps else []
        if measured := texts[: config.measured_documents]:
            report |= compare_models(config, directory, measured, change)
        write_report(directory, {"settings": asdict(config), **report, "seconds": time.monotonic() - started})
    return Path(config.output)


_CHANGES = {"lower": lower_vocabulary, "cut": cut_vocabulary, "corpus": train_vocabulary}


def _count(config: VocabularyConfig, base: Base) -> Counts | None:
    """Count the tokens of the corpus with the tokenizer of the base model."""
    if config.corpus is None:
        return None
    sample = max(config.measured_documents, _CHECKED)
    texts = read_corpus(config.corpus, config.text_fields)
    return count_tokens(texts, base.encoding.tokenizer, sample=sample, seed=config.seed, name=config.corpus)


@contextmanager
def _fresh(output: Path) -> Iterator[Path]:
    """Create a directory that gets its name when it is complete.

    Raises:
        ConfigError: The name is in use.
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
