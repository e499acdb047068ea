"""What goes into training: packed text, rows, batches."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inside.training import (
    Collator,
    Labels,
    PackedDataset,
    RowDataset,
    TrainingRow,
    batches,
    pack_corpus,
    passage_text,
    read_rows,
    write_rows,
)
from pyterrier_csplade import Contract, DataError
from pyterrier_csplade.data import read_corpus, read_jsonl
from pyterrier_csplade.model import Backbone
from support import models

ROW = {"query": "q", "positive_passages": [{"text": "p"}], "negative_passages": [{"text": "n"}]}


def write_jsonl(path: Path, rows: Any) -> str:
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8").write(lines)
    return str(path)


# ---------------------------------------------------------------------- packing


def test_packing_keeps_the_stream_with_separators(tmp_path: Path) -> None:
    tokenizer = models.tokenizer()
    texts = [*models.TEXTS, "", "cats"]
    with pytest.warns(UserWarning, match="1 of 8 documents of the corpus are blank"):
        tokens = pack_corpus(iter(texts), tokenizer, tmp_path / "tokens", batch_size=3)
    expected = []
    for text in texts:
        expected += [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    assert tokens.tolist() == expected
    dataset = PackedDataset(tokens, 7)
    assert len(dataset) == len(expected) // 7
    rows = [dataset[i]["input_ids"] for i in range(len(dataset))]
    assert torch.cat(rows).tolist() == expected[: len(expected) // 7 * 7]
    assert rows[0].dtype == torch.int64


def test_packing_too_little_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the corpus is empty"):
        pack_corpus([], models.tokenizer(), tmp_path / "tokens")
    with pytest.raises(DataError, match="the corpus has 4 tokens, fewer than one sequence of 8"):
        PackedDataset(np.arange(4, dtype=np.int32), 8)


def test_corpus_names_the_bad_document(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "c.jsonl.gz", [{"text": "a", "title": "t"}, {"text": "b", "title": None}])
    assert list(read_corpus(path, ["text"])) == ["a", "b"]
    with pytest.raises(DataError, match=r"c.jsonl.gz, document 2: the field 'title' is missing or not a string"):
        list(read_corpus(path, ["title", "text"]))


# ---------------------------------------------------------------------- rows


def test_rows_of_all_shapes(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", [ROW, {**ROW, "negative_passages": []}])
    second = write_jsonl(
        tmp_path / "b.jsonl.gz",
        [
            {
                "query": "r",
                "positive_passages": [{"title": "T", "text": "x"}, {"title": "T", "text": "T x"}, {"title": "", "text": "y"}],
            }
        ],
    )
    assert list(read_rows([first, second])) == [
        TrainingRow("q", ["p"], ["n"]),
        TrainingRow("q", ["p"], []),
        TrainingRow("r", ["T x", "T x", "y"], []),
    ]
    assert list(read_rows(first)) == list(read_rows([first]))


def test_passage_text() -> None:
    assert passage_text({"text": "b"}) == "b"
    assert passage_text({"title": None, "text": "b"}) == "b"
    assert passage_text({"title": "a", "text": "b"}) == "a b"
    assert passage_text({"title": "a b", "text": "a b c"}) == "a b c"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("", "line 2: not valid JSON"),
        ("[1]", "line 2: expected an object, found list"),
        ({"positive_passages": []}, "line 2: 'query' is missing"),
        ({"query": "q"}, "line 2: 'positive_passages' is missing"),
        ({**ROW, "positive_passages": []}, "line 2: the query has no positive passage"),
        ({**ROW, "positive_passages": "p"}, "line 2: positive_passages: expected a list, found str"),
        ({**ROW, "positive_passages": ["p"]}, "line 2: positive_passages: expected objects with a 'text', found 'p'"),
        ({**ROW, "negative_passages": [{"docid": 1}]}, "line 2: negative_passages: expected objects with a 'text'"),
        ({**ROW, "negative_passages": [{"text": None}]}, "line 2: negative_passages: expected objects with a 'text'"),
        (
            {**ROW, "negative_passages": [{"text": "a", "title": 3}]},
            "line 2: negative_passages: expected a title to be a string, found 3",
        ),
        ({**ROW, "query": 7}, "line 2: the query: expected text, found 7"),
        ({**ROW, "query": " "}, "line 2: the query is empty"),
        ({**ROW, "negative_passages": [{"text": "\n"}]}, "line 2: a passage is empty"),
        ({**ROW, "query": "\ud800"}, "line 2: the query: the text is not valid Unicode"),
        ({**ROW, "query": [[["q"]]]}, r"line 2: the query: expected text, found \[\[\[...\]\]\]"),
        (f'{{"query": {"9" * 5000}}}', r"line 2: not valid JSON \(.*5000 digits"),
        ("[" * 10**5, "line 2: not valid JSON"),
        ({**ROW, "positive_passages": [{"text": "p", "title": "\udfff"}]}, "line 2: a passage: the text is not valid Unicode"),
        ({**ROW, "negative_passages": {"a": [[[[]]]]}}, "line 2: negative_passages: expected a list, found dict"),
        (
            {**ROW, "negative_passages": [[[[["n"]]]]]},
            r"line 2: negative_passages: expected objects .* found \[\[\[...\]\]\]",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [ROW, row, ROW])
    with pytest.raises(DataError, match=f"rows.jsonl, {message}"):
        list(read_rows(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file .*none.jsonl"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    whole = gzip.compress(b"".join(json.dumps({"i": i}).encode() + b"\n" for i in range(20_000)))
    (tmp_path / "torn.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"torn.jsonl.gz, after line \d+: cannot be read"):
        list(read_jsonl(tmp_path / "torn.jsonl.gz"))
    (tmp_path / "plain.jsonl.gz").write_text("{}\n")
    with pytest.raises(DataError, match=r"plain.jsonl.gz, after line 0: cannot be read"):
        list(read_jsonl(tmp_path / "plain.jsonl.gz"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe4"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl, line \d+: not valid UTF-8"):
        list(read_jsonl(tmp_path / "latin.jsonl"))


# ---------------------------------------------------------------------- draws and batches

ROWS = [
    TrainingRow("dogs", ["dogs and cats"], []),
    TrainingRow("mäp", [f"positive {i}" for i in range(5)], [f"negative {i}" for i in range(20)]),
    TrainingRow("sparse", ["postings", "dogs and cats"], ["a much longer negative than all the others are", "terms"]),
]


def make_dataset(tmp_path: Path, **settings: Any) -> RowDataset:
    write_rows(iter(ROWS), tmp_path / "rows.jsonl", scored=False)
    return RowDataset(tmp_path / "rows.jsonl", **{"negatives": 4, "seed": 1, **settings})


def test_draws_are_reproducible_and_change_with_the_epoch(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    first = [dataset[i] for i in range(3)]
    assert [row["query"] for row in first] == ["dogs", "mäp", "sparse"]
    assert [len(row["negatives"]) for row in first] == [0, 4, 2]
    assert len(set(first[1]["negatives"])) == 4
    assert [dataset[i] for i in (2, 1, 0)] == first[::-1]
    dataset.set_epoch(1)
    assert dataset[1] != first[1]
    dataset.set_epoch(0)
    assert [dataset[i] for i in range(3)] == first
    assert make_dataset(tmp_path, seed=2)[1] != first[1]


def test_draws_are_even(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    positives: Counter[str] = Counter()
    negatives: Counter[str] = Counter()
    for epoch in range(500):
        dataset.set_epoch(epoch)
        positives[dataset[1]["positive"]] += 1
        negatives.update(dataset[1]["negatives"])
    assert len(positives) == 5 and min(positives.values()) > 60  # 100 each; 4 standard deviations are 36
    assert len(negatives) == 20 and min(negatives.values()) > 60


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the training data has no rows"):
        write_rows([], tmp_path / "rows.jsonl", scored=False)
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("chunk", [1, 2, 32])
def test_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(batches, "_CHUNK", chunk)
    contract = Contract(query_prefix="q: ", document_prefix="d: ", document_length=40)
    backbone = Backbone(models.language_model(), models.tokenizer(), contract)
    dataset = make_dataset(tmp_path, negatives=2)
    rows = [dataset[i] for i in range(3)]
    batch = Collator(backbone)(rows)
    labels = Labels(**batch["labels"])
    excluded = labels.excluded

    def texts_of(part: Any) -> list[str]:
        return [models.tokenizer().decode(ids[mask.bool()]) for ids, mask in zip(part["input_ids"], part["attention_mask"])]

    assert [text for part in batch["queries"] for text in texts_of(part)] == ["q: dogs", "q: mäp", "q: sparse"]
    passages = [text for part in batch["passages"] for text in texts_of(part)]
    drawn = [row["positive"] for row in rows] + [text for row in rows for text in row["negatives"]]
    assert sorted(passages) == sorted(f"d: {text}" for text in drawn)
    assert [passages[target] for target in labels.targets] == [f"d: {row['positive']}" for row in rows]
    assert all(len(part["input_ids"]) <= chunk for part in batch["passages"])
    lengths = [int(mask.sum()) for part in batch["passages"] for mask in part["attention_mask"]]
    assert lengths == sorted(lengths, reverse=True)
    for own in range(3):
        for place, text in enumerate(passages):
            relevant = text.removeprefix("d: ") in ROWS[own].positives
            assert bool(excluded[own, place]) == (relevant and place != labels.targets[own])
            hard = text.removeprefix("d: ") in rows[own]["negatives"]
            assert bool(labels.own[own, place]) == (hard or place == labels.targets[own])


def test_short_texts_share_a_part_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part has at most 32 texts of full length, or up to 128 shorter texts with at most their number of tokens."""
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract(document_length=40))
    texts = [*["dogs and cats " * 60] * 40, *["dogs and cats " * 5] * 200, *["a"] * 300]
    row = {"query": "q", "positive": "p", "negatives": texts, "positives": ["p"], "scores": None}
    sizes = {}
    for device in ("cpu", "meta"):
        monkeypatch.setattr(Backbone, "device", torch.device(device))
        batch = Collator(backbone)([row])
        assert len(batch["queries"]) == 1
        sizes[device] = [tuple(part["input_ids"].shape) for part in batch["passages"]]
        assert sum(texts for texts, _ in sizes[device]) == 541
    assert max(texts for texts, _ in sizes["cpu"]) == 32
    assert sizes["meta"][0] == (32, 40)
    middle = len(backbone.tokenize(texts[40:41], "document")[0][0])
    assert (32 * 40 // middle, middle) in sizes["meta"][2:]
    assert max(texts for texts, _ in sizes["meta"]) == 128
    assert max(texts * length for texts, length in sizes["meta"]) == 32 * 40


def test_a_batch_is_cut_into_as_many_parts(tmp_path: Path) -> None:
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract())
    dataset = make_dataset(tmp_path, negatives=2)
    for pieces, queries, passages in [(3, [3], [3, 3, 1]), (4, [2, 1], [2, 2, 2, 1])]:
        batch = Collator(backbone, pieces)([dataset[i] for i in range(3)])
        assert [len(part["input_ids"]) for part in batch["queries"]] == queries
        assert [len(part["input_ids"]) for part in batch["passages"]] == passages


