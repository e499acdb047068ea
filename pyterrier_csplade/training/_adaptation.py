"""The adaptation phase: cures the collapse of the ReLU before contrastive training starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._config import AdaptationConfig
from ._corpus import read_corpus
from ._losses import adaptation_loss
from ._packing import PackedDataset, pack_corpus
from ._run import CurvesTrainer, load_tokenizer_and_model, open_output, save_run, training_arguments


class AdaptationTrainer(CurvesTrainer):
    """Trainer of L_Adapt over packed sequences."""

    def __init__(self, config: AdaptationConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.relu_weight = config.relu_weight

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        logits = model(input_ids=inputs["input_ids"], use_cache=False).logits
        loss, clm, relu = adaptation_loss(logits.float(), inputs["input_ids"], self.relu_weight)
        with torch.no_grad():
            target = logits[:, :-1].gather(2, inputs["input_ids"][:, 1:, None])
            self.record(clm=clm, relu=relu, positive_logits=_share(logits > 0), live_targets=_share(target > 0))
        return (loss, {"logits": logits}) if return_outputs else loss


def _share(flags: Tensor) -> Tensor:
    return flags.float().mean()


def adapt(config: AdaptationConfig, *, resume: bool = False) -> Path:
    """Run the adaptation phase.

    Args:
        config: The run's settings.
        resume: Go on from the last checkpoint in ``config.output``, if there is one.

    Returns:
        The directory of the adapted model, ``config.output``: a plain language model to start contrastive training from.

    Raises:
        ConfigError: ``config.output`` holds checkpoints of another run.
        DataError: The corpus is empty or a document has no text.
        TrainingError: The loss is not finite.
    """
    output = open_output(config, resume)
    tokenizer, model = load_tokenizer_and_model(config)
    tokens = pack_corpus(read_corpus(config.corpus, config.text_fields), tokenizer, output / "tokens.int32")
    dataset = PackedDataset(tokens, config.sequence_length)
    trainer = AdaptationTrainer(config, model=model, args=training_arguments(config), train_dataset=dataset)
    trainer.run(resume)
    save_run(model, tokenizer, config)
    return output
