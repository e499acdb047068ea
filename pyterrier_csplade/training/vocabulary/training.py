"""Training of a byte-level byte-pair encoding on a corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pyterrier_csplade._errors import ConfigError

from .bpe import BytePairs, byte_characters, renumbered_processor


def train_encoding(
    base: BytePairs, texts: Iterable[str], *, size: int, min_frequency: int, steps: Sequence[str]
) -> tuple[BytePairs, dict[int, int]]:
    """Train a tokenizer with the added tokens of another one.

    Digits are single tokens. A space is part of the following word, and is added before every text.

    Args:
        base: The other tokenizer.
        texts: The corpus.
        size: Number of tokens, including added ones; fewer if the corpus does not have enough pairs.
        min_frequency: Occurrences of a pair that becomes a token.
        steps: Steps of the normalisation, as in ``BytePairs.normalised``.

    Returns:
        The tokenizer, and the new id of each old added token.

    Raises:
        ConfigError: ``size`` leaves no room for a token besides bytes and added tokens.
    """
    added = sorted(base.state["added_tokens"], key=lambda token: token["id"])
    alphabet = byte_characters()
    if size <= len(alphabet) + len(added):
        raise ConfigError(
            f"size must be above {len(alphabet) + len(added)}, the bytes and the {len(added)} added tokens, found {size}"
        )
    trained = Tokenizer(models.BPE({character: place for place, character in enumerate(alphabet)}, []))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trained.decoder = decoders.ByteLevel()
    normal = BytePairs(trained, base.name).normalised(steps, always=True)
    trained = normal.tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(added), min_frequency=min_frequency, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    new_ids = {token["id"]: place for place, token in enumerate(added)}
    state: dict[str, Any] = json.loads(trained.to_str())
    state["model"]["vocab"] = {token: len(added) + token_id for token, token_id in state["model"]["vocab"].items()}
    state["added_tokens"] = [{**token, "id": new_ids[token["id"]]} for token in added]
    state["model"]["vocab"] |= {token["content"]: new_ids[token["id"]] for token in added}
    state["post_processor"] = renumbered_processor(base.state["post_processor"], new_ids)
    return BytePairs(Tokenizer.from_str(json.dumps(state)), base.name), new_ids
