"""Configuration of the two training phases: one YAML or JSON file per run."""

from __future__ import annotations

# Annotations are evaluated in this module: tools resolve the constructors of subclasses elsewhere with the same names.
from dataclasses import dataclass, field
from typing import Any, Literal

from pyterrier_csplade._errors import ConfigError
from pyterrier_csplade.vectors.contract import LAYERS, Variant, are_layers

from .fields import Checked, SettingError, must, shown

#: A penalty on weights that are not needed; see losses.py for the formulas.
Regularizer = Literal["flops", "l1", "df_flops"]

#: Bytes of a posting in an index of impacts at scale 100, everything included: 18.8 to 20.9 for csplade-tiny over the six
#: collections of its card. Terrier stores an impact of n in n bits, by term and by document.
POSTING_BYTES = 19.0

# Characters of a measure's name: ir_measures parses names as Python expressions, which thousands of brackets break.
_LONGEST_MEASURE = 100

_BE_POSITIVE = must("be positive", lambda value: value > 0)
_NOT_BE_NEGATIVE = must("not be negative", lambda value: value >= 0)
_BE_AT_LEAST_1 = must("be at least 1", lambda value: value >= 1)
_NOT_BE_EMPTY = must("not be empty", bool)


@dataclass(frozen=True, kw_only=True)
class LoraSettings(Checked):
    """Low-rank adaptation of the backbone's linear layers.

    Attributes:
        rank: 16 for 8B and 64 for 1B (paper, table 3).
        alpha: Scale; None: twice the rank (not in the paper; LACONIC).
        dropout: Not in the paper; LACONIC.
        target_modules: Names of the adapted layers (not in the paper; LACONIC: all seven projections of Llama).
        embeddings: Whether input embeddings and LM head are trained as well, whole, as the rows of a new vocabulary need; tied
            ones stay tied.
    """

    rank: int = field(default=16, metadata=_BE_POSITIVE)
    alpha: int | None = field(default=None, metadata=_BE_POSITIVE)
    dropout: float = field(default=0.1, metadata=must("be at least 0 and below 1", lambda value: 0 <= value < 1))
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        metadata=_NOT_BE_EMPTY,
    )
    embeddings: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
    """Settings of both phases.

    Attributes:
        model: Hub id, directory or GGUF file of the model to start from.
        revision: Revision of a hub model.
        layers: Number of its first layers to start from, or indices of layers, ascending; None takes all. The trained model has
            only these.
        output: Directory of the run: the trained model, checkpoints, the log and the training curves.
        learning_rate: Peak learning rate; the schedule is a cosine with linear warm-up (paper, table 3).
        batch_size: Rows per optimizer step, over all processes: the result does not depend on the number of processes.
        gradient_accumulation_steps: Parts into which each process divides its share of a batch to save memory.
        steps: Optimizer steps.
        warmup_steps: Optimizer steps of linear warm-up; a value below 1 is a share of all steps.
        weight_decay: Decoupled weight decay of AdamW (not in the paper; transformers' default).
        lora: None trains all parameters.
        freeze_embeddings: Whether input embeddings and LM head keep their weights, so that the terms keep their meaning;
            LoRA trains them with ``embeddings`` only.
        quantization: "nf4" holds the weights that LoRA freezes in 4 bits (QLoRA, arXiv 2305.14314). The saved model is merged
            with the weights as they were before, in bfloat16 in a bfloat16 run.
        bf16: Mixed precision with bfloat16.
        gradient_checkpointing: Recompute activations in the backward pass.
        seed: Seed of initialisation, data order and dropout.
        logging_steps: Optimizer steps between two points of the training curves.
        save_steps: Optimizer steps between two checkpoints.
        keep_checkpoints: Number of the newest checkpoints to keep, besides the best one.
        report_to: Names of transformers' integrations that receive the curves as well, for example [wandb]; None:
            TensorBoard if it is installed.
    """

    model: str = field(metadata=_NOT_BE_EMPTY)
    output: str = field(metadata=_NOT_BE_EMPTY)
    learning_rate: float = field(metadata=_BE_POSITIVE)
    steps: int = field(metadata=_BE_POSITIVE)
    revision: str | None = None
    layers: int | list[int] | None = field(default=None, metadata=must(f"be {LAYERS}", are_layers))
    batch_size: int = field(default=32, metadata=_BE_POSITIVE)
    gradient_accumulation_steps: int = field(default=1, metadata=_BE_POSITIVE)
    warmup_steps: float = field(default=0.05, metadata=_NOT_BE_NEGATIVE)
    weight_decay: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)
    lora: LoraSettings | None = None
    freeze_embeddings: bool = False
    quantization: Literal["nf4"] | None = None
    bf16: bool = True
    gradient_checkpointing: bool = False
    seed: int = field(default=42, metadata=must("be from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32))
    logging_steps: int = field(default=10, metadata=_BE_POSITIVE)
    save_steps: int = field(default=500, metadata=_BE_POSITIVE)
    keep_checkpoints: int = field(default=2, metadata=_BE_POSITIVE)
    report_to: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_embeddings and self.lora and self.lora.embeddings:
            raise SettingError("lora: embeddings contradicts freeze_embeddings: leave one out", ("freeze_embeddings",))
        if self.quantization and not self.lora:
            raise SettingError("quantization freezes the weights in 4 bits: it needs lora", ("quantization",))
        if self.batch_size % self.gradient_accumulation_steps:
            raise SettingError(
                f"gradient_accumulation_steps {self.gradient_accumulation_steps} does not divide batch_size {self.batch_size}",
                ("gradient_accumulation_steps",),
            )


@dataclass(frozen=True, kw_only=True)
class LexicalSettings(Checked):
    """The lexical loss of a text's pooled vector: a bag of words as the target (not in the paper).

    The form of the loss is in ``LexicalLoss``; all values are our choice (measured: see there, for "idf"; k1 and b are
    PyTerrier's).

    Attributes:
        weight: Weight of the loss among others.
        target: "idf" is the same target for every own token of a text; "bm25" also counts how often the text has it, with the
            saturation and the length normalisation of BM25.
        scale: Target of a token with the largest idf of the corpus.
        revive_weight: Weight of the term that brings dead own tokens back.
        revive_below: Logit below which an own token counts as dead.
        others_weight: Weight of the squares of all weights that are not on own tokens. 0 leaves expansion free.
        k1: Saturation of "bm25".
        b: Length normalisation of "bm25", from 0 to 1.
    """

    weight: float = field(default=1.0, metadata=_BE_POSITIVE)
    target: Literal["idf", "bm25"] = "idf"
    scale: float = field(default=2.0, metadata=_BE_POSITIVE)
    revive_weight: float = field(default=0.1, metadata=_NOT_BE_NEGATIVE)
    revive_below: float = field(default=0.1, metadata=_NOT_BE_NEGATIVE)
    others_weight: float = field(default=0.002, metadata=_NOT_BE_NEGATIVE)
    k1: float = field(default=1.2, metadata=_NOT_BE_NEGATIVE)
    b: float = field(default=0.75, metadata=must("be from 0 to 1", lambda value: 0 <= value <= 1))


@dataclass(frozen=True, kw_only=True)
class PassageSettings(Checked):
    """Passages that the objective "pooled" cuts from the documents of the corpus, and how they are encoded.

    The settings of the encoder should be the same as in the contrastive phase.

    Attributes:
        shortest: Minimum tokens of a passage, without prefix and special tokens; our choice (measured: see ``LexicalLoss``).
        longest: Maximum tokens of a passage. Lengths are drawn uniformly, and a document is cut until fewer than ``shortest``
            tokens are left.
        variant: "causal", "echo" or "bidirectional".
        document_prefix: Put before every passage.
        add_bos: Whether texts begin with the beginning-of-text token.
        add_eos: Whether texts end with the end-of-text token.
        pool_special: Whether the positions of special tokens take part in the maximum.
        logit_scale: Factor of the logits before pooling.
    """

    shortest: int = field(default=16, metadata=_BE_POSITIVE)
    longest: int = field(default=128, metadata=_BE_POSITIVE)
    variant: Variant = "causal"
    document_prefix: str = ""
    add_bos: bool = False
    add_eos: bool = False
    pool_special: bool = False
    logit_scale: float = field(default=1.0, metadata=_BE_POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest > self.longest:
            raise SettingError(f"shortest {self.shortest} is larger than longest {self.longest}", ("shortest",))


@dataclass(frozen=True, kw_only=True)
class PredictionSettings(Checked):
    """What the adaptation loss predicts, where it is one loss among others.

    Attributes:
        relu_weight: lambda_ReLU of Eq. 2 (paper: 1).
        mask_rate: Share of the tokens that are masked; bidirectional models only, which then read the texts a second time.
        mask_token: Token that replaces them.
        visible_rate: Share of the tokens that are predicted although they are not masked; bidirectional models only.
    """

    relu_weight: float = field(default=1.0, metadata=_NOT_BE_NEGATIVE)
    mask_rate: float = field(default=0.2, metadata=_BE_POSITIVE)
    mask_token: str = "_"
    visible_rate: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self.mask_rate, self.visible_rate)


def check_rates(mask_rate: float, visible_rate: float) -> None:
    """Check that masked and visible tokens are not more than all tokens.

    Raises:
        ConfigError: They are.
    """
    if mask_rate + visible_rate > 1:
        raise SettingError(f"the sum of mask_rate and visible_rate exceeds 1: {mask_rate} and {visible_rate}", ("mask_rate",))


@dataclass(frozen=True, kw_only=True)
class ExpansionSettings(Checked):
    """Expansion control in contrastive training: at first, texts meet on their own tokens (arXiv 2402.17535).

    Attributes:
        start: Probability at the first step that a text's vector is scored without terms that are not its own. It falls
            linearly.
        until: Optimizer steps until it is 0; a value up to 1 is a share of all steps (the code of that paper: 0.95).
    """

    start: float = field(default=1.0, metadata=must("be above 0 and at most 1", lambda value: 0 < value <= 1))
    until: float = field(default=0.95, metadata=_BE_POSITIVE)


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
    start: str | None = field(default=None, metadata=_NOT_BE_EMPTY)
    rate: float = field(default=30.0, metadata=_BE_POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None and self.encoder != "table":
            raise SettingError("query: start belongs to encoder: table", ("start",))


@dataclass(frozen=True, kw_only=True)
class TargetNnz(Checked):
    """Active terms of an average vector when training ends; None leaves a side to its lambda.

    Attributes:
        query: Active terms of a query.
        document: Active terms of a passage.
    """

    query: float | None = field(default=None, metadata=_BE_AT_LEAST_1)
    document: float | None = field(default=None, metadata=_BE_AT_LEAST_1)


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig(TrainingConfig):
    """The adaptation phase (paper, section 3.1): next-token prediction on H and on log(1 + ReLU(H)).

    The objective "pooled" is a second adaptation, between this and the contrastive phase: losses on the pooled vectors of
    unlabelled passages, as the contrastive phase will pool them. By default it is the lexical warm start.

    Attributes:
        corpus: Source of the text: a JSONL file (optionally gzip-compressed) or the name of a PyTerrier dataset, ``irds:`` ids
            included.
        text_fields: Fields of a document, joined by a space.
        sequence_length: Tokens of a packed sequence (paper: 2,048).
        relu_weight: lambda_ReLU of Eq. 2 (paper: 1). 0 is plain language-model training.
        objective: "clm" is next-token prediction (paper). "mntp" is masked next-token prediction without the causal mask, the
            start of bidirectional models in LLM2Vec and Lion-SP: some tokens are masked, and each is predicted at the
            position before it. "pooled" computes the losses of ``lexical``, ``prediction_weight`` and ``target_nnz`` or
            ``lambda_document`` on passages.
        mask_rate: Share of the tokens that mntp masks (Lion-SP: 0.2).
        mask_token: Token that replaces them (Lion-SP: "_").
        visible_rate: Share of the tokens that mntp predicts although it does not mask them (LLM2Vec and Lion-SP: 0). Above 0,
            the model also learns to copy, which keeps the words of a text among the terms of its vector; our choice (not
            measured).
        passages: Passages of "pooled", and how they are encoded.
        lexical: The lexical loss of "pooled"; None computes none.
        prediction_weight: Weight of Eq. 2 in "pooled": next-token prediction, or mntp for a bidirectional variant. Above 0, the
            model keeps what it needs for expansion.
        lambda_document: Weight of the FLOPS regulariser of the passages in "pooled".
        target_nnz: Active terms of a passage to end with in "pooled": a controller moves ``lambda_document``.
        flops_warmup_steps: As in the contrastive phase.
    """

    corpus: str = field(metadata=_NOT_BE_EMPTY)
    text_fields: list[str] = field(default_factory=lambda: ["text"], metadata=_NOT_BE_EMPTY)
    sequence_length: int = field(default=2048, metadata=must("be at least 2", lambda value: value >= 2))
    relu_weight: float = field(default=1.0, metadata=_NOT_BE_NEGATIVE)
    objective: Literal["clm", "mntp", "pooled"] = "clm"
    mask_rate: float = field(default=0.2, metadata=_BE_POSITIVE)
    mask_token: str = "_"
    visible_rate: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)
    passages: PassageSettings = field(default_factory=PassageSettings)
    lexical: LexicalSettings | None = field(default_factory=LexicalSettings)
    prediction_weight: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)
    lambda_document: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)
    target_nnz: float | None = field(default=None, metadata=_BE_AT_LEAST_1)
    flops_warmup_steps: float = field(default=1 / 3, metadata=_NOT_BE_NEGATIVE)

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
        """Whether the run trains on pooled vectors of passages, not on packed sequences."""
        return self.objective == "pooled"

    @property
    def masks(self) -> bool:
        """Whether tokens are masked."""
        predicts = self.pooled and self.prediction_weight > 0
        return self.objective == "mntp" or (predicts and self.passages.variant == "bidirectional")

    @property
    def prediction(self) -> PredictionSettings | None:
        """What "pooled" predicts; None if nothing."""
        if not self.prediction_weight:
            return None
        return PredictionSettings(
            relu_weight=self.relu_weight,
            mask_rate=self.mask_rate,
            mask_token=self.mask_token,
            visible_rate=self.visible_rate,
        )

    @property
    def flops_ramp(self) -> float:
        """Length of the FLOPS ramp in optimizer steps."""
        return self.flops_warmup_steps * self.steps if self.flops_warmup_steps < 1 else self.flops_warmup_steps


