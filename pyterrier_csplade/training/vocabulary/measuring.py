"""A language model before and after the vocabulary stage: bits per byte, active terms, and logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pyterrier_csplade.model.hub import load_tokenizer
from pyterrier_csplade.model.terms import index_terms

from .change import Change
from .checks import largest_difference
from .config import VocabularyConfig

# Number of characters of a document that both models read; our choice (not measured).
_CHARACTERS = 1000
# Number of texts whose logits are compared, and number of positions of each; our choice (not measured).
_COMPARED, _POSITIONS = 20, 32


@dataclass(frozen=True)
class Measured:
    """Measurements of a model on some texts.

    Attributes:
        bits_per_byte: Bits per byte of the texts, which can be compared between tokenizers, unlike perplexities.
        active_terms: Index terms with a weight above 0 in the vector of a text, on average.
        positive_logits: Share of positive logits of index terms, over all positions.
        tokens_per_word: Mean number of tokens per word.
        bytes_per_token: Mean number of bytes per token.
    """

    bits_per_byte: float
    active_terms: float
    positive_logits: float
    tokens_per_word: float
    bytes_per_token: float


def load(name: str, revision: str | None = None) -> tuple[Any, Any]:
    """Load a model in float32, on a GPU if there is one, and its tokenizer."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = AutoModelForCausalLM.from_pretrained(
        name, revision=revision, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, device_map={"": device}
    )
    return lm.eval(), load_tokenizer(name, revision)


@torch.inference_mode()
def measure(lm: Any, tokenizer: Any, texts: Sequence[str]) -> Measured:
    """Run a model over texts, of which it reads the first 1,000 characters.

    A text begins after the beginning-of-text token, or the end-of-text token if there is none; without both, its first token is
    not counted.
    """
    _, vocabulary = index_terms(tokenizer, len(lm.get_output_embeddings().weight))
    columns = torch.from_numpy(vocabulary.token_ids).to(lm.device)
    bits = tokens = size = words = active = 0.0
    positive = []
    for text in (text[:_CHARACTERS] for text in texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            continue
        logits = lm(input_ids=_after_start(ids, tokenizer, lm)).logits[0].float()
        predictions = logits[: len(logits) - 1].log_softmax(1)
        targets = torch.tensor(ids[len(ids) - len(predictions) :], device=lm.device)
        bits -= float(predictions.gather(1, targets[:, None]).sum()) / math.log(2)
        of_terms = logits[len(logits) - len(ids) :, columns]
        active += float((of_terms.amax(0) > 0).sum())
        positive.append(float((of_terms > 0).float().mean()))
        tokens, words, size = tokens + len(ids), words + len(text.split()), size + len(text.encode())
    count = max(1, len(positive))
    return Measured(bits / max(1, size), active / count, sum(positive) / count, tokens / max(1, words), size / max(1, tokens))


def _after_start(ids: list[int], tokenizer: Any, lm: Any) -> Tensor:
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return torch.tensor([[*([] if start is None else [start]), *ids]], device=lm.device)


@torch.inference_mode()
def some_logits(lm: Any, sequences: Sequence[Sequence[int]], columns: Sequence[int] | None = None) -> list[Tensor]:
    """Return the logits of all or some tokens at the first positions of the first sequences, float32 on the CPU."""
    found = []
    for ids in sequences[:_COMPARED]:
        if len(ids):
            logits = lm(input_ids=torch.tensor([list(ids[:_POSITIONS])], device=lm.device)).logits[0].float().cpu()
            found.append(logits if columns is None else logits[:, torch.as_tensor(columns)])
    return found


def compare_models(config: VocabularyConfig, directory: Path, texts: Sequence[str], change: Change) -> dict[str, Any]:
    """Run the model before and after the change, one at a time.

    Raises:
        ContractError: The logits of kept tokens differ although their rows were kept.
    """
    new_ids = change.new_ids or {}
    sequences: list[list[int]] = []
    if change.same_texts is not None:
        encoded = change.same_texts.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        sequences = [encoding.ids for encoding in encoded if encoding.ids and new_ids.keys() >= set(encoding.ids)]
    lm, tokenizer = load(config.model, config.revision)
    before, logits = measure(lm, tokenizer, texts), some_logits(lm, sequences, change.old_ids)
    del lm
    lm, tokenizer = load(str(directory))
    after = measure(lm, tokenizer, texts)
    found = {"measured_documents": len(texts), "before": asdict(before), "after": asdict(after)}
    if sequences:
        same = some_logits(lm, [[new_ids[old] for old in ids] for ids in sequences])
        found["largest_difference_of_logits"] = largest_difference(logits, same)
    return found
