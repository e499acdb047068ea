"""A contrastive training step against sentence-transformers' SparseEncoder and the naive graph: time and memory.

Usage: python benchmarks/training.py [--width 512] [--layers 4] [--queries 4] [--passages 4] [--length 96] [--repeat 3]

All kinds use the same random Llama with LoRA (rank 16, frozen head, Llama 3's vocabulary), the same token ids and the same
loss: InfoNCE over all passages of the batch and FLOPS of both sides. A bias of the head keeps about 0.5% of the terms active,
as in a sparse model (--dense omits it). ``cached`` is this package with gradient accumulation (GradCache), which runs two
forward passes and keeps the activations of one part. Each measurement runs in its own process with one thread, the kinds in
turns. Peak memory is the process's largest resident set minus the one with the model. Times are CPU seconds of the second step.

The dry run estimates what the step asks of the allocator, but glibc keeps freed blocks of up to 32 MiB. So the estimate is
compared with this peak, and with the peak of another process that returns such blocks at once (MALLOC_MMAP_THRESHOLD_).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

VOCABULARY = 128_256
KINDS = ("naive", "sentence-transformers", "streamed", "cached")
WEIGHTS = (0.01, 0.02)
CACHED = 4  # passages of a part with gradient caching
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc returns freed memory to the system


def make_config(width: int, layers: int) -> Any:
    """Make the configuration of a Llama."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=max(1, width // 256), attn_implementation="eager",
        bos_token_id=0, eos_token_id=1, pad_token_id=2, initializer_range=0.05,
    )  # fmt: skip


def make_model(width: int, layers: int, dense: bool) -> Any:
    """Make a Llama with new adapters."""
    import torch
    from transformers import LlamaForCausalLM

    from pyterrier_csplade.training import LoraSettings
    from pyterrier_csplade.training.run import add_lora

    torch.manual_seed(0)
    model = LlamaForCausalLM(make_config(width, layers))
    if not dense:
        model.lm_head.bias = torch.nn.Parameter(torch.full((VOCABULARY,), -4.0 * 0.05 * width**0.5), requires_grad=False)
    return add_lora(model, LoraSettings(rank=16, dropout=0.0))


