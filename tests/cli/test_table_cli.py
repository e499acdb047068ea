"""The command ``table``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyterrier_csplade import CSPLADE, ImpactIndex, QueryTable, cli
from pyterrier_csplade.queries import Filling
from support.models import TEXTS, language_model, tokenizer
from support.texts import DOCUMENTS, dense


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    CSPLADE((language_model(), tokenizer())).save(path)
    return str(path)


@pytest.fixture
def settings(model: str, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "queries.tsv").write_text("".join(f"{number}\t{text}\n" for number, text in enumerate([*TEXTS, TEXTS[0]])))
    # Few weights of a random model reach the threshold, so that fitting them takes no time.
    return {"model": model, "threshold": 1.5, "queries": str(tmp_path / "queries.tsv"), "output": str(tmp_path / "my.table")}


def write(settings: dict[str, Any], path: Path) -> str:
    path.write_text(json.dumps(settings))
    return str(path)


def test_a_table_is_made_and_loaded(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write({**settings, "entries": 2}, tmp_path / "table.json")
    assert cli.main(["table", config]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{len(TEXTS)} queries of ") and first.endswith("encodes; filling: ridge")
    table = QueryTable.load(settings["output"])
    assert last.startswith(f"query table: {settings['output']} ({table.expansion.nnz:,} weights of expansion")
    expected = QueryTable.fit(CSPLADE(settings["model"]), TEXTS, Filling(entries=2, threshold=1.5), verbose=False)
    assert dense(table.encode(TEXTS)) == pytest.approx(dense(expected.encode(TEXTS)), abs=1e-3)
    assert table.contract.training == expected.contract.training
    assert cli.main(["table", write({**settings, "fill": "counts"}, tmp_path / "table.json")]) == 0
    assert QueryTable.load(settings["output"]).expansion.nnz == 0
    assert cli.main(["table", write({**settings, "fill": "distil", "steps": 2, "seed": 3}, tmp_path / "table.json")]) == 0
    distilled = QueryTable.load(settings["output"])
    assert distilled.contract.training == {"filling": {"kind": "distil", "steps": 2, "seed": 3}, "queries": len(TEXTS)}
    assert distilled.expansion.nnz == 0 and (distilled.weights > 0).all()


def test_queries_that_documents_suggest(settings: dict[str, Any], tmp_path: Path) -> None:
    documents = [{"docno": str(number), "text": text} for number, text in enumerate(TEXTS)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    del settings["queries"]
    config = write({**settings, "collection": str(tmp_path / "docs.jsonl"), "documents": 3}, tmp_path / "table.json")
    assert cli.main(["table", config]) == 0
    assert QueryTable.load(settings["output"]).contract.training["queries"] == 3


def test_search_takes_a_table(settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csplade, index = CSPLADE(settings["model"]), ImpactIndex(tmp_path / "index")
    (csplade.doc_encoder() >> index).index([{"docno": docno, "text": text} for docno, text in DOCUMENTS.items()])
    table = QueryTable.from_weights(csplade, np.ones(len(csplade.vocabulary)))
    table.save(tmp_path / "binary")
    assert cli.main(["search", str(index.path), "dogs and cats", "--model", str(tmp_path / "binary")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("query: ") and "-gs 1.00" in said
    for option in ("--adapter x", "--variant echo", "--device cuda:5"):
        assert cli.main(["search", str(index.path), "dogs", "--model", str(tmp_path / "binary"), *option.split()]) == 2
        assert f"is a query table, which does not use {option.split()[0]}: leave it out" in capsys.readouterr().err
    run = tmp_path / "table.run"
    arguments = ["--topics", settings["queries"], "--output", str(run), "--model", str(tmp_path / "binary")]
    assert cli.main(["search", str(index.path), *arguments]) == 0
    frame = pd.DataFrame({"qid": ["0"], "query": [TEXTS[0]]})
    expected = (table >> index.retriever(algorithm="exhaustive"))(frame)
    lines = [line.split() for line in run.read_text().splitlines() if line.startswith("0 ")]
    assert [(line[2], float(line[4])) for line in lines] == list(zip(expected["docno"], expected["score"]))


def test_a_dry_run_loads_and_writes_nothing(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: CSPLADE) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(CSPLADE, "_load", refuse)
    assert cli.main(["table", write(settings, tmp_path / "table.json"), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(f"{len(TEXTS)} queries of ") and not Path(settings["output"]).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fil": "ridge"}, "unknown setting 'fil'; did you mean 'fill'?"),
        ({"fill": "magic"}, "fill: expected one of 'ridge', 'counts', 'distil', found 'magic'"),
        ({"fill": "distil", "counts": True}, "fill: distil does not count repeated tokens: leave counts out"),
        ({"entries": 0}, "entries must be positive, found 0"),
        ({"threshold": -1}, "threshold must not be negative"),
        ({"ridge": 0}, "table.json, line 1: ridge must be at least 1e-06, found 0"),
        ({"ridge": 1e-9}, "table.json, line 1: ridge must be at least 1e-06, found 1e-09"),
        ({"fill": "distil", "seed": -1}, "table.json, line 1: seed must be from 0 to 2^32 - 1, found -1"),
        ({"queries": None}, "set either queries, or a collection from which to take them"),
        ({"collection": "docs"}, "set either queries, or a collection from which to take them"),
        ({"queries": "nothing.tsv"}, "nothing.tsv"),
        ({"split": 3}, "split: expected str, found 3"),
        ({"model": "/no/such/directory"}, "/no/such/directory"),
        ({"output": __file__}, "is a file: name a directory"),
        ({"output": str(Path(__file__).parent)}, "contains other files than a table: name a new directory"),
    ],
)
def test_one_line_names_what_is_wrong(
    change: dict[str, Any], message: str, settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["table", write({**settings, **change}, tmp_path / "table.json")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
