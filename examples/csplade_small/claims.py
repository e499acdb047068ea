"""The paper's claims on a pretrained language model, SmolLM2-135M: collapse, variants, quantisation, layers.

Usage: python claims.py collapse BUILD COLLECTIONS OUTPUT
       python claims.py quantisation MODEL COLLECTIONS OUTPUT
       python claims.py layers BUILD COLLECTIONS OUTPUT

``collapse`` trains all 30 layers by LoRA, at the paper's temperature and lambda for 1B, from the language model as it is and
from the adapted one, in each variant and with three seeds: does contrastive training collapse without adaptation (paper, Fig.
2), and which variant is best after equal steps? ``quantisation`` encodes the same texts with the weights of a trained model in
bfloat16, in 8 and in 4 bits. ``layers`` adapts and warms up models of different depths, each with the same number of
multiplications. OUTPUT gets a JSON file, a table and a plot for each command; what is in the JSON file is not repeated. All are
evaluated by exact search for dev queries of openstax.

Predictions, written before the first run of ``collapse``: from the language model as it is, all variants collapse (vectors with
tens of thousands of terms first, then empty ones or an accuracy at chance); from the adapted one, none does; then bidirectional
is above echo, and echo above causal, as in the paper. Of ``layers``: effectiveness rises from 4 to 8 layers, and 12 is below 8,
because it takes fewer steps.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "csplade_tiny"))

import ablation

from pyterrier_csplade import CSPLADE, Contract
from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig, LoraSettings, adapt, load_config, train

Run = dict[str, Any]
HERE = Path(__file__).parent
VARIANTS = ("causal", "echo", "bidirectional")
SEEDS = (1, 2, 3)
#: Queries and documents that a model with all 30 layers encodes on a CPU in one or two minutes.
_SLICE = {"queries": 150, "distractors": 350}
#: Rank and learning rates are our choice (not measured); lambda and the ramp are those of ``ablation.PAPER``.
_SHARED: Run = {"lora": LoraSettings(), "batch_size": 12, "warmup_steps": 6}
_ADAPTATION: Run = {"steps": 100, "sequence_length": 128, "learning_rate": 5e-4, "visible_rate": 0.2, **_SHARED}
_CONTRASTIVE: Run = {
    "steps": 40, "negatives": 1, "query_length": 24, "document_length": 48, "encoding_document_length": 129,
    "query_prefix": ". ", "document_prefix": ". ", "learning_rate": 1e-4, "logging_steps": 2, "stop_on_collapse": False,
    **_SHARED, **ablation.PAPER,
}  # fmt: skip
#: Layers of SmolLM2 of each model; the first and the last ones, as in adapt.yaml.
LAYERS: dict[int, list[int]] = {4: [0, 1, 28, 29], 6: [0, 1, 2, 3, 28, 29], 8: [0, 1, 2, 3, 4, 27, 28, 29]}
LAYERS |= {12: [*range(8), 26, 27, 28, 29]}
#: Steps of the adaptation and of the warm start with 8 layers. The LM head costs as much as 5 layers.
_STEPS, _HEAD = {"adapt": 60, "lexical": 80}, 5


class Record:
    """Runs in a JSON file."""

    def __init__(self, path: Path) -> None:
        """Read the runs that the file has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.runs = path, json.loads(path.read_text()) if path.exists() else []

    def add(self, key: Run, run: Callable[[], Run]) -> None:
        """Make a run and write it down, unless the file has one with these settings."""
        if not any(key.items() <= known.items() for known in self.runs):
            self.runs.append({**key, **run()})
            self.path.write_text(json.dumps(self.runs) + "\n")


def adapted(build: Path, output: Path, *, causal: bool) -> Path:
    """Adapt the language model by next-token prediction, or by masked next-token prediction without the causal mask."""
    path = output / ("adapted-causal" if causal else "adapted-bidirectional")
    if not (path / "training_config.json").exists():
        settings = {**_ADAPTATION, "objective": "clm" if causal else "mntp"}
        settings |= {"model": str(build / "base"), "corpus": str(build / "corpus.jsonl.gz"), "output": str(path)}
        adapt(AdaptationConfig(**settings), resume=path.exists())
    return path


