"""Tests that a loaded model attends and scores as its contract says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from pyterrier_csplade._errors import ContractError

from .attention import is_available
from .backbone import Backbone

# Number of tokens of the probe; our choice (not measured).
_LENGTH = 8
# Change of a state, relative to its largest absolute value, above which position 0 counts as attending to a changed token; our
# choice (not measured). A causal mask leaves the state equal to the last bit.
_SEES = 1e-5
# Largest accepted difference between the streamed and the model's own logits, relative to the largest logit; our choice
# (measured: rounding in bfloat16 makes up to about 1 %).
_SAME_LOGITS = 0.05
# Largest accepted norm of the difference between the states of packed and padded texts, relative to the states; our choice
# (measured: 0.52 with another mask for csplade-tiny, up to 0.05 from rounding alone for a random model of 32 layers in
# bfloat16).
_SAME_STATES = 0.1


def self_test(backbone: Backbone) -> None:
    """Test the attention mask and the head of a loaded model, and set whether it can pack texts without padding.

    Raises:
        ContractError: The attention mask is not the contract's, with or without padding; a state or logit is not finite; or the
            streamed maximum of the logits differs from the maximum of the model's own logits.
    """
    training = backbone.training
    backbone.eval()
    with torch.no_grad(), _without_outliers(backbone.model):
        _test_attention(backbone)
        _test_head(backbone)
        backbone.packs = _may_pack(backbone) and _keeps_packed_texts_apart(backbone)
    backbone.train(training)


@contextlib.contextmanager
def _without_outliers(model: Any) -> Iterator[None]:
    """Switch off the separate treatment of outlier columns in bitsandbytes' int8 products, which depends on all positions."""
    states = [m.state for m in model.modules() if hasattr(getattr(m, "state", None), "threshold")]
    thresholds = [state.threshold for state in states]
    try:
        for state in states:
            state.threshold = 0.0
        yield
    finally:
        for state, threshold in zip(states, thresholds):
            state.threshold = threshold


def _probe(backbone: Backbone) -> list[int]:
    ids = backbone.vocabulary.token_ids
    return ids[torch.linspace(0, len(ids) - 1, _LENGTH).long()].tolist()


def _test_attention(backbone: Backbone) -> None:
    first = _probe(backbone)
    expected = backbone.contract.attention == "bidirectional"
    second = [*first[:-1], first[0]]
    # Attention implementations treat padded batches differently from texts of one length.
    for padding in (False, True):
        batch = backbone.collate([first, second, first * 2] if padding else [first, second])
        before, after = backbone.hidden_states(batch["input_ids"], batch["attention_mask"])[:2, 0].float()
        if not (before.isfinite().all() and after.isfinite().all()):
            raise ContractError(f"{type(backbone.model).__name__}: its hidden states are not finite: a weight is damaged")
        sees = _differ(before, after, _SEES)
        if sees != expected:
            raise ContractError(
                f"variant {backbone.contract.variant!r} needs {backbone.contract.attention} attention, but with "
                f"attn_implementation={backbone.attn_implementation!r} position 0 "
                f"{'sees' if sees else 'does not see'} the last token{' of a padded batch' if padding else ''}: "
                "choose another attn_implementation or another architecture"
            )


def _differ(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    return not bool((one - other).abs().max() <= tolerance * one.abs().max())


def _may_pack(backbone: Backbone) -> bool:
    if backbone.rotates_by_length:
        return False
    if backbone.attn_implementation == "sdpa":
        return is_available(backbone.device, backbone.head.weight.dtype)
    return "flash" in backbone.attn_implementation


def _keeps_packed_texts_apart(backbone: Backbone) -> bool:
    """Return whether packed texts have the states of padded texts, whatever their neighbours are."""
    text = _probe(backbone)
    # A long text beside short ones, because PyTorch uses another kernel from 129 tokens on.
    left, right = text[2:], (text * 20)[: backbone.contract.document_length]
    batches = [backbone.collate(texts) for texts in ([left, text, right], [left[::-1], text, right[::-1]])]
    try:
        first, second = (backbone.packed_states(batch["input_ids"], batch["attention_mask"]).float() for batch in batches)
    except (TypeError, ValueError, RuntimeError):  # no position_ids, or heads of another size
        return False
    padded = backbone.hidden_states(batches[0]["input_ids"], batches[0]["attention_mask"]).float()
    real = batches[0]["attention_mask"].bool()
    same = (padded[real] - first[real]).norm() <= _SAME_STATES * padded[real].norm()
    return bool(same) and not _differ(first[1, real[1]], second[1, real[1]], _SEES)


def _test_head(backbone: Backbone) -> None:
    batch = backbone.collate([_probe(backbone)])
    expected = backbone.reference_logits(**batch)
    found = backbone.pooled_logits(**batch)
    if not expected.isfinite().all():
        raise ContractError(f"{type(backbone.model).__name__}: its logits are not finite: a weight of the LM head is damaged")
    same = torch.allclose(found, expected, rtol=_SAME_LOGITS, atol=_SAME_LOGITS * float(expected.abs().max()))
    if not same and hasattr(backbone.head, "base_layer"):
        raise ContractError(
            f"{type(backbone.model).__name__}: its adapter changes the LM head: merge it first, "
            "CSPLADE((lm.merge_and_unload(), tokenizer)), or give the adapter by name, CSPLADE(base model, adapter=...)"
        )
    if not same:
        raise ContractError(
            f"{type(backbone.model).__name__} changes logits after its LM head in a way that CSPLADE does not know: its logits "
            f"differ from the streamed ones by up to {float((found - expected).abs().max()):g}. Choose another architecture"
        )
