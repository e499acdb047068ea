"""Tiny random models: a tokenizer trained on a few sentences, and a small configuration of each architecture."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

TEXTS = [
    "An inverted index maps every term to its postings.",
    "Sparse retrieval with language models expands a text by related terms.",
    "The maximum over positions of the logits is taken before the activation.",
    "dogs and cats",
    "A causal mask hides what comes later; without it, position zero sees everything, even the last token of a long text.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 検索 🙂",
]


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """Train a byte-level BPE tokenizer with 400 tokens, BOS, EOS and padding."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


_COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
_MODERN = {**_COMMON, "intermediate_size": 48, "num_key_value_heads": 2}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _MODERN),
    "llama-tied": ("LlamaConfig", {**_MODERN, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**_MODERN, "head_dim": 8, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {**_MODERN, "sliding_window": None}),
    "gemma2": ("Gemma2Config", {**_MODERN, "head_dim": 8, "final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**_MODERN, "head_dim": 8, "sliding_window": 64, "final_logit_softcapping": 0.5}),
    "cohere": ("CohereConfig", {**_MODERN, "logit_scale": 0.5}),
    "granite": ("GraniteConfig", {**_MODERN, "logits_scaling": 3.0}),
    "opt": ("OPTConfig", {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "gpt_neox": ("GPTNeoXConfig", {**_COMMON, "intermediate_size": 48}),
    "phi": ("PhiConfig", {**_COMMON, "intermediate_size": 48}),
    "phi3": ("Phi3Config", {**_MODERN}),
}
ARCHITECTURES = tuple(_CONFIGS)


def language_model(name: str = "llama", *, seed: int = 0, attn_implementation: str = "sdpa", **settings: Any) -> Any:
    """Make a randomly initialised model whose logits are mostly between -1 and 1."""
    class_name, values = _CONFIGS[name]
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "vocab_size": len(tokenizer())}
    config = getattr(transformers, class_name)(**{**values, **special, "initializer_range": 0.3, **settings})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation).eval()
