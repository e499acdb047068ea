"""The scripts of csplade-small that prepare data, on a few documents."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from support.paths import ROOT

SCRIPTS = ROOT / "examples" / "csplade_small"
# The scripts import modules of these names from the folder of csplade-tiny.
_SHARED = ("prepare", "mine", "evaluate", "keywords", "untrained", "dense", "packages")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    loaded = {}
    for name in ("prepare", "mine"):
        spec = importlib.util.spec_from_file_location(f"small_{name}", SCRIPTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        loaded[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    yield loaded
    for name in _SHARED:
        sys.modules.pop(name, None)


def test_the_teacher_adds_up_bm25_and_cosines(scripts: dict[str, ModuleType]) -> None:
    mine = scripts["mine"]
    collection = mine.tiny.Collection(
        [{"docno": f"d{i}", "text": "t"} for i in range(4)],
        pd.DataFrame([("q1", "one"), ("q2", "two")], columns=["qid", "query"]),
        pd.DataFrame([("q1", "d3", 1), ("q2", "d0", 1)], columns=["qid", "docno", "label"]),
    )
    bm25 = pd.DataFrame([("q1", "d0", 8.0), ("q1", "d1", 4.0)], columns=["qid", "docno", "score"])
    documents = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)
    queries = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    found = mine.teacher_scores(bm25, collection, queries, documents, results=2)
    scores = {(row.qid, row.docno): row.score for row in found.itertuples()}
    # q1: BM25 found d0 and d1, the dense encoder the same two, and d3 is relevant; q2: BM25 found nothing.
    wanted = {
        ("q1", "d0"): 8 / 8 + 1.0, ("q1", "d1"): 4 / 8 + 0.6, ("q1", "d3"): 0.8 * 4 / 8 - 1.0,
        ("q2", "d2"): 1.0, ("q2", "d1"): 0.8, ("q2", "d0"): 0.0,
    }  # fmt: skip
    assert scores == pytest.approx(wanted)


def test_the_development_collection_has_nothing_from_training(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = scripts["prepare"]
    pairs = {("dev",): [("a", "b"), ("a\tc", "d"), ("e", "f")], None: [("x", "b"), ("e", "y")]}
    monkeypatch.setattr(prepare.tiny, "package_rows", lambda packages=None: pairs[packages])
    monkeypatch.setattr(prepare, "DEVELOPMENT", ("dev",))
    assert prepare.write_development(tmp_path / "dev") == 1
    with gzip.open(tmp_path / "dev" / "docs.jsonl.gz", "rt") as lines:
        assert [json.loads(line) for line in lines] == [{"docno": "d0", "text": "d"}]
    assert (tmp_path / "dev" / "topics.dev.tsv").read_text() == "q0\ta c\n"
    assert (tmp_path / "dev" / "qrels.dev.txt").read_text() == "q0 0 d0 1\n"


@pytest.fixture
def packages(scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script ``packages.py``, with one document in the standard library."""
    module = importlib.import_module("packages")
    read = module.read_python_docs
    library = [SimpleNamespace(summary="Open a file", body="one two three four five six seven eight nine ten eleven")]
    monkeypatch.setattr(module, "read_python_docs", lambda *folders, **sizes: read(*folders, **sizes) if folders else library)
    return module


def test_rows_of_packages_are_not_copied_from_the_library(packages: ModuleType, tmp_path: Path) -> None:
    bodies = [" ".join(f"{kind}{i}" for i in range(30)) for kind in "abcd"]
    copied = "one two three four five six seven eight nine ten eleven " + " ".join(f"e{i}" for i in range(9))
    docs = {
        "kept": ("Read all of it", bodies[0]),
        "copied_body": ("Read some of it", copied),  # 4 of its 13 sequences
        "copied_summary": ("open A  file!", bodies[1]),
        "known_summary": ("known to all people", bodies[2]),
        "known_body": ("Another one of them", bodies[3]),
    }
    for package, copies in (("first", ""), ("second", "_again")):
        source = "\n".join(f'def {name}{copies}():\n    """{a}\n\n    {b}\n    """\n' for name, (a, b) in docs.items())
        (tmp_path / package).mkdir()
        (tmp_path / package / "module.py").write_text(source, encoding="utf-8")
    rows = packages.more_rows(tmp_path, [("Known to all people.", "x"), ("y", bodies[3])])
    assert rows == [docs["kept"]]


def test_no_package_dominates_the_rows(packages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "LARGEST", 2)
    for package in ("first", "second"):
        (tmp_path / package).mkdir()
        bodies = [" ".join(f"{package}{i}x{j}" for j in range(25)) for i in range(5)]
        docs = [f'    """Make the {package} number {i}\n\n    {body}\n    """\n' for i, body in enumerate(bodies)]
        source = "\n".join(f"def f{i}():\n{doc}" for i, doc in enumerate(docs))
        (tmp_path / package / "module.py").write_text(source, encoding="utf-8")
    rows = packages.more_rows(tmp_path, [])
    assert [sum(package in summary for summary, _ in rows) for package in ("first", "second")] == [2, 2]
