"""The cockpit, which records figures that predict a collapse, and stops collapsed runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from pyterrier_csplade._errors import TrainingError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.storage.files import write_atomically
from pyterrier_csplade.training.checkpoints import without_links, writing
from pyterrier_csplade.training.config import ContrastiveConfig
from pyterrier_csplade.training.distributed import is_first_process

from .grounding import fallen
from .preflight import preflight, top_position_share

# File in a run's directory with the most frequent terms of the passages at every point of the curves, and their number; our
# choice (not measured).
_TOP_TERMS_FILE = "top_terms.jsonl"
_TOP_TERMS = 10
# Consecutive points of the curves with a sign of collapse after which a run is stopped; our choice (not measured).
_PATIENCE = 3
# Share of empty vectors, and of active terms, from which a side counts as empty or dense; our choice (not measured).
_ALL_EMPTY = 0.99
_ALL_ACTIVE = 0.9
# In-batch accuracy, relative to chance, below which dense vectors count as collapsed; our choice (not measured).
_BLIND = 3.0
# Signs of a collapse.
_NO_QUERIES = "all query vectors have been empty"
_NO_DOCUMENTS = "all document vectors have been empty"
_ALL_BLIND = "all terms have been active and rank no better than chance"


class Cockpit(TrainerCallback):
    """Records figures about a run's vectors, and stops a collapsed run.

    At every point of the curves, it records the share of index terms that no passage has had since the last point
    (``dead_terms``) and the share of maxima at a single position (``top_position_share``). It writes the most frequent terms
    and their shares of the passages into ``top_terms.jsonl``.
    """

    def __init__(self, trainer: Any, backbone: Backbone, probe: dict[str, Any], config: ContrastiveConfig) -> None:
        """Watch a run."""
        self.trainer, self.backbone, self.probe, self.config = trainer, backbone, probe, config
        self.frequencies = torch.zeros(len(backbone.vocabulary), dtype=torch.int64)
        self.passages = 0
        self.collapsed = ""
        self._bad_points = dict.fromkeys((_NO_QUERIES, _NO_DOCUMENTS, _ALL_BLIND), 0)

    def diagnose(self, queries: Tensor, passages: Tensor) -> dict[str, Tensor | float]:
        """Count the passages of a batch that have each term, for the next point of the curves."""
        self.frequencies = self.frequencies.to(passages.device) + (passages > 0).sum(dim=0)
        self.passages += len(passages)
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts since the last point of the curves, for a checkpoint."""
        numbers = torch.tensor([self.passages, *self._bad_points.values()])
        return {"frequencies": self.frequencies, "numbers": numbers}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Resume from a state."""
        self.frequencies = state["frequencies"]
        self.passages, *bad = state["numbers"].tolist()
        self._bad_points = dict(zip(self._bad_points, bad))

    @property
    def _whole(self) -> bool:
        """Whether the model is not sharded, so that its parts can be called separately."""
        return not (self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Run the pre-flight before the first step, warn of its findings, and drop points written after the checkpoint."""
        if is_first_process():
            _keep_until(state.global_step, Path(self.config.output) / _TOP_TERMS_FILE)
        if state.global_step == 0 and self._whole:
            found = preflight(self.backbone, self.probe, self.config)
            if is_first_process():
                found.save(Path(self.config.output))
                if found.findings:
                    warn(str(found))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Record figures at every point of the curves."""
        if not control.should_log:
            return
        self.trainer.record(dead_terms=(self.frequencies == 0).float().mean())
        if self._whole:
            training = self.backbone.training
            self.backbone.eval()
            self.trainer.record(top_position_share=top_position_share(self.backbone, self.probe["passages"][0]))
            self.backbone.train(training)
        if is_first_process():
            self._write_top_terms(Path(self.config.output) / _TOP_TERMS_FILE, state.global_step)
        self.frequencies, self.passages = torch.zeros_like(self.frequencies), 0

    def _write_top_terms(self, path: Path, step: int) -> None:
        shares, columns = torch.topk(self.frequencies / self.passages, min(_TOP_TERMS, len(self.frequencies)))
        terms = {self.backbone.vocabulary[c]: round(s, 4) for s, c in zip(shares.tolist(), columns.tolist()) if s}
        with writing(path), open(path, "a", encoding="utf-8", opener=without_links) as out:
            out.write(json.dumps({"step": step, "terms": terms}, ensure_ascii=False) + "\n")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Save and stop the run after enough consecutive signs of collapse, and warn of lost grounding."""
        if is_first_process() and (found := fallen(state.log_history)):
            warn(
                f"step {state.global_step}: {', '.join(found)}: few of the heaviest terms are tokens of the text, so terms may "
                "lose their meaning. Start with a lexical warm start (adapt with objective: pooled), set lexical or expansion, "
                "or lower temperature and the lambdas"
            )
        if "nnz_document" not in logs:
            return
        for name, bad in self._signs(logs).items():
            self._bad_points[name] = self._bad_points[name] + 1 if bad else 0
            if self._bad_points[name] == _PATIENCE and self.config.stop_on_collapse and not self.collapsed:
                self._bad_points[name] = 0  # a resumed run starts to count again
                self.collapsed = (
                    f"step {state.global_step}: {name} at the last {_PATIENCE} points of the curves: the run has collapsed. "
                    f"Its state is saved in {args.output_dir}. Start from an adapted model, lower learning_rate or the "
                    "lambdas, lengthen flops_warmup_steps, set target_nnz, or raise temperature if all terms are active"
                )
                control.should_save = control.should_training_stop = True

    def _signs(self, logs: dict[str, float]) -> dict[str, bool]:
        chance = 1 / (self.config.batch_size * (1 + self.config.negatives))
        full = _ALL_ACTIVE * len(self.backbone.vocabulary)
        blind = logs.get("accuracy", 1.0) < _BLIND * chance
        return {
            _NO_QUERIES: logs["empty_query"] >= _ALL_EMPTY,
            _NO_DOCUMENTS: logs["empty_document"] >= _ALL_EMPTY,
            _ALL_BLIND: logs["nnz_document"] > full and blind,
        }

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Raise the reason for stopping the run.

        Raises:
            TrainingError: The run has collapsed.
        """
        if self.collapsed:
            raise TrainingError(self.collapsed)


def _keep_until(step: int, path: Path) -> None:
    """Drop the points that a killed run wrote after its last checkpoint, and any incomplete last line."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = (line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        write_atomically(path, "".join(kept).encode())
