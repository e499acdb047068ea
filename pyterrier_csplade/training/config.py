"""Settings of the adaptation phase and the contrastive phase."""

from __future__ import annotations

# Annotations are evaluated in this module: tools resolve the constructors of subclasses elsewhere with the same names.
from dataclasses import dataclass, field
from typing import Any, Literal

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.vectors.contract import LAYERS, Variant, are_layers

from .fields import (
    BE_A_SEED,
    BE_AT_LEAST_1,
    BE_POSITIVE,
    NOT_BE_EMPTY,
    NOT_BE_NEGATIVE,
    Checked,
    SettingError,
    check_model,
    must,
    shown,
)

#: A regulariser; see losses.py for the formulas.
Regularizer = Literal["flops", "l1", "df_flops"]

#: Bytes per posting of a whole index at impact scale 100; our choice (measured: 18.8 to 20.9 for csplade-tiny on the six
#: collections of its model card). Terrier stores an impact of n in n bits, in the inverted and in the direct index.
POSTING_BYTES = 19.0

# Maximum characters of a measure's name. ir_measures parses names as Python expressions, which fails for thousands of brackets.
_LONGEST_MEASURE = 100


@dataclass(frozen=True, kw_only=True)
class LoraSettings(Checked):
    """Low-rank adaptation of the backbone's linear layers.

    Attributes:
        rank: Rank of the adapters (paper, table 3: 16 for 8B and 64 for 1B).
        alpha: Scale of the adapters; None is twice the rank (not in the paper; LACONIC).
        dropout: Dropout of the adapters (not in the paper; LACONIC).
        target_modules: Names of the adapted layers (not in the paper; LACONIC: all seven projections of Llama).
        embeddings: Whether the input embeddings and the LM head are also trained, without adapters, as the rows of a new
            vocabulary require. Tied ones stay tied.
    """

    rank: int = field(default=16, metadata=BE_POSITIVE)
    alpha: int | None = field(default=None, metadata=BE_POSITIVE)
    dropout: float = field(default=0.1, metadata=must("be at least 0 and below 1", lambda value: 0 <= value < 1))
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        metadata=NOT_BE_EMPTY,
    )
    embeddings: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
    """Settings that all phases share.

    Attributes:
        model: Hub id, directory or GGUF file of the base model.
        revision: Revision of a hub model.
        layers: Number of first layers of the base model to use, or ascending indices of layers; None uses all. The trained
            model has only these layers.
        output: Directory of the run, for the trained model, checkpoints, the log and the training curves.
        learning_rate: Peak learning rate. The schedule is a cosine with linear warm-up (paper, table 3).
        batch_size: Rows per optimizer step over all processes, so that the result does not depend on their number.
        gradient_accumulation_steps: Parts into which each process divides its share of a batch to save memory.
        steps: Number of optimizer steps.
        warmup_steps: Optimizer steps of linear warm-up. A value below 1 is a share of all steps.
        flops_warmup_steps: Optimizer steps in which the weights of the regularisers grow as the square of the step. A value
            below 1 is a share of all steps (not in the paper; a third, as in SPLADE and sentence-transformers).
        weight_decay: Decoupled weight decay of AdamW (not in the paper; transformers' default).
        lora: Settings of LoRA; None trains all parameters.
        freeze_embeddings: Whether to freeze the input embeddings and the LM head, so that the terms keep their meaning. LoRA
            trains them only with ``embeddings``.
        quantization: "nf4" stores the weights that LoRA freezes in 4 bits (QLoRA, arXiv 2305.14314). The adapter is merged with
            the original weights, which are bfloat16 in a bfloat16 run.
        bf16: Whether to use mixed precision with bfloat16.
        gradient_checkpointing: Whether to recompute activations in the backward pass.
        seed: Seed of initialisation, data order and dropout.
        logging_steps: Optimizer steps between two points of the training curves.
        save_steps: Optimizer steps between two checkpoints.
        keep_checkpoints: Number of newest checkpoints to keep, in addition to the best one.
        report_to: Names of transformers' integrations that also receive the curves, for example [wandb]. None uses TensorBoard
            if it is installed.
    """

    model: str = field(metadata=NOT_BE_EMPTY)
    output: str = field(metadata=NOT_BE_EMPTY)
    learning_rate: float = field(metadata=BE_POSITIVE)
    steps: int = field(metadata=BE_POSITIVE)
    revision: str | None = None
    layers: int | list[int] | None = field(default=None, metadata=must(f"be {LAYERS}", are_layers))
    batch_size: int = field(default=32, metadata=BE_POSITIVE)
    gradient_accumulation_steps: int = field(default=1, metadata=BE_POSITIVE)
    warmup_steps: float = field(default=0.05, metadata=NOT_BE_NEGATIVE)
    flops_warmup_steps: float = field(default=1 / 3, metadata=NOT_BE_NEGATIVE)
    weight_decay: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)
    lora: LoraSettings | None = None
    freeze_embeddings: bool = False
    quantization: Literal["nf4"] | None = None
    bf16: bool = True
    gradient_checkpointing: bool = False
    seed: int = field(default=42, metadata=BE_A_SEED)
    logging_steps: int = field(default=10, metadata=BE_POSITIVE)
    save_steps: int = field(default=500, metadata=BE_POSITIVE)
    keep_checkpoints: int = field(default=2, metadata=BE_POSITIVE)
    report_to: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model(self.model, self.revision)
        if self.freeze_embeddings and self.lora and self.lora.embeddings:
            raise SettingError("lora: embeddings contradicts freeze_embeddings: leave one out", ("freeze_embeddings",))
        if self.quantization and not self.lora:
            raise SettingError("quantization freezes the weights in 4 bits: it needs lora", ("quantization",))
        if self.batch_size % self.gradient_accumulation_steps:
            raise SettingError(
                f"gradient_accumulation_steps {self.gradient_accumulation_steps} does not divide batch_size {self.batch_size}",
                ("gradient_accumulation_steps",),
            )

    @property
    def flops_ramp(self) -> float:
        """Number of optimizer steps in ``flops_warmup_steps``."""
        return self.flops_warmup_steps * self.steps if self.flops_warmup_steps < 1 else self.flops_warmup_steps