@dataclass(frozen=True, kw_only=True)
class ValidationSettings(Checked):
    """Retrieval over a slice of a collection at regular steps.

    The slice holds every document that is judged for its queries, and others up to ``documents``.

    Attributes:
        collection: A directory with docs.jsonl.gz, topics.SPLIT.tsv and qrels.SPLIT.txt, or the name of a PyTerrier dataset
            (``irds:`` ids included).
        split: Split of a directory's files; "test" means the files without a split in their names.
        steps: Optimizer steps between two validations.
        documents: Maximum number of documents of the slice, unless more are judged.
        queries: Maximum number of queries of the slice.
        measures: Names of ir_measures. The first one decides which checkpoint is the best.
        patience: Validations without a better value after which the run stops; 0 never stops it.
        terrier: Whether a Terrier index is built and searched, which needs Java. Without it, the same impacts are searched
            exactly in memory, and the index size is estimated from the postings.
    """

    collection: str = field(metadata=_NOT_BE_EMPTY)
    split: str = "dev"
    steps: int = field(default=500, metadata=_BE_POSITIVE)
    documents: int = field(default=10_000, metadata=_BE_POSITIVE)
    queries: int = field(default=500, metadata=_BE_POSITIVE)
    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "R@100"], metadata=_NOT_BE_EMPTY)
    patience: int = field(default=0, metadata=_NOT_BE_NEGATIVE)
    terrier: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.measures:
            parse_measure(name)


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(TrainingConfig):
    """The contrastive phase (paper, section 3.2): InfoNCE over hard and in-batch negatives, and FLOPS regularisers.

    A batch holds ``batch_size`` queries, whatever the number of processes and of gradient accumulation steps: the negatives of
    a query are all other passages of the batch, and the FLOPS terms are computed over the batch. With gradient accumulation,
    the gradients of the vectors are cached (GradCache, arXiv 2101.06983), at the price of a second forward pass.

    Attributes:
        data: JSONL files in Tevatron's form (optionally gzip-compressed), ``{"query": ..., "positive_passages": [{"text": ...,
            "title": ...}], "negative_passages": [...]}``, or the name of a PyTerrier dataset (``irds:`` ids included).
        max_bad_rows: Number of unusable training rows that are tolerated: they are left out, with a warning that names and
            counts them.
        negatives: Hard negatives of each query in a batch, drawn again in each epoch (paper: 15). A row that has fewer brings
            all it has; a row without any has only the other passages of the batch.
        variant: "causal", "echo" or "bidirectional".
        query_prefix: Put before every query (not in the paper; LACONIC: "query: ").
        document_prefix: Put before every passage (not in the paper; LACONIC: "passage: ").
        query_length: Maximum tokens of a query in training (not in the paper; Tevatron's 32).
        document_length: Maximum tokens of a passage in training (not in the paper; LACONIC's 192).
        encoding_query_length: Maximum tokens of a query in the trained model's contract; None: as in training.
        encoding_document_length: Maximum tokens of a document in the trained model's contract; None: as in training.
        add_bos: Whether texts begin with the beginning-of-text token (not in the paper; LACONIC: no).
        add_eos: Whether texts end with the end-of-text token (not in the paper; LACONIC: no).
        pool_special: Whether the positions of special tokens take part in the maximum (Lion-SP: yes).
        logit_scale: Factor of the logits before pooling (paper: 1).
        temperature: Divides the scores in the losses (not in the paper; LACONIC: 1). "auto" begins with the temperature at
            which the scores of a query spread by 3 (standard deviation over the passages of a batch, over the temperature),
            follows the scores, and anneals to ``final_temperature``, so that training does not collapse where the first scores
            are thousands apart; our choice (not measured).
        final_temperature: Temperature to end with, for "auto" only.
        infonce_weight: Weight of InfoNCE, L_rank of the paper.
        kl_weight: Weight of the Kullback-Leibler divergence from a teacher, over a query's own passages (not in the paper; with
            InfoNCE, Lion-SP takes half of each). The rows need scores of a teacher.
        margin_mse_weight: Weight of the squared error of the margins to a teacher's (not in the paper; SPLADE-v3: 0.05).
        teacher_temperature: Divides the teacher's scores.
        lambda_query: Weight of the regulariser of queries (paper, table 3: 0.003 for 1B and 0.03 for 8B).
        lambda_document: Weight of the regulariser of passages; as for queries.
        query_regularizer: "flops" (paper), "l1" (SPLADE++) or "df_flops".
        document_regularizer: As for queries; "df_flops" (arXiv 2505.15070) spares rare terms and penalises those that many
            passages contain.
        query_l0_threshold: Queries of at most this many terms are not regularised (arXiv 2504.14839; 0: all are).
        document_l0_threshold: As for queries.
        df_cutoff: alpha of DF-FLOPS, the document frequency at which a term has half its penalty (its paper: 0.1).
        df_steepness: beta of DF-FLOPS (its paper: 10).
        df_steps: Optimizer steps between two estimates of the document frequencies (its paper: 100).
        anti_zero_weight: Weight of 1 / (sum of queries)^2 + 1 / (sum of passages)^2 against all-zero vectors (SPLADE's code).
        flops_warmup_steps: Optimizer steps in which both weights grow as the square of the step; a value below 1 is a share of
            all steps (not in the paper; a third, as in SPLADE and sentence-transformers).
        target_nnz: Sparsity to end with (not in the paper): a controller moves lambda_query and lambda_document, which are its
            initial values.
        target_index_mb: Size of a Terrier index to end with, in 10^6 bytes, instead of ``target_nnz.document``: a posting
            counts as 19 bytes, as measured for csplade-tiny at impact scale 100.
        target_index_documents: Number of documents of that index.
        lexical: The lexical loss of the objective "pooled" of the adaptation phase, kept in the mix for the passages; None
            computes none. The term statistics come from the training passages.
        adaptation_weight: Weight of Eq. 2 on the batch's passages. A causal variant needs no second forward pass for it.
        prediction: What Eq. 2 predicts.
        expansion: Expansion control; None lets all texts expand from the start.
        query: How queries are encoded. The regulariser of queries does not apply to a table.
        stop_on_collapse: Whether a run whose vectors are all empty, or all full and blind, is saved and stopped.
        validation: Retrieval in the course of training; the trained model is then the best one, not the last one.
    """

    data: str | list[str] = field(metadata=_NOT_BE_EMPTY)
    max_bad_rows: int = field(default=0, metadata=_NOT_BE_NEGATIVE)
    negatives: int = field(default=15, metadata=_NOT_BE_NEGATIVE)
    variant: Variant = "causal"
    query_prefix: str = ""
    document_prefix: str = ""
    query_length: int = field(default=32, metadata=_BE_POSITIVE)
    document_length: int = field(default=192, metadata=_BE_POSITIVE)
    encoding_query_length: int | None = field(default=None, metadata=_BE_POSITIVE)
    encoding_document_length: int | None = field(default=None, metadata=_BE_POSITIVE)
    add_bos: bool = False
    add_eos: bool = False
    pool_special: bool = False
    logit_scale: float = field(default=1.0, metadata=_BE_POSITIVE)
    temperature: float | Literal["auto"] = field(
        default=1.0, metadata=must("be positive, or auto", lambda value: value == "auto" or value > 0)
    )
    final_temperature: float = field(default=1.0, metadata=_BE_POSITIVE)
    infonce_weight: float = field(default=1.0, metadata=_NOT_BE_NEGATIVE)
    kl_weight: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)
    margin_mse_weight: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)
    teacher_temperature: float = field(default=1.0, metadata=_BE_POSITIVE)
    lambda_query: float = field(default=0.003, metadata=_NOT_BE_NEGATIVE)
    lambda_document: float = field(default=0.003, metadata=_NOT_BE_NEGATIVE)
    query_regularizer: Regularizer = "flops"
    document_regularizer: Regularizer = "flops"
    query_l0_threshold: int = field(default=0, metadata=_NOT_BE_NEGATIVE)
    document_l0_threshold: int = field(default=0, metadata=_NOT_BE_NEGATIVE)
    df_cutoff: float = field(default=0.1, metadata=must("be above 0 and below 1", lambda value: 0 < value < 1))
    df_steepness: float = field(default=10.0, metadata=_BE_POSITIVE)
    df_steps: int = field(default=100, metadata=_BE_POSITIVE)
    anti_zero_weight: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)
    flops_warmup_steps: float = field(default=1 / 3, metadata=_NOT_BE_NEGATIVE)
    target_nnz: TargetNnz | None = None
    target_index_mb: float | None = field(default=None, metadata=_BE_POSITIVE)
    target_index_documents: int | None = field(default=None, metadata=_BE_POSITIVE)
    lexical: LexicalSettings | None = None
    adaptation_weight: float = field(default=0.0, metadata=_NOT_BE_NEGATIVE)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    expansion: ExpansionSettings | None = None
    query: QuerySettings = field(default_factory=QuerySettings)
    stop_on_collapse: bool = True
    validation: ValidationSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.infonce_weight + self.kl_weight + self.margin_mse_weight:
            raise SettingError("infonce_weight, kl_weight and margin_mse_weight are all 0: nothing ranks", ("infonce_weight",))
        if self.temperature != "auto" and self.final_temperature != 1.0:
            raise SettingError("final_temperature belongs to temperature: auto", ("final_temperature",))
        if self.learns_table and self.target_nnz is not None and self.target_nnz.query is not None:
            raise SettingError("target_nnz: query: no regulariser moves the terms of a table", ("target_nnz",))
        if (self.target_index_mb is None) != (self.target_index_documents is None):
            raise SettingError("target_index_mb and target_index_documents belong together", ("target_index_mb",))
        if self.target_index_mb is not None and self.target_nnz is not None and self.target_nnz.document is not None:
            raise SettingError(
                "target_index_mb and target_nnz.document contradict each other: give one of them", ("target_index_mb",)
            )

    @property
    def targets(self) -> dict[str, float | None]:
        """Active terms to end with, of "query" and "document"; None without a target."""
        asked = self.target_nnz or TargetNnz()
        document = asked.document
        if self.target_index_mb is not None and self.target_index_documents is not None:
            document = max(1.0, self.target_index_mb * 1e6 / (self.target_index_documents * POSTING_BYTES))
        return {"query": asked.query, "document": document}

    @property
    def flops_ramp(self) -> float:
        """Length of the FLOPS ramp in optimizer steps."""
        return self.flops_warmup_steps * self.steps if self.flops_warmup_steps < 1 else self.flops_warmup_steps

    @property
    def last_temperature(self) -> float:
        """The temperature that training ends with."""
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
        """Whether the rows must have scores of a teacher."""
        return self.kl_weight > 0 or self.margin_mse_weight > 0


def parse_measure(name: str) -> Any:
    """Return a measure of ir_measures by its name.

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
    raise SettingError(f"ir_measures knows no measure {shown(name)}; names are like nDCG@10, RR@10, R@100, AP", ("measures",))


def check_batch(config: TrainingConfig, processes: int, pieces: int) -> None:
    """Check that a batch can be divided among the processes.

    Args:
        config: Settings of a run.
        processes: Processes that share the batch.
        pieces: Parts of a process's share that are taken from the data one by one.

    Raises:
        ConfigError: The batch cannot be divided.
    """
    if config.batch_size % (processes * pieces):
        raise ConfigError(
            f"batch_size {config.batch_size}, which counts all processes, cannot be divided by {processes} processes"
            + (f" and {pieces} gradient accumulation steps" if pieces > 1 else "")
        )
