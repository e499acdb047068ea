"""The pre-flight, which checks a model's vectors before the first step and predicts whether the run will collapse."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyterrier_csplade.model import head
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.storage.files import write_atomically
from pyterrier_csplade.training.batches import Labels
from pyterrier_csplade.training.config import ContrastiveConfig
from pyterrier_csplade.training.losses import flops, ranking_loss
from pyterrier_csplade.training.own_tokens import OwnTokens
from pyterrier_csplade.training.schedules import WANTED_SPREAD, following_temperature, spread

from .grounding import LEAST_GROUNDED, batch_grounding

# File in a run's directory.
_PREFLIGHT_FILE = "preflight.json"

# Limits of active terms and of the spread of scores; our choice (measured: runs of csplade-tiny, unadapted and adapted, at
# temperatures from 1 to 100). A softmax over differences far above 10 has a gradient for one passage only.
_MOST_ACTIVE = 0.3
_LARGEST_SPREAD = 10.0
# Limits of the other figures; our choice (not measured).
_MOST_EMPTY = 0.5
_MOST_ALIKE = 0.98
_MOST_OF_ONE_POSITION = 0.5
_LARGEST_PENALTY = 100.0


@dataclass(frozen=True)
class Preflight:
    """Figures about the vectors of a batch before training, and conclusions from them.

    Attributes:
        figures: ``mean_logit`` and ``std_logit`` of the pooled logits before the activation; ``head_norm``, the mean norm of
            the LM head's rows; ``nnz_query`` and ``nnz_document``, mean numbers of active terms; ``empty_query`` and
            ``empty_document``, shares of empty vectors; ``positive_score``, the mean score of a query's positive;
            ``score_spread``, the mean standard deviation of a query's scores, in temperatures; ``similarity``, the mean cosine
            of two passages; ``rank_loss``; ``chance_loss``, the loss for equal scores; ``penalty_ratio``, the regularisers at
            full weight divided by the ranking loss; ``top_position_share``, the share of maxima at a single position; and the
            lexical grounding of both sides: ``grounding_``, ``own_weight_`` and ``own_live_``, see ``Grounding``.
        findings: Problems, each with a remedy.
        verdict: "ok", "risk", or "collapse" if a collapse is expected.
    """

    figures: dict[str, float]
    findings: list[str] = field(default_factory=list)
    verdict: str = "ok"

    def save(self, directory: Path) -> None:
        """Write ``preflight.json`` into a run's directory."""
        write_atomically(directory / _PREFLIGHT_FILE, (json.dumps(asdict(self), indent=1) + "\n").encode())

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value:,.3g}" for name, value in self.figures.items())
        return " ".join([f"pre-flight: {self.verdict} ({numbers}).", *self.findings])


def preflight(backbone: Backbone, batch: dict[str, Any], config: ContrastiveConfig) -> Preflight:
    """Check the vectors of a batch from the run's collator before training."""
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        queries = torch.cat([backbone(**part) for part in batch["queries"]])
        passages = torch.cat([backbone(**part) for part in batch["passages"]])
        logits = backbone.pooled_logits(**batch["passages"][0])
        figures = {
            "mean_logit": float(logits.mean()),
            "std_logit": float(logits.std()),
            "head_norm": float(backbone.head.weight.float().norm(dim=1).mean()),  # type: ignore[operator, union-attr]
            **_figures(queries, passages, Labels(**batch["labels"]), config),
            "top_position_share": top_position_share(backbone, batch["passages"][0]),
            **batch_grounding(queries, OwnTokens(**batch["own_queries"]), "query"),
            **batch_grounding(passages, OwnTokens(**batch["own_passages"]), "document"),
        }
    backbone.train(training)
    return judge(figures, len(backbone.vocabulary), config)


