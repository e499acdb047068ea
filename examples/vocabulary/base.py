"""Make a small cased language model without training, to start the experiment from on a CPU.

The tokenizer is the tokenizer of a published model, or a new byte-level BPE with upper case, in which the first word of a text
has no space. Embeddings come from the co-occurrences of tokens, as for csplade-tiny; the layers are initially near the
identity.

Usage: python base.py OUTPUT COLLECTION... [--tokenizer MODEL] [--size 16384] [--width 64] [--layers 1]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "csplade_tiny"))

import untrained as tiny

sys.path.insert(0, str(Path(__file__).resolve().parent))

from run import documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("collections", type=Path, nargs="+")
    parser.add_argument("--tokenizer", help="a published model; by default, a tokenizer is trained on the collections")
    parser.add_argument("--size", type=int, default=16_384, help="tokens of a trained tokenizer")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=1)
    arguments = parser.parse_args()
    texts = [document["text"] for collection in arguments.collections for document in documents(collection)]
    if arguments.tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    else:
        tokenizer = train_tokenizer(texts, arguments.size)
    make_model(tokenizer, texts, arguments.width, arguments.layers).save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)


def train_tokenizer(texts: list[str], size: int) -> Any:
    """Train a cased byte-level BPE with single digits."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, special_tokens=["<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>", model_max_length=1024, padding_side="right"
    )


def make_model(tokenizer: Any, texts: list[str], width: int, layers: int) -> Any:
    """Make a model whose embeddings, which are also the LM head, are computed from co-occurrences."""
    torch.manual_seed(tiny.SEED)
    heads = max(1, width // 64)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=1024, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    vectors = tiny.NORM * tiny.cooccurrence_embeddings(tokenizer, texts, width - 1)
    table = np.concatenate([np.full((len(tokenizer), 1), tiny.SHARED), vectors], axis=1)
    with torch.no_grad():
        lm.get_input_embeddings().weight.copy_(torch.from_numpy(table))
        lm.model.norm.weight[0] = tiny.THRESHOLD
        for layer in lm.model.layers:
            layer.self_attn.o_proj.weight.mul_(tiny.RESIDUAL)
            layer.mlp.down_proj.weight.mul_(tiny.RESIDUAL)
    return lm


if __name__ == "__main__":
    main()
