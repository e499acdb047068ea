"""The trainer of an image head, and its validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from torch import Tensor, nn

from pyterrier_csplade._warnings import warn
from pyterrier_csplade.images import measures
from pyterrier_csplade.images.head import ImageHead, last_norm, picture_logits
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.model.head import activate
from pyterrier_csplade.training.expansion import ExpansionControl, own_terms_only
from pyterrier_csplade.training.losses import accuracy, flops
from pyterrier_csplade.training.monitoring.validation import Validation
from pyterrier_csplade.training.objective import sparsity
from pyterrier_csplade.training.scheduled_trainer import ScheduledTrainer
from pyterrier_csplade.training.schedules import WeightSchedule
from pyterrier_csplade.vectors.impacts import Quantizer

from .config import ImagesConfig, PictureValidation
from .losses import both_ways, distillation, gate_loss
from .pairs import Pairs

# Number of pictures in a batch of validation; our choice (not measured).
_BATCH = 256
# Mean of the largest probability of a teacher above which a run warns; our choice (not measured).
_ONE_HOT = 0.99


class HeadModel(nn.Module):
    """A head in front of the frozen language model. The model is not a submodule, so only the head is trained and saved."""

    def __init__(self, head: ImageHead, backbone: Backbone) -> None:
        super().__init__()
        self.head = head
        self._frozen = (backbone.requires_grad_(False), last_norm(backbone))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return logits [pictures, index terms] of image vectors."""
        backbone, norm = self._frozen
        return picture_logits(self.head(vectors, norm), backbone)


class ImageTrainer(ScheduledTrainer):
    """Trains an image head on pairs.

    Attributes:
        pairs: The encoded pairs.
        schedule: Gives lambda at every step.
    """

    config: ImagesConfig

    def __init__(self, config: ImagesConfig, pairs: Pairs, temperature: float, **kwargs: Any) -> None:
        super().__init__(config, data_collator=lambda rows: {"rows": torch.tensor(rows)}, **kwargs)
        self.pairs, self.temperature = pairs, temperature
        self.schedule = WeightSchedule(
            {"query": 0.0, "document": config.lambda_document},
            {"query": None, "document": config.target_nnz},
            ramp=config.flops_ramp,
            steps=config.steps,
        )
        self.expansion = None
        if config.control == "bernoulli":
            self.expansion = ExpansionControl(config.expansion, config.steps, config.seed)
        if config.distillation_weight:
            self._check_teacher()

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """Compute the loss of a batch of pairs, and record figures."""
        config, step = self.config, self.state.global_step
        rows = inputs["rows"].cpu().numpy()
        logits = model(self._tensor(self.pairs.vectors[rows]))
        weights, captions = activate(logits), self._dense(self.pairs.queries, rows)
        own = self._dense(self.pairs.own, rows) > 0
        shown, asked = self._restricted(weights, captions, own)
        # Products over the terms of the captions alone: a batch has a fifth of csplade-tiny's terms.
        columns = self._tensor(np.unique(self.pairs.queries[rows].indices).astype(np.int64))
        scores, same = asked[:, columns] @ shown[:, columns].T, self._tensor(self.pairs.same[rows])
        figures: dict[str, Tensor | float] = {"rank_loss": both_ways(scores, same, self.temperature)}
        loss = config.infonce_weight * figures["rank_loss"]
        if config.distillation_weight:
            teacher = self._teacher(rows)
            figures["kl_loss"] = distillation(scores, teacher, self.temperature, config.teacher_temperature)
            loss = loss + config.distillation_weight * figures["kl_loss"]
        if config.control == "gate":
            words = self._dense(self.pairs.documents, rows) * own
            figures["gate"] = gate_loss(logits, weights, words, config.gate_sharpness, config.gate_smoothing)
            loss = loss + config.gate_weight * figures["gate"]
        strength = self.schedule.weights(step)[1]
        loss = loss + strength * flops(weights)
        self._record(figures, scores, weights, strength)
        return loss  # type: ignore[no-any-return]

    def _record(self, figures: dict[str, Tensor | float], scores: Tensor, weights: Tensor, strength: float) -> None:
        targets = torch.arange(len(scores), device=scores.device)
        with torch.no_grad():
            frequencies = (weights > 0).sum(dim=0).float()
            together = frequencies.square().sum() / (len(weights) * frequencies.sum().clamp(min=1))
            hits = accuracy(scores, targets, torch.zeros_like(scores, dtype=torch.bool))
        if self.expansion is not None:
            figures["restricted"] = self.expansion.probability(self.state.global_step)
        self.record(**figures, **sparsity(weights, "document"), lambda_document=strength, accuracy=hits, co_activation=together)

    def _restricted(self, weights: Tensor, captions: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of pictures and captions after expansion control, which may remove terms other than own words."""
        if self.expansion is None:
            return weights, captions
        step = self.state.global_step
        if self.config.expansion_level == "caption":
            drawn = self.expansion.draw(len(weights), step, "image")
            return own_terms_only(weights, own, drawn), own_terms_only(captions, own, drawn)
        draws = self.expansion.draw(weights.numel(), step, "image").view_as(weights).to(weights.device)
        return weights.masked_fill(draws & ~own, 0.0), captions.masked_fill(draws & ~own, 0.0)

    def _check_teacher(self) -> None:
        """Warn if the teacher's softmax is almost one-hot, so that distillation repeats InfoNCE."""
        scores = self._teacher(np.arange(min(len(self.pairs), self.config.batch_size)))
        share = float(torch.softmax(scores / self.config.teacher_temperature, dim=1).amax(dim=1).mean())
        if share > _ONE_HOT:
            warn(
                f"teacher_temperature {self.config.teacher_temperature:g} makes the teacher's softmax almost one-hot (mean of "
                f"the largest probability: {share:.3f}), so distillation adds little to InfoNCE. The scores have a standard "
                f"deviation of {float(scores.std()):.3g}: try a teacher_temperature of this size"
            )

    def _teacher(self, rows: np.ndarray) -> Tensor:
        if self.config.teacher == "text":
            products = self.pairs.queries[rows] @ self.pairs.documents[rows].T
            return self._tensor(products.toarray().astype(np.float32))
        assert self.pairs.teacher is not None
        text, picture = (self._tensor(side[rows]) for side in self.pairs.teacher)
        return text @ picture.T

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.args.device)

    def _dense(self, matrix: csr_matrix, rows: np.ndarray) -> Tensor:
        return self._tensor(matrix[rows].toarray().astype(np.float32))