def collapse(build: Path, collections: Path, output: Path) -> None:
    record, data = Record(output / "collapse.json"), ablation.dev_slice(collections, **_SLICE)
    starts = {"unadapted": {variant: build / "base" for variant in VARIANTS}, "adapted": {}}
    for variant in VARIANTS:
        starts["adapted"][variant] = adapted(build, output, causal=variant != "bidirectional")

    def run(arm: str, start: str, seed: int) -> Run:
        settings = {**_CONTRASTIVE, "variant": arm, "seed": seed, "data": str(build / "mined.jsonl.gz")}
        settings |= {"model": str(starts[start][arm]), "output": str(output / f"{arm}-{start}-{seed}")}
        path = train(ContrastiveConfig(**settings), resume=Path(settings["output"]).exists())
        curves = [point for point in json.loads((path / "training_log.json").read_text()) if "accuracy" in point]
        return {**ablation.score(CSPLADE(path, dtype="bfloat16"), *data), "curves": curves}

    for seed in SEEDS:
        for arm in VARIANTS:
            for start in starts:
                record.add({"arm": arm, "start": start, "seed": seed}, lambda: run(arm, start, seed))  # noqa: B023 (runs now)
            (output / "collapse.md").write_text(ablation.table(record.runs) + "\n")
            ablation.plot(record.runs, output / "collapse.png", VARIANTS)


def quantisation(model: Path, collections: Path, output: Path) -> None:
    record, data = Record(output / "quantisation.json"), ablation.dev_slice(collections)

    def run(quantization: Any) -> Run:
        csplade = CSPLADE(model, dtype="bfloat16", quantization=quantization)
        size = sum(tensor.nbytes for tensor in csplade.backbone.model.state_dict().values())
        started = time.process_time()
        figures = ablation.score(csplade, *data)
        return {**figures, "MB": size / 1e6, "seconds": time.process_time() - started}

    for name, quantization in (("bfloat16", None), ("int8", "int8"), ("nf4", "nf4")):
        record.add({"weights": name}, lambda: run(quantization))  # noqa: B023 (runs now)
    frame = pd.DataFrame(record.runs)
    (output / "quantisation.md").write_text(str(frame.to_markdown(index=False, floatfmt=".4g")) + "\n")
    plot(frame, "MB", "weights", output / "quantisation.png")


def layers(build: Path, collections: Path, output: Path) -> None:
    record, data = Record(output / "layers.json"), ablation.dev_slice(collections, **_SLICE)

    def phase(name: str, model: Path, count: int) -> Path:
        path = output / f"{name}-{count}"
        if not (path / "training_config.json").exists():
            base = vars(load_config(HERE / f"{name}.yaml", AdaptationConfig))
            steps = round(_STEPS[name] * (8 + _HEAD) / (count + _HEAD))
            changes = {"model": str(model), "corpus": str(build / "corpus.jsonl.gz"), "output": str(path), "steps": steps}
            changes |= {"layers": LAYERS[count] if name == "adapt" else None}
            adapt(AdaptationConfig(**{**base, **changes}), resume=path.exists())
        return path

    def run(count: int) -> Run:
        path = phase("lexical", phase("adapt", build / "vocabulary", count), count)
        contract = Contract(variant="bidirectional", query_prefix=". ", document_prefix=". ", document_length=257)
        return ablation.score(CSPLADE(path, contract=contract, dtype="bfloat16"), *data)

    for count in LAYERS:
        record.add({"layers": count}, lambda: run(count))  # noqa: B023 (runs now)
    frame = pd.DataFrame(record.runs)
    (output / "layers.md").write_text(str(frame.to_markdown(index=False, floatfmt=".4g")) + "\n")
    plot(frame, "layers", "layers", output / "layers.png")


def plot(frame: pd.DataFrame, x: str, label: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(5, 3.5))
    axis.plot(frame[x], frame["nDCG@10"], "o-")
    for name, *point in zip(frame[label], frame[x], frame["nDCG@10"]):
        axis.annotate(str(name), point, textcoords="offset points", xytext=(4, 4))
    axis.set(xlabel=x, ylabel="nDCG@10, openstax dev", ylim=(0, 1))
    axis.margins(x=0.2)  # room for the last label
    axis.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(path, dpi=110)


if __name__ == "__main__":
    commands = {"collapse": collapse, "quantisation": quantisation, "layers": layers}
    commands[sys.argv[1]](*map(Path, sys.argv[2:5]))
