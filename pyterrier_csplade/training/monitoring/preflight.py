"""The pre-flight: checks of a model's vectors before the first step, which predict whether the run will collapse."""

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

# A file in a run's directory.
_PREFLIGHT_FILE = "preflight.json"

# Limits of the figures; our choice (measured: runs of csplade-tiny, unadapted and adapted, at temperatures from 1 to 100, for
# the scores and the active terms). A softmax over differences far above 10 has a gradient for one passage only.
_MOST_ACTIVE = 0.3
_LARGEST_SPREAD = 10.0
_MOST_EMPTY = 0.5
_MOST_ALIKE = 0.98
_MOST_OF_ONE_POSITION = 0.5
_LARGEST_PENALTY = 100.0


@dataclass(frozen=True)
class Preflight:
    """Figures about the vectors of a batch before training, and what they mean.

    Attributes:
        figures: ``mean_logit`` and ``std_logit`` of the pooled logits before the activation; ``head_norm``, the mean norm of
            the LM head's rows; ``nnz_query`` and ``nnz_document``, mean active terms; ``empty_query`` and ``empty_document``,
            shares of empty vectors; ``positive_score``, the mean score of a query's positive; ``score_spread``, the mean
            standard deviation of a query's scores over the temperature; ``similarity``, the mean cosine of two passages;
            ``rank_loss``, and ``chance_loss``, the loss if all scores were equal; ``penalty_ratio``, the regularisers at
            their full weights over the ranking loss; ``top_position_share``, the share of maxima that one position wins; and
            for both sides the lexical grounding: ``grounding_``, ``own_weight_`` and ``own_live_``, see ``Grounding``.
        findings: Problems, each with its cure.
        verdict: "ok", "risk", or "collapse" if training is not expected to survive.
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
    """Check the vectors of a batch before training.

    Args:
        backbone: The model; its training mode is restored afterwards.
        batch: A batch made by the run's collator.
        config: The run's settings.
    """
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
            **batch_grounding(queries, OwnTokens.of(batch["own_queries"]), "query"),
            **batch_grounding(passages, OwnTokens.of(batch["own_passages"]), "document"),
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
    """Compare figures with their limits.

    Args:
        figures: See ``Preflight``.
        terms: Number of index terms.
        config: The run's settings.
    """
    grave, light = [], []
    for side in ("query", "document"):
        if figures[f"empty_{side}"] > _MOST_EMPTY:
            grave.append(
                f"{figures[f'empty_{side}']:.0%} of the {side} vectors are empty, so that the ReLU passes no gradient: run the "
                "adaptation phase first, or raise logit_scale."
            )
    if figures["score_spread"] > _LARGEST_SPREAD:
        wanted = config.last_temperature * figures["score_spread"] / WANTED_SPREAD
        grave.append(
            f"Scores differ by {figures['score_spread']:,.0f} temperatures, so that one passage takes the whole softmax: "
            f"raise temperature to about {wanted:,.2g} or set it to auto, or lower logit_scale (Lion-SP: hidden size ** "
            "-0.25), and adapt first."
        )
    if figures["similarity"] > _MOST_ALIKE:
        grave.append(
            f"Passages hardly differ (mean cosine {figures['similarity']:.3f}): run the adaptation phase first, check add_bos."
        )
    if figures["nnz_document"] > _MOST_ACTIVE * terms:
        light.append(
            f"{figures['nnz_document']:,.0f} of {terms:,} terms are active in a passage: adaptation and a long ramp "
            "(flops_warmup_steps), or target_nnz, make them fewer without a shock."
        )
    if figures["top_position_share"] > _MOST_OF_ONE_POSITION:
        light.append(
            f"One position wins {figures['top_position_share']:.0%} of the maxima (an attention sink): set add_bos: false and "
            "pool_special: false."
        )
    if figures["penalty_ratio"] > _LARGEST_PENALTY and config.target_nnz is None:
        light.append(
            f"At full weight the regularisers are {figures['penalty_ratio']:,.0f} times the ranking loss, which drives vectors "
            "to zero: lower lambda_query and lambda_document, lengthen flops_warmup_steps, or set target_nnz."
        )
    for side in ("query", "document"):
        if figures[f"grounding_{side}"] < LEAST_GROUNDED:
            light.append(
                f"Of the heaviest terms of a {side}, only {figures[f'grounding_{side}']:.0%} are tokens of its text, so that "
                "training may give terms other meanings: begin with a lexical warm start (adapt with objective: pooled)."
            )
    verdict = "collapse" if grave else "risk" if light else "ok"
    return Preflight(figures, [*grave, *light], verdict)


def top_position_share(backbone: Backbone, batch: dict[str, Tensor]) -> float:
    """Compute the share of a text's active terms whose maximum is at the most frequent position, on average over texts.

    A share near 1 indicates an attention sink: one token, usually the first, gives every text the same terms. Texts without
    an active term are left out.

    Args:
        backbone: The model, in evaluation mode.
        batch: A batch made by ``Backbone.collate``.
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

    What an architecture does after its LM head is non-decreasing and the same for all positions, so the product decides.
    """
    hidden = backbone.hidden_states(batch["input_ids"], batch["attention_mask"])
    return head.winning_positions(hidden, backbone.head.weight, batch["pool_mask"])[:, backbone.columns]
