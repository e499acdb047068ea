"""transformers' Trainer with curves of any figure, complete checkpoints, exact resuming, and stops that state their reason.

In this folder, only this file uses private interfaces of transformers. Each has a public fallback.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.integrations import deepspeed

from pyterrier_csplade._errors import DataError, TrainingError, TrainingInterruptedError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.storage.files import write_atomically
from pyterrier_csplade.storage.signals import StopRequest

from .checkpoints import last_checkpoint, processes_of, publish, reading, remove, remove_old, step_of, unfinished, writing
from .config import TrainingConfig
from .config_file import changed_settings, save_settings
from .distributed import barrier, is_first_process, largest, mean_over_processes, values_only, world_size
from .sources import base_files, changed_sources, save_sources

#: File of the training curves in a run's directory.
LOG_FILE = "training_log.json"
#: File of the trained parameters in a checkpoint.
WEIGHTS_FILE = "model.safetensors"
_NOTICE = "\nThe run stops after this step and saves a checkpoint. Ctrl-C again stops it at once, without a checkpoint.\n"
_STATE = "trainer_state.json"
_FIGURES = "figures.json"
_LOSS = "loss.json"

# Private interfaces of transformers. Without them, checkpoints are written and sealed in their final place; the norm of a
# gradient is checked when it is logged; the first loss after resuming is a mean over fewer steps; and the ZeRO-3 setting stays
# off after a whole model was loaded at the end of a run.
_WRITES_ASIDE = hasattr(Trainer, "_save_checkpoint") and hasattr(Trainer, "_get_output_dir")
_CHECKS_NORM = hasattr(Trainer, "_get_grad_norm")
_LOSS_SUM, _LOSS_START = "_tr_loss", "_globalstep_last_logged"
_ZERO_SETTING = "_hf_deepspeed_config_weak_ref"


class CurvesTrainer(Trainer):
    """transformers' Trainer with the curves, checkpoints and stops of this package.

    Args:
        config: The run's settings.
        **kwargs: Arguments of transformers' Trainer.

    Attributes:
        sources: Descriptions of what the run reads besides the training data, by name. A resumed run must read the same.
    """

    def __init__(self, config: TrainingConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self._figures = Figures()
        self._stop = StopRequest()
        self._stopped_by = 0
        self.sources = base_files(config.model, config.revision) if is_first_process() else {}
        self._resumed: Path | None = None
        self._ended: Path | None = None
        self._target: Path | None = None
        self.add_callback(_Progress(self))
        if self.is_fsdp_enabled:
            self._keep_float32()

    def _keep_float32(self) -> None:
        """Make FSDP2 return vectors and losses in float32. accelerate's default would round them to bfloat16."""
        plugin = self.accelerator.state.fsdp_plugin
        policy = plugin.mixed_precision_policy
        if isinstance(policy, MixedPrecisionPolicy):
            plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=policy.param_dtype, reduce_dtype=torch.float32)

    @property
    def _checkpoints(self) -> Path:
        return Path(self.args.output_dir)

    def run(self, resume: bool) -> None:
        """Train, from the last complete checkpoint if ``resume`` is true and there is one.

        Raises:
            DataError: The data is smaller than one batch.
            TrainingError: A loss or gradient is not finite, or the checkpoint contains code.
            TrainingInterruptedError: A process of the run received SIGTERM or SIGINT (Ctrl-C). A checkpoint was written.
            KeyboardInterrupt: A second SIGINT was received before the checkpoint was written.
        """
        rows: int = len(self.train_dataset)  # type: ignore[arg-type]
        batch = self.args.train_batch_size * world_size()
        if rows < batch:
            raise DataError(f"the data has {rows:,} rows, fewer than a batch of {batch:,}: lower batch_size")
        checkpoint = self._resumed = self._agreed_checkpoint() if resume else None
        if checkpoint and step_of(checkpoint) >= self.args.max_steps:  # transformers would make one more step
            self._ended = checkpoint
            if not self.sharded:
                self._load_from_checkpoint(str(checkpoint))
            return
        if checkpoint is None and is_first_process() and (log := self._checkpoints.parent / LOG_FILE).is_file():
            warn(
                f"{log} belongs to an earlier run without a checkpoint to resume from (save_steps is "
                f"{self.config.save_steps}): this run starts at step 1 and replaces its files"
            )
        with self._stop.listening(_NOTICE if is_first_process() else ""):
            try:
                with values_only() if self.is_deepspeed_enabled else nullcontext():
                    self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            except UnpicklingError as error:
                raise TrainingError(
                    f"{checkpoint} is not loaded, because it contains more than tensors and numbers, which could run any code: "
                    f"{_unsupported(error)}"
                ) from error
        if self.state.global_step < self.args.max_steps and self._stopped_by:
            interrupted = TrainingInterruptedError(
                f"stopped by signal {self._stopped_by} after step {self.state.global_step}, with a checkpoint in "
                f"{self._checkpoints}: resume with resume=True or --resume"
            )
            interrupted.number = self._stopped_by
            raise interrupted

    def _agreed_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that is complete for the first process."""
        found = last_checkpoint(self._checkpoints) if is_first_process() else None
        step = largest(step_of(found) if found else -1, self.args.device)
        if step < 0:
            return None
        checkpoint = self._checkpoints / f"checkpoint-{step}"
        if (before := processes_of(checkpoint)) != world_size():
            warn(
                f"{checkpoint} was written by {before} processes, but this run has {world_size()}. Dropout draws other "
                "numbers; everything else is the same"
            )
        with reading(checkpoint):
            changes = changed_settings(checkpoint, self.config)
            changed = changed_sources(checkpoint, self.sources) if is_first_process() else []
            reached = TrainerState.load_from_json(str(checkpoint / _STATE)).global_step
            if reached != step:
                raise ValueError(f"its {_STATE} is of step {reached}")
        if changed:
            raise TrainingError(
                f"{', '.join(changed)} changed after {checkpoint} was written: restore the earlier state, or start a new run "
                "with another output"
            )
        if changes:
            warn(f"{checkpoint} was written with other settings: {changes}. The run continues with the new ones")
        return checkpoint

    def record(self, **figures: Tensor | float) -> None:
        """Add figures of a forward pass to the next point of the training curves."""
        self._figures.record(figures)

    def end_step(self) -> None:
        """Pass the figures of the optimizer step to ``step_done``, and stop the run if any process received a signal."""
        self.step_done(self._figures.end_step())
        self._stopped_by = largest(self._stop.number, self.args.device)
        if self._stopped_by:
            self.control.should_save = self.control.should_training_stop = True

    def step_done(self, figures: dict[str, float]) -> None:
        """Receive the figures of an optimizer step, averaged over its parts and all processes."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log with the means of the figures recorded since the last point, and write the curves to ``LOG_FILE``."""
        if not _CHECKS_NORM and "grad_norm" in logs:
            self.check_finite(torch.as_tensor(logs["grad_norm"]), "norm of the gradient")
        super().log(logs | self._figures.end_point(), *args, **kwargs)
        if self.is_world_process_zero():
            curves = json.dumps(self.state.log_history, indent=1) + "\n"
            log = self._checkpoints.parent / LOG_FILE
            with writing(log):
                write_atomically(log, curves.encode())

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Make a step, but stop before a loss that is not finite changes the weights.

        Raises:
            TrainingError: The loss is not finite.
        """
        # PEFT would convert the inputs of adapters to float32, and autocast would convert them back to bfloat16. DeepSpeed's
        # products do not use autocast.
        needless = self.config.bf16 and self.config.lora is not None and not self.is_deepspeed_enabled
        with disable_input_dtype_casting(self.model, active=needless):
            loss = self.take_step(*args, **kwargs)
        self.check_finite(loss, "loss")
        return loss

    def take_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute the loss of a batch, and accumulate its gradient."""
        return super().training_step(*args, **kwargs)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None:
            self.check_finite(torch.as_tensor(norm), "norm of the gradient")
        return norm

    def check_finite(self, value: Tensor, name: str) -> None:
        """Check that a figure of the current step is finite.

        Raises:
            TrainingError: The figure is not finite.
        """
        number = float(value.detach())
        if not math.isfinite(number):
            raise TrainingError(
                f"step {self.state.global_step + 1}: the {name} is {number}. Lower learning_rate, or resume from the last "
                f"checkpoint in {self._checkpoints} with other settings"
            )

    @property
    def sharded(self) -> bool:
        """Whether the weights are sharded among the processes (FSDP, DeepSpeed)."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the trained parameters by name, unsharded, in the first process. All processes must call this method."""
        if self._ended:
            return dict(load_file(self._ended / WEIGHTS_FILE))
        state = self.accelerator.get_state_dict(self.model_wrapped) if self.sharded else dict(self.model.named_parameters())
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        return {name: values.detach() for name, values in (state or {}).items() if name in trained}

    def save_state(self, directory: Path) -> None:
        """Save the state of a phase besides the weights. Only the first process calls this method."""

    def load_state(self, directory: Path) -> None:
        """Load what ``save_state`` wrote."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the trained parameters. Tied ones are saved once."""
        if not self.args.should_save:
            return
        state = state_dict or self.model.state_dict()
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        trained = {name: state[name].contiguous() for name, p in self.model.named_parameters() if p.requires_grad}
        save_file(trained, directory / WEIGHTS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        directory = Path(resume_from_checkpoint)
        with reading(directory):
            weights = load_file(directory / WEIGHTS_FILE)
            trained = {name: p.shape for name, p in self.model.named_parameters() if p.requires_grad}
            others = sorted(name for name in {*weights, *trained} if name not in weights or name not in trained)
            if not (others or self.sharded):
                others = [name for name, shape in trained.items() if weights[name].shape != shape]
            if others:
                raise ValueError(f"the run trains other weights, such as {others[0]}: model or lora was changed")
        if self.is_fsdp_enabled and model is not None:
            options = StateDictOptions(full_state_dict=True, strict=False)
            set_model_state_dict(model, weights, options=options)
        else:
            (model or self.model).load_state_dict(weights, strict=False)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._target or self._checkpoints)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint in a temporary folder, and move it to its place when it is complete."""
        if not _WRITES_ASIDE:
            super()._save_checkpoint(model, trial)
            return
        self._target = aside = unfinished(self._checkpoints)
        if is_first_process():
            remove(aside)
        barrier()
        try:
            with writing(aside):
                super()._save_checkpoint(model, trial)
                self.seal()
        except OSError:
            with suppress(OSError):
                remove(aside)
            raise

    def seal(self) -> None:
        """Complete and publish the checkpoint that transformers has written, then remove old checkpoints."""
        written = (self._target or self._checkpoints) / f"checkpoint-{self.state.global_step}"
        self._target = None
        loss = getattr(self, _LOSS_SUM, None)
        mean = None if loss is None else float(mean_over_processes(loss.detach().clone()))
        barrier()
        if is_first_process():
            self._figures.save(written / _FIGURES)
            (written / _LOSS).write_text(json.dumps([mean, getattr(self, _LOSS_START, None)]), encoding="utf-8")
            self.save_state(written)
            save_settings(written, self.config)
            save_sources(written, self.sources)
            publish(written, world_size())
            remove_old(self._checkpoints, self.config.keep_checkpoints, self.state.best_global_step)
        barrier()

    def restore(self) -> None:
        """Load the state of a phase, and the figures of the unfinished point of the curves, from the checkpoint."""
        if self._resumed is None:
            return
        with reading(self._resumed):
            self.load_state(self._resumed)
            self._figures.load(self._resumed / _FIGURES)
            loss, start = json.loads((self._resumed / _LOSS).read_text(encoding="utf-8"))
            total = getattr(self, _LOSS_SUM, None)
            if loss is not None and total is not None and hasattr(self, _LOSS_START):
                total += loss
                setattr(self, _LOSS_START, start)


@contextmanager
def unsharded() -> Iterator[None]:
    """Make transformers load whole models instead of sharding them with ZeRO-3."""
    reference = getattr(deepspeed, _ZERO_SETTING, None)
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if hasattr(deepspeed, _ZERO_SETTING):
            setattr(deepspeed, _ZERO_SETTING, reference)


def _unsupported(error: UnpicklingError) -> str:
    """Return the name of what torch refused to load, without torch's advice to load it anyway."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else str(error).splitlines()[0]