@dataclass(frozen=True, kw_only=True)
class LexicalSettings(Checked):
    """Settings of the lexical loss, which fits the pooled vector of a text to a bag of words (not in the paper).

    ``LexicalLoss`` describes the loss and the measurement of its defaults; k1 and b are PyTerrier's.

    Attributes:
        weight: Weight of the loss.
        target: "idf" ignores how often a text contains a token. "bm25" applies the saturation and the length normalisation of
            BM25.
        scale: Target of a token with the largest idf in the corpus.
        revive_weight: Weight of the term that revives dead own tokens.
        revive_below: Logit below which an own token counts as dead.
        others_weight: Weight of the squared weights of all terms that are not own tokens. 0 does not restrict expansion.
        k1: Saturation, for "bm25".
        b: Length normalisation from 0 to 1, for "bm25".
    """

    weight: float = field(default=1.0, metadata=BE_POSITIVE)
    target: Literal["idf", "bm25"] = "idf"
    scale: float = field(default=2.0, metadata=BE_POSITIVE)
    revive_weight: float = field(default=0.1, metadata=NOT_BE_NEGATIVE)
    revive_below: float = field(default=0.1, metadata=NOT_BE_NEGATIVE)
    others_weight: float = field(default=0.002, metadata=NOT_BE_NEGATIVE)
    k1: float = field(default=1.2, metadata=NOT_BE_NEGATIVE)
    b: float = field(default=0.75, metadata=must("be from 0 to 1", lambda value: 0 <= value <= 1))


