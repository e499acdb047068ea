"""The adaptation phase, which prevents a collapse of the ReLU at the start of contrastive training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyterrier_csplade._errors import DataError
from pyterrier_csplade.data.sources import read_corpus
from pyterrier_csplade.model.backbone import choose_attention, finish_logits, without_wrapper

from .config import AdaptationConfig
from .distributed import on_one_process_first, reads_weights_of
from .packing import PackedDataset, pack_corpus
from .pooled import adapt_pooled
from .run import alone_in_its_output, check_model, load_tokenizer_and_model, open_output, save_adapted, training_arguments
from .streamed_loss import streamed_prediction_loss
from .trainer import CurvesTrainer


class AdaptationTrainer(CurvesTrainer):
    """Trainer of L_Adapt over packed sequences."""

    config: AdaptationConfig

    def __init__(self, config: AdaptationConfig, mask_id: int | None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.mask_id = mask_id

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """Return the loss of a batch of token ids; called by the Trainer."""
        tokens = inputs["input_ids"]
        visible, predicted = tokens, torch.arange(1, tokens.shape[1])
        if self.mask_id is not None:
            masked, predicted = draw_positions(tokens.shape[1], self.config.mask_rate, self.config.visible_rate)
            visible = tokens.index_fill(1, masked.to(tokens.device), self.mask_id)
        predicted = predicted.to(tokens.device)
        loss, figures = model(visible, predicted - 1, tokens[:, predicted])
        self.record(**figures)
        return (loss, figures) if return_outputs else loss


class Predictor(nn.Module):
    """A language model whose forward pass returns L_Adapt, so that logits need not be stored.

    Attributes:
        model: The transformers model, or a PEFT model around it.
        relu_weight: lambda_ReLU of Eq. 2.
    """

    def __init__(self, model: Any, relu_weight: float) -> None:
        super().__init__()
        self.model, self.relu_weight = model, relu_weight
        self._no_split_modules = model._no_split_modules  # the modules that FSDP wraps
        reads_weights_of(self, without_wrapper(model).get_output_embeddings())

    def forward(self, input_ids: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss.

        Args:
            input_ids: [batch, length].
            positions: Positions that predict a token, [positions].
            targets: The tokens to predict, [batch, positions].

        Returns:
            The loss and the figures of ``streamed_prediction_loss``.
        """
        lm = without_wrapper(self.model)
        hidden = lm.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[:, positions].flatten(0, 1)
        head, finish = lm.get_output_embeddings(), partial(finish_logits, lm.config)
        return streamed_prediction_loss(hidden, head.weight, targets.flatten(), self.relu_weight, head.bias, finish)


def draw_positions(length: int, mask_rate: float, visible_rate: float) -> tuple[Tensor, Tensor]:
    """Draw the positions of masked next-token prediction from torch's generator, whose state checkpoints contain.

    All sequences of a batch share the positions, so that the LM head computes only these; our choice (not measured). The first
    token is never drawn, because no position before it could predict it.

    Args:
        length: Number of tokens in a sequence.
        mask_rate: Share of the tokens that are masked.
        visible_rate: Share of the tokens that are predicted although they are not masked.

    Returns:
        The masked positions, and the predicted positions, which include them.
    """
    order = 1 + torch.randperm(length - 1)
    masked = max(1, round(mask_rate * (length - 1)))
    return order[:masked], order[: masked + round(visible_rate * (length - 1))]


@alone_in_its_output
def adapt(config: AdaptationConfig, *, resume: bool = False) -> Path:
    """Run the adaptation phase.

    Args:
        config: The run's settings.
        resume: Resume from the last checkpoint in ``config.output``, if there is one.

    Returns:
        The directory of the adapted model, ``config.output``: a plain language model from which contrastive training can start.

    Raises:
        ConfigError: ``config.output`` contains checkpoints of another run, another process is training into it, or the
            vocabulary has no ``mask_token``.
        DataError: The corpus is empty or a document has no text.
        TrainingError: The loss is not finite.
    """
    if config.pooled:
        return adapt_pooled(config, resume=resume)
    output = open_output(config, resume)
    arguments, tokens = training_arguments(config, pieces=config.gradient_accumulation_steps), output / "tokens.int32"
    check_model(config)
    if next(read_corpus(config.corpus, config.text_fields), None) is None:  # before a large model is loaded
        raise DataError(f"{config.corpus}: the corpus is empty")
    tokenizer, model = load_tokenizer_and_model(config)
    choose_attention(model, causal=config.objective == "clm")
    mask_id = int(tokenizer.convert_tokens_to_ids(config.mask_token)) if config.objective == "mntp" else None
    on_one_process_first(lambda: pack_corpus(read_corpus(config.corpus, config.text_fields), tokenizer, tokens))
    dataset = PackedDataset(np.memmap(tokens, dtype=np.int32, mode="r"), config.sequence_length)
    predictor = Predictor(model, config.relu_weight)
    trainer = AdaptationTrainer(config, mask_id, model=predictor, args=arguments, train_dataset=dataset)
    trainer.run(resume)
    save_adapted(trainer, model, tokenizer, config)
    return output
