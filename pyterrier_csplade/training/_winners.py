"""Which position of a text wins the maximum of each term."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyterrier_csplade._backbone import Backbone

# Logits in flight: 32 MiB of float32, as in pooling.
_LOGITS_IN_FLIGHT = 2**23


def top_position_share(backbone: Backbone, batch: dict[str, Tensor]) -> float:
    """Share of the active terms whose maximum is at the one position that wins most of them; mean over the texts with any.

    A share near 1 is the mark of an attention sink: one token, as a rule the first, gives every text the same terms.

    Args:
        backbone: The model, in evaluation mode.
        batch: As ``Backbone.collate`` makes it.
    """
    with torch.no_grad():
        active = backbone(**batch) > 0
        winners = winning_positions(backbone, batch)
    shares = []
    for row, terms in enumerate(active):
        if terms.any():
            counts = torch.bincount(winners[row, terms])
            shares.append(float(counts.max() / counts.sum()))
    return sum(shares) / len(shares) if shares else 0.0


def winning_positions(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    """Positions of the maxima of the logits, int64 [texts, index terms].

    What an architecture does after its LM head is monotonic or the same for all positions, so that the product decides.
    """
    hidden = backbone.hidden_states(batch["input_ids"], batch["attention_mask"])
    head: Any = backbone.head
    weight = head.weight.index_select(0, backbone.columns)
    hidden = hidden.masked_fill(~batch["pool_mask"][..., None], 0)
    hidden_out = ~batch["pool_mask"][:, None, :]
    block = max(1, _LOGITS_IN_FLIGHT // (hidden.shape[0] * hidden.shape[1]))
    parts = []
    for start in range(0, len(weight), block):
        logits = torch.einsum("vd,bld->bvl", weight[start : start + block].to(hidden.dtype), hidden)
        parts.append(logits.masked_fill(hidden_out, float("-inf")).argmax(dim=2))
    return torch.cat(parts, dim=1)
