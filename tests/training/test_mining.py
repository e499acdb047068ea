"""Mining of negatives and teacher scores."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from inside.planning import read_rows
from pyterrier_csplade import ConfigError, DataError, TrainingError
from pyterrier_csplade.training import mine_negatives

DOCS = [{"docno": f"d{i}", "text": f"text {i}", "title": "T" if i == 3 else ""} for i in range(20)]
TOPICS = pd.DataFrame([[f"q{i}", f"query {i}"] for i in range(6)], columns=["qid", "query"])
QRELS = pd.DataFrame(
    [[f"q{i}", f"d{i}", 1] for i in range(6)] + [["q0", "d9", 2], ["q0", "d1", 0]], columns=["qid", "docno", "label"]
)


class Ranker(pt.Transformer):
    """Retrieves ten documents, beginning with the query's number; records the queries."""

    def __init__(self, fail_at: int | None = None, skip: int = 0) -> None:
        self.seen: list[str] = []
        self.fail_at, self.skip = fail_at, skip

    def transform(self, topics: pd.DataFrame) -> pd.DataFrame:
        rows = []
        for qid, query in zip(topics["qid"], topics["query"]):
            self.seen.append(qid)
            if self.fail_at == len(self.seen):
                raise KeyboardInterrupt
            start = int(query.split()[1]) + self.skip
            rows += [(qid, query, f"d{start + k}", 100.0 - k) for k in range(10)]
        return pd.DataFrame(rows[::-1], columns=["qid", "query", "docno", "score"])

    def __repr__(self) -> str:
        return "Ranker()"


class Teacher(pt.Transformer):
    """Scores by the numbers of query and document."""

    def transform(self, pairs: pd.DataFrame) -> pd.DataFrame:
        assert pairs["text"].str.len().all()
        return pairs.assign(score=pairs["docno"].str[1:].astype(float) + pairs["query"].str[6:].astype(float) / 10)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def mine(tmp_path: Path, pipeline: Any = None, **settings: Any) -> list[dict[str, Any]]:
    values = {"depth": 5, "output": tmp_path / "rows.jsonl", "corpus": DOCS, "verbose": False, **settings}
    values = {"topics": TOPICS, "qrels": QRELS, **values}
    return rows_of(mine_negatives(Ranker() if pipeline is None else pipeline, **values))


