"""The three kinds of new vocabularies: normalised, cut, and trained."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from pyterrier_csplade._errors import ConfigError, ContractError
from pyterrier_csplade.data.sources import read_corpus

from .base import Base
from .bpe import BytePairs
from .change import Change
from .checks import changed_documents, check_kept
from .config import VocabularyConfig
from .counts import Counts, count_tokens
from .neighbours import contexts, with_neighbours
from .report import lost_occurrences
from .rows import Plan, compose, deciles, made_table, plan_rows, tensor_of
from .shards import Rewrite
from .training import train_encoding

# Size of the corpus, as a multiple of the measured documents, from which they are held out of the training of a tokenizer; our
# choice (not measured).
_HELD_OUT_FROM = 10


def prompts(config: VocabularyConfig) -> list[str]:
    """Return the texts to keep, in forms that account for a final space, which becomes part of the first token of a text."""
    return [form for text in config.keep_texts for form in dict.fromkeys((text, text.rstrip(), f"{text}a"))]


def lower_vocabulary(config: VocabularyConfig, base: Base, before: Counts | None) -> Change:
    """Normalise texts, and keep all rows."""
    return Change(base.encoding.normalised(config.steps))


def cut_vocabulary(config: VocabularyConfig, base: Base, before: Counts | None) -> Change:
    """Keep the tokens that a corpus uses, perhaps after normalisation, with bytes, added tokens, and what makes the kept ones.

    Raises:
        ContractError: A text has other tokens although none of its tokens was removed.
    """
    normal = base.encoding.normalised(config.steps)
    counts = before if before is not None and not config.steps else _count(config, normal)
    tokenizer = normal.tokenizer
    kept = {*base.named_ids, *normal.byte_ids.values(), *np.flatnonzero(counts.documents >= config.min_documents).tolist()}
    for text in prompts(config):
        kept.update(tokenizer.encode(text, add_special_tokens=False).ids)
    new, old_ids = normal.cut(normal.closed(kept))
    check_kept(normal, new, prompts(config))
    changed = changed_documents(
        _texts(config), new, old_ids, counts.digests, lossless=config.min_documents == 1, name=str(config.corpus)
    )
    ids = np.asarray(old_ids)
    return Change(
        new,
        dict.fromkeys(base.tables.changed, lambda table: table.rows(ids)),
        {old: new for new, old in enumerate(old_ids)},
        old_ids,
        normal,
        {"documents_with_other_tokens": changed, "share_of_occurrences_removed": lost_occurrences(counts, old_ids)},
    )


def train_vocabulary(config: VocabularyConfig, base: Base, before: Counts | None) -> Change:
    """Train a tokenizer on the corpus, and make the rows of its tokens from the old ones.

    Raises:
        ConfigError: The LM head is tied and gets rows of its own, or ``size`` is too small.
        ContractError: The settings of the model name a token that is not an added token.
    """
    assert before is not None and config.size is not None
    if config.output_rows == "first_piece" and base.tables.outputs is None:
        raise ConfigError(f"output_rows: the LM head of {base.name} is tied to the input embeddings: leave it out")
    if others := base.named_ids - set(base.encoding.added.values()):
        raise ContractError(
            f"{base.name}: its settings name the token {base.encoding.names[min(others)]!r}, which is an ordinary one: a "
            "trained tokenizer may lack it. Name an added token, or cut the vocabulary"
        )
    held_out = set(before.sample[: config.measured_documents])
    if before.texts < _HELD_OUT_FROM * len(held_out):
        held_out = set()
    texts = (text for text in _texts(config) if text not in held_out)
    new, new_ids = train_encoding(
        base.encoding, texts, size=config.size, min_frequency=config.min_documents, steps=config.steps
    )
    counts = _count(config, new)
    vectors = None
    if config.rows == "neighbours":
        vectors = contexts(_texts(config), new.tokenizer, len(new.tokens), config.seed)
    plans = {name: _plan(config, base, new, before, name, vectors) for name in base.tables.changed}
    rewrites: dict[str, Rewrite] = {
        name: partial(
            compose, plan=plan, old_documents=before.documents, new_documents=counts.documents,
            match_norms=config.match_norms, seed=config.seed,
        )
        for name, plan in plans.items()
    }  # fmt: skip
    inputs = base.tables.inputs
    report = {
        "rows_by_origin": {name: plan.counts for name, plan in plans.items()},
        "held_out_documents": len(held_out),
        "tokens_per_word_of_corpus": float(counts.occurrences.sum() / counts.words),
        "lengths_by_decile_before": deciles(tensor_of(base.tensors[inputs]), before.documents),
        "lengths_by_decile_after": deciles(made_table(base.tensors[inputs], rewrites[inputs]), counts.documents),
    }
    return Change(new, rewrites, new_ids, report=report)


def _plan(config: VocabularyConfig, base: Base, new: BytePairs, before: Counts, table: str, vectors: np.ndarray | None) -> Plan:
    first_piece = config.output_rows == "first_piece" and table != base.tables.inputs
    plan = plan_rows(base.encoding, new, before.documents, config.steps, rows=base.rows, first_piece=first_piece)
    if vectors is not None:
        return with_neighbours(plan, vectors)
    if config.rows == "random":
        added = set(new.added.values())
        return Plan(plan.weights, [one if place in added else "random" for place, one in enumerate(plan.origins)])
    return plan


def _count(config: VocabularyConfig, encoding: BytePairs) -> Counts:
    return count_tokens(_texts(config), encoding.tokenizer, sample=0, seed=config.seed, name=str(config.corpus))


def _texts(config: VocabularyConfig) -> Iterator[str]:
    return read_corpus(str(config.corpus), config.text_fields)