def make_tokenizer() -> Any:
    """Make a tokenizer with as many tokens as Llama 3. It only names the terms, because the texts are given as ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, "<pad>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )


def make_ids(queries: int, passages: int, length: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return token ids of the queries and of the passages: all positives, then all first negatives, and so on."""
    import random

    draw = random.Random(1)
    texts = [
        [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(length // 3, length))] for _ in range(queries * passages)
    ]
    return [[draw.randrange(3, VOCABULARY) for _ in range(draw.randint(4, 16))] for _ in range(queries)], texts


def make_labels(count: int, passages: int) -> Any:
    import torch

    from pyterrier_csplade.training.batches import Labels

    return Labels(
        targets=torch.arange(count), owners=torch.arange(count).repeat(passages), texts=torch.arange(count * passages),
        relevant_queries=torch.arange(count), relevant_texts=torch.arange(count), teacher=torch.full((count * passages,), 0.0),
    )  # fmt: skip


def our_step(model: Any, queries: Any, passages: Any, kind: str) -> Callable[[], float]:
    """Take a step of this package, or of the naive graph with this package's loss."""
    import torch
    from accelerate import Accelerator

    from pyterrier_csplade import Contract
    from pyterrier_csplade.model.backbone import Backbone
    from pyterrier_csplade.training import ContrastiveConfig
    from pyterrier_csplade.training.gradient_cache import GradientCache
    from pyterrier_csplade.training.objective import ContrastiveObjective

    backbone = Backbone(model, make_tokenizer(), Contract())
    objective = ContrastiveObjective(ContrastiveConfig(model="m", output="o", data="d", learning_rate=1.0, steps=1))
    labels, count = make_labels(len(queries), len(passages) // len(queries)), len(queries)
    if kind == "naive":
        batches = [backbone.collate(queries), backbone.collate(passages)]

        def naive() -> float:
            vectors = []
            for batch in batches:
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
                weights = torch.log1p(torch.relu(logits)) * batch["attention_mask"][..., None]
                vectors.append(weights.amax(dim=1)[:, 3:])
            loss = objective(vectors[0], vectors[1], labels, WEIGHTS)[0]
            loss.backward()
            return float(loss.detach())

        return naive

    order = sorted(range(len(passages)), key=lambda i: -len(passages[i]))
    size = CACHED if kind == "cached" else 32
    parts = [backbone.collate([passages[i] for i in order[start : start + size]]) for start in range(0, len(order), size)]
    back = torch.argsort(torch.tensor(order))
    accelerator = Accelerator(cpu=True)

    def streamed() -> float:
        cache = GradientCache(accelerator, backbone, keep_graphs=kind == "streamed")
        vectors = cache.encode([backbone.collate(queries), *parts])
        loss = objective(vectors[:count], vectors[count:][back], labels, WEIGHTS)[0]
        cache.backward(torch.autograd.grad(loss, vectors)[0])
        return float(loss.detach())

    return streamed


def their_step(model: Any, queries: Any, passages: Any) -> Callable[[], float]:
    """Take a step of sentence-transformers, with its pooling and losses over this model's logits, one column at a time."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder import losses
    from sentence_transformers.sparse_encoder.modules import SpladePooling
    from torch.nn.utils.rnn import pad_sequence

    class Logits(torch.nn.Module):
        """Returns the model's logits, as the fill-mask transformer of sentence-transformers does."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
            mask = features["attention_mask"]
            logits = self.model(input_ids=features["input_ids"], attention_mask=mask, use_cache=False).logits
            return features | {"token_embeddings": logits}

    encoder = SparseEncoder(modules=[Logits(), SpladePooling("max")], device="cpu")
    loss = losses.SpladeLoss(
        encoder, losses.SparseMultipleNegativesRankingLoss(encoder), document_regularizer_weight=WEIGHTS[1],
        query_regularizer_weight=WEIGHTS[0],
    )  # fmt: skip
    count = len(queries)
    columns = [queries, *(passages[start : start + count] for start in range(0, len(passages), count))]

    def step() -> float:
        features = []
        for column in columns:
            ids = pad_sequence([torch.tensor(text) for text in column], batch_first=True, padding_value=2)
            features.append({"input_ids": ids, "attention_mask": (ids != 2).long()})
        found = loss(features, None)
        total = sum(found.values()) if isinstance(found, dict) else found
        total.backward()
        return float(total.detach())

    return step


def measure(kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Take two steps in this process."""
    import torch

    torch.set_num_threads(1)
    model = make_model(args.width, args.layers, args.dense)
    queries, passages = make_ids(args.queries, args.passages, args.length)
    step = their_step(model, queries, passages) if kind == "sentence-transformers" else our_step(model, queries, passages, kind)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    before, figures = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    for _ in range(2):
        start = time.process_time()
        figures.setdefault("loss", step())
        squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        figures.setdefault("gradient_norm", float(torch.stack(squares).sum().sqrt()))
        optimizer.step()
        optimizer.zero_grad()
        figures["seconds"] = time.process_time() - start
    tokens = sum(map(len, [*queries, *passages]))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return figures | {"tokens_per_s": tokens / figures["seconds"], "peak_mib": peak}


def estimated_mib(args: argparse.Namespace, kind: str) -> float:
    """Return the dry run's estimate of the memory in addition to the weights."""
    from pyterrier_csplade.training import LoraSettings
    from pyterrier_csplade.training.planning import Load, Method, memory_parts, model_shape

    queries, passages = make_ids(args.queries, args.passages, args.length)
    ordered = sorted(map(len, passages), reverse=True)
    size = CACHED if kind == "cached" else 32
    parts = [max(map(len, queries)) * len(queries)]
    parts += [ordered[start] * len(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    shape = model_shape(make_config(args.width, args.layers), LoraSettings().target_modules)
    texts = len(queries) + len(passages)
    cached = kind == "cached"
    load = Load(
        tokens=sum(parts), live_tokens=max(parts) if cached else sum(parts), head_tokens=sum(parts), texts=texts,
        length=args.length, forwards=int(cached), part_tokens=max(parts), live_texts=CACHED if cached else texts,
        accumulates=cached, active=0.5 if args.dense else 0.005,
    )  # fmt: skip
    found = memory_parts(shape, Method(rank=16, bf16=False, checkpointing=False, dropout=False), load)
    return sum(size for part, size in found.items() if part not in ("frozen weights", "trained weights")) / 2**20


def measured(kind: str, environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Take two steps in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | dict(environment or {}))
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("width", 512, "hidden size, a multiple of 64"), ("layers", 4, "layers"), ("queries", 4, "queries of the batch"),
        ("passages", 4, "passages of a query"), ("length", 96, "tokens of a passage at most"), ("repeat", 3, "measurements"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--dense", action="store_true", help="as a model before training: most terms are active")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kind:
        print(json.dumps(measure(args.kind, args)))
        return
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(args.repeat):
        for kind in KINDS:
            results[kind].append(measured(kind))
    medians = {kind: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for kind, runs in results.items()}
    for kind, figures in medians.items():
        print(kind, json.dumps({key: round(value, 3) for key, value in figures.items()}))
    for kind in KINDS[2:]:
        for other in KINDS[:2]:
            speed = medians[kind]["tokens_per_s"] / medians[other]["tokens_per_s"]
            memory = medians[kind]["peak_mib"] / medians[other]["peak_mib"]
            print(f"{kind} / {other}: {speed:.2f} times the tokens/s, {memory:.3f} times the memory")
        estimated, returned, kept = estimated_mib(args, kind), measured(kind, RETURNED)["peak_mib"], medians[kind]["peak_mib"]
        print(
            f"{kind}: the dry run estimates {estimated:,.0f} MiB, {estimated / returned:.2f} of the peak where freed memory is "
            f"given back ({returned:,.0f} MiB), {estimated / kept:.2f} of that with what glibc keeps ({kept:,.0f} MiB)"
        )


if __name__ == "__main__":
    main()
