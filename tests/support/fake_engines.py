"""Fake packages of the engines: they store documents in files, as the real packages do, and search by scanning all of them.

Each is a module whose ``calls`` says how it was called. Terms are what the adapter calls them, so a wrong number finds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

Documents = dict[str, dict[str, float]]


def scan(documents: Documents, query: Mapping[str, float], k: int) -> list[tuple[str, float]]:
    """Return the best documents by dot product; equal scores are ordered from the last document to the first."""
    scores = {docid: sum(query.get(term, 0) * impact for term, impact in toks.items()) for docid, toks in documents.items()}
    return sorted(((docid, score) for docid, score in scores.items() if score > 0), key=lambda hit: (-hit[1], -int(hit[0])))[:k]


def pisa() -> ModuleType:
    """Make a fake pyterrier_pisa, whose transformers take repeated query terms."""
    module: Any = ModuleType("pyterrier_pisa")
    module.calls = []

    class PisaIndex:
        def __init__(self, path: str, **settings: Any) -> None:
            module.calls.append(("PisaIndex", settings))
            self.file = Path(path) / "inv.json"

        def toks_indexer(self, scale: float) -> Any:
            assert scale == 1.0
            return self

        def index(self, documents: Iterable[dict[str, Any]]) -> None:
            self.file.write_text(json.dumps({document["docno"]: document["toks"] for document in documents}))
            metadata = {"type": "sparse_index", "format": "pisa", "package_hint": "pyterrier-pisa", "stemmer": "none"}
            self.file.with_name("pt_meta.json").write_text(json.dumps(metadata))

        def quantized(self, **settings: Any) -> Any:
            module.calls.append(("quantized", settings))
            compressed = self.file.with_name("inv.compressed")
            if not compressed.exists():
                compressed.write_bytes(self.file.read_bytes())
            return Quantized(json.loads(compressed.read_text()), settings["num_results"])

    class Quantized:
        def __init__(self, documents: Documents, k: int) -> None:
            self.documents, self.k = documents, k

        def transform(self, queries: pd.DataFrame) -> pd.DataFrame:
            module.calls.append(("transform", dict(zip(queries["qid"], queries["query_toks"]))))
            rows = [
                {"qid": qid, "docno": docno, "score": np.float32(score)}
                for qid, toks in zip(queries["qid"], queries["query_toks"])
                for docno, score in scan(self.documents, {term: int(times) for term, times in toks.items()}, self.k)
            ]
            return pd.DataFrame(rows, columns=["qid", "docno", "score"])

    module.PisaIndex = PisaIndex
    return module


def seismic() -> ModuleType:
    """Make a fake seismic, which takes batches of arrays and returns rankings in another order than the queries."""
    module: Any = ModuleType("seismic")
    module.calls = []

    class Dataset:
        large = False

        def __init__(self) -> None:
            self.documents = Documents()

        def add_documents_by_id(self, docids: list[str], terms: np.ndarray, impacts: np.ndarray, offsets: np.ndarray) -> None:
            assert impacts.dtype == np.float32 and terms.dtype == offsets.dtype == np.int64 and offsets[-1] == len(terms)
            module.calls.append(("add", len(docids), offsets.tolist()))
            for docid, start, end in zip(docids, offsets, offsets[1:]):
                self.documents[docid] = dict(zip(map(str, terms[start:end].tolist()), impacts[start:end].tolist()))

    class Index:
        def __init__(self, documents: Documents) -> None:
            self.documents = documents

        @classmethod
        def build_from_dataset(cls, dataset: Dataset, **settings: Any) -> Any:
            assert cls.__name__.endswith("LV") == type(dataset).__name__.endswith("LV")
            module.calls.append((cls.__name__, settings))
            return cls(dataset.documents)

        def save(self, path: str) -> None:
            Path(f"{path}.index.seismic").write_text(json.dumps([type(self).__name__, self.documents]))

        @classmethod
        def load(cls, path: str) -> Any:
            name, documents = json.loads(Path(path).read_text())
            assert name == cls.__name__
            return cls(documents)

        def batch_search(self, qids: Any, terms: list[Any], weights: list[Any], k: int, **settings: Any) -> list[Any]:
            assert all(term.dtype == qids.dtype == np.dtype("U30") for term in terms)
            module.calls.append(("batch_search", k, settings))
            queries = {qid: dict(zip(t.tolist(), w.tolist())) for qid, t, w in zip(qids.tolist(), terms, weights)}
            return [[(qid, s, docid) for docid, s in scan(self.documents, queries[qid], k)] for qid in reversed(queries)]

    for name, base in (("Dataset", Dataset), ("Index", Index)):
        for suffix in ("", "LV"):
            setattr(module, f"Seismic{name}{suffix}", type(f"Seismic{name}{suffix}", (base,), {}))
    module.get_seismic_string = lambda: "U30"
    return module


#: For each module name, the function that makes the fake module.
MODULES = {"pyterrier_pisa": pisa, "seismic": seismic}
