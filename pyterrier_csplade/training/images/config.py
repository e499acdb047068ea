"""Configuration of the training of an image head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyterrier_csplade.training.config import ExpansionSettings, TrainingConfig
from pyterrier_csplade.training.fields import (
    BE_AT_LEAST_1,
    BE_POSITIVE,
    NOT_BE_EMPTY,
    NOT_BE_NEGATIVE,
    Checked,
    SettingError,
    must,
)

_BE_A_SHARE = must("be above 0 and at most 1", lambda value: 0 < value <= 1)
# Settings of other phases, which train the language model.
_OF_OTHER_PHASES = ("lora", "quantization", "layers", "gradient_checkpointing", "freeze_embeddings", "bf16")


@dataclass(frozen=True, kw_only=True)
class PictureValidation(Checked):
    """Validation by retrieval of pictures with their captions.

    Attributes:
        data: Pairs, as for training. Every caption searches all of their pictures.
        steps: Optimizer steps between two validations.
        measure: The measure that decides which checkpoint is the best.
        patience: Number of validations without improvement after which the run stops; 0 never stops it.
    """

    data: str = field(metadata=NOT_BE_EMPTY)
    steps: int = field(default=50, metadata=BE_POSITIVE)
    measure: Literal["R@1", "R@10", "R@100", "RR@10"] = "R@10"
    patience: int = field(default=0, metadata=NOT_BE_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(TrainingConfig):
    """The training of an image head for a frozen CSPLADE model, from pairs of a picture and its caption.

    Defaults without a source are our choice (not measured). Settings that change the language model cannot be set.

    Attributes:
        model: Directory or hub id of the CSPLADE model.
        learning_rate: Peak learning rate.
        batch_size: Number of pairs in a batch. The other captions and pictures of the batch are negatives.
        data: JSONL file (optionally gzip-compressed) of objects with ``caption`` and ``image``, a path relative to the file, or
            ``image_vec``, a list of numbers. For ``teacher: dense``, also ``teacher_caption`` and ``teacher_image``.
        features: "efficientnet-lite0", hub id or directory of an image encoder of transformers, or None if the rows have
            ``image_vec``.
        cache: Directory for the encoded pairs, from which a resumed run and other runs on the same pairs read them. None
            encodes the pairs in every run.
        hidden: Hidden size of the MLP.
        start: "ridge" solves the linear part by ridge regression of the captions' deviations from their mean vector, which
            counters co-activation. "random" draws it.
        ridge: Strength of the ridge, as a multiple of the number of pairs.
        infonce_weight: Weight of InfoNCE, the mean of both directions.
        temperature: Divisor of the scores; None uses the temperature in the contract.
        distillation_weight: Weight of the cross-entropy with a teacher's softmax over the batch, in both directions.
        teacher: "text" uses the text model's scores between captions. "dense" uses cosines of a dense model's vectors in the
            data.
        teacher_temperature: Divisor of the teacher's scores. Scores of a text model often differ by tens, and need a value of
            about their standard deviation. A run warns if the teacher's softmax is almost one-hot.
        control: Expansion control. "gate" rewards the terms of the caption that the picture already has (V-SPLADE, arXiv
            2605.30917); "bernoulli" restricts vectors to the caption's own words with a falling probability (arXiv 2402.17535).
        gate_weight: Weight of the gate's loss.
        gate_sharpness: The gate's distribution is raised to the power 1 / ``gate_sharpness`` and normalised (V-SPLADE: 0.5).
        gate_smoothing: Multiple of a picture's mean weight that is added to all its weights in the gate.
        expansion: Schedule of the probability, for "bernoulli".
        expansion_level: "caption" draws once for each pair. "word" draws for each term that is not an own word of the caption.
        lambda_document: Weight of the FLOPS regulariser of pictures.
        target_nnz: Target of the active terms of a picture. A controller adjusts ``lambda_document``.
        most_co_activation: Maximum dimension co-activation. A head above it is not saved; None sets no limit.
        most_deviation: Maximum semantic deviation. A head above it is not saved; None sets no limit.
        validation: Validation by retrieval. If set, the saved head is the best one.
    """

    data: str = field(metadata=NOT_BE_EMPTY)
    learning_rate: float = field(default=1e-3, metadata=BE_POSITIVE)
    batch_size: int = field(default=256, metadata=must("be at least 2", lambda value: value >= 2))
    bf16: bool = False
    features: str | None = field(default=None, metadata=NOT_BE_EMPTY)
    cache: str | None = field(default=None, metadata=NOT_BE_EMPTY)
    hidden: int = field(default=512, metadata=must("be from 1 to 65,536", lambda value: 0 < value <= 2**16))
    start: Literal["ridge", "random"] = "ridge"
    ridge: float = field(default=1.0, metadata=BE_POSITIVE)
    infonce_weight: float = field(default=1.0, metadata=NOT_BE_NEGATIVE)
    temperature: float | None = field(default=None, metadata=BE_POSITIVE)
    distillation_weight: float = field(default=0.5, metadata=NOT_BE_NEGATIVE)
    teacher: Literal["text", "dense"] = "text"
    teacher_temperature: float = field(default=1.0, metadata=BE_POSITIVE)
    control: Literal["gate", "bernoulli", "none"] = "gate"
    gate_weight: float = field(default=1.0, metadata=NOT_BE_NEGATIVE)
    gate_sharpness: float = field(default=0.5, metadata=BE_POSITIVE)
    gate_smoothing: float = field(default=1.0, metadata=NOT_BE_NEGATIVE)
    expansion: ExpansionSettings = field(default_factory=ExpansionSettings)
    expansion_level: Literal["caption", "word"] = "caption"
    lambda_document: float = field(default=0.001, metadata=NOT_BE_NEGATIVE)
    target_nnz: float | None = field(default=None, metadata=BE_AT_LEAST_1)
    most_co_activation: float | None = field(default=0.3, metadata=_BE_A_SHARE)
    most_deviation: float | None = field(default=0.95, metadata=_BE_A_SHARE)
    validation: PictureValidation | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _OF_OTHER_PHASES:
            if getattr(self, name):
                raise SettingError(f"{name} changes the language model, which stays frozen here: leave it out", (name,))
        if self.gradient_accumulation_steps != 1:
            raise SettingError(
                "the pairs of a batch are each other's negatives: gradient_accumulation_steps must be 1",
                ("gradient_accumulation_steps",),
            )
        if not self.infonce_weight + self.distillation_weight:
            raise SettingError("infonce_weight and distillation_weight are both 0: set one of them", ("infonce_weight",))
