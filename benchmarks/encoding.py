"""Documents per second from text to ``toks``: this package against the way of its peers, with the same weights.

Usage: python benchmarks/encoding.py [--docs 256] [--repeat 3] [--vocabulary 32000] [--width 256] [--layers 4]

The peers' way (pyterrier-splade 0.1.0 and plain loops do so): batches in the order of the texts, all logits of a batch, the
activation of all of them, the maximum, dictionaries of what is above 0. A randomly initialised Llama and texts of lengths as in
MS MARCO; one thread, the two ways in turns, medians. The impacts of both are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pyterrier_csplade import CSPLADE

BATCH_SIZE = 32


def word_tokenizer(size: int) -> Any:
    """A tokenizer of made-up words, one token each, so that lengths are known."""
    tokens = {"<pad>": 0, **{f"w{i}": i for i in range(1, size)}}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")


def msmarco_like_texts(number: int, size: int) -> list[str]:
    """Texts with a mean of about 73 tokens and a tail to 256."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.17, 0.45, number), 8, 256).astype(int)
    return [" ".join(f"w{i}" for i in rng.integers(1, size, length)) for length in lengths]


def peers_way(lm: Any, tokenizer: Any, texts: list[str]) -> list[dict[str, int]]:
    vectors = []
    terms = {i: term for term, i in tokenizer.get_vocab().items()}
    for start in range(0, len(texts), BATCH_SIZE):
        batch = tokenizer(texts[start : start + BATCH_SIZE], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = lm(**{key: batch[key] for key in ("input_ids", "attention_mask")}).logits
            weights = torch.log1p(torch.relu(logits)) * batch["attention_mask"][..., None]
            impacts = (weights.amax(dim=1) * 100).round().int()
        for row in impacts:
            (columns,) = row.nonzero(as_tuple=True)
            vectors.append({terms[c]: w for c, w in zip(columns.tolist(), row[columns].tolist())})
    return vectors


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"docs": 256, "repeat": 3, "vocabulary": 32_000, "width": 256, "layers": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=args.vocabulary, hidden_size=args.width, intermediate_size=args.width * 11 // 4,
        num_hidden_layers=args.layers, num_attention_heads=max(1, args.width // 64), max_position_embeddings=512,
    )  # fmt: skip
    lm, tokenizer = LlamaForCausalLM(config).eval(), word_tokenizer(args.vocabulary)
    with torch.no_grad():
        lm.lm_head.weight.mul_(8)  # weights as large as those of trained models
    texts = msmarco_like_texts(args.docs, args.vocabulary)
    frame = pd.DataFrame({"docno": [f"d{i}" for i in range(len(texts))], "text": texts})
    encoder = CSPLADE((lm, tokenizer), batch_size=BATCH_SIZE).doc_encoder()
    ours, theirs = [], []
    for _ in range(args.repeat):
        seconds, peers = timed(lambda: peers_way(lm, tokenizer, texts))
        theirs.append(seconds)
        seconds, encoded = timed(lambda: encoder(frame)["toks"].tolist())
        ours.append(seconds)
    pairs = [(peer.get(term, 0), impact) for peer, vector in zip(peers, encoded) for term, impact in vector.items()]
    same = np.mean([first == second for first, second in pairs])
    for name, seconds in (("peers' way", theirs), ("pyterrier_csplade", ours)):
        print(f"{name}: {len(texts) / statistics.median(seconds):.1f} documents per CPU second")
    print(f"time, ours / theirs: {statistics.median(ours) / statistics.median(theirs):.3f}; equal impacts: {same:.3%}")


if __name__ == "__main__":
    main()
