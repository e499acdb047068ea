"""The encoder in training: pooled logits before the activation, and L_Adapt from the same hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyterrier_csplade.model.backbone import Backbone, finish_logits
from pyterrier_csplade.model.head import activate
from pyterrier_csplade.vectors.contract import Contract

from .config import PredictionSettings
from .distributed import mean_over_processes
from .gradient_cache import Part
from .streamed_loss import streamed_prediction_loss

# The figures of streamed_prediction_loss.
_FIGURES = ("clm", "relu", "positive_logits", "live_targets")

#: The vectors of a part of a batch; with a share, also the part's share of the adaptation loss, and its figures.
Output = Tensor | tuple[Tensor, Tensor, dict[str, Tensor]]


class TrainingEncoder(Backbone):
    """A ``Backbone`` whose forward pass also computes the adaptation loss, so that sharded models are called once.

    Attributes:
        prediction: Settings of the adaptation loss; None computes none.
    """

    def __init__(self, model: Any, tokenizer: Any, contract: Contract, prediction: PredictionSettings | None = None) -> None:
        """Combine a model, its tokenizer, a contract and the settings of the adaptation loss."""
        super().__init__(model, tokenizer, contract)
        self.prediction = prediction
        self._mask = tokenizer.convert_tokens_to_ids(prediction.mask_token) if prediction else None

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor, raw: bool = False, share: float = 0.0
    ) -> Output:
        """Compute the representations of a batch.

        Args:
            input_ids: [batch, length].
            attention_mask: [batch, length].
            pool_mask: [batch, length].
            raw: Whether to return pooled logits, before the activation, instead of weights; -1 in texts without a pooled
                position.
            share: Factor of the adaptation loss. With 0, or without gradients, the loss is not computed.

        Returns:
            float32 [batch, index terms]; with ``share``, also the loss times ``share``, and its figures.
        """
        hidden = self.hidden_states(input_ids, attention_mask)
        logits = self.pool(hidden, pool_mask)
        vectors = logits.masked_fill(~pool_mask.any(dim=1, keepdim=True), -1.0) if raw else activate(logits)
        if not (share and self.prediction and torch.is_grad_enabled()):
            return vectors
        loss, figures = self._adaptation_loss(hidden, input_ids, attention_mask, self.prediction)
        return vectors, share * loss, figures

    def _adaptation_loss(
        self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor, settings: PredictionSettings
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute L_Adapt of a batch.

        A causal model predicts every token of a text from ``hidden``, and echo every token of the first copy. A bidirectional
        model would see the tokens to predict, so it reads the texts again with some tokens masked.
        """
        predicted = predictable(attention_mask, copies=2 if self.contract.variant == "echo" else 1)
        if self.contract.attention != "causal":
            masked, predicted = draw_tokens(predicted, settings.mask_rate, settings.visible_rate)
            hidden = self.hidden_states(input_ids.masked_fill(masked, self._mask or 0), attention_mask)
        states, targets = hidden[:, :-1][predicted[:, 1:]], input_ids[predicted]
        if not len(targets):
            return hidden.sum() * 0.0, dict.fromkeys(_FIGURES, hidden.new_zeros(()))
        finish = partial(finish_logits, self._lm.config.get_text_config())
        return streamed_prediction_loss(states, self.head.weight, targets, settings.relu_weight, self.head.bias, finish)


def predictable(attention_mask: Tensor, *, copies: int) -> Tensor:
    """Mark the tokens that follow another token (for echo, in the first copy), bool [batch, length]."""
    lengths = attention_mask.sum(dim=1, keepdim=True) // copies
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (places > 0) & (places < lengths)


def draw_tokens(eligible: Tensor, mask_rate: float, visible_rate: float) -> tuple[Tensor, Tensor]:
    """Draw the tokens of masked next-token prediction independently, from torch's generator.

    Args:
        eligible: Tokens that may be drawn, bool [batch, length].
        mask_rate: Share of these tokens to mask. At least one is masked.
        visible_rate: Share of these tokens to predict without masking them.

    Returns:
        The masked tokens, and the predicted tokens, which include them; bool [batch, length].
    """
    drawn = torch.rand(eligible.shape).to(eligible.device).masked_fill(~eligible, 2.0)
    masked = eligible & ((drawn < mask_rate) | (drawn == drawn.min()))
    return masked, masked | (eligible & (drawn < mask_rate + visible_rate))


def prediction_shares(parts: Sequence[Part], weight: float, variant: str) -> list[float]:
    """Divide the weight of the adaptation loss, a mean over the tokens of all processes, among the parts of this process.

    Args:
        parts: Parts from ``Backbone.collate``.
        weight: Weight of the loss. With 0, all shares are 0.
        variant: The variant of the model.
    """
    copies = 2 if variant == "echo" else 1
    counts = [int(predictable(part["attention_mask"], copies=copies).sum()) for part in parts]
    if not weight:
        return [0.0] * len(parts)
    mean = float(mean_over_processes(torch.tensor(float(sum(counts)))))
    return [weight * count / max(1.0, mean) for count in counts]
