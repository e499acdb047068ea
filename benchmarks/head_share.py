"""Share of the LM head in the time of encoding, before and after a cut of the vocabulary; the default is Llama 3.2 1B's shape.

Usage: python benchmarks/head_share.py [--vocabularies 128256 46987 24982 16384] [--texts 4] [--length 80] [--repeat 3]

A layer with random weights reads one batch of random states, and the product of the LM head with the maximum over positions is
computed for each size of the vocabulary, in turns. The layer counts ``--layers`` times, so that the model does not have to fit
into memory. 46,987 and 24,982 are the tokens of Llama 3 that occur in openstax and in medquad. The script reports medians of
CPU time on a CPU, and of wall-clock time on an accelerator.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from head import timed
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from pyterrier_csplade.model.head import max_logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[128_256, 46_987, 24_982, 16_384])
    sizes = {"width": 2048, "intermediate": 8192, "heads": 32, "groups": 8, "layers": 16, "texts": 4, "length": 80, "repeat": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    with torch.inference_mode():
        functions = works(args, device)
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for function in functions.values():
            function()
        for _ in range(args.repeat):
            for name, function in functions.items():
                seconds[name].append(timed(function, device))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    body = args.layers * medians.pop("layer")
    print(f"{args.layers} layers: {1000 * body:.1f} ms for {args.texts * args.length} tokens")
    before = body + next(iter(medians.values()))
    for name, head in medians.items():
        print(
            f"{name} tokens: head {1000 * head:.1f} ms, {100 * head / (body + head):.1f} % of the time, "
            f"encoding takes {(body + head) / before:.3f} of the first"
        )


def works(args: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Return the functions to time: a layer, and the head with each vocabulary."""
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    config = LlamaConfig(
        hidden_size=args.width, intermediate_size=args.intermediate, num_attention_heads=args.heads,
        num_key_value_heads=args.groups, num_hidden_layers=1, vocab_size=32, attn_implementation="sdpa",
    )  # fmt: skip
    layer = LlamaDecoderLayer(config, 0).to(device, dtype).eval()
    states = torch.randn(args.texts, args.length, args.width, device=device).to(dtype)
    places = torch.arange(args.length, device=device)[None]
    turned = LlamaRotaryEmbedding(config).to(device)(states, places)
    weight = (torch.randn(max(args.vocabularies), args.width, device=device, dtype=dtype) / args.width**0.5).to(dtype)
    found: dict[str, Callable[[], Any]] = {"layer": lambda: layer(states, position_embeddings=turned, position_ids=places)}
    for size in args.vocabularies:
        found[f"{size:,}"] = partial(max_logits, states, weight[:size])
    return found


if __name__ == "__main__":
    main()