def test_negatives_are_the_first_results_that_are_not_relevant(tmp_path: Path) -> None:
    rows = mine(tmp_path)
    assert [row["query_id"] for row in rows] == [f"q{i}" for i in range(6)]
    assert rows[0]["query"] == "query 0"
    assert rows[0]["positive_passages"] == [{"docid": "d0", "text": "text 0"}, {"docid": "d9", "text": "text 9"}]
    assert [p["docid"] for p in rows[0]["negative_passages"]] == ["d1", "d2", "d3", "d4"]
    assert rows[0]["negative_passages"][2]["text"] == "T text 3"
    assert [row.negatives[0] for row in read_rows(str(tmp_path / "rows.jsonl"))][:2] == ["text 1", "text 2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_draws_depend_on_seed_and_query_alone(tmp_path: Path) -> None:
    first = mine(tmp_path / "a", depth=10, negatives=3)
    assert all(len(row["negative_passages"]) == 3 for row in first)
    assert mine(tmp_path / "b", depth=10, negatives=3, batch_size=1) == first
    topics = TOPICS.iloc[[4, 2]]
    with pytest.warns(UserWarning, match="4 judged queries are not among the topics, such as 'q0'"):
        assert mine(tmp_path / "c", topics=topics, depth=10, negatives=3) == [first[4], first[2]]
    assert mine(tmp_path / "d", depth=10, negatives=3, seed=1) != first


@pytest.mark.parametrize("min_label", [1, 2])
def test_labels(tmp_path: Path, min_label: int) -> None:
    if min_label == 1:
        assert len(mine(tmp_path)) == 6
        return
    with pytest.warns(UserWarning, match="5 of 6 queries have no relevant document and are left out, such as 'q1'"):
        rows = mine(tmp_path, min_label=2)
    assert [p["docid"] for p in rows[0]["positive_passages"]] == ["d9"]
    assert [p["docid"] for p in rows[0]["negative_passages"]] == ["d0", "d1", "d2", "d3", "d4"]


def test_a_teacher_scores_every_passage(tmp_path: Path) -> None:
    rows = mine(tmp_path, teacher=Teacher())
    for number, row in enumerate(rows):
        for passage in row["positive_passages"] + row["negative_passages"]:
            assert passage["score"] == pytest.approx(float(passage["docid"][1:]) + number / 10)
    assert next(read_rows(str(tmp_path / "rows.jsonl"))).scores == [0.0, 9.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("kind", ["frame", "path"])
def test_runs_as_pipeline_and_teacher(tmp_path: Path, kind: str) -> None:
    results = Ranker().transform(TOPICS)
    results["rank"] = results.groupby("qid")["score"].rank(ascending=False).astype(int)
    run: Any = results
    if kind == "path":
        run = tmp_path / "run.trec"
        pt.io.write_results(results, str(run))
    expected = mine(tmp_path / "a")
    assert mine(tmp_path / "b", run) == expected
    extra = pd.DataFrame([["q0", "query 0", "d9", -1.0, 10]], columns=results.columns)
    rows = mine(tmp_path / "c", run, teacher=pd.concat([results, extra]))
    assert [p["score"] for p in rows[0]["positive_passages"]] == [100.0, -1.0] or kind == "path"
    if kind == "path":
        with pytest.raises(DataError, match=r"document d10: no text|the teacher has no score"):
            mine(tmp_path / "d", run, teacher=results[results["docno"] != "d2"])


def test_texts_from_a_transformer_and_from_the_results(tmp_path: Path) -> None:
    table = {d["docno"]: d["text"] for d in DOCS}
    lookup = pt.apply.text(lambda row: table[row["docno"]])
    expected = [[p["docid"] for p in row["negative_passages"]] for row in mine(tmp_path / "a")]
    rows = mine(tmp_path / "b", corpus=lookup)
    assert [[p["docid"] for p in row["negative_passages"]] for row in rows] == expected
    assert rows[5]["positive_passages"] == [{"docid": "d5", "text": "text 5"}]
    with pytest.raises(DataError, match="query q0, document d0: no text was found: pass documents"):
        mine(tmp_path / "c", corpus=None)
    with_text = Ranker() >> lookup
    rows = mine(tmp_path / "d", with_text, corpus=None, depth=10)
    assert rows[0]["positive_passages"][1]["text"] == "text 9"


@pytest.mark.parametrize("torn", [b"", b'{"query_id": "q4", "que'])
def test_mining_resumes_where_it_was_interrupted(tmp_path: Path, torn: bytes) -> None:
    whole = mine(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        mine(tmp_path / "parts", Ranker(fail_at=6), batch_size=2)
    partial = tmp_path / "parts/rows.jsonl.partial"
    assert len(partial.read_bytes().splitlines()) == 4
    partial.write_bytes(partial.read_bytes() + torn)
    with pytest.raises(ConfigError, match=r"was begun with depth=5, not 6"):
        mine(tmp_path / "parts", depth=6, batch_size=2)
    for changed in (
        {"corpus": [{**document, "text": "other"} for document in DOCS]},
        {"topics": TOPICS.assign(query=[*TOPICS["query"][:-1], "query 3"])},
        {"qrels": QRELS.iloc[:-2]},
        {"pipeline": Ranker(skip=1)},
    ):
        with pytest.raises(ConfigError, match="was begun with (digest|results) of .*: resume with the earlier setting"):
            mine(tmp_path / "parts", batch_size=2, **changed)
    ranker = Ranker()
    with pytest.warns(UserWarning, match="resuming after 4 of 6 queries, which .*rows.jsonl.partial contains"):
        assert mine(tmp_path / "parts", ranker, batch_size=2) == whole
    assert ranker.seen == ["q0", "q4", "q5", "q0"]  # the first one is compared with the results of the first call
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize("after", [1, 3, 7])
def test_an_index_that_is_replaced_during_mining_is_noticed(tmp_path: Path, after: int) -> None:
    class Replaced(Ranker):
        """After some queries, there are other documents."""

        def transform(self, topics: pd.DataFrame) -> pd.DataFrame:
            self.skip = 1 if len(self.seen) >= after else 0
            return super().transform(topics)

    with pytest.raises(DataError, match="other documents for the first query .* was its index replaced.*remove it"):
        mine(tmp_path, Replaced(), batch_size=1)
    assert not (tmp_path / "rows.jsonl").exists()
    with pytest.raises(ConfigError, match="was begun with results of the first query"):
        mine(tmp_path, Ranker(skip=1), batch_size=1)
    (tmp_path / "rows.jsonl.partial").unlink()
    assert len(mine(tmp_path, Ranker(skip=1), batch_size=1)) == 6


def test_mining_that_was_killed_at_its_very_start(tmp_path: Path) -> None:
    record = tmp_path / "rows.jsonl.partial.json"
    record.write_text('{"pip')
    assert len(mine(tmp_path)) == 6
    record.write_text('{"pip')
    record.with_suffix("").write_text("{}")
    with pytest.raises(ConfigError, match="rows.jsonl.partial.json is damaged .*: remove it and .*rows.jsonl.partial"):
        mine(tmp_path)


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    victim, partial = tmp_path / "victim", tmp_path / "out/rows.jsonl.partial"
    partial.parent.mkdir()
    victim.write_text("mine")
    for name in ("rows.jsonl.partial", "rows.jsonl.partial.json"):
        (partial.parent / name).symlink_to(victim)
    with pytest.raises(ConfigError, match="is damaged"):
        mine(partial.parent)
    (partial.parent / "rows.jsonl.partial.json").unlink()
    mine(partial.parent)
    with pytest.raises(KeyboardInterrupt):
        mine(partial.parent, Ranker(fail_at=4), batch_size=1)
    partial.unlink()
    partial.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        mine(partial.parent, batch_size=1)
    assert victim.read_text() == "mine"


def test_compressed_output(tmp_path: Path) -> None:
    path = mine_negatives(Ranker(), TOPICS, QRELS, 5, output=tmp_path / "rows.jsonl.gz", corpus=DOCS, verbose=False)
    assert len(list(read_rows(str(path)))) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl.gz"]


def test_input_that_cannot_be_mined(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 6 queries has a relevant document"):
        mine(tmp_path, min_label=3)
    with pytest.raises(DataError, match="the topics must have a column 'query', found qid"):
        mine_negatives(Ranker(), TOPICS[["qid"]], QRELS, output=tmp_path / "x", corpus=DOCS)
    with pytest.raises(DataError, match="the qrels must have a column 'label', found qid, docno"):
        mine_negatives(Ranker(), TOPICS, QRELS[["qid", "docno"]], output=tmp_path / "x", corpus=DOCS)
    with pytest.warns(UserWarning, match="1 judged queries are not among the topics, such as 'q5'"):
        mine_negatives(Ranker(), TOPICS[:5], QRELS, 5, output=tmp_path / "y", corpus=DOCS, verbose=False)
    with pytest.raises(DataError, match="the query 'q0' appears twice in the topics"):
        mine_negatives(Ranker(), pd.concat([TOPICS, TOPICS]), QRELS, output=tmp_path / "x", corpus=DOCS)
    with pytest.raises(DataError, match="the pipeline must return a column 'docno', found qid, query"):
        mine(tmp_path / "b", pt.Transformer.identity())
    for name, value, least in (
        ("depth", 0, 1), ("depth", 2.5, 1), ("negatives", -1, 0), ("negatives", True, 0), ("batch_size", 0, 1),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least {least}, found {value}"):
            mine(tmp_path / "c", **{name: value})
    with pytest.raises(DataError, match="query q3: a passage is empty"):
        mine(tmp_path / "d", corpus=[{"docno": d["docno"], "text": "" if d["docno"] == "d3" else "x"} for d in DOCS], depth=1)
    with pytest.warns(UserWarning, match="6 of 6 queries have no negatives among their first 1 results"):
        mine(tmp_path / "e", depth=1)
    with pytest.raises(DataError, match="document d3: the text is not valid Unicode"):
        mine(tmp_path / "f", corpus=[{"docno": d["docno"], "text": "\ud800" if d["docno"] == "d3" else "x"} for d in DOCS])
    with pytest.raises(DataError, match="output .* is a directory: name a file"):
        mine(tmp_path, output=tmp_path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_only_training_rows_are_replaced(tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    output.touch()
    mine_negatives(Ranker(), TOPICS, QRELS, 5, output=output, corpus=DOCS, verbose=False)
    first = output.read_bytes()
    mine_negatives(Ranker(), TOPICS, QRELS, 4, output=output, corpus=DOCS, verbose=False)
    assert 0 < output.stat().st_size != len(first)
    ranker = Ranker()
    for content in (b'{"docno": "d1", "text": "mine"}\n', gzip.compress(b"thesis"), b"\n", b"\x1f\x8b torn"):
        output.write_bytes(content)
        with pytest.raises(DataError, match=f"output .*{name} exists and is not a file of training rows: name another file"):
            mine_negatives(ranker, TOPICS, QRELS, 5, output=output, corpus=DOCS, verbose=False)
        assert output.read_bytes() == content and ranker.seen == []


def test_a_file_that_another_process_mines_is_left_alone(tmp_path: Path) -> None:
    rows: list[Any] = []

    class Twice(Ranker):
        def transform(self, topics: pd.DataFrame) -> pd.DataFrame:
            if len(self.seen) == 3:
                with pytest.raises(TrainingError, match=rf"the process {os.getpid()} is writing .*rows.jsonl.partial: wait"):
                    mine(tmp_path)
                rows.append(topics)
            return super().transform(topics)

    assert len(mine(tmp_path, Twice(), batch_size=1)) == 6 and rows
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
