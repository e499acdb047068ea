"""The scripts that made csplade-tiny, run on forty documents: their data, and the whole chain."""

from __future__ import annotations

import gzip
import importlib
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from pyterrier_csplade import CSPLADE
from pyterrier_csplade.data import PythonDocsDataset, read_python_docs
from support.models import tokenizer
from support.paths import ROOT

SCRIPTS = ROOT / "examples" / "csplade_tiny"
MODULES = ("prepare", "keywords", "untrained", "mine", "evaluate", "ship")
WORDS = [f"{a}{b}{c}" for a in ("bra", "del", "fon", "gri", "hul") for b in ("ka", "mo", "ni", "ru") for c in ("st", "v", "x")]
_python_docs = cache(read_python_docs)  # reads a thousand files
DOCUMENTS, SPLITS = 40, {"train": range(0, 24), "dev": range(24, 32), "": range(32, 40)}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules that read their packages from a folder of the test."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        del sys.modules[name]


def gzipped(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def write_collection(folder: Path, seed: int) -> None:
    """Write documents of invented words; each query begins with a word that names its split."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    texts = [". ".join(" ".join(rng.choices(WORDS, k=9)) for _ in range(4)) for _ in range(DOCUMENTS)]
    gzipped(folder / "docs.jsonl.gz", [{"docno": f"d{i}", "title": f"title{i}", "text": text} for i, text in enumerate(texts)])
    for split, numbers in SPLITS.items():
        suffix = f".{split}" if split else ""
        lines = [f"q{i}\t{split or 'test'}question {folder.name}{i} {texts[i].split()[0]}\n" for i in numbers]
        (folder / f"topics{suffix}.tsv").write_text("".join(lines))
        (folder / f"qrels{suffix}.txt").write_text("".join(f"q{i} 0 d{i} 1\n" for i in numbers))
    shutil.copy(folder / "topics.train.tsv", folder / "queries.long.tsv")
    triples = [{"qid": f"q{i}", "pos": [f"d{i}"], "neg": [f"d{(i + 1) % 40}", f"d{(i + 2) % 40}"]} for i in SPLITS["train"]]
    gzipped(folder / "train.triples.jsonl.gz", triples)


def write_package(folder: Path) -> None:
    """Write a package with its own docstrings, and one docstring copied from the standard library."""
    taken = next(doc for doc in PythonDocsDataset().get_corpus_iter(verbose=False) if doc["docno"] == "textwrap.dedent")
    body = "Returns {} words that appear nowhere else, for anyone who reads this text to the end of its only line of prose, {}."
    functions = [
        f'def f{i}():\n    """Compute the thing number {i}.\n\n    {body.format(i, WORDS[i])}\n    """\n' for i in range(30)
    ]
    functions.append(f'def dedent():\n    r"""Take the margin away.\n\n    {taken["text"]}\n    """\n')
    (folder / "minipackage").mkdir()
    (folder / "minipackage" / "__init__.py").write_text("\n\n".join(functions), encoding="utf-8")


@pytest.fixture
def collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, ModuleType]) -> Path:
    """Small versions of openstax and medquad, and one package."""
    for seed, name in enumerate(("openstax", "medquad")):
        write_collection(tmp_path / "data" / name, seed)
    write_package(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(scripts["prepare"], "PACKAGES", ("minipackage",))
    monkeypatch.setattr(scripts["prepare"], "read_python_docs", _python_docs)
    return tmp_path / "data"


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_nothing_that_is_measured_is_trained_on(collections: Path, tmp_path: Path, scripts: dict[str, ModuleType]) -> None:
    scripts["prepare"].main(collections, tmp_path / "build")
    training, corpus = rows(tmp_path / "build" / "train.jsonl.gz"), rows(tmp_path / "build" / "corpus.jsonl.gz")
    written = json.dumps(training) + json.dumps(corpus)
    assert "trainquestion" in written and "devquestion" not in written and "testquestion" not in written
    demo = {doc["text"] for doc in PythonDocsDataset().get_corpus_iter(verbose=False)}
    seen = {text["text"] for row in training for text in row["positive_passages"] + row["negative_passages"]}
    assert not demo & seen and "Take the margin away." not in {row["query"] for row in training}
    # The summary of every package document appears once as a query, and once in the corpus.
    summaries = Counter(row["query"] for row in training if row["query"].startswith("Compute the thing"))
    assert summaries == {f"Compute the thing number {i}.": 1 for i in range(30)}
    assert len(corpus) == 2 * DOCUMENTS + 30


def test_judged_rows_are_those_of_the_files(collections: Path, tmp_path: Path, scripts: dict[str, ModuleType]) -> None:
    scripts["prepare"].main(collections, tmp_path / "build")
    texts = {row["docno"]: f"{row['title']} {row['text']}" for row in rows(collections / "openstax" / "docs.jsonl.gz")}
    found = [row for row in rows(tmp_path / "build" / "judged.jsonl.gz") if "openstax3 " in row["query"]]
    # Three copies of the glossary's wording, and one of the long wording, which is the same here.
    assert len(found) == 4 and all(row == found[0] for row in found)
    assert found[0]["positive_passages"] == [{"text": texts["d3"]}]
    assert found[0]["negative_passages"] == [{"text": texts["d4"]}, {"text": texts["d5"]}]


def test_the_same_seed_makes_the_same_files(collections: Path, tmp_path: Path, scripts: dict[str, ModuleType]) -> None:
    for name in ("one", "two"):
        scripts["prepare"].main(collections, tmp_path / name)
    for file in ("corpus.jsonl.gz", "train.jsonl.gz", "judged.jsonl.gz"):
        assert rows(tmp_path / "one" / file) == rows(tmp_path / "two" / file)
    tokenizers = [(tmp_path / name / "untrained" / "tokenizer.json").read_bytes() for name in ("one", "two")]
    assert tokenizers[0] == tokenizers[1]


def test_keywords_are_the_rare_words_of_the_text(scripts: dict[str, ModuleType]) -> None:
    rare = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    keywords = scripts["keywords"].Keywords([" ".join(["common", *rare]), *["common words of every text"] * 99])
    drawn = [keywords.draw(" ".join(["Common", *rare]).title(), random.Random(seed)) for seed in range(300)]
    assert set(" ".join(drawn).split()) == set(rare) and all(len(set(q.split())) == len(q.split()) for q in drawn)
    assert {len(query.split()) for query in drawn} == {1, 2, 3, 4, 5}
    assert keywords.draw("alpha beta gamma delta epsilon", random.Random(0)) == ""


def mutual_information(ids: list[list[int]], end: int, size: int, window: int) -> np.ndarray:
    """Compute positive pointwise mutual information of neighbours, counted pair by pair."""
    stream = [token for text in ids for token in [*text, end]]
    counts = np.zeros((size, size))
    for i, left in enumerate(stream):
        for distance in range(1, window + 1):
            if i + distance < len(stream):
                counts[left, stream[i + distance]] += 1 / distance
                counts[stream[i + distance], left] += 1 / distance
    counts[counts < 1] = 0
    totals = counts.sum(axis=1)
    context = totals**0.75 / (totals**0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / totals[:, None] / context[None, :])
    return np.where(counts > 0, np.maximum(information, 0), 0)


def test_embeddings_factorise_the_mutual_information(scripts: dict[str, ModuleType]) -> None:
    words, width = tokenizer(), 8
    texts = ["dogs and cats sleep", "cats and dogs", "a term and its postings", "an index of terms and postings"] * 6
    vectors = scripts["untrained"].cooccurrence_embeddings(words, texts, width)
    ids = words(texts, add_special_tokens=False)["input_ids"]
    matrix = mutual_information(ids, words.eos_token_id, len(words), scripts["untrained"].WINDOW)
    left, values, _ = np.linalg.svd(matrix)
    expected = left[:, :width] * np.sqrt(values[:width])
    lengths = np.linalg.norm(expected, axis=1)
    known = lengths > 1e-2
    cosines = expected[known] @ expected[known].T / np.outer(lengths[known], lengths[known])
    np.testing.assert_allclose(vectors[known] @ vectors[known].T, cosines, atol=1e-3)  # unit length; apart from rotations
    assert known.sum() > 5 and np.isfinite(vectors).all()


def small_config(name: str, build: Path, folder: Path) -> Path:
    """Write a shipped configuration with its paths in ``build`` and two short steps."""
    settings = yaml.safe_load((SCRIPTS / f"{name}.yaml").read_text())
    for key in ("model", "output", "data", "corpus"):
        if key in settings:
            settings[key] = settings[key].replace("build/", f"{build}/")
    settings |= {"steps": 2, "warmup_steps": 1, "batch_size": 4}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return folder / f"{name}.yaml"


@pytest.mark.slow
def test_the_whole_chain(collections: Path, tmp_path: Path, scripts: dict[str, ModuleType], capsys: Any) -> None:
    """From text to a measured checkpoint, as in the README of the scripts, with two steps per phase."""
    from inside.project import main

    build = tmp_path / "build"
    scripts["prepare"].main(collections, build)
    for phase in ("pretrain", "adapt"):
        assert not main(["adapt", str(small_config(phase, build, tmp_path))])
    for i in range(1, 5):
        assert not main(["train", str(small_config(f"train-{i}", build, tmp_path))])
    scripts["mine"].main(str(build / "contrastive-4"), collections, build)
    mined = rows(build / "distil.jsonl.gz")
    assert {"trainquestion", "Compute"} <= {row["query"].split()[0] for row in mined} and "testquestion" not in str(mined)
    assert not main(["train", str(small_config("train-5", build, tmp_path))])
    scripts["ship"].main(build, tmp_path / "shipped")
    shipped = CSPLADE(str(tmp_path / "shipped"))
    training = shipped.contract.training
    assert training is not None and list(training) == list(scripts["ship"].PHASES)
    assert training["contrastive-5"]["target_nnz"] == {"query": 25, "document": 110} and "data" not in training["contrastive-5"]
    scripts["evaluate"].main(str(tmp_path / "shipped"), collections, tmp_path / "results", ["openstax:dev", "medquad"])
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [(r["collection"], r["split"], r["documents"], r["queries"]) for r in results] == [
        ("openstax", "dev", DOCUMENTS, 8), ("medquad", "test", DOCUMENTS, 8)
    ]  # fmt: skip
    others = ["shipped, top 100", "shipped, top 200", "rrf of BM25 and shipped", "minmax of BM25 and shipped"]
    assert [row["name"] for row in results[0]["results"]] == ["BM25", "DPH", "shipped", *others]
    # The query holds the first word of its document, and no word of any other document's title.
    assert all(row["nDCG@10"] > 0.2 for row in results[0]["results"] if row["name"] == "BM25")
