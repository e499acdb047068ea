"""The dry run's samples of data: counts of long files from their beginnings, and oddities of rows and corpora."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ir_datasets
import pyterrier as pt
import pytest

from inside.planning import CollectionFiles, config_from_dict
from pyterrier_csplade import ConfigError, DataError
from pyterrier_csplade.training import ContrastiveConfig, ValidationSettings
from pyterrier_csplade.training.monitoring import read_slice
from pyterrier_csplade.training.planning import Plan, find_gpu, model_shape, sample_corpus, sample_rows
from support.training_runs import adaptation_config, contrastive_config, make_base, make_collection


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def plan() -> Plan:
    return Plan(gpu=find_gpu("h100"))


def row(number: int, **changes: Any) -> dict[str, Any]:
    texts = [{"text": f"passage {number:06} {k}"} for k in range(3)]
    return {"query": f"query {number:06}", "positive_passages": texts[:1], "negative_passages": texts[1:], **changes}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    text = "".join(json.dumps(values) + "\n" for values in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def rows_config(base: Path, data: str, **settings: Any) -> ContrastiveConfig:
    return type(config := contrastive_config(base, base / "run", **settings))(**{**vars(config), "data": data})


def facts_of(plan: Plan, name: str) -> list[str]:
    return [text for key, text in plan.facts if key == name]


# ---------------------------------------------------------------------- how many rows


def test_rows_of_a_long_file_are_counted_by_its_size(base: Path, plan: Plan, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [row(i) for i in range(2500)])  # all of one length
    sample_rows(rows_config(base, data, steps=10, batch_size=50), None, plan)
    assert facts_of(plan, "data") == [f"{data}: about 2,500 rows, the first 1,000 of them read"]
    assert facts_of(plan, "epochs") == ["0.20 (10 steps of 50 queries)"] and not plan.problems


def test_rows_of_a_compressed_file_are_counted_to_within_a_buffer(base: Path, plan: Plan, tmp_path: Path) -> None:
    rng = random.Random(0)  # nothing to compress, so that the first rows fill many buffers
    rows = [row(i, query=rng.randbytes(300).hex()) for i in range(4000)]
    data = write(tmp_path / "rows.jsonl.gz", rows)
    sample_rows(rows_config(base, data), None, plan)
    about = float(facts_of(plan, "data")[0].split("about ")[1].split(" rows")[0].replace(",", ""))
    assert about == pytest.approx(4000, rel=0.1)


def test_triples_of_a_directory_are_counted_one_by_one(base: Path, plan: Plan, tmp_path: Path) -> None:
    triples = [{"qid": "1", "pos": ["d1"], "neg": ["d2"]}] * 1234
    data = str(make_collection(tmp_path / "c", triples=triples))
    sample_rows(rows_config(base, data), None, plan)
    assert facts_of(plan, "data") == [f"{data}: about 1,234 rows, the first 1,000 of them read"]


def test_several_sources_add_up(base: Path, plan: Plan, tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{n}.jsonl", [row(i) for i in range(n)]) for n in (6, 14)]
    config = rows_config(base, sources, steps=5, batch_size=4)  # type: ignore[arg-type]
    sample_rows(config, None, plan)
    assert facts_of(plan, "epochs") == ["1.00 (5 steps of 4 queries)"]


# ---------------------------------------------------------------------- oddities of rows


def test_positives_among_the_negatives(base: Path, plan: Plan, tmp_path: Path) -> None:
    false = row(0, negative_passages=[{"text": "passage 000000 0"}, {"text": "another"}])
    sample_rows(rows_config(base, write(tmp_path / "rows.jsonl", [false, *(row(i) for i in range(1, 8))])), None, plan)
    assert "12.5% of the rows have a passage among both positives and negatives" in plan.warnings


def test_scores_of_a_teacher(base: Path, tmp_path: Path) -> None:
    def scored(number: int, *scores: float) -> dict[str, Any]:
        passages = row(number)["positive_passages"] + row(number)["negative_passages"]
        with_scores = [{**passage, "score": score} for passage, score in zip(passages, scores)]
        return row(number, positive_passages=with_scores[:1], negative_passages=with_scores[1:])

    data = write(tmp_path / "rows.jsonl", [scored(0, 9.0, 5.0, 1.0), scored(1, 2.0, 6.0, 4.0), row(2), row(3)])
    used, unused = Plan(gpu=find_gpu("h100")), Plan(gpu=find_gpu("h100"))
    sample_rows(rows_config(base, data, kl_weight=1.0, teacher_temperature=2.0), None, used)
    sample_rows(rows_config(base, data), None, unused)
    # Spreads 8 and 4, over a temperature of 2.
    assert facts_of(used, "teacher scores") == ["50% of the rows, spread 3 over temperature"]
    assert used.problems == [p for p in used.problems if p.startswith("50% of the rows have no teacher's scores")] != []
    assert unused.warnings[-1] == "the rows have a teacher's scores, but kl_weight and margin_mse_weight are 0"


def test_lengths_without_a_tokenizer_are_those_of_english(base: Path, plan: Plan, tmp_path: Path) -> None:
    rows = [row(i, query="q" * 45, positive_passages=[{"text": "p" * 90}], negative_passages=[]) for i in range(8)]
    sample = sample_rows(rows_config(base, write(tmp_path / "rows.jsonl", rows), document_length=15, negatives=1), None, plan)
    assert (sample.query_tokens, sample.document_tokens, sample.negatives, sample.padding) == (10.0, 15.0, 0.0, 1.0)
    assert "100% of the passages are longer than 15 tokens and will be truncated" in plan.warnings


@pytest.mark.parametrize("kind", ["contrastive", "adaptation"])
def test_a_dataset_without_documents(base: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    has = {
        f"has_{name}": lambda name=name: name == "queries" for name in ("docs", "queries", "qrels", "docpairs", "scoreddocs")
    }
    monkeypatch.setattr(ir_datasets, "load", lambda name: SimpleNamespace(**has))
    if kind == "contrastive":
        sample_rows(rows_config(base, "irds:some/queries"), None, plan)
    else:
        config = adaptation_config(base, base / "run")
        assert sample_corpus(type(config)(**{**vars(config), "corpus": "irds:some/queries"}), None, plan) == 0
    assert plan.problems == ["irds:some/queries has no documents"]
    assert facts_of(plan, "data") == ["irds:some/queries: queries; not read by the dry run, since that may download it"]


# ---------------------------------------------------------------------- corpora


def test_tokens_of_a_corpus(base: Path, plan: Plan, tmp_path: Path) -> None:
    corpus = write(tmp_path / "docs.jsonl", [{"text": "x" * 90} for _ in range(1500)])  # 20 tokens and an end each
    config = adaptation_config(base, base / "run")
    assert sample_corpus(type(config)(**{**vars(config), "corpus": corpus}), None, plan) == pytest.approx(1500 * 21)
    assert facts_of(plan, "corpus") == [f"{corpus}: about 1,500 documents of 20 tokens"]


def test_a_corpus_in_a_directory(base: Path, plan: Plan, tmp_path: Path) -> None:
    directory = str(make_collection(tmp_path / "c"))
    config = adaptation_config(base, base / "run", sequence_length=512)
    sample_corpus(type(config)(**{**vars(config), "corpus": directory}), None, plan)
    assert facts_of(plan, "corpus")[0].startswith(f"{directory}: about ")
    assert "fewer than a batch" in plan.problems[0]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [([], "contains no documents"), ([{"title": "no text"}], "the field 'text' is missing or not a string"), (None, "no file")],
)
def test_a_corpus_that_cannot_be_used(base: Path, plan: Plan, tmp_path: Path, rows: Any, problem: str) -> None:
    path = tmp_path / "docs.jsonl"
    if rows is not None:
        write(path, rows)
    config = adaptation_config(base, base / "run")
    assert sample_corpus(type(config)(**{**vars(config), "corpus": str(path)}), None, plan) == 0
    assert len(plan.problems) == 1 and str(path) in plan.problems[0] and problem in plan.problems[0]


# ---------------------------------------------------------------------- validation and settings


def test_a_slice_of_a_pyterrier_dataset() -> None:
    settings = ValidationSettings(collection="csplade:python-docs", documents=30, queries=5)
    found = read_slice(settings)
    texts = {doc["docno"]: doc["text"] for doc in pt.get_dataset("csplade:python-docs").get_corpus_iter(verbose=False)}
    assert len(found.topics) == 5 and len(found.docnos) == len(set(found.docnos)) == 30
    assert set(found.topics["qid"]) == set(found.qrels["docno"]) <= set(found.docnos)  # known items
    assert found.texts == [texts[docno] for docno in found.docnos]
    assert read_slice(settings).docnos == found.docnos


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": {"collection": "c", "patience": -1}}, "patience must not be negative, found -1"),
        ({"validation": {"collection": "c", "measures": []}}, "measures must not be empty"),
        ({"validation": {"collection": "c", "measures": "nDCG@10"}}, "expected a list, found 'nDCG@10'"),
        ({"validation": {"collection": "c", "queries": 0}}, "queries must be positive, found 0"),
        ({"target_index_mb": 0.0, "target_index_documents": 5}, "target_index_mb must be positive, found 0.0"),
        ({"target_index_mb": 5.0, "target_index_documents": -1}, "target_index_documents must be positive, found -1"),
    ],
)
def test_settings_of_monitoring(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_dict(
            {"model": "m", "data": "d", "output": "o", "learning_rate": 1e-3, "steps": 1, **settings}, ContrastiveConfig
        )


@pytest.mark.parametrize("line", ["9 0 d1", "9 0 d1 relevant", "9 0 d1 1 extra", "9 0 d1 1.5"])
def test_a_malformed_line_of_qrels(tmp_path: Path, line: str) -> None:
    directory = make_collection(tmp_path / "c")
    (directory / "qrels.dev.txt").write_text(f"9 0 d1 2\n{line}\n")
    with pytest.raises(DataError, match=f"qrels.dev.txt, line 2: expected qid 0 docno label, found '{line}'"):
        CollectionFiles(str(directory)).qrels("dev")


def test_an_architecture_that_is_not_a_language_model() -> None:
    from transformers import ViTConfig

    with pytest.raises(ConfigError, match="ViTConfig is not a causal language model"):
        model_shape(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