class HeadValidation(Validation):
    """Evaluates the head at regular steps, as ``Validation`` evaluates a text model: best checkpoint, and early stopping."""

    def __init__(self, trainer: Any, pairs: Pairs, scale: float, settings: PictureValidation) -> None:
        """Watch a run."""
        self.trainer, self.pairs, self.scale = trainer, pairs, scale
        self.settings = settings  # type: ignore[assignment]  # what the base class reads of it is the same
        self.measure = f"eval_{settings.measure}"

    def figures(self) -> dict[str, float]:
        """Encode and search the pictures, and compute the figures."""
        return head_figures(self.trainer.model, self.pairs, self.scale)


def head_figures(model: HeadModel, pairs: Pairs, scale: float) -> dict[str, float]:
    """Measure a head on pairs: every caption searches all pictures."""
    impacts, places = picture_impacts(model, pairs, scale), np.arange(len(pairs))
    return {
        **measures.retrieval_measures(measures.relevant_ranks(pairs.queries, impacts, places)),
        "nnz_document": impacts.nnz / len(pairs),
        "empty": float((np.diff(impacts.indptr) == 0).mean()),
        "flops": measures.flops(pairs.queries, impacts),
        "longest_list": measures.longest_list(impacts),
        "co_activation": measures.co_activation(impacts),
        "deviation": measures.semantic_deviation(impacts, pairs.documents),
        "exact_ratio": measures.exact_ratio(pairs.queries, impacts, pairs.own, places),
    }


def picture_impacts(model: HeadModel, pairs: Pairs, scale: float) -> csr_matrix:
    """Return the unrestricted impacts of the pictures of pairs, int32 [pairs, terms]."""
    device = next(model.parameters()).device
    rows = []
    with torch.no_grad():
        for start in range(0, len(pairs), _BATCH):
            vectors = torch.from_numpy(pairs.vectors[start : start + _BATCH]).to(device)
            rows.append(csr_matrix(activate(model(vectors)).float().cpu().numpy()))
    return Quantizer(scale)(vstack(rows, format="csr"))