def _figures(queries: Tensor, passages: Tensor, labels: Labels, config: ContrastiveConfig) -> dict[str, float]:
    scores = queries @ passages.T
    temperature = following_temperature(spread(scores), config.final_temperature)
    if config.temperature != "auto":
        temperature = config.temperature
    rank = float(ranking_loss(scores, labels.targets, labels.excluded, temperature))
    penalty = config.lambda_query * float(flops(queries)) + config.lambda_document * float(flops(passages))
    unit = torch.nn.functional.normalize(passages, dim=1)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool, device=unit.device)]
    figures = {"positive_score": float(scores.gather(1, labels.targets[:, None]).mean())}
    for side, vectors in (("query", queries), ("document", passages)):
        active = (vectors > 0).sum(dim=1)
        figures |= {f"nnz_{side}": float(active.float().mean()), f"empty_{side}": float((active == 0).float().mean())}
    return {
        **figures,
        "score_spread": spread(scores) / temperature,
        "similarity": float(cosines.mean()) if len(cosines) else 0.0,
        "rank_loss": rank,
        "chance_loss": math.log(len(passages)),
        "penalty_ratio": penalty / max(rank, 1e-6),
    }


def judge(figures: dict[str, float], terms: int, config: ContrastiveConfig) -> Preflight:
    """Compare the figures of ``Preflight`` with their limits, for a number of index terms."""
    severe, minor = [], []
    for side in ("query", "document"):
        if figures[f"empty_{side}"] > _MOST_EMPTY:
            severe.append(
                f"{figures[f'empty_{side}']:.0%} of the {side} vectors are empty, so the ReLU passes no gradient: run the "
                "adaptation phase first, or raise logit_scale."
            )
    if figures["score_spread"] > _LARGEST_SPREAD:
        wanted = config.last_temperature * figures["score_spread"] / WANTED_SPREAD
        severe.append(
            f"Scores differ by {figures['score_spread']:,.0f} temperatures, so the softmax gives one passage a probability of "
            f"nearly 1: run the adaptation phase first, and raise temperature to about {wanted:,.2g}, set it to auto, or lower "
            "logit_scale (Lion-SP: hidden size ** -0.25)."
        )
    if figures["similarity"] > _MOST_ALIKE:
        severe.append(
            f"Passages hardly differ (mean cosine {figures['similarity']:.3f}): run the adaptation phase first, and check "
            "add_bos."
        )
    if figures["nnz_document"] > _MOST_ACTIVE * terms:
        minor.append(
            f"{figures['nnz_document']:,.0f} of {terms:,} terms are active in a passage: reduce them slowly by adaptation and "
            "a long ramp (flops_warmup_steps), or by target_nnz."
        )
    if figures["top_position_share"] > _MOST_OF_ONE_POSITION:
        minor.append(
            f"A single position has {figures['top_position_share']:.0%} of the maxima (an attention sink): set add_bos: false "
            "and pool_special: false."
        )
    if figures["penalty_ratio"] > _LARGEST_PENALTY and config.target_nnz is None:
        minor.append(
            f"At full weight, the regularisers are {figures['penalty_ratio']:,.0f} times the ranking loss, which drives "
            "vectors to zero: lower lambda_query and lambda_document, lengthen flops_warmup_steps, or set target_nnz."
        )
    for side in ("query", "document"):
        if figures[f"grounding_{side}"] < LEAST_GROUNDED:
            minor.append(
                f"Only {figures[f'grounding_{side}']:.0%} of the heaviest terms of a {side} are tokens of its text, so "
                "training may give terms other meanings: start with a lexical warm start (adapt with objective: pooled)."
            )
    verdict = "collapse" if severe else "risk" if minor else "ok"
    return Preflight(figures, [*severe, *minor], verdict)


def top_position_share(backbone: Backbone, batch: dict[str, Tensor]) -> float:
    """Compute the share of a text's active terms whose maximum is at the most frequent position, averaged over texts.

    A share near 1 indicates an attention sink: one token, usually the first, gives every text the same terms. Texts without
    active terms are left out.

    Args:
        backbone: The model, in evaluation mode.
        batch: A batch from ``Backbone.collate``.
    """
    with torch.no_grad():
        active = backbone(**batch) > 0
        winners = winning_positions(backbone, batch)
    shares = []
    for terms, positions in zip(active, winners):
        if terms.any():
            counts = torch.bincount(positions[terms])
            shares.append(float(counts.max() / counts.sum()))
    return sum(shares) / len(shares) if shares else 0.0


def winning_positions(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    """Find the positions of the maxima of the logits, int64 [texts, index terms]; 0 in texts without a pooled position.

    The functions after the LM head are non-decreasing and the same for all positions, so the product determines the maxima.
    """
    hidden = backbone.hidden_states(batch["input_ids"], batch["attention_mask"])
    return head.winning_positions(hidden, backbone.head.weight, batch["pool_mask"])[:, backbone.columns]
