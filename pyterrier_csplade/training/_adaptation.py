"""The adaptation phase: cures the collapse of the ReLU before contrastive training starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyterrier_csplade._errors import ConfigError

from ._config import AdaptationConfig
from ._corpus import read_corpus
from ._losses import adaptation_loss
from ._packing import PackedDataset, pack_corpus
from ._run import CurvesTrainer, load_tokenizer_and_model, open_output, save_run, training_arguments


class AdaptationTrainer(CurvesTrainer):
    """Trainer of L_Adapt over packed sequences."""

    def __init__(self, config: AdaptationConfig, mask_id: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.mask_id = mask_id

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        tokens, weights = inputs["input_ids"], None
        visible = tokens
        if self.mask_id is not None:
            visible, weights = mask_tokens(tokens, self.mask_id, self.config.mask_rate, self.config.visible_weight)
        logits = model(input_ids=visible, use_cache=False).logits.float()
        loss, clm, relu = adaptation_loss(logits, tokens, self.config.relu_weight, weights)
        with torch.no_grad():
            target = logits[:, :-1].gather(2, tokens[:, 1:, None])
            self.record(clm=clm, relu=relu, positive_logits=_share(logits > 0), live_targets=_share(target > 0))
        return (loss, {"logits": logits}) if return_outputs else loss


def mask_tokens(tokens: Tensor, mask_id: int, rate: float, visible_weight: float) -> tuple[Tensor, Tensor]:
    """Mask tokens for masked next-token prediction; the draws are those of torch's generator, which checkpoints keep.

    Args:
        tokens: Ids, [batch, length].
        mask_id: What replaces a masked token.
        rate: Share of the tokens that are masked.
        visible_weight: Weight in the loss of a token that is not masked.

    Returns:
        The ids that the model sees, and the weight of each token in the loss: 1 where it is masked.
    """
    masked = torch.rand(tokens.shape, device=tokens.device) < rate
    masked[:, 1] = True  # so that no batch is without one; the first token has no position before it
    return tokens.masked_fill(masked, mask_id), torch.where(masked, 1.0, visible_weight)


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
        ConfigError: ``config.output`` holds checkpoints of another run, or the vocabulary has no ``mask_token``.
        DataError: The corpus is empty or a document has no text.
        TrainingError: The loss is not finite.
    """
    output = open_output(config, resume)
    tokenizer, model = load_tokenizer_and_model(config)
    model.config.is_causal = config.objective == "clm"
    mask_id = _mask_id(tokenizer, config) if config.objective == "mntp" else None
    tokens = pack_corpus(read_corpus(config.corpus, config.text_fields), tokenizer, output / "tokens.int32")
    dataset = PackedDataset(tokens, config.sequence_length)
    trainer = AdaptationTrainer(config, mask_id, model=model, args=training_arguments(config), train_dataset=dataset)
    trainer.run(resume)
    save_run(model, tokenizer, config)
    return output


def _mask_id(tokenizer: Any, config: AdaptationConfig) -> int:
    if config.mask_token not in tokenizer.get_vocab():
        raise ConfigError(f"mask_token {config.mask_token!r} is no token of {config.model}: name one that is")
    return int(tokenizer.convert_tokens_to_ids(config.mask_token))
