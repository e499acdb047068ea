"""Encoding with a large model on a GPU: passages per second, utilisation, the head's share of the time, memory, latency.

Usage: python benchmarks/accelerator.py [--shape 8B|3B|1B|small] [--docs 2048] [--batch-size 32] [--naive 64] [--device cuda]
           [--settings bfloat16 int8 nf4 int8-weight-only] [--checkpoint DIRECTORY] [--compile]

To try the command on a CPU, use ``--shape small --device cpu``. The checkpoint is made if it is missing; quantised settings
load it from disk. Weights are random, lengths are as in MS MARCO, and the threshold leaves 300 terms per text. Utilisation is
relative to the fastest product of two square bfloat16 matrices on this device; it counts two operations for each weight and
real token, and none for padding or attention. "naive" encodes ``--naive`` texts from all logits in batches of ``--batch-size``.
Latency is the median for single queries of 8 tokens. ``--compile`` measures the throughput again with torch.compile for each
layer.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _systems import msmarco_like_texts, word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from pyterrier_csplade import CSPLADE

# Vocabulary, width, inner width, layers, heads, heads of keys and values: Llama 3.1 8B, 3.2 3B and 1B, and one for CPUs.
SHAPES = {
    "8B": (128_256, 4096, 14_336, 32, 32, 8),
    "3B": (128_256, 3072, 8192, 28, 24, 8),
    "1B": (128_256, 2048, 8192, 16, 32, 8),
    "small": (2000, 64, 128, 2, 4, 2),
}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Measure the wall-clock time of a call in seconds, until the device has finished."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def ceiling(device: torch.device) -> float:
    """Measure the operations per second of a large bfloat16 product."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(10))


def make_checkpoint(path: Path, shape: str, device: torch.device) -> None:
    vocabulary, width, inner, layers, heads, key_heads = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_heads, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        lm = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    lm.save_pretrained(path)
    word_tokenizer(vocabulary).save_pretrained(path)


def load(path: Path, setting: str, args: argparse.Namespace) -> CSPLADE:
    quantization: Any = None if setting == "bfloat16" else setting
    return CSPLADE(path, dtype="bfloat16", quantization=quantization, device=args.device, batch_size=args.batch_size)


def throughput(csplade: CSPLADE, args: argparse.Namespace, device: torch.device, best: float) -> None:
    backbone, texts = csplade.backbone, msmarco_like_texts(args.docs, SHAPES[args.shape][0])
    weights = csplade.encode_docs(texts[:8]).data  # also warms up
    least = float(sorted(weights)[-min(len(weights), 8 * 300)])
    spent = 0.0
    hidden_states = backbone.hidden_states

    def measured(*inputs: Any) -> torch.Tensor:
        nonlocal spent
        states: list[torch.Tensor] = []
        spent += timed(lambda: states.append(hidden_states(*inputs)), device)
        return states[0]

    tokens = sum(map(len, backbone.tokenize(texts, "document")[0]))
    seconds = timed(lambda: csplade.encode_docs(texts, min_weight=least), device)
    backbone.hidden_states = measured  # type: ignore[method-assign]
    stepwise = timed(lambda: csplade.encode_docs(texts, min_weight=least), device)
    backbone.hidden_states = hidden_states  # type: ignore[method-assign]
    lm = backbone.model
    embedded = lm.get_input_embeddings().weight.numel()
    used = 2 * tokens * (sum(weight.numel() for weight in lm.parameters()) - embedded)
    speed = f"{args.docs / seconds:,.1f} passages/s, {tokens / seconds:,.0f} tokens/s"
    print(f"bfloat16: {speed}, {used / seconds / best:.1%} utilisation")
    print(f"outside the backbone (head, maximum, sparse results): {1 - spent / stepwise:.1%} of the time")


def memory(csplade: CSPLADE, args: argparse.Namespace, device: torch.device) -> None:
    """Print the peak memory above the loaded model, for this package and for a loop that keeps all logits."""
    if device.type != "cuda":
        print("memory: measured on CUDA alone")
        return
    texts, backbone = msmarco_like_texts(args.naive, SHAPES[args.shape][0]), csplade.backbone

    def naive() -> None:
        sequences = backbone.tokenize(texts, "document")[0]
        for start in range(0, len(sequences), args.batch_size):
            batch = backbone.collate(sequences[start : start + args.batch_size])
            with torch.inference_mode():
                logits = backbone.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                (torch.log1p(torch.relu(logits)) * batch["pool_mask"][..., None]).amax(dim=1)

    for name, function in {"csplade": lambda: csplade.encode_docs(texts, min_weight=1.0), "naive": naive}.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            function()
            print(f"memory, {name}: {(torch.cuda.max_memory_allocated() - before) / 2**20:,.0f} MiB over the loaded model")
        except torch.OutOfMemoryError:
            print(f"memory, {name}: out of memory")


def latency(csplade: CSPLADE, device: torch.device, shape: str) -> float:
    """Measure the median milliseconds for one query of 8 tokens."""
    queries = [" ".join(text.split()[:8]) for text in msmarco_like_texts(30, SHAPES[shape][0])]
    times = [timed(lambda query=query: csplade.encode_queries([query], min_weight=1.0), device) for query in queries]
    return 1000 * statistics.median(times[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8B")
    parser.add_argument("--docs", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--naive", type=int, default=64, help="texts whose memory is measured")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--settings", nargs="+", default=["bfloat16", "int8", "nf4", "int8-weight-only"])
    parser.add_argument("--checkpoint", type=Path, help="directory of the random model; a temporary one by default")
    parser.add_argument("--compile", action="store_true", help="measure with compiled layers, too")
    args = parser.parse_args()
    device = torch.device(args.device)
    with tempfile.TemporaryDirectory() as temporary:
        path = args.checkpoint or Path(temporary)
        if not (path / "config.json").exists():
            make_checkpoint(path, args.shape, device)
        best = ceiling(device)
        print(f"ceiling: {best / 1e12:.3g} TFLOP/s")
        csplade = load(path, "bfloat16", args)
        throughput(csplade, args, device, best)
        memory(csplade, args, device)
        if args.compile:
            for layer in csplade.backbone.model.model.layers:
                layer.compile(dynamic=True)
            csplade.encode_docs(msmarco_like_texts(300, SHAPES[args.shape][0]), min_weight=1.0)
            print("layers compiled:")
            throughput(csplade, args, device, best)
        del csplade
        for setting in args.settings:
            try:
                milliseconds = latency(load(path, setting, args), device, args.shape)
                print(f"query, {setting}: {milliseconds:.2f} ms", flush=True)
            except Exception as error:  # a package that is missing or does not run on this machine
                print(f"query, {setting}: {str(error).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main()
