"""Recipes for other evaluation tools, with scores that must equal those of PyTerrier or of a dot product."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from inside.cli import main
from inside.model import write_card
from pyterrier_csplade import CSPLADE
from support.pages import PAGES, blocks
from support.paths import ROOT
from support.texts import DOCUMENTS, dense

QRELS = pd.DataFrame({"qid": ["q1", "q2", "q2"], "docno": ["d1", "d4", "d7"], "label": [1, 1, 1]})
TOPICS = pd.DataFrame({"qid": ["q1", "q2"], "query": ["inverted index", "dogs and cats"]})


@pytest.fixture
def example() -> ModuleType:
    """The example script for MTEB."""
    pytest.importorskip("mteb")
    specification = importlib.util.spec_from_file_location("mteb_model", ROOT / "examples" / "mteb_model.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow  # imports mteb
@pytest.mark.usefixtures("no_network")
def test_mteb_evaluates_the_model_on_a_local_task(example: ModuleType, csplade: CSPLADE) -> None:
    mteb, datasets = pytest.importorskip("mteb"), pytest.importorskip("datasets")
    MockRetrievalTask = pytest.importorskip("mteb.mocks.mock_tasks").MockRetrievalTask

    model = example.CspladeSearch(csplade, "random")
    corpus = datasets.Dataset.from_dict({"id": list(DOCUMENTS), "text": list(DOCUMENTS.values())})
    queries = datasets.Dataset.from_dict({"id": list(TOPICS["qid"]), "text": list(TOPICS["query"])})
    model.index(corpus)
    found = model.search(queries, top_k=5)
    exact = dense(csplade.encode_queries(list(TOPICS["query"]))) @ dense(csplade.encode_docs(list(DOCUMENTS.values()))).T
    for row, qid in enumerate(TOPICS["qid"]):
        best = dict(sorted(zip(DOCUMENTS, exact[row]), key=lambda item: -item[1])[:5])
        assert found[qid] == pytest.approx(best, rel=1e-4) and list(found[qid]) == list(best)
    reranked = model.search(queries, top_k=5, top_ranked={"q1": ["d3", "d1"], "q2": ["d4"]})
    assert {qid: set(scores) for qid, scores in reranked.items()} == {"q1": {"d1", "d3"}, "q2": {"d4"}}
    results = mteb.evaluate(model, MockRetrievalTask(), cache=None, show_progress_bar=False, co2_tracker=False)
    [result] = results.task_results
    assert 0 <= result.get_score() <= 1 and result.task_name == "MockRetrievalTask"


@pytest.mark.slow  # ranx compiles its functions
def test_ranx_measures_what_pyterrier_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranx = pytest.importorskip("ranx")
    run = pd.DataFrame(
        [("q1", "d2", 3.0, 0), ("q1", "d1", 2.0, 1), ("q2", "d7", 9.0, 0), ("q2", "d1", 8.0, 1), ("q2", "d4", 7.0, 2)],
        columns=["qid", "docno", "score", "rank"],
    )
    pt.io.write_results(run, str(tmp_path / "csplade.run"))
    monkeypatch.chdir(tmp_path)
    recipe = blocks(next(page for page in PAGES if page.stem == "how-to"), "python3")[1]
    assert recipe.lstrip().startswith("import ranx")
    exec(recipe, {"qrels": QRELS})
    expected = pt.Experiment([run], TOPICS, QRELS, ["ndcg_cut_10", "recip_rank", "map"]).iloc[0]
    found: Any = ranx.evaluate(
        ranx.Qrels.from_df(
            QRELS.astype({"qid": object, "docno": object}), q_id_col="qid", doc_id_col="docno", score_col="label"
        ),
        ranx.Run.from_file(str(tmp_path / "csplade.run"), kind="trec"),
        ["ndcg@10", "mrr", "map"],
    )
    for name, own in (("ndcg@10", "ndcg_cut_10"), ("mrr", "recip_rank"), ("map", "map")):
        assert found[name] == pytest.approx(expected[own])


def test_a_run_directory_passes_the_check_of_tira(tmp_path: Path) -> None:
    """A directory with one file, ``run.txt`` or ``run.txt.gz``, as the command ``search`` writes it."""
    check = pytest.importorskip("tira.check_format").check_format
    rows = "".join(f'{{"docno": "{docno}", "toks": {{"w": {number + 1}}}}}\n' for number, docno in enumerate(DOCUMENTS))
    (tmp_path / "docs.jsonl").write_text(rows)
    (tmp_path / "topics.jsonl").write_text("".join(f'{{"qid": "q{n}", "query_toks": {{"w": {n}.5}}}}\n' for n in range(3)))
    assert main(["index", str(tmp_path / "docs.jsonl"), "--output", str(tmp_path / "index")]) == 0
    (tmp_path / "submission").mkdir()
    command = ["search", str(tmp_path / "index"), "--topics", str(tmp_path / "topics.jsonl")]
    assert main([*command, "--output", str(tmp_path / "submission" / "run.txt.gz"), "--tag", "csplade"]) == 0
    status, message = check(tmp_path / "submission", "run.txt")
    assert status.name == "OK", message


@pytest.mark.slow  # imports mteb and sentence-transformers, and ranx compiles its functions
def test_the_table_of_scores_that_must_be_equal(tmp_path: Path) -> None:
    script, output = ROOT / "benchmarks" / "neighbours.py", tmp_path / "rows.json"
    command = [sys.executable, str(script), "--documents", "30", "--queries", "10", "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())
    assert len(rows) + done.stderr.count(": left out (") == 11 and {"Terrier", "Anserini's format"} <= {
        row["tool"] for row in rows
    }
    assert all(0 <= row["difference"] <= row["limit"] for row in rows)


def test_a_saved_model_can_be_pushed_to_a_hub(csplade: CSPLADE, tmp_path: Path) -> None:
    """As the hub's client reads the card."""
    from huggingface_hub import ModelCard

    csplade.save(tmp_path / "my-model")
    card = ModelCard.load(tmp_path / "my-model" / "README.md")
    assert card.data.library_name == "pyterrier-csplade" and card.data.base_model is None
    assert {"pyterrier", "sparse-encoder", "csplade"} <= set(card.data.tags)
    assert "| variant | causal |" in card.text and 'CSPLADE("my-model")' in card.text
    assert "unknown" not in card.text and CSPLADE(tmp_path / "my-model").contract.variant == "causal"
    (tmp_path / "my-model" / "README.md").write_text("my own card")
    csplade.save(tmp_path / "my-model")
    assert (tmp_path / "my-model" / "README.md").read_text() == "my own card"
    published = CSPLADE(tmp_path / "my-model").contract.replace(base_model="meta-llama/Llama-3.1-8B")
    (tmp_path / "other").mkdir()
    write_card(tmp_path / "other", published, 128_000)
    assert ModelCard.load(tmp_path / "other" / "README.md").data.base_model == "meta-llama/Llama-3.1-8B"