@dataclass(frozen=True, kw_only=True)
class PassageSettings(Checked):
    """The passages that the objective "pooled" cuts from the documents of the corpus, and their encoder.

    The settings of the encoder should be the same as in the contrastive phase.

    Attributes:
        shortest: Minimum tokens of a passage, without prefix and special tokens; our choice (not measured).
        longest: Maximum tokens of a passage; our choice (not measured). Lengths are drawn uniformly. A document is cut until
            fewer than ``shortest`` tokens are left.
        variant: "causal", "echo" or "bidirectional".
        document_prefix: Prefix of every passage.
        add_bos: Whether texts begin with the beginning-of-text token.
        add_eos: Whether texts end with the end-of-text token.
        pool_special: Whether to pool the positions of special tokens.
        logit_scale: Factor of the logits before pooling.
    """

    shortest: int = field(default=16, metadata=BE_POSITIVE)
    longest: int = field(default=128, metadata=BE_POSITIVE)
    variant: Variant = "causal"
    document_prefix: str = ""
    add_bos: bool = False
    add_eos: bool = False
    pool_special: bool = False
    logit_scale: float = field(default=1.0, metadata=BE_POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest > self.longest:
            raise SettingError(f"shortest {self.shortest} is larger than longest {self.longest}", ("shortest",))


@dataclass(frozen=True, kw_only=True)
class PredictionSettings(Checked):
    """Settings of the adaptation loss when it is combined with other losses.

    Attributes:
        relu_weight: lambda_ReLU of Eq. 2 (paper: 1).
        mask_rate: Share of the tokens to mask. Only for bidirectional models, which read the texts a second time for this loss.
        mask_token: Token that replaces masked tokens.
        visible_rate: Share of the tokens to predict without masking them; only for bidirectional models.
    """

    relu_weight: float = field(default=1.0, metadata=NOT_BE_NEGATIVE)
    mask_rate: float = field(default=0.2, metadata=BE_POSITIVE)
    mask_token: str = "_"
    visible_rate: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.mask_rate, self.visible_rate)


def check_rates(mask_rate: float, visible_rate: float) -> None:
    """Check that the shares of masked and visible tokens do not exceed 1.

    Raises:
        ConfigError: Their sum exceeds 1.
    """
    if mask_rate + visible_rate > 1:
        raise SettingError(f"the sum of mask_rate and visible_rate exceeds 1: {mask_rate} and {visible_rate}", ("mask_rate",))


@dataclass(frozen=True, kw_only=True)
class ExpansionSettings(Checked):
    """Expansion control in contrastive training: at first, texts are scored by their own tokens only (arXiv 2402.17535).

    Attributes:
        start: Probability of this restriction at the first step. It falls linearly.
        until: Optimizer steps until the probability is 0. A value up to 1 is a share of all steps (the code of that paper:
            0.95).
    """

    start: float = field(default=1.0, metadata=must("be above 0 and at most 1", lambda value: 0 < value <= 1))
    until: float = field(default=0.95, metadata=BE_POSITIVE)


