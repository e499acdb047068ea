"""Checks of a new vocabulary. A vocabulary that fails a check is not published."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.model.hub import load_tokenizer

from .bpe import BytePairs
from .counts import checksum, tokenised

# Largest accepted difference of two float32 logits, relative to the largest logit above 1, because products of matrices of
# different sizes are rounded differently; our choice (not measured).
_TOLERANCE = 1e-5


def check_tokenizer(directory: Path, encoding: BytePairs, texts: Iterable[str]) -> None:
    """Check that a tokenizer is loaded unchanged, and loses nothing except what its normalisation replaces.

    Raises:
        ContractError: A check fails.
    """
    loaded, made = load_tokenizer(str(directory)), encoding.tokenizer
    for token, token_id in encoding.added.items():
        # Gemma has runs of spaces among its added tokens; at the start of a text, some decoders remove a space.
        spelled = (token if encoding.byte_level else token.replace("▁", " ")).lstrip(" ")
        if loaded.convert_tokens_to_ids(token) != token_id or loaded.decode([token_id]).lstrip(" ") != spelled:
            raise ContractError(f"the added token {token!r} (id {token_id}) does not decode to itself after the change")
    for text in texts:
        ids = made.encode(text, add_special_tokens=False).ids
        if loaded(text, add_special_tokens=False, verbose=False)["input_ids"] != ids:
            raise ContractError(f"the new tokenizer is loaded as another one: the text {text!r:.80} has other tokens")
        if any(token in text for token in encoding.added):
            continue  # what is between added tokens is normalised by itself
        normal = made.normalizer.normalize_str(text) if made.normalizer else text
        if not encoding.byte_level:
            normal = normal.replace("▁", " ")
        normal = bytes(byte for byte in normal.encode() if byte in encoding.byte_ids).decode("utf-8", "replace")
        if made.decode(ids, skip_special_tokens=False).lstrip(" ") != normal.lstrip(" "):
            raise ContractError(f"the new tokenizer does not decode to the normalised text {text!r:.80}")


def check_kept(before: BytePairs, after: BytePairs, texts: Iterable[str]) -> None:
    """Check that a cut does not change the tokens of texts such as prefixes."""
    old, new = before.tokenizer, after.tokenizer
    for text in texts:
        if old.encode(text, add_special_tokens=False).tokens != new.encode(text, add_special_tokens=False).tokens:
            raise ContractError(f"keep_texts: {text!r:.80} has other tokens after the cut")


def changed_documents(
    texts: Iterable[str], after: BytePairs, old_ids: Sequence[int], digests: Sequence[int], *, lossless: bool, name: str
) -> int:
    """Count the documents of a corpus whose tokens changed.

    Args:
        texts: The corpus.
        after: The new tokenizer.
        old_ids: The old id of each new one.
        digests: Checksums of the old ids of each document.
        lossless: Whether no document may change.
        name: Name of the corpus in error messages.

    Raises:
        ContractError: A document changed although none may, or the corpus itself has changed.
    """
    old = np.asarray(old_ids)
    number = changed = 0
    for batch, encoded in tokenised(texts, after.tokenizer, "comparing tokens"):
        for text, ids in zip(batch, encoded):
            if number < len(digests) and checksum(old[ids]) != digests[number]:
                if lossless:
                    raise ContractError(f"{name}: document {number + 1} has other tokens after the cut: {text!r:.80}")
                changed += 1
            number += 1
    if number != len(digests):
        raise ContractError(f"{name}: the corpus has {number:,} documents now, and had {len(digests):,} before: run again")
    return changed


def largest_difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the largest difference between the logits of kept tokens.

    Raises:
        ContractError: The difference is larger than rounding explains.
    """
    largest = max((float((one - other).abs().max()) for one, other in zip(before, after)), default=0.0)
    scale = max((float(one.abs().max()) for one in before), default=0.0)
    if not largest <= _TOLERANCE * max(1.0, scale):
        raise ContractError(f"the logits of kept tokens differ by up to {largest:.2g} after the cut")
    return largest
