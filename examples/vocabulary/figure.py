"""Draw effectiveness against the expected postings of a query, for the results of run.py or bm25.py.

Usage: python figure.py FIGURE RESULT.json ...

The arm of a result is the name of its file, or of its directory if the file is called ``result-COLLECTION.json``. Results of
the same arm and collection with other seeds are averaged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

X, Y = "postings_of_a_query", "nDCG@10"


def main(figure: Path, results: list[Path]) -> None:
    table = pd.DataFrame([read_result(path) for path in results])
    table = table.groupby(["collection", "arm"], sort=False)[[X, Y]].mean().reset_index()
    arms = list(dict.fromkeys(table["arm"]))
    collections = list(dict.fromkeys(table["collection"]))
    drawn, axes = plt.subplots(1, len(collections), figsize=(4 * len(collections), 3.8), layout="constrained", squeeze=False)
    for axis, collection in zip(axes[0], collections):
        for row in table[table["collection"] == collection].to_dict("records"):
            place = arms.index(row["arm"])
            axis.scatter(row[X], row[Y], color=f"C{place % 10}", marker="os^D"[place // 10], label=row["arm"])
        axis.set(title=collection, xlabel="expected postings of a query", ylabel=Y)
    handles, labels = axes[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right upper", fontsize="small")
    drawn.savefig(figure, dpi=110, metadata={"Software": None})


def read_result(path: Path) -> dict[str, object]:
    """Read a result, and name its arm and collection."""
    of_run = path.stem.startswith("result-")
    arm = path.parent.name.rpartition("-")[0] if of_run else path.stem
    collection = path.stem.removeprefix("result-") if of_run else path.parent.name
    values = json.loads(path.read_text())
    return {"arm": arm, "collection": collection, X: values[X], Y: values[Y]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])