@dataclass(frozen=True, kw_only=True)
class QuerySettings(Checked):
    """How queries are encoded in contrastive training (not in the paper).

    Attributes:
        encoder: "model" is the language model (paper). With "table", each token of a query has a learned weight, and no query
            goes through the model: the documents learn to carry the expansion. The trained model encodes queries by this table.
        start: Directory of a query table to start from, whose expansion is trained as well. None: all weights are 1, and there
            is no expansion.
        rate: Learning rate of the table, as a multiple of ``learning_rate``; our choice (not measured).
    """

    encoder: Literal["model", "table"] = "model"
    start: str | None = field(default=None, metadata=NOT_BE_EMPTY)
    rate: float = field(default=30.0, metadata=BE_POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None and self.encoder != "table":
            raise SettingError("query: start needs encoder: table", ("start",))


@dataclass(frozen=True, kw_only=True)
class TargetNnz(Checked):
    """Target of the mean number of active terms at the end of training; None keeps the lambda of a side fixed.

    Attributes:
        query: Active terms of a query.
        document: Active terms of a passage.
    """

    query: float | None = field(default=None, metadata=BE_AT_LEAST_1)
    document: float | None = field(default=None, metadata=BE_AT_LEAST_1)


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig(TrainingConfig):
    """The adaptation phase (paper, section 3.1): next-token prediction on H and on log(1 + ReLU(H)).

    The objective "pooled" is a second adaptation between this one and the contrastive phase. It computes losses on the pooled
    vectors of unlabelled passages, by default those of the lexical warm start.

    Attributes:
        corpus: Source of the text: a JSONL file (optionally gzip-compressed) or the name of a PyTerrier dataset (including
            ``irds:`` ids).
        text_fields: Fields of a document, joined by a space.
        sequence_length: Tokens of a packed sequence (paper: 2,048).
        relu_weight: lambda_ReLU of Eq. 2 (paper: 1). 0 is plain language-model training.
        objective: "clm" is next-token prediction (paper). "mntp" is masked next-token prediction without the causal mask, as
            for bidirectional models in LLM2Vec and Lion-SP: some tokens are masked, and each is predicted at the position
            before it. "pooled" computes the losses of ``lexical``, ``prediction_weight`` and ``target_nnz`` or
            ``lambda_document`` on passages.
        mask_rate: Share of the tokens to mask, for "mntp" (Lion-SP: 0.2).
        mask_token: Token that replaces masked tokens (Lion-SP: "_").
        visible_rate: Share of the tokens to predict without masking them, for "mntp" (LLM2Vec and Lion-SP: 0). Above 0, the
            model also learns to copy, which keeps the words of a text among the terms of its vector; our choice (not measured).
        passages: Passages of "pooled", and their encoder.
        lexical: The lexical loss of "pooled"; None leaves it out.
        prediction_weight: Weight of Eq. 2 in "pooled": next-token prediction, or mntp for a bidirectional variant. It keeps the
            abilities of the language model that expansion needs.
        lambda_document: Weight of the FLOPS regulariser of passages in "pooled".
        target_nnz: Target of the active terms of a passage in "pooled". A controller adjusts ``lambda_document``.
    """

    corpus: str = field(metadata=NOT_BE_EMPTY)
    text_fields: list[str] = field(default_factory=lambda: ["text"], metadata=NOT_BE_EMPTY)
    sequence_length: int = field(default=2048, metadata=must("be at least 2", lambda value: value >= 2))
    relu_weight: float = field(default=1.0, metadata=NOT_BE_NEGATIVE)
    objective: Literal["clm", "mntp", "pooled"] = "clm"
    mask_rate: float = field(default=0.2, metadata=BE_POSITIVE)
    mask_token: str = "_"
    visible_rate: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)
    passages: PassageSettings = field(default_factory=PassageSettings)
    lexical: LexicalSettings | None = field(default_factory=LexicalSettings)
    prediction_weight: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)
    lambda_document: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)
    target_nnz: float | None = field(default=None, metadata=BE_AT_LEAST_1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.mask_rate, self.visible_rate)
        if self.objective == "pooled" and not (self.lexical or self.lambda_document or self.target_nnz):
            raise SettingError(
                "no loss uses the pooled vectors: set lexical, target_nnz or lambda_document, or use the objective clm or mntp",
                ("objective",),
            )

    @property
    def pooled(self) -> bool:
        """Whether the run trains on pooled vectors of passages instead of packed sequences."""
        return self.objective == "pooled"

    @property
    def masks(self) -> bool:
        """Whether tokens are masked."""
        predicts = self.pooled and self.prediction_weight > 0
        return self.objective == "mntp" or (predicts and self.passages.variant == "bidirectional")

    @property
    def prediction(self) -> PredictionSettings | None:
        """Settings of the adaptation loss of "pooled"; None if its weight is 0."""
        if not self.prediction_weight:
            return None
        return PredictionSettings(
            relu_weight=self.relu_weight,
            mask_rate=self.mask_rate,
            mask_token=self.mask_token,
            visible_rate=self.visible_rate,
        )


