"""Both training phases of an 8B model on one GPU: tokens/s, utilisation, peak memory, loss.

Usage: python benchmarks/training_8b.py [--folder DIR] [--corpus FILE.jsonl] [--steps 8] [--parts lora,qlora,head] [--tiny]

The model is written to DIR once (16 GB; a temporary folder by default). --tiny runs everything in a small shape on a CPU.

The model is a Llama with random weights in the shape of Llama-3.1-8B, with adapters of rank 16, bfloat16 and gradient
checkpointing; its frozen weights are bfloat16 (lora) or 4 bits (qlora). Batches are the paper's: 32 packed sequences of 2,048
tokens in the adaptation phase, in parts of --micro sequences, and 32 queries with 16 passages each through GradCache in the
contrastive phase, so 511 negatives per query. A bias of the LM head keeps about 0.5% of the terms active there, as after
adaptation. The texts are the documentation of Python's standard library, with summaries as queries, or for adaptation the
"text" of --corpus; csplade-tiny's tokenizer makes the token ids. The first step of each part is not timed. The last step
repeats the first batch, so that their losses can be compared.

"model" FLOP are what a step needs; "done" FLOP include what checkpointing and GradCache repeat. Both are divided by the fastest
measured bfloat16 product of 8,192 x 8,192 matrices. "head" compares a forward and backward pass of the streamed LM head with
the naive graph, eager and with torch.compile.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import json
import math
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import pyterrier_csplade
from pyterrier_csplade import Contract
from pyterrier_csplade.data.jsonl import read_jsonl
from pyterrier_csplade.data.python_docs import read_python_docs
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.model.head import activate, max_pool_logits
from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig, LoraSettings
from pyterrier_csplade.training.adaptation import Predictor
from pyterrier_csplade.training.batches import Collator, Labels
from pyterrier_csplade.training.gradient_cache import GradientCache
from pyterrier_csplade.training.objective import ContrastiveObjective
from pyterrier_csplade.training.planning import Load, Method, model_shape, step_flops
from pyterrier_csplade.training.run import load_tokenizer_and_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TINY = Path(pyterrier_csplade.__file__).parent / "tiny"
LLAMA = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
RANK, WEIGHT = 16, 0.03


class Size(NamedTuple):
    """The sizes that differ between the real run and ``--tiny``."""

    llama: dict[str, int]
    vocabulary: int
    square: int  # of the matrices that measure the ceiling
    sequences: int
    sequence_length: int
    queries: int
    passages: int  # of a query
    texts: int  # of the head's comparison
    adaptation_rate: float  # learning rates at which so few steps show
    contrastive_rate: float
    logit_scale: float  # so that random weights of any width give logits of the same size


FULL = Size({**LLAMA, "num_key_value_heads": 8}, 128_256, 8192, 32, 2048, 32, 16, 32, 3e-4, 3e-4, 1.0)
SMALL = Size(
    {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    16_384, 256, 8, 32, 4, 4, 4, 1e-2, 1e-3, 8.0,
)  # fmt: skip


standard_library = functools.cache(read_python_docs)


def clock() -> float:
    """Return the time in seconds after all started work has finished."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gb() -> float:
    """Return the peak memory in 10^9 bytes: of the GPU since the last reset, or of the process on a CPU."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) / 1e9


def start_afresh() -> None:
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def ceiling(square: int) -> float:
    """Return the FLOP/s of the best of ten products of bfloat16 matrices, after three products to warm up."""
    left, right = (torch.randn(square, square, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(13):
        start = clock()
        left @ right
        seconds.append(clock() - start)
    return 2 * square**3 / min(seconds[3:])


def make_model(size: Size, folder: Path) -> None:
    """Write a model of random weights, once."""
    if (folder / "config.json").exists():
        return
    config = LlamaConfig(vocab_size=size.vocabulary, **size.llama)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY, trust_remote_code=False).save_pretrained(folder)


def settings(folder: Path, method: str) -> dict[str, Any]:
    return {
        "model": str(folder), "output": str(folder), "learning_rate": 1.0, "steps": 1, "lora": LoraSettings(rank=RANK),
        "quantization": "nf4" if method == "qlora" else None, "gradient_checkpointing": True,
    }  # fmt: skip


def adaptation_steps(size: Size, folder: Path, method: str, args: argparse.Namespace) -> Iterator[tuple[float, Load]]:
    """Take steps without end; yield the loss of each step and its amount of work."""
    config = AdaptationConfig(corpus="-", **settings(folder, method))
    tokenizer, model = load_tokenizer_and_model(config)
    texts = (d["text"] for _, d in read_jsonl(str(args.corpus))) if args.corpus else (doc.body for doc in standard_library())
    count, length = size.sequences, size.sequence_length
    wanted, stream = count * length * (args.steps + 1), []
    for text in texts:
        stream += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(stream) >= wanted:
            break
    batches = torch.tensor(stream[: len(stream) // (count * length) * count * length]).view(-1, count, length)
    accelerator, model, optimizer = prepared(Predictor(model.to(DEVICE), 1.0).train(), size.adaptation_rate)
    positions = torch.arange(length - 1, device=DEVICE)
    load = Load(tokens=count * length, live_tokens=0, head_tokens=count * length, texts=0, length=length / 2, every_logit=True)
    for number in itertools.count():
        total = 0.0
        for part in batches[number % args.steps % len(batches)].to(DEVICE).split(args.micro):
            loss = model(part, positions, part[:, 1:])[0] * len(part) / count
            accelerator.backward(loss)
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        yield total, load


def contrastive_steps(size: Size, folder: Path, method: str, args: argparse.Namespace) -> Iterator[tuple[float, Load]]:
    """Take steps as ``adaptation_steps`` does, with InfoNCE and FLOPS as the loss."""
    config = ContrastiveConfig(data="-", batch_size=size.queries, **settings(folder, method))
    tokenizer, model = load_tokenizer_and_model(config)
    contract = Contract(query_length=32, document_length=192, logit_scale=size.logit_scale)
    backbone = Backbone(model.to(DEVICE), tokenizer, contract).to(DEVICE)
    spread = float(backbone.head.weight.float().std()) * math.sqrt(size.llama["hidden_size"])
    backbone.head.bias = torch.nn.Parameter(torch.full((size.vocabulary,), -4.0 * spread, device=DEVICE), requires_grad=False)
    collator, docs = Collator(backbone, 2), standard_library()
    objective: Any = None
    accelerator, wrapped, optimizer = prepared(backbone.train(), size.contrastive_rate)
    for number in itertools.count():
        rows, draw = [], random.Random(number % args.steps)
        for doc in draw.sample(docs, size.queries):
            others = [other.body for other in draw.sample(docs, size.passages - 1) if other != doc]
            rows.append(
                {"query": doc.summary, "positive": doc.body, "negatives": others, "positives": [doc.body], "scores": None}
            )
        batch = collator(rows)
        cache = GradientCache(accelerator, wrapped, keep_graphs=False)
        vectors = cache.encode([*batch["queries"], *batch["passages"]])
        queries, passages = vectors[: size.queries], vectors[size.queries :]
        if objective is None:  # as the pre-flight would have it: scores that differ by about one temperature
            temperature = float((queries @ passages.T).detach().std())
            objective = ContrastiveObjective(ContrastiveConfig(data="-", temperature=temperature, **settings(folder, method)))
        loss, figures = objective(queries, passages, Labels(**batch["labels"]), (WEIGHT, WEIGHT))
        cache.backward(torch.autograd.grad(loss, vectors)[0])
        optimizer.step()
        optimizer.zero_grad()
        lengths = [int(p["attention_mask"].sum()) for side in ("queries", "passages") for p in batch[side]]
        tokens = sum(lengths)
        yield (
            float(figures["rank_loss"].detach()),
            Load(
                tokens=tokens, live_tokens=0, head_tokens=tokens, texts=len(vectors), length=tokens / len(vectors), forwards=1
            ),
        )


def prepared(module: Any, learning_rate: float) -> tuple[Accelerator, Any, torch.optim.Optimizer]:
    """Return a module as transformers' Trainer prepares it, and the optimizer of its adapters."""
    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):  # as the trainer does during its steps
            layer.cast_input_dtype_enabled = False
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision="bf16", cpu=DEVICE.type == "cpu")
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=learning_rate)
    return accelerator, accelerator.prepare_model(module), optimizer


