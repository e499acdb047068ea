"""Quantised models against bfloat16, by the paper's protocol (section 5.3): effectiveness, overlap, size and query speed.

Usage: python benchmarks/quantization.py [--model CHECKPOINT] [--docs 1000] [--queries 200] [--device cpu] [--output DIRECTORY]

The script writes ``quantization.md`` and ``quantization.png`` into the output directory. Documents are ``csplade:python-docs``
(the standard library's documentation); the default model is csplade-tiny. For each setting, the quantised model encodes
documents and queries, and exact search ranks by the impacts. Queries per second include encoding only, in batches of one query,
as in the paper. Overlap is the share of the ten best documents that bfloat16 also ranks among its ten best. Each setting runs
in its own process; settings that cannot run on this machine are listed with the reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

SETTINGS: dict[str, dict[str, str]] = {
    "bfloat16": {"dtype": "bfloat16"},
    "float32": {"dtype": "float32"},
    "int8 (bitsandbytes)": {"quantization": "int8", "dtype": "bfloat16"},
    "nf4 (bitsandbytes)": {"quantization": "nf4", "dtype": "bfloat16"},
    "int8-weight-only (torchao)": {"quantization": "int8-weight-only", "dtype": "bfloat16"},
}
REFERENCE = "bfloat16"


def size(tensor: Any) -> int:
    """Return the bytes of a tensor; torchao's tensors consist of several."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(size(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return int(tensor.numel() * tensor.element_size())


def measure(setting: str, args: argparse.Namespace) -> dict[str, Any]:
    """Encode documents and queries in this process."""
    import numpy as np
    import pyterrier as pt
    import torch
    from ir_measures import RR, calc_aggregate, nDCG

    from pyterrier_csplade import CSPLADE

    torch.set_num_threads(1)
    options: dict[str, Any] = {**SETTINGS[setting], "device": args.device}
    csplade = CSPLADE(args.model, **options) if args.model else CSPLADE.tiny(**options)
    dataset = pt.get_dataset("csplade:python-docs")
    documents = list(dataset.get_corpus_iter(verbose=False))[: args.docs]
    qrels = dataset.get_qrels()
    qrels = qrels[qrels["docno"].isin([document["docno"] for document in documents])].head(args.queries)
    queries = dataset.get_topics().set_index("qid").loc[qrels["qid"], "query"].tolist()
    parameters = sum(map(size, csplade.backbone.model.parameters()))
    names = [document["docno"] for document in documents]
    start = time.process_time() if args.device == "cpu" else time.perf_counter()
    impacts = csplade.doc_encoder().impacts([document["text"] for document in documents], names)
    document_seconds = (time.process_time() if args.device == "cpu" else time.perf_counter()) - start
    csplade.encode_queries(queries[:3])
    start = time.process_time() if args.device == "cpu" else time.perf_counter()
    for query in queries:
        csplade.encode_queries([query])
    seconds = (time.process_time() if args.device == "cpu" else time.perf_counter()) - start
    scores = (csplade.encode_queries(queries) @ impacts.T.astype(np.float32)).toarray()
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    run = [
        {"query_id": qid, "doc_id": names[column], "score": float(scores[row, column])}
        for row, qid in enumerate(qrels["qid"])
        for column in best[row]
        if scores[row, column] > 0
    ]
    judged = qrels.rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
    measures = calc_aggregate([nDCG @ 10, RR @ 10], judged, pd.DataFrame(run))
    return {
        "queries/s": len(queries) / seconds,
        "docs/s": len(documents) / document_seconds,
        "model MB": parameters / 1e6,
        "terms/doc": impacts.nnz / len(documents),
        **{str(measure): value for measure, value in measures.items()},
        "top": best.tolist(),
    }


def compare(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Make a row for each setting, with overlap and speed relative to the reference."""
    rows = []
    reference = results[REFERENCE]
    for setting, result in results.items():
        pairs = zip(reference["top"], result["top"])
        overlap = sum(len(set(a) & set(b)) for a, b in pairs) / (10 * len(result["top"]))
        faster = result["queries/s"] / reference["queries/s"]
        figures = {key: value for key, value in result.items() if key != "top"}
        rows.append({"name": setting, "speed of bfloat16": faster, "overlap@10": overlap, **figures})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Format the table with three decimals."""
    rows = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row] for row in table.to_numpy().tolist()]
    lines = [list(table.columns), ["---"] * len(table.columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Plot effectiveness and overlap against the time per query."""
    from pyterrier_csplade import plot_tradeoff

    drawn = table.assign(mrt=1000 / table["queries/s"])
    plot_tradeoff(drawn, path, measures=["nDCG@10", "overlap@10"], title="Quantised query encoders")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory or hub id of a checkpoint")
    parser.add_argument("--docs", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("quantization"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        Path(args.measure[1]).write_text(json.dumps(measure(args.measure[0], args)))
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS:
            output = Path(folder) / "result.json"
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", setting, str(output)]
            process = subprocess.run(command, capture_output=True, text=True)
            if process.returncode:
                print(f"{setting}: {(process.stderr.strip().splitlines() or ['killed'])[-1]}", file=sys.stderr)
                continue
            results[setting] = json.loads(output.read_text())
    table = compare(results)
    args.output.mkdir(parents=True, exist_ok=True)
    text = markdown(table)
    (args.output / "quantization.md").write_text(text + "\n")
    draw(table, args.output / "quantization.png")
    print(text)


if __name__ == "__main__":
    main()