def test_texts_are_cut_as_another_contract_says() -> None:
    """Validation encodes with other lengths than training."""
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract(query_length=3, document_length=5))
    other = backbone.contract.replace(query_length=4, document_length=9)
    wanted: dict[Any, tuple[int, int]] = {"query": (3, 4), "document": (5, 9)}
    for role, lengths in wanted.items():
        found = [backbone.tokenize(["dogs and cats " * 9], role, contract) for contract in (None, other)]
        assert tuple(len(sequences[0]) for sequences, _ in found) == lengths and [cut for _, cut in found] == [1, 1]
        assert found[1][0][0][: lengths[0]] == found[0][0][0]
    assert backbone.contract.document_length == 5


# ---------------------------------------------------------------------- a teacher's scores


def test_scores_of_a_teacher_follow_their_passages(tmp_path: Path) -> None:
    def passage(number: int) -> dict[str, Any]:
        return {"text": f"passage {number}", "score": number / 10}

    row = {"query": "q", "positive_passages": [passage(0), passage(1)], "negative_passages": [passage(i) for i in range(2, 8)]}
    path = write_jsonl(tmp_path / "scored.jsonl", [row, row])
    assert next(read_rows(path)).scores == [i / 10 for i in range(8)]
    write_rows(read_rows(path), tmp_path / "rows.jsonl", scored=True)
    dataset = RowDataset(tmp_path / "rows.jsonl", negatives=3, seed=7)
    for epoch in range(5):
        dataset.set_epoch(epoch)
        drawn = dataset[0]
        passages = [drawn["positive"], *drawn["negatives"]]
        assert drawn["scores"] == [int(text.split()[1]) / 10 for text in passages]
    backbone = Backbone(models.language_model(), models.tokenizer(), Contract())
    rows = [dataset[0], dataset[1]]
    labels = Labels(**Collator(backbone)(rows)["labels"])
    for own, drawn in enumerate(rows):
        assert sorted(labels.teacher[labels.own[own]].tolist()) == pytest.approx(sorted(drawn["scores"]))
        assert float(labels.teacher[labels.targets[own]]) == pytest.approx(drawn["scores"][0])


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (None, "rows.jsonl, line 2: 1 of 2 passages have a score: give all of them a score, or none"),
        ("3", "line 2: expected a score to be a finite number, found '3'"),
        (10**400, "line 2: expected a score to be a finite number, found an integer of 1329 bits"),
        (1e300, r"line 2: expected a score to be a finite number, found 1e\+300"),
        ([1], r"line 2: expected a score to be a finite number, found \[1\]"),
        (True, "line 2: expected a score to be a finite number, found True"),
        (float("nan"), "line 2: expected a score to be a finite number, found nan"),
    ],
)
def test_bad_scores(tmp_path: Path, score: Any, message: str) -> None:
    row = {**ROW, "positive_passages": [{"text": "p", "score": 1}], "negative_passages": [{"text": "n", "score": score}]}
    path = write_jsonl(tmp_path / "rows.jsonl", [ROW, row])
    with pytest.raises(DataError, match=message):
        list(read_rows(path))


def test_distillation_needs_scores(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1, 'dogs': the passages have no teacher.s scores"):
        write_rows(ROWS, tmp_path / "rows.jsonl", scored=True)
    assert not (tmp_path / "rows.jsonl").exists()