PHASES = {"adaptation": adaptation_steps, "contrastive": contrastive_steps}


def measure_phase(size: Size, folder: Path, method: str, phase: str, args: argparse.Namespace, flops: float) -> dict[str, Any]:
    """Train for some steps, the first of which is not timed."""
    start_afresh()
    run = PHASES[phase](size, folder, method, args)
    losses = [next(run)[0]]
    start, loads = clock(), []
    for loss, load in itertools.islice(run, args.steps):
        losses.append(loss)
        loads.append(load)
    seconds = clock() - start
    shape = model_shape(LlamaConfig(vocab_size=size.vocabulary, **size.llama), LoraSettings().target_modules)
    needed, done = (
        sum(
            step_flops(shape, Method(rank=RANK, bf16=True, checkpointing=again), load if again else replace(load, forwards=0))
            for load in loads
        )
        for again in (False, True)
    )
    return {
        "part": f"{method}, {phase}", "tokens_per_s": sum(load.tokens for load in loads) / seconds,
        "seconds_per_step": seconds / args.steps, "model_flops_of_ceiling": needed / seconds / flops,
        "done_flops_of_ceiling": done / seconds / flops, "peak_gb": peak_gb(), "first_loss": losses[0],
        "last_loss": losses[-1],
    }  # fmt: skip


