"""Configuration of the two training phases: one YAML or JSON file per run."""

# Annotations are evaluated here: the constructors of subclasses elsewhere have the same, and tools resolve them there.

from dataclasses import dataclass, field
from typing import Literal

from pyterrier_csplade._errors import ConfigError

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
