"""Configuration of the two training phases: one YAML or JSON file per run."""

from __future__ import annotations

# Annotations are evaluated here: the constructors of subclasses elsewhere have the same, and tools resolve them there.
from dataclasses import dataclass, field
from typing import Any, Literal

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.vectors.contract import Variant

_POSITIVE = (
    "batch_size", "gradient_accumulation_steps", "steps", "logging_steps", "save_steps", "keep_checkpoints", "learning_rate",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adaptation of the backbone's linear layers.

    Attributes:
        rank: 16 for 8B and 64 for 1B (paper, table 3).
        alpha: Scale; twice the rank where None (not in the paper; LACONIC).
        dropout: Not in the paper; LACONIC.
        target_modules: Names of the adapted layers (not in the paper; LACONIC: all seven projections of Llama).
    """

    rank: int = 16
    alpha: int | None = None
    dropout: float = 0.1
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"rank must be positive and dropout in [0, 1), found {self.rank} and {self.dropout}")
        if not self.target_modules:
            raise ConfigError("target_modules names none")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What both phases share.

    Attributes:
        model: Hub id or directory of the model to start from.
        revision: Revision of a hub model.
        output: Directory of the run: the trained model, checkpoints, the log and the training curves.
        learning_rate: Peak learning rate; the schedule is a cosine with linear warm-up (paper, table 3).
        batch_size: Rows per optimizer step, over all processes: the result does not depend on how many there are.
        gradient_accumulation_steps: Parts into which each process divides its share of a batch to save memory.
        steps: Optimizer steps.
        warmup_steps: Optimizer steps of linear warm-up; a value below 1 is a share of all steps.
        weight_decay: Decoupled weight decay of AdamW (not in the paper; transformers' default).
        lora: None trains all parameters.
        quantization: "nf4" holds the weights that LoRA freezes in 4 bits (QLoRA, arXiv 2305.14314); what is saved is merged
            with the weights as they were, in bfloat16 in a bfloat16 run.
        bf16: Mixed precision with bfloat16.
        gradient_checkpointing: Recompute activations in the backward pass.
        seed: Of initialisation, data order and dropout.
        logging_steps: Optimizer steps between two points of the training curves.
        save_steps: Optimizer steps between two checkpoints.
        keep_checkpoints: Newest checkpoints that stay, beside the best one.
        report_to: Where curves go beside the run's own files, by the names of transformers, for example [wandb]; None:
            TensorBoard if it is installed.
    """

    model: str
    output: str
    learning_rate: float
    steps: int
    revision: str | None = None
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    warmup_steps: float = 0.05
    weight_decay: float = 0.0
    lora: LoraSettings | None = None
    quantization: Literal["nf4"] | None = None
    bf16: bool = True
    gradient_checkpointing: bool = False
    seed: int = 42
    logging_steps: int = 10
    save_steps: int = 500
    keep_checkpoints: int = 2
    report_to: list[str] | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, found {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, found {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed must be from 0 to 2^32 - 1, found {self.seed}")
        if self.quantization and not self.lora:
            raise ConfigError("quantization freezes the weights in 4 bits: it needs lora")
        if self.batch_size % self.gradient_accumulation_steps:
            raise ConfigError(
                f"gradient_accumulation_steps {self.gradient_accumulation_steps} does not divide batch_size {self.batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig(TrainingConfig):
    """The adaptation phase (paper, section 3.1): next-token prediction on H and on log(1 + ReLU(H)).

    Attributes:
        corpus: Where the text comes from: a JSONL file (optionally gzip-compressed) or the name of a PyTerrier dataset,
            ``irds:`` ids included.
        text_fields: Fields of a document that are joined by a space.
        sequence_length: Tokens of a packed sequence (paper: 2,048).
        relu_weight: lambda_ReLU of Eq. 2 (paper: 1). 0 is plain language-model training.
        objective: "clm" is next-token prediction (paper). "mntp" is masked next-token prediction without the causal mask, the
            start of bidirectional models in LLM2Vec and Lion-SP: some tokens are masked, and each is predicted at the
            position before it.
        mask_rate: Share of the tokens that mntp masks (Lion-SP: 0.2).
        mask_token: What stands in their place (Lion-SP: "_").
        visible_rate: Share of the tokens that mntp does not mask and yet predicts (LLM2Vec and Lion-SP: 0). Above 0 (ours),
            the model also learns to copy, which keeps the words of a text among the terms of its vector.
    """

    corpus: str
    text_fields: list[str] = field(default_factory=lambda: ["text"])
    sequence_length: int = 2048
    relu_weight: float = 1.0
    objective: Literal["clm", "mntp"] = "clm"
    mask_rate: float = 0.2
    mask_token: str = "_"
    visible_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.mask_rate and 0 <= self.visible_rate and self.mask_rate + self.visible_rate <= 1):
            raise ConfigError(
                "mask_rate must be positive, visible_rate not negative and their sum at most 1, found "
                f"{self.mask_rate} and {self.visible_rate}"
            )
        if self.relu_weight < 0:
            raise ConfigError(f"relu_weight must not be negative, found {self.relu_weight}")


#: Bytes of a posting in an index of impacts at scale 100, everything included: 18.8 to 20.9 for csplade-tiny over the six
#: collections of its card. Terrier stores an impact of n in n bits, by term and by document.
POSTING_BYTES = 19.0


def parse_measure(name: str) -> Any:
    """Return a measure of ir_measures by its name.

    Raises:
        ConfigError: There is none of this name.
    """
    import ir_measures

    try:
        return ir_measures.parse_measure(name)
    except (ValueError, NameError, SyntaxError) as error:
        raise ConfigError(f"ir_measures knows no measure {name!r}; names are like nDCG@10, RR@10, R@100, AP") from error


@dataclass(frozen=True, kw_only=True)
class TargetNnz:
    """Active terms that vectors shall have in the mean when training ends; None leaves a side to its lambda.

    Attributes:
        query: Active terms of a query.
        document: Active terms of a passage.
    """

    query: float | None = None
    document: float | None = None

    def __post_init__(self) -> None:
        for name in ("query", "document"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, found {value}")


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """Retrieval over a slice of a collection every some steps.

    The slice holds every document that is judged for its queries, and others up to ``documents``.

    Attributes:
        collection: A directory with docs.jsonl.gz, topics.SPLIT.tsv and qrels.SPLIT.txt, or the name of a PyTerrier dataset
            (``irds:`` ids included).
        split: Of a directory's files; "test" names those without a split.
        steps: Optimizer steps between two validations.
        documents: Documents of the slice at most, unless more are judged.
        queries: Queries of the slice at most.
        measures: Names of ir_measures. The first one decides which checkpoint is the best.
        patience: Validations without a better value after which the run stops; 0 never stops it.
        terrier: Whether a Terrier index is built and searched, which needs Java. Without it, the same impacts are searched
            exactly in memory, and the index size is estimated from the postings.
    """

    collection: str
    split: str = "dev"
    steps: int = 500
    documents: int = 10_000
    queries: int = 500
    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "R@100"])
    patience: int = 0
    terrier: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "documents", "queries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, found {getattr(self, name)}")
        if self.patience < 0:
            raise ConfigError(f"patience must not be negative, found {self.patience}")
        if not self.measures:
            raise ConfigError("measures names none")
        for name in self.measures:
            parse_measure(name)


@dataclass(frozen=True, kw_only=True)
class MonitoringConfig(TrainingConfig):
    """What watches and steers a run; none of it is in the paper.

    Attributes:
        max_bad_rows: Training rows that may be unusable: they are left out, with a warning that names and counts them.
        target_nnz: Sparsity to end with: lambda_query and lambda_document are where a controller begins.
        target_index_mb: Size of a Terrier index to end with, in 10^6 bytes, in the place of ``target_nnz.document``:
            a posting counts as 19 bytes, as measured for csplade-tiny at impact scale 100.
        target_index_documents: Documents of that index.
        stop_on_collapse: Whether a run whose vectors are all empty, or all full and blind, is saved and stopped.
        validation: Retrieval in the course of training; the trained model is then the best one, not the last one.
    """

    max_bad_rows: int = 0
    target_nnz: TargetNnz | None = None
    target_index_mb: float | None = None
    target_index_documents: int | None = None
    stop_on_collapse: bool = True
    validation: ValidationSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bad_rows < 0:
            raise ConfigError(f"max_bad_rows must not be negative, found {self.max_bad_rows}")
        if (self.target_index_mb is None) != (self.target_index_documents is None):
            raise ConfigError("target_index_mb and target_index_documents belong together")
        if self.target_index_mb is not None and self.target_nnz is not None and self.target_nnz.document is not None:
            raise ConfigError("target_index_mb and target_nnz.document contradict each other: give one of them")
        for name in ("target_index_mb", "target_index_documents"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be positive, found {value}")

    @property
    def targets(self) -> dict[str, float | None]:
        """Active terms to end with, of "query" and "document"; None without a target."""
        asked = self.target_nnz or TargetNnz()
        document = asked.document
        if self.target_index_mb is not None and self.target_index_documents is not None:
            document = max(1.0, self.target_index_mb * 1e6 / (self.target_index_documents * POSTING_BYTES))
        return {"query": asked.query, "document": document}


#: A penalty on weights that are not needed; losses.py has the formulas.
Regularizer = Literal["flops", "l1", "df_flops"]

_CONTRASTIVE_POSITIVE = (
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
        for name in _CONTRASTIVE_POSITIVE:
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


def check_batch(config: TrainingConfig, processes: int, pieces: int) -> None:
    """Prove that the batch can be divided.

    Args:
        config: A run's settings.
        processes: That share the batch.
        pieces: Parts of a process's share that are taken from the data one by one.

    Raises:
        ConfigError: It cannot.
    """
    if config.batch_size % (processes * pieces):
        raise ConfigError(
            f"batch_size {config.batch_size} is that of all processes together and cannot be divided by {processes} processes"
            + (f" and {pieces} gradient accumulation steps" if pieces > 1 else "")
        )
