"""What every training run does: loading, arguments, LoRA, curves, resuming, saving."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments, set_seed

from pyterrier_csplade._errors import ConfigError, DataError, TrainingError

from ._config import LoraSettings, TrainingConfig
from ._launch import start_processes
from ._processes import world_size

#: The training curves, in a run's directory.
LOG_FILE = "training_log.json"
#: The checkpoints, in a run's directory.
CHECKPOINTS = "checkpoints"


class CurvesTrainer(Trainer):
    """transformers' Trainer, which also logs the mean of every figure given to ``record``, and stops when the loss is NaN."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._recorded: dict[str, list[Tensor]] = defaultdict(list)
        self._of_step: dict[str, list[Tensor]] = defaultdict(list)
        self.add_callback(_Progress(self))

    def run(self, resume: bool) -> None:
        """Train, from the last complete checkpoint if asked to and there is one.

        Raises:
            DataError: There is less data than one batch.
            TrainingError: A loss is not finite.
        """
        rows: int = len(self.train_dataset)  # type: ignore[arg-type]
        batch = self.args.train_batch_size * world_size()
        if rows < batch:
            raise DataError(f"the data has {rows:,} rows, a batch {batch:,}: lower batch_size")
        checkpoint = last_checkpoint(Path(self.args.output_dir)) if resume else None
        if checkpoint and _step(checkpoint) >= self.args.max_steps:  # transformers would do one step more
            self._load_from_checkpoint(str(checkpoint))
        else:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def record(self, **figures: Tensor | float) -> None:
        """Add figures of one forward pass to the next point of the training curves."""
        for name, figure in figures.items():
            self._recorded[name].append(torch.as_tensor(figure).detach())
            self._of_step[name].append(self._recorded[name][-1])

    def end_step(self) -> None:
        """Hand the figures of the optimizer step that ends, means over its parts, to ``step_done``."""
        figures, self._of_step = self._of_step, defaultdict(list)
        self.step_done({name: float(torch.stack(parts).float().mean()) for name, parts in figures.items()})

    def step_done(self, figures: dict[str, float]) -> None:
        """Learn from the figures of an optimizer step."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, adding the means of what was recorded since the last time, and write the curves to ``LOG_FILE``."""
        means = {name: float(torch.stack(figures).float().mean()) for name, figures in self._recorded.items()}
        self._recorded.clear()
        super().log(logs | means, *args, **kwargs)
        if self.is_world_process_zero():
            curves = json.dumps(self.state.log_history, indent=1) + "\n"
            (Path(self.args.output_dir).parent / LOG_FILE).write_text(curves, encoding="utf-8")

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Do a step; stop before a loss that is not finite changes the weights.

        Raises:
            TrainingError: The loss is infinite or no number.
        """
        loss: Tensor = super().training_step(*args, **kwargs)
        self.check_loss(loss)
        return loss

    def check_loss(self, loss: Tensor) -> None:
        """Prove that a loss is finite.

        Raises:
            TrainingError: It is infinite or no number.
        """
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(
                f"step {self.state.global_step + 1}: the loss is {float(loss)}. Lower learning_rate, or go on from the last "
                f"checkpoint in {self.args.output_dir} with other settings"
            )


class _Progress(TrainerCallback):
    """Tells the data that an epoch begins, and the trainer that an optimizer step has ended and may be saved."""

    def __init__(self, trainer: CurvesTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        # accelerate does it in a single process only: with several, each epoch would draw the same passages.
        if hasattr(self.trainer.train_dataset, "set_epoch"):
            self.trainer.train_dataset.set_epoch(int(state.epoch))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.end_step()


def open_output(config: TrainingConfig, resume: bool) -> Path:
    """Make the directory of a run.

    Raises:
        ConfigError: It holds checkpoints of another run, which resuming later would take for this one's.
    """
    output = Path(config.output)
    if not resume and last_checkpoint(output / CHECKPOINTS):
        raise ConfigError(
            f"{output} holds checkpoints of an earlier run: go on with that run (resume=True, --resume), remove "
            f"{output / CHECKPOINTS}, or name another output"
        )
    output.mkdir(parents=True, exist_ok=True)
    return output


def training_arguments(config: TrainingConfig, *, pieces: int) -> TrainingArguments:
    """Translate a configuration into transformers' arguments, and start the processes' communication.

    Args:
        config: The run's settings.
        pieces: Parts of a process's share of the batch that transformers takes from the data one by one.

    Raises:
        ConfigError: The batch cannot be divided among the processes, or there are fewer than were asked for.
    """
    use_cpu = not torch.cuda.is_available()
    processes = start_processes(use_cpu=use_cpu)
    if config.batch_size % (processes * pieces):
        raise ConfigError(
            f"batch_size {config.batch_size} is that of all processes together and cannot be divided by {processes} processes"
            + (f" and {pieces} gradient accumulation steps" if pieces > 1 else "")
        )
    arguments = TrainingArguments(
        output_dir=str(Path(config.output) / CHECKPOINTS),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size // (processes * pieces),
        gradient_accumulation_steps=pieces,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        bf16=config.bf16,
        seed=config.seed,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=config.save_steps,
        save_total_limit=2,
        report_to=[],
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,  # batches are made on the model's device
        ddp_broadcast_buffers=False,  # a step runs the model more than once: buffers must not change between
        ddp_find_unused_parameters=False,
        use_cpu=use_cpu,
    )
    # Several devices in one process would multiply the batch: transformers would divide it among them (DataParallel).
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def load_tokenizer_and_model(config: TrainingConfig, attn_implementation: str | None = None) -> tuple[Any, Any]:
    """Load what a run starts from, with a fresh adapter if the configuration asks for one.

    Weights that are trained are float32. Those that LoRA freezes are bfloat16 in a bfloat16 run, which halves their memory.
    """
    set_seed(config.seed)
    frozen_bf16 = config.lora is not None and config.bf16
    tokenizer = AutoTokenizer.from_pretrained(config.model, revision=config.revision)
    model = AutoModelForCausalLM.from_pretrained(
        config.model,
        revision=config.revision,
        dtype=torch.bfloat16 if frozen_bf16 else torch.float32,
        use_safetensors=True,
        attn_implementation=attn_implementation,
    )
    if config.gradient_checkpointing:
        # transformers 5.23 renamed the method; the old name warns. Non-reentrant, it works with frozen embeddings, too.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)({"use_reentrant": False})
    return tokenizer, add_lora(model, config.lora) if config.lora else model


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """Wrap a model with a fresh adapter; everything else is frozen, the LM head included."""
    from peft import LoraConfig, TaskType, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha or 2 * settings.rank,
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
            task_type=TaskType.CAUSAL_LM,
        ),
    )


def last_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint: its state is the last file that is written."""
    complete = [path.parent for path in directory.glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def save_run(model: Any, tokenizer: Any, config: TrainingConfig) -> Any:
    """Save the model with its adapter merged, the tokenizer and the configuration; return the merged model."""
    output = Path(config.output)
    if config.lora:
        model = model.merge_and_unload()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "training_config.json").write_text(json.dumps(asdict(config), indent=2) + "\n", encoding="utf-8")
    return model
