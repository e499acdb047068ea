"""The encoders that benchmarks/encoding.py compares, all with the same random weights and tokenizer.

Each function takes a language model and its tokenizer, and returns a function that encodes texts as dictionaries of impacts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Encode = Callable[[list[str]], list[dict[str, int]]]


@dataclass(frozen=True)
class Kind:
    """The shape of a model, and a batch size at which all systems fit into memory."""

    vocabulary: int
    width: int
    layers: int
    batch_size: int


KINDS = {"A": Kind(128_256, 512, 8, 16), "B": Kind(32_000, 256, 4, 32)}


def language_model(kind: Kind, dtype: torch.dtype) -> LlamaForCausalLM:
    """Make a random Llama whose vectors are sparse, because the head opposes a direction that all states share."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=kind.vocabulary, hidden_size=kind.width, intermediate_size=kind.width * 11 // 4,
        num_hidden_layers=kind.layers, num_attention_heads=kind.width // 64, max_position_embeddings=512,
    )  # fmt: skip
    lm = LlamaForCausalLM(config).eval()
    signs = torch.randint(0, 2, (kind.width,)).float() * 2 - 1
    with torch.no_grad():
        lm.model.embed_tokens.weight.add_(signs * 0.0125 * kind.layers)
        shared = (lm.model(torch.arange(64)[None]).last_hidden_state @ signs).mean()
        lm.lm_head.weight.normal_(0, 0.3).sub_(signs * (2.8 * 0.3 * kind.width**0.5 / shared))
    return lm.to(dtype)


def word_tokenizer(size: int) -> Any:
    """Make a tokenizer of made-up words of one token each, so that lengths are known."""
    tokens = {"<pad>": 0, **{f"w{i}": i for i in range(1, size)}}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", model_input_names=names)


def msmarco_like_texts(number: int, size: int) -> list[str]:
    """Make texts with about 73 tokens on average and at most 256."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.17, 0.45, number), 8, 256).astype(int)
    return [" ".join(f"w{i}" for i in rng.integers(1, size, length)) for length in lengths]


def _dictionaries(weights: torch.Tensor, terms: dict[int, str]) -> list[dict[str, int]]:
    found = []
    for row in weights:
        (columns,) = row.nonzero(as_tuple=True)
        found.append({terms[c]: w for c, w in zip(columns.tolist(), row[columns].tolist())})
    return found


def plain_loop(lm: Any, tokenizer: Any, batch_size: int) -> Encode:
    """Encode batches in the order of the texts, by computing all logits and their activations."""
    terms = {i: term for term, i in tokenizer.get_vocab().items()}

    def encode(texts: list[str]) -> list[dict[str, int]]:
        vectors = []
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(texts[start : start + batch_size], padding=True, return_tensors="pt")
            with torch.no_grad():
                weights = torch.log1p(torch.relu(lm(**batch).logits)) * batch["attention_mask"][..., None]
                vectors += _dictionaries((weights.amax(dim=1).float() * 100 + 0.5).floor().int(), terms)
        return vectors

    return encode


def pyserini_style(lm: Any, tokenizer: Any, batch_size: int) -> Encode:
    """Encode as pyserini 2.4 does with SPLADE: numpy for the activation, weights up to 5 in 8 bits."""
    terms = {i: term for term, i in tokenizer.get_vocab().items()}

    def encode(texts: list[str]) -> list[dict[str, int]]:
        vectors = []
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(texts[start : start + batch_size], padding=True, return_tensors="pt")
            with torch.no_grad():
                logits = lm(**batch).logits.float().numpy()
            mask = batch["attention_mask"].numpy()[..., None]
            for weights in np.max(np.log(1 + np.maximum(logits, 0)) * mask, axis=1):
                (columns,) = np.nonzero(weights)
                quantised = np.round(weights[columns] / 5 * 256).astype(int)
                vectors.append({terms[c]: w for c, w in zip(columns.tolist(), quantised.tolist()) if w > 0})
        return vectors

    return encode


def pyterrier_splade(lm: Any, tokenizer: Any, batch_size: int) -> Encode:
    """Encode with pyterrier-splade, which rounds impacts down, so that about half of them are smaller by one."""
    from pyterrier_splade import Splade

    splade = Splade(lm, tokenizer, device="cpu")
    splade.agg = "max"  # version 0.1.0 only sets it for models that it loads itself
    encoder = splade.doc_encoder(batch_size=batch_size)
    return lambda texts: encoder(pd.DataFrame({"docno": [f"d{i}" for i in range(len(texts))], "text": texts}))["toks"].tolist()


def sentence_transformers(lm: Any, tokenizer: Any, batch_size: int) -> Encode:
    """Encode with SparseEncoder and SpladePooling from the logits of the same model."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules.input_module import InputModule
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    class Logits(InputModule):
        def __init__(self) -> None:
            super().__init__()
            self.lm, self.tokenizer = lm, tokenizer

        def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
            return dict(tokenizer(list(inputs), padding=True, truncation=True, max_length=256, return_tensors="pt"))

        def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            names = ("input_ids", "attention_mask")
            features["token_embeddings"] = lm(**{name: features[name] for name in names}).logits
            return features

        def save(self, *args: Any, **kwargs: Any) -> None:
            raise NotImplementedError

    encoder = SparseEncoder(modules=[Logits(), SpladePooling("max")], device="cpu")
    terms = {i: term for term, i in tokenizer.get_vocab().items()}

    def encode(texts: list[str]) -> list[dict[str, int]]:
        matrix = encoder.encode(texts, batch_size=batch_size, show_progress_bar=False).coalesce()
        vectors: list[dict[str, int]] = [{} for _ in texts]
        impacts = (matrix.values().float() * 100 + 0.5).floor().int()
        for row, column, impact in zip(*matrix.indices().tolist(), impacts.tolist()):
            if impact:
                vectors[row][terms[column]] = impact
        return vectors

    return encode


def csplade(lm: Any, tokenizer: Any, batch_size: int, head: Any = None) -> Encode:
    """Encode with this package, from texts to ``toks``."""
    from pyterrier_csplade import CSPLADE

    encoder = CSPLADE((lm, tokenizer), batch_size=batch_size, head=head).doc_encoder()
    return lambda texts: encoder(pd.DataFrame({"docno": [f"d{i}" for i in range(len(texts))], "text": texts}))["toks"].tolist()


def floor(lm: Any, tokenizer: Any, batch_size: int) -> Encode:
    """Run the minimum of an exact encoder: the backbone and one product with the head, for the tokens of sorted batches."""

    def encode(texts: list[str]) -> list[dict[str, int]]:
        sequences = sorted(tokenizer(texts)["input_ids"], key=len)
        head = lm.lm_head.weight
        part = 2**20 // 1024
        with torch.inference_mode():
            for start in range(0, len(sequences), batch_size):
                batch = tokenizer.pad({"input_ids": sequences[start : start + batch_size]}, return_tensors="pt")
                states = lm.model(**batch, use_cache=False).last_hidden_state[batch["attention_mask"].bool()]
                for first in range(0, len(head), part):
                    states @ head[first : first + part].T
        return [{} for _ in texts]

    return encode


SYSTEMS: dict[str, Callable[[Any, Any, int], Encode]] = {
    "plain loop": plain_loop,
    "pyserini style": pyserini_style,
    "pyterrier-splade": pyterrier_splade,
    "sentence-transformers": sentence_transformers,
    "floor": floor,
    "csplade": csplade,
    "csplade, streamed head": lambda lm, tokenizer, size: csplade(lm, tokenizer, size, "streamed"),
}
