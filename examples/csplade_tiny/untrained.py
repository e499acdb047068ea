"""The tokenizer and the untrained model of csplade-tiny.

The embeddings, which are also the LM head, start as the truncated singular value decomposition of the positive pointwise mutual
information of neighbouring tokens (Levy and Goldberg, 2014). Related terms are therefore near each other before the first step,
which saves a small model most of its pre-training. One dimension is the same for all tokens. With a negative weight in the
final norm, it lowers all logits, so that a text initially activates few terms instead of the whole vocabulary. The layers are
initially close to the identity. This initialisation is our choice (not measured).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.linalg import svds
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 7
VOCABULARY_SIZE = 16_384
WIDTH = 256
#: Tokens to the right that are neighbours of a token, the n-th with weight 1 / n.
WINDOW = 5
#: Exponent of the context distribution in the mutual information (Levy, Goldberg and Dagan, 2015).
SMOOTHING = 0.75
#: Length of an embedding, the dimension that all share, and its weight in the final norm.
NORM, SHARED, THRESHOLD = 0.5, 0.25, -2.5
#: Factor of the initial matrices that write into the residual stream.
RESIDUAL = 0.05


def train_tokenizer(texts: list[str], output: Path) -> Any:
    bpe = Tokenizer(models.BPE())
    # Case is folded, and every word starts with a space, so that a word is the same index term at any place in a text.
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            special_tokens=["<|end|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=1024, padding_side="right"
    )
    tokenizer.save_pretrained(output)
    return tokenizer


def cooccurrence_embeddings(tokenizer: Any, texts: list[str], width: int) -> np.ndarray:
    """Compute embeddings of unit length, [vocabulary, width]; random for tokens without neighbours."""
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    stream = np.concatenate([np.asarray([*text, tokenizer.eos_token_id], dtype=np.int32) for text in ids])
    size = len(tokenizer)
    counts = csr_matrix((size, size), dtype=np.float32)
    for distance in range(1, WINDOW + 1):
        weights = np.full(len(stream) - distance, 1 / distance, dtype=np.float32)
        counts += coo_matrix((weights, (stream[:-distance], stream[distance:])), shape=(size, size)).tocsr()
    counts = counts + counts.T
    counts.data[counts.data < 1] = 0
    counts.eliminate_zeros()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    context = totals**SMOOTHING / (totals**SMOOTHING).sum()
    pairs = counts.tocoo()
    information = np.log(pairs.data / totals[pairs.row] / context[pairs.col])
    matrix = csr_matrix((np.maximum(information, 0), (pairs.row, pairs.col)), shape=(size, size))
    left, values, _ = svds(matrix, k=width, random_state=SEED)
    vectors = left * np.sqrt(values)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    random = np.random.default_rng(SEED).normal(size=vectors.shape) / np.sqrt(width)
    return np.where(lengths > 1e-3, vectors / np.maximum(lengths, 1e-3), random)


def initialise_model(tokenizer: Any, texts: list[str], output: Path) -> None:
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    lm = LlamaForCausalLM(config)
    vectors = NORM * cooccurrence_embeddings(tokenizer, texts, WIDTH - 1)
    shared = np.full((len(tokenizer), 1), SHARED)
    with torch.no_grad():
        lm.get_input_embeddings().weight.copy_(torch.from_numpy(np.concatenate([shared, vectors], axis=1)))
        lm.model.norm.weight[0] = THRESHOLD
        for layer in lm.model.layers:
            layer.self_attn.o_proj.weight.mul_(RESIDUAL)
            layer.mlp.down_proj.weight.mul_(RESIDUAL)
    lm.save_pretrained(output)
