"""Time and memory of the LM head on this machine, for each value of ``CSPLADE(head=...)``.

Usage: python benchmarks/head.py [--width 2048] [--vocabulary 128256] [--texts 64] [--length 80] [--active 0.005] [--repeat 5]

The script times the product and the maximum over positions for one batch of random hidden states, with all implementations in
turns. It reports medians, the ratio to PyTorch's plain product, TFLOP/s, the increase of the peak memory in the first call (on
Linux or a GPU), and the largest difference from the reference. "screened" is for CPUs. "compiled" is the streamed head with
each block compiled by torch.compile, which needs a C++ compiler on a CPU; it is not a value of ``head``, and shows the gain
from compiling. If it does not compile, it is left out, and the reason is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear

from pyterrier_csplade.model.head import Entries, blocks, entries_above, max_logits, streamed_entries
from pyterrier_csplade.model.screen import Screen


def timed(function: Callable[[], Any], device: torch.device) -> float:
    """Measure the time of a call in seconds: CPU time on a CPU, wall-clock time on an accelerator."""
    if device.type == "cpu":
        start = time.process_time()
        function()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def random_batch(args: argparse.Namespace, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Make random states and a head, and the threshold that a share ``args.active`` of the maxima exceeds."""
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    states = torch.randn(args.texts, args.length, args.width, device=device).to(dtype)
    weight = (torch.randn(args.vocabulary, args.width, device=device) / args.width**0.5).to(dtype)
    sample = max_logits(states, weight[:4096]).flatten().float()
    return states, weight, float(sample.kthvalue(int((1 - args.active) * len(sample))).values)


def compiled_product(batch: int, length: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Compute ``max_logits`` with the product and the maximum of a block as one compiled function."""

    @torch.compile(dynamic=False)
    def block_maxima(flat: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        return linear(flat, head).view(batch, length, -1).amax(dim=1)

    def product(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        pooled = torch.empty(batch, len(weight), device=states.device)
        for part in blocks(len(weight), states):
            pooled[:, part] = block_maxima(states.flatten(0, 1), weight[part])
        return pooled

    return product


def ways(states: torch.Tensor, weight: torch.Tensor, threshold: float) -> dict[str, Callable[[], Entries | None]]:
    def product_alone() -> None:
        for part in blocks(len(weight), states):
            states.flatten(0, 1) @ weight[part].T

    def finish(logits: torch.Tensor, tokens: Any) -> torch.Tensor:
        return logits

    found: dict[str, Callable[[], Entries | None]] = {"product alone": product_alone}
    found["streamed"] = lambda: streamed_entries(states, weight, threshold, finish)
    compiled = compiled_product(*states.shape[:2])
    found["compiled"] = lambda: entries_above(threshold, compiled(states, weight))
    if states.device.type == "cpu":
        screen = Screen(weight)
        found["screened"] = lambda: screen.entries(states, threshold, finish)
    return found


def with_peak(function: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Call a function, and return its result and the increase of the peak memory in MiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return function(), (torch.cuda.max_memory_allocated() - before) / 2**20
    if device.type != "cpu" or not Path("/proc/self/clear_refs").exists():
        return function(), float("nan")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the memory of the process
    before = resident_peak()
    return function(), (resident_peak() - before) / 2**10


def resident_peak() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def warmed_up(
    functions: dict[str, Callable[[], Entries | None]], device: torch.device
) -> dict[str, tuple[Entries | None, float]]:
    """Call each function, and return its entries and its peak. A function that fails to compile is removed, with a message."""
    results = {}
    for name, function in list(functions.items()):
        try:
            results[name] = with_peak(function, device)
        except Exception as error:  # compilers raise exceptions of many types
            if name != "compiled":
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            print(f"{name}: left out, it does not compile here ({reason})")
            del functions[name]
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 2048, "vocabulary": 128_256, "texts": 64, "length": 80, "repeat": 5}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--active", type=float, default=0.005, help="share of the terms of a text above the threshold")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(args.device)
    with torch.inference_mode():
        states, weight, threshold = random_batch(args, device)
        functions = ways(states, weight, threshold)
        results = warmed_up(functions, device)
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(args.repeat):
            for name, function in functions.items():
                seconds[name].append(timed(function, device))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    flop = 2 * states.numel() * args.vocabulary
    for name, value in medians.items():
        ratio = value / medians["product alone"]
        entries, peak = results[name]
        row = f"{name}: {1000 * value:.2f} ms, {ratio:.2f} of the product alone, {flop / value / 1e12:.3f} TFLOP/s"
        print(f"{row}, {peak:.0f} MiB" + (difference(results["streamed"][0], entries, args) if entries else ""))
    best = min((name for name in medians if name not in ("product alone", "compiled")), key=lambda name: medians[name])
    print(f'fastest: CSPLADE(..., head="{best}")')


def difference(expected: Entries | None, found: Entries | None, args: argparse.Namespace) -> str:
    """Describe how entries differ: the largest difference of common entries, and the number of entries on one side only."""
    assert expected is not None and found is not None
    values = [dict(zip((e.rows * args.vocabulary + e.tokens).tolist(), e.logits.tolist())) for e in (expected, found)]
    common = values[0].keys() & values[1].keys()
    largest = max((abs(values[0][key] - values[1][key]) for key in common), default=0.0)
    return f", largest difference {largest:.2g}, entries of one alone {len(values[0].keys() ^ values[1].keys())}"


if __name__ == "__main__":
    main()