class _Progress(TrainerCallback):
    """Notifies the trainer of steps and checkpoints, and the dataset of epochs."""

    def __init__(self, trainer: CurvesTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.restore()

    def on_epoch_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        # accelerate does this in runs of one process only. With several, each epoch would draw the same passages.
        if hasattr(self.trainer.train_dataset, "set_epoch"):
            self.trainer.train_dataset.set_epoch(int(state.epoch))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.end_step()

    def on_save(self, *_: Any, **__: Any) -> None:
        if not _WRITES_ASIDE:
            self.trainer.seal()


class Figures:
    """Averages figures over an optimizer step, and over the steps since the last point of the curves."""

    def __init__(self) -> None:
        self._of_step: dict[str, list[Tensor]] = defaultdict(list)
        self._since_log: dict[str, list[Tensor]] = defaultdict(list)

    def record(self, figures: dict[str, Tensor | float]) -> None:
        """Add figures of a forward pass."""
        for name, figure in figures.items():
            value = torch.as_tensor(figure).detach().float()
            self._of_step[name].append(value)
            self._since_log[name].append(value)

    def end_step(self) -> dict[str, float]:
        """Return the means of an optimizer step."""
        ended, self._of_step = self._of_step, defaultdict(list)
        return _means(ended)

    def end_point(self) -> dict[str, float]:
        """Return the means since the last call, over all processes."""
        ended, self._since_log = self._since_log, defaultdict(list)
        return _means(ended)

    def save(self, path: Path) -> None:
        """Write the figures of the next point of the curves."""
        values = {name: [float(value) for value in recorded] for name, recorded in self._since_log.items()}
        path.write_text(json.dumps(values), encoding="utf-8")

    def load(self, path: Path) -> None:
        """Load what ``save`` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        self._since_log = defaultdict(list, {name: [torch.tensor(value) for value in kept] for name, kept in values.items()})


def _means(recorded: dict[str, list[Tensor]]) -> dict[str, float]:
    if not recorded:
        return {}
    values = [value for kept in recorded.values() for value in kept]
    # Processes exchange tensors on the accelerator, but some figures are computed on the host.
    device = next((value.device for value in values if value.device.type != "cpu"), values[0].device)
    means = torch.stack([torch.stack([value.to(device) for value in kept]).mean() for kept in recorded.values()])
    return dict(zip(recorded, mean_over_processes(means).tolist()))
