"""Configuration of the contrastive phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyterrier_csplade._contract import Variant
from pyterrier_csplade._errors import ConfigError

from ._monitoring_config import MonitoringConfig

#: A penalty on weights that are not needed; _penalties.py has the formulas.
Regularizer = Literal["flops", "l1", "df_flops"]

_POSITIVE = (
    "query_length", "document_length", "logit_scale", "temperature", "teacher_temperature", "df_cutoff", "df_steepness",
    "df_steps",
)  # fmt: skip
_NOT_NEGATIVE = (
    "negatives", "lambda_query", "lambda_document", "flops_warmup_steps", "infonce_weight", "kl_weight", "margin_mse_weight",
    "query_l0_threshold", "document_l0_threshold", "anti_zero_weight",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(MonitoringConfig):
    """The contrastive phase (paper, section 3.2): InfoNCE over hard and in-batch negatives, and FLOPS regularisers.

    A batch holds ``batch_size`` queries, whatever the number of processes and of gradient accumulation steps: the negatives of
    a query are all other passages of the batch, and the FLOPS terms are those of the batch. With gradient accumulation, the
    gradients of the vectors are cached (GradCache, arXiv 2101.06983), at the price of a second forward pass.

    Attributes:
        data: JSONL files in Tevatron's form (optionally gzip-compressed), ``{"query": ..., "positive_passages": [{"text": ...,
            "title": ...}], "negative_passages": [...]}``, or the name of a PyTerrier dataset (``irds:`` ids included).
        negatives: Hard negatives of each query in a batch, drawn anew in each epoch (paper: 15). A row that has fewer brings
            all it has; a row without any has those of the batch only.
        variant: "causal", "echo" or "bidirectional".
        query_prefix: Put before every query (not in the paper; LACONIC: "query: ").
        document_prefix: Put before every passage (not in the paper; LACONIC: "passage: ").
        query_length: Tokens of a query at most in training (not in the paper; Tevatron's 32).
        document_length: Tokens of a passage at most in training (not in the paper; LACONIC's 192).
        encoding_query_length: Tokens of a query at most for the trained model's contract; None: as in training.
        encoding_document_length: Tokens of a document at most for the trained model's contract; None: as in training.
        add_bos: Whether the beginning-of-text token stands first (not in the paper; LACONIC: no).
        add_eos: Whether the end-of-text token stands last (not in the paper; LACONIC: no).
        pool_special: Whether the positions of special tokens take part in the maximum (Lion-SP: yes).
        logit_scale: Factor of the logits before pooling (paper: 1).
        temperature: Divides the scores in the losses (not in the paper; LACONIC: 1).
        infonce_weight: Weight of InfoNCE, L_rank of the paper.
        kl_weight: Weight of the Kullback-Leibler divergence from a teacher, over a query's own passages (not in the paper; with
            InfoNCE, Lion-SP takes half of each). The rows need scores of a teacher.
        margin_mse_weight: Weight of the squared error of the margins to a teacher's (not in the paper; SPLADE-v3: 0.05).
        teacher_temperature: Divides the teacher's scores.
        lambda_query: Weight of the regulariser of queries (paper, table 3: 0.003 for 1B and 0.03 for 8B).
        lambda_document: Weight of the regulariser of passages; as for queries.
        query_regularizer: "flops" (paper), "l1" (SPLADE++) or "df_flops".
        document_regularizer: As for queries; "df_flops" (arXiv 2505.15070) spares rare terms and penalises those that stand in
            many passages.
        query_l0_threshold: Queries of at most so many terms are not regularised (arXiv 2504.14839; 0: all are).
        document_l0_threshold: As for queries.
        df_cutoff: alpha of DF-FLOPS, the document frequency at which a term has half its penalty (its paper: 0.1).
        df_steepness: beta of DF-FLOPS (its paper: 10).
        df_steps: Optimizer steps between two estimates of the document frequencies (its paper: 100).
        anti_zero_weight: Weight of 1 / (sum of queries)^2 + 1 / (sum of passages)^2 against all-zero vectors (SPLADE's code).
        flops_warmup_steps: Optimizer steps in which both weights grow as the square of the step; a value below 1 is a share of
            all steps (not in the paper; a third, as SPLADE and sentence-transformers have it).
    """

    data: str | list[str]
    negatives: int = 15
    variant: Variant = "causal"
    query_prefix: str = ""
    document_prefix: str = ""
    query_length: int = 32
    document_length: int = 192
    encoding_query_length: int | None = None
    encoding_document_length: int | None = None
    add_bos: bool = False
    add_eos: bool = False
    pool_special: bool = False
    logit_scale: float = 1.0
    temperature: float = 1.0
    infonce_weight: float = 1.0
    kl_weight: float = 0.0
    margin_mse_weight: float = 0.0
    teacher_temperature: float = 1.0
    lambda_query: float = 0.003
    lambda_document: float = 0.003
    query_regularizer: Regularizer = "flops"
    document_regularizer: Regularizer = "flops"
    query_l0_threshold: int = 0
    document_l0_threshold: int = 0
    df_cutoff: float = 0.1
    df_steepness: float = 10.0
    df_steps: int = 100
    anti_zero_weight: float = 0.0
    flops_warmup_steps: float = 1 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, found {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, found {getattr(self, name)}")
        if not self.infonce_weight + self.kl_weight + self.margin_mse_weight:
            raise ConfigError("infonce_weight, kl_weight and margin_mse_weight are all 0: nothing ranks")
        if self.df_cutoff >= 1:
            raise ConfigError(f"df_cutoff is a share of the passages below 1, found {self.df_cutoff}")
        if not self.data:
            raise ConfigError("data names no file")

    @property
    def flops_ramp(self) -> float:
        """Length of the FLOPS ramp in optimizer steps."""
        return self.flops_warmup_steps * self.steps if self.flops_warmup_steps < 1 else self.flops_warmup_steps

    @property
    def needs_teacher(self) -> bool:
        """Whether the rows must have scores of a teacher."""
        return self.kl_weight > 0 or self.margin_mse_weight > 0