def measure_head(size: Size, compiler: str) -> Iterator[dict[str, Any]]:
    """Time forward and backward passes of one part of a batch, from hidden states to weights, with a frozen head."""
    torch.manual_seed(0)
    width, length = size.llama["hidden_size"], 192
    weight = torch.randn(size.vocabulary, width, device=DEVICE, dtype=torch.bfloat16) / math.sqrt(width)
    states = torch.randn(size.texts, length, width, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.ones(size.texts, length, dtype=torch.bool, device=DEVICE)

    def naive(states: torch.Tensor) -> torch.Tensor:
        return torch.log1p(torch.relu(states @ weight.T - 4.0)).amax(dim=1).float()

    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "eager": naive,
        "torch.compile": torch.compile(naive, backend=compiler),
        "streamed": lambda states: activate(max_pool_logits(states, weight, mask) - 4.0),
    }
    for name, way in ways.items():
        seconds = []
        start_afresh()
        for _ in range(4):
            start = clock()
            way(states).square().sum().backward()  # type: ignore[no-untyped-call]
            seconds.append(clock() - start)
        yield {"part": f"head, {name}", "milliseconds": 1000 * min(seconds[1:]), "peak_gb": peak_gb()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the model of random weights is, or is written")
    parser.add_argument("--corpus", type=Path, help="text of the adaptation phase, JSONL")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of every part")
    parser.add_argument("--micro", type=int, default=2, help="packed sequences that go through the model together")
    parser.add_argument("--parts", default="lora,qlora,head")
    parser.add_argument("--tiny", action="store_true", help="a small shape, for machines without a GPU")
    args = parser.parse_args(arguments)
    if DEVICE.type == "cpu" and not args.tiny:
        parser.error("there is no GPU here: --tiny tries the command in a small shape")
    size = SMALL if args.tiny else FULL
    flops = ceiling(size.square)
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    print(json.dumps({"part": "ceiling", "tflops": flops / 1e12, "device": device}), flush=True)
    parts = args.parts.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for method in [part for part in parts if part != "head"]:
            make_model(size, folder)
            for phase in PHASES:
                print(json.dumps(measure_phase(size, folder, method, phase, args, flops)), flush=True)
    if "head" in parts:
        for found in measure_head(size, "eager" if args.tiny else "inductor"):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
