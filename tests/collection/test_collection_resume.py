"""Encoding that is stopped, divided or disturbed: nothing is lost or mixed, and the final bytes are the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from inside.collection import Part, divide
from pyterrier_csplade import CSPLADE, CollectionError, DataError, EncodedCollection
from support.models import language_model, tokenizer
from support.vector_collections import content, documents, encode


@pytest.fixture
def whole(csplade: CSPLADE, tmp_path: Path) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    encode(tmp_path / "whole", csplade)
    return content(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------------ stopping and resuming


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("position", [0, 4, 5, 12, 22])
def test_an_interrupted_run_resumes(
    csplade: CSPLADE, encoded: list[Any], whole: dict[str, bytes], tmp_path: Path, position: int, error: type[BaseException]
) -> None:
    """Documents before an error are encoded; an interruption waits only for the shard that is being written."""

    def interrupted() -> Iterator[dict[str, Any]]:
        yield from documents()[:position]
        raise error

    with pytest.raises(error):
        encode(tmp_path / "c", csplade, interrupted())  # type: ignore[arg-type]
    finished = len(list((tmp_path / "c").glob("shard-*.json")))
    assert finished == position // 5 - (0 if error is RuntimeError else min(position // 5, 2))
    assert not EncodedCollection(tmp_path / "c").built()
    if finished:
        with pytest.raises(CollectionError, match=rf"not complete \(shards finished: {finished}\): encode again"):
            len(EncodedCollection(tmp_path / "c"))
    encoded.clear()
    encode(tmp_path / "c", csplade)
    assert sum(len(texts) for _, texts in encoded) == 23 - 5 * finished
    assert content(tmp_path / "c") == whole


def test_a_finished_run_encodes_nothing_again(
    csplade: CSPLADE, encoded: list[Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    encoded.clear()
    encode(tmp_path / "whole", csplade)
    assert not encoded
    assert content(tmp_path / "whole") == whole


@pytest.mark.parametrize("damage", [b"", b"other bytes", None])
@pytest.mark.parametrize("name", ["shard-000002.safetensors", "shard-000002.json"])
def test_a_damaged_shard_is_encoded_again(
    csplade: CSPLADE, encoded: list[Any], whole: dict[str, bytes], tmp_path: Path, name: str, damage: bytes | None
) -> None:
    file = tmp_path / "whole" / name
    file.unlink() if damage is None else file.write_bytes(damage)
    encoded.clear()
    if name.endswith(".json"):
        encode(tmp_path / "whole", csplade)
    else:
        with pytest.warns(UserWarning, match="shard 2 in .* is damaged and will be encoded again"):
            encode(tmp_path / "whole", csplade)
    assert [texts for _, texts in encoded] == [[d["text"] for d in documents()[10:15]]]
    assert content(tmp_path / "whole") == whole


# ------------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("count", [1, 3, 7])
def test_parts_make_the_whole(
    csplade: CSPLADE, encoded: list[Any], whole: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    encoded.clear()
    for index in reversed(range(count)):
        encode(tmp_path / "c", csplade, part=f"{index}/{count}")
    assert content(tmp_path / "c") == whole
    assert sum(len(texts) for _, texts in encoded) == 23


def test_parts_of_different_directories_are_merged_by_copying(
    csplade: CSPLADE, encoded: list[Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    for index in range(3):
        encode(tmp_path / f"part{index}", csplade, part=f"{index}/3")
        shutil.copytree(tmp_path / f"part{index}", tmp_path / "c", dirs_exist_ok=True)
    assert not EncodedCollection(tmp_path / "c").built()
    encoded.clear()
    encode(tmp_path / "c", csplade)
    assert not encoded
    assert content(tmp_path / "c") == whole


@pytest.mark.parametrize("part", ["3/3", "1", "a/b", "-1/3", "0/0", "1/2/3", "٣/4"])
def test_parts_that_do_not_exist(csplade: CSPLADE, tmp_path: Path, part: str) -> None:
    with pytest.raises(CollectionError, match="part"):
        encode(tmp_path / "c", csplade, part=part)
    assert not (tmp_path / "c").exists()


def test_parts_overlap_where_they_share_a_shard() -> None:
    parts = [Part(index, count) for count in range(1, 8) for index in range(count)]
    for one in parts:
        for other in parts:
            shared = any(shard in one and shard in other for shard in range(7 * 6 * 5 * 4))
            assert one.overlaps(other) == shared, (one, other)


# ------------------------------------------------------------------------------------------------------ nothing is mixed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 11}, "top_k 11 instead of 12"),
        ({"min_weight": 0.5}, "min_weight 0.5 instead of 0.0"),
        ({"quantizer": None}, r"quantizer None instead of 'Quantizer\(scale=100.0\)'"),
        ({"shard_size": 6}, "shard_size 6 instead of 5"),
    ],
)
def test_other_settings_are_refused(
    csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    (tmp_path / "whole" / "shard-000003.json").unlink()
    before = content(tmp_path / "whole")
    with pytest.raises(CollectionError, match=f"whole was encoded with other settings: {message}; use the same settings"):
        encode(tmp_path / "whole", csplade, **settings)
    assert content(tmp_path / "whole") == before


def test_other_models_are_refused(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path) -> None:
    shorter = csplade.contract.replace(weights="", vocabulary_sha256="", document_length=5)
    pair = language_model(), tokenizer()
    for other, message in [
        (CSPLADE((language_model(seed=1), tokenizer())), r"weights '2:\w+ \(CSPLADE.*' instead of '2:\w+ \(CSPLADE"),
        (CSPLADE(pair, variant="echo"), "variant 'echo' instead of 'causal'; document_length 64 instead of 128"),
        (CSPLADE(pair, contract=shorter), "document_length 5 instead of 128; use"),
        (CSPLADE((language_model().bfloat16(), tokenizer())), "dtype 'bfloat16' instead of 'float32'"),
    ]:
        with pytest.raises(CollectionError, match=message):
            encode(tmp_path / "whole", other)
    assert content(tmp_path / "whole") == whole


def test_another_tokenizer_is_refused(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path) -> None:
    from tokenizers import normalizers

    other = tokenizer().__class__.from_pretrained(save(tokenizer(), tmp_path / "tokenizer"))
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(CollectionError, match="other settings: weights .*; tokenizer "):
        encode(tmp_path / "whole", CSPLADE((language_model(), other)))


def save(saved: Any, path: Path) -> Path:
    saved.save_pretrained(path)
    return path


def test_another_batch_size_resumes(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "whole" / "shard-000003.json").unlink()
    encode(tmp_path / "whole", CSPLADE((language_model(), tokenizer()), batch_size=2))
    EncodedCollection(tmp_path / "whole").verify()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            [*documents(7), {"docno": "d7", "text": "other"}, *documents(15, 8)],
            "from 'd5' to 'd9' are not those of shard 1",
        ),
        (
            [*documents(7), {"docno": "other", "text": documents()[7]["text"]}, *documents(15, 8)],
            "not those of shard 1",
        ),
        (documents(24), "from 'd20' to 'd23' are not those of shard 4"),
        (documents(20), "contains shard 4, but the input has only 4"),
    ],
)
def test_another_input_is_refused(
    csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path, changed: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(CollectionError, match=f"{message}.*the input has changed; encode it into another directory"):
        encode(tmp_path / "whole", csplade, changed)
    assert content(tmp_path / "whole") == whole


def test_shards_of_another_collection_are_refused(csplade: CSPLADE, whole: dict[str, bytes], tmp_path: Path) -> None:
    encode(tmp_path / "other", csplade, top_k=3)
    for name in ("shard-000001.safetensors", "shard-000001.json"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "whole" / name)
    with pytest.raises(CollectionError, match="shard 1 in .* was encoded with other settings"):
        encode(tmp_path / "whole", csplade)


@pytest.mark.parametrize("name", ["file", "directory"])
def test_other_things_are_left_alone(unloaded: CSPLADE, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_text("mine")
    with pytest.raises(CollectionError, match="exists and is not an encoded collection: choose another path"):
        encode(tmp_path / name, unloaded)
    assert (tmp_path / "file").read_text() == (tmp_path / "directory" / "file").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------ bad documents


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"docno": "d3", "text": "again"}, "docno 'd3' of document 8 appears twice"),
        ({"text": "a"}, "document 8 has no docno"),
        ({"docno": 8, "text": "a"}, "docno of document 8 must be a str, found 8"),
        ({"docno": " x", "text": "a"}, "docno ' x' of document 8 starts or ends with"),
        ({"docno": "x"}, "document x has no field 'text', only 'docno'"),
        ({"docno": "x", "text": None}, "document x: expected text, found None"),
        ({"docno": "x", "text": "\ud800"}, "document x: the text is not valid Unicode"),
    ],
)
def test_a_document_that_cannot_be_encoded(csplade: CSPLADE, tmp_path: Path, document: dict[str, Any], message: str) -> None:
    """Earlier shards stay, and the run resumes when the document is corrected."""
    with pytest.raises(DataError, match=message):
        encode(tmp_path / "c", csplade, [*documents(7), document, *documents(15, 8)])
    assert (tmp_path / "c" / "shard-000000.json").exists()
    encode(tmp_path / "c", csplade).verify()


def test_docnos_are_compared_over_all_shards() -> None:
    rows = [{"docno": f"d{i}", "text": ""} for i in range(3000)]

    def texts(documents: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
        return [document["text"] for document in documents]

    assert sum(len(shard.docnos) for shard in divide(rows, texts, 7)) == 3000
    for position in (0, 1, 1500, 2998):
        with pytest.raises(DataError, match=f"'d{position}' of document 3001 appears twice"):
            list(divide([*rows, rows[position]], texts, 7))


def test_no_documents(csplade: CSPLADE, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to encode"):
        encode(tmp_path / "c", csplade, [])
    assert not EncodedCollection(tmp_path / "c").built()


def test_empty_and_truncated_documents_are_reported(csplade: CSPLADE, tmp_path: Path) -> None:
    inp = [{"docno": "blank", "text": " "}, {"docno": "long", "text": "dogs " * 1000}, *documents(8)]
    with pytest.warns(UserWarning) as warned:
        collection = encode(tmp_path / "c", csplade, inp)
    messages = [str(warning.message) for warning in warned]
    assert "1 of 10 documents (10.0%) have no impact above 0, so no query can find them" in messages
    assert "1 of 10 documents (10.0%) were truncated" in messages
    assert next(iter(collection.get_corpus_iter())) == {"docno": "blank", "toks": {}}


def test_a_model_that_gives_nothing_is_refused(csplade: CSPLADE, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shard 0: 5 of 5 texts \(100%\) have no impact above 0.*check the model"):
        encode(tmp_path / "c", csplade, min_weight=1e6)
    with pytest.warns(UserWarning, match="23 of 23 documents"):
        EncodedCollection(tmp_path / "d").encode(csplade.doc_encoder(min_weight=1e6), documents(), max_empty=1)