@dataclass(frozen=True, kw_only=True)
class ValidationSettings(Checked):
    """Validation by retrieval over a slice of a collection.

    The slice contains every document that is judged for its queries, and others up to ``documents``.

    Attributes:
        collection: A directory with docs.jsonl.gz, topics.SPLIT.tsv and qrels.SPLIT.txt, or the name of a PyTerrier dataset
            (including ``irds:`` ids).
        split: Split of a directory's files. "test" means the files without a split in their names.
        steps: Optimizer steps between two validations.
        documents: Maximum number of documents in the slice, unless more are judged.
        queries: Maximum number of queries in the slice.
        measures: Names of measures of ir_measures. The first one determines the best checkpoint.
        patience: Number of validations without improvement after which the run stops; 0 never stops it.
        terrier: Whether to build and search a Terrier index, which needs Java. Otherwise, the same impacts are searched exactly
            in memory, and the index size is estimated from the postings.
    """

    collection: str = field(metadata=NOT_BE_EMPTY)
    split: str = "dev"
    steps: int = field(default=500, metadata=BE_POSITIVE)
    documents: int = field(default=10_000, metadata=BE_POSITIVE)
    queries: int = field(default=500, metadata=BE_POSITIVE)
    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "R@100"], metadata=NOT_BE_EMPTY)
    patience: int = field(default=0, metadata=NOT_BE_NEGATIVE)
    terrier: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.measures:
            parse_measure(name)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(TrainingConfig):
    """The contrastive phase (paper, section 3.2): InfoNCE over hard and in-batch negatives, and FLOPS regularisers.

    A batch contains ``batch_size`` queries, for any number of processes and gradient accumulation steps. The negatives of a
    query are all other passages of the batch, and the FLOPS terms are computed over the batch. With gradient accumulation, the
    gradients of the vectors are cached (GradCache, arXiv 2101.06983), which needs a second forward pass.

    Attributes:
        data: JSONL files in Tevatron's format (optionally gzip-compressed), ``{"query": ..., "positive_passages": [{"text":
            ..., "title": ...}], "negative_passages": [...]}``, or the name of a PyTerrier dataset (including ``irds:`` ids).
        max_bad_rows: Number of unusable training rows to tolerate. They are left out, with a warning that counts them and names
            some.
        negatives: Hard negatives of each query in a batch, drawn again in each epoch (paper: 15). A row with fewer uses all of
            them. A row without any has only the other passages of the batch.
        variant: "causal", "echo" or "bidirectional".
        query_prefix: Prefix of every query (not in the paper; LACONIC: "query: ").
        document_prefix: Prefix of every passage (not in the paper; LACONIC: "passage: ").
        query_length: Maximum tokens of a query in training (not in the paper; Tevatron's 32).
        document_length: Maximum tokens of a passage in training (not in the paper; LACONIC's 192).
        encoding_query_length: Maximum tokens of a query in the trained model's contract; None uses ``query_length``.
        encoding_document_length: Maximum tokens of a document in the trained model's contract; None uses ``document_length``.
        add_bos: Whether texts begin with the beginning-of-text token (not in the paper; LACONIC: no).
        add_eos: Whether texts end with the end-of-text token (not in the paper; LACONIC: no).
        pool_special: Whether to pool the positions of special tokens (Lion-SP: yes).
        logit_scale: Factor of the logits before pooling (paper: 1).
        temperature: Divisor of the scores in the losses (not in the paper; LACONIC: 1). "auto" starts with the temperature at
            which the standard deviation of a query's scores over the passages of a batch is 3 temperatures, follows the scores,
            and anneals to ``final_temperature``. This avoids a collapse when the first scores differ by thousands; our choice
            (not measured).
        final_temperature: Temperature at the end; only for "auto".
        infonce_weight: Weight of InfoNCE, L_rank of the paper.
        kl_weight: Weight of the Kullback-Leibler divergence from a teacher, over a query's own passages (not in the paper;
            Lion-SP: 0.5, together with 0.5 of InfoNCE). The rows need a teacher's scores.
        margin_mse_weight: Weight of the squared difference between the margins and a teacher's margins (not in the paper;
            SPLADE-v3: 0.05).
        teacher_temperature: Divisor of the teacher's scores.
        lambda_query: Weight of the regulariser of queries (paper, table 3: 0.003 for 1B and 0.03 for 8B).
        lambda_document: Weight of the regulariser of passages; paper values as for queries.
        query_regularizer: "flops" (paper), "l1" (SPLADE++) or "df_flops".
        document_regularizer: As for queries. "df_flops" (arXiv 2505.15070) spares rare terms and penalises frequent ones.
        query_l0_threshold: Number of terms up to which a query is not regularised (arXiv 2504.14839); 0 regularises all.
        document_l0_threshold: As for queries.
        df_cutoff: alpha of DF-FLOPS, the document frequency at which the penalty of a term is halved (its paper: 0.1).
        df_steepness: beta of DF-FLOPS (its paper: 10).
        df_steps: Optimizer steps between two estimates of the document frequencies (its paper: 100).
        anti_zero_weight: Weight of 1 / (sum of queries)^2 + 1 / (sum of passages)^2, which prevents all-zero vectors (SPLADE's
            code).
        target_nnz: Target of the sparsity (not in the paper). A controller adjusts lambda_query and lambda_document from their
            initial values.
        target_index_mb: Target of the size of a Terrier index in 10^6 bytes, in place of ``target_nnz.document``. A posting
            counts as 19 bytes.
        target_index_documents: Number of documents in that index.
        lexical: The lexical loss of passages, as in the objective "pooled" of the adaptation phase; None leaves it out. The
            term statistics come from the training passages.
        adaptation_weight: Weight of Eq. 2 for the passages of the batch. Only bidirectional models need a second forward pass.
        prediction: Settings of Eq. 2.
        expansion: Expansion control; None does not restrict expansion.
        query: Encoder of the queries. The regulariser of queries does not apply to a table.
        stop_on_collapse: Whether to save and stop a run whose vectors are all empty, or all dense with an accuracy near chance.
        validation: Validation by retrieval. If set, the trained model is the best one instead of the last one.
    """

    data: str | list[str] = field(metadata=NOT_BE_EMPTY)
    max_bad_rows: int = field(default=0, metadata=NOT_BE_NEGATIVE)
    negatives: int = field(default=15, metadata=NOT_BE_NEGATIVE)
    variant: Variant = "causal"
    query_prefix: str = ""
    document_prefix: str = ""
    query_length: int = field(default=32, metadata=BE_POSITIVE)
    document_length: int = field(default=192, metadata=BE_POSITIVE)
    encoding_query_length: int | None = field(default=None, metadata=BE_POSITIVE)
    encoding_document_length: int | None = field(default=None, metadata=BE_POSITIVE)
    add_bos: bool = False
    add_eos: bool = False
    pool_special: bool = False
    logit_scale: float = field(default=1.0, metadata=BE_POSITIVE)
    temperature: float | Literal["auto"] = field(
        default=1.0, metadata=must("be positive, or auto", lambda value: value == "auto" or value > 0)
    )
    final_temperature: float = field(default=1.0, metadata=BE_POSITIVE)
    infonce_weight: float = field(default=1.0, metadata=NOT_BE_NEGATIVE)
    kl_weight: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)
    margin_mse_weight: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)
    teacher_temperature: float = field(default=1.0, metadata=BE_POSITIVE)
    lambda_query: float = field(default=0.003, metadata=NOT_BE_NEGATIVE)
    lambda_document: float = field(default=0.003, metadata=NOT_BE_NEGATIVE)
    query_regularizer: Regularizer = "flops"
    document_regularizer: Regularizer = "flops"
    query_l0_threshold: int = field(default=0, metadata=NOT_BE_NEGATIVE)
    document_l0_threshold: int = field(default=0, metadata=NOT_BE_NEGATIVE)
    df_cutoff: float = field(default=0.1, metadata=must("be above 0 and below 1", lambda value: 0 < value < 1))
    df_steepness: float = field(default=10.0, metadata=BE_POSITIVE)
    df_steps: int = field(default=100, metadata=BE_POSITIVE)
    anti_zero_weight: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)
    target_nnz: TargetNnz | None = None
    target_index_mb: float | None = field(default=None, metadata=BE_POSITIVE)
    target_index_documents: int | None = field(default=None, metadata=BE_POSITIVE)
    lexical: LexicalSettings | None = None
    adaptation_weight: float = field(default=0.0, metadata=NOT_BE_NEGATIVE)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    expansion: ExpansionSettings | None = None
    query: QuerySettings = field(default_factory=QuerySettings)
    stop_on_collapse: bool = True
    validation: ValidationSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.infonce_weight + self.kl_weight + self.margin_mse_weight:
            raise SettingError(
                "infonce_weight, kl_weight and margin_mse_weight are all 0: set one of them", ("infonce_weight",)
            )
        if self.temperature != "auto" and self.final_temperature != 1.0:
            raise SettingError("final_temperature needs temperature: auto", ("final_temperature",))
        if self.learns_table and self.target_nnz is not None and self.target_nnz.query is not None:
            raise SettingError(
                "target_nnz: query needs encoder: model, because no regulariser changes the terms of a table", ("target_nnz",)
            )
        if (self.target_index_mb is None) != (self.target_index_documents is None):
            raise SettingError("target_index_mb and target_index_documents must be set together", ("target_index_mb",))
        if self.target_index_mb is not None and self.target_nnz is not None and self.target_nnz.document is not None:
            raise SettingError(
                "target_index_mb and target_nnz.document contradict each other: set only one of them", ("target_index_mb",)
            )

    @property
    def targets(self) -> dict[str, float | None]:
        """Target of the active terms of "query" and "document"; None without a target."""
        asked = self.target_nnz or TargetNnz()
        document = asked.document
        if self.target_index_mb is not None and self.target_index_documents is not None:
            document = max(1.0, self.target_index_mb * 1e6 / (self.target_index_documents * POSTING_BYTES))
        return {"query": asked.query, "document": document}

    @property
    def last_temperature(self) -> float:
        """The temperature at the end of training."""
        return self.final_temperature if self.temperature == "auto" else self.temperature

    @property
    def learns_table(self) -> bool:
        """Whether queries are encoded by a table that is learned."""
        return self.query.encoder == "table"

    @property
    def masks(self) -> bool:
        """Whether tokens are masked."""
        return self.adaptation_weight > 0 and self.variant == "bidirectional"

    @property
    def needs_teacher(self) -> bool:
        """Whether the rows must have a teacher's scores."""
        return self.kl_weight > 0 or self.margin_mse_weight > 0


def parse_measure(name: str) -> Any:
    """Return the measure of ir_measures with a name.

    Raises:
        ConfigError: There is no measure of this name.
    """
    import ir_measures

    try:
        measure = ir_measures.parse_measure(name[:_LONGEST_MEASURE])
        if isinstance(measure, ir_measures.measures.Measure):
            return measure
    except (ValueError, NameError, SyntaxError, TypeError, AttributeError, KeyError):
        pass
    raise SettingError(
        f"ir_measures has no measure {shown(name)}; examples of names are nDCG@10, RR@10, R@100 and AP", ("measures",)
    )


def check_batch(config: TrainingConfig, processes: int, pieces: int) -> None:
    """Check that a batch can be divided among the processes.

    Args:
        config: The run's settings.
        processes: Number of processes that share the batch.
        pieces: Number of parts of a process's share that are read from the data one by one.

    Raises:
        ConfigError: The batch cannot be divided.
    """
    if config.batch_size % (processes * pieces):
        raise ConfigError(
            f"batch_size {config.batch_size}, the total over all processes, cannot be divided by {processes} processes"
            + (f" and {pieces} gradient accumulation steps" if pieces > 1 else "")
        )
