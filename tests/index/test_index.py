"""Building, opening and checking an index with the real Terrier."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest

from inside.index import MANIFEST_FILE
from pyterrier_csplade import ContractError, ImpactIndex, ImpactIndexError, ImpactVector
from support.indexes import CONTRACT, documents, search
from support.paths import extract


def failing(count: int, error: BaseException) -> Iterator[dict[str, Any]]:
    yield from documents(count)
    raise error


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ImpactIndex:
    return ImpactIndex(tmp_path_factory.mktemp("shared") / "index").index(documents(contract=CONTRACT))


@pytest.fixture
def index(shared: ImpactIndex, tmp_path: Path) -> ImpactIndex:
    """A copy of the index that a test may damage."""
    return ImpactIndex(shutil.copytree(shared.directory, tmp_path / "index"))


def test_documents_are_found(shared: ImpactIndex) -> None:
    assert shared.built() and len(shared) == 10
    assert search(shared, {"a": 2, "Ġb8": 1}) == [("d8", 20), ("d9", 20), *((f"d{i}", 2 * i + 2) for i in range(7, -1, -1))]


def test_documents_come_out_as_they_went_in(shared: ImpactIndex) -> None:
    assert list(shared.get_corpus_iter()) == [{"docno": d["docno"], "toks": dict(d["toks"])} for d in documents()]


def test_index_in_memory_answers_the_same(shared: ImpactIndex) -> None:
    memory = ImpactIndex(shared.path, memory=True)
    assert search(memory, {"a": 0.3, "Ġb3": 1}) == search(shared, {"a": 0.3, "Ġb3": 1})
    assert memory.retriever() != shared.retriever()
    shared.verify()


def test_nothing_is_left_beside_the_index(shared: ImpactIndex) -> None:
    assert [path.name for path in shared.directory.parent.iterdir()] == ["index"]


def test_other_people_need_no_plugin(shared: ImpactIndex) -> None:
    loaded = pt.Artifact.load(str(shared.path))
    assert type(loaded) is pt.terrier.TerrierIndex
    assert len(loaded) == 10
    result = loaded.tf().transform(pd.DataFrame([{"qid": "q", "query_toks": {"a": 1.0}}]))
    assert result["docno"].tolist() == [f"d{i}" for i in range(9, -1, -1)]


def test_package_gives_the_same_index(shared: ImpactIndex, tmp_path: Path) -> None:
    package = shared.build_package(str(tmp_path / "index.tar.lz4"), verbose=False)
    import tarfile

    import lz4.frame

    with lz4.frame.open(package) as file, tarfile.open(fileobj=file) as archive:
        extract(archive, tmp_path / "copy")
    copy = ImpactIndex(tmp_path / "copy")
    copy.verify()
    assert search(copy, {"a": 0.3}) == search(shared, {"a": 0.3})


def test_metadata_holds_contract_and_counts(shared: ImpactIndex) -> None:
    metadata = json.loads((shared.directory / "pt_meta.json").read_text())
    assert (metadata["type"], metadata["format"]) == ("sparse_index", "terrier")
    counts = {name: metadata["csplade"][name] for name in ("documents", "empty_documents", "postings")}
    assert counts == {"documents": 10, "empty_documents": 0, "postings": 20}
    assert shared.contract == CONTRACT


def test_contract_is_unknown_for_plain_dicts(tmp_path: Path) -> None:
    assert ImpactIndex(tmp_path / "i").contract is None
    index = ImpactIndex(tmp_path / "i").index([{"docno": "d", "toks": {"a": 1}}])
    assert index.contract is None
    assert search(index, ImpactVector({"a": 1}, CONTRACT)) == [("d", 1)]


def test_mixed_encoders_leave_no_index(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="lm-two"):
        ImpactIndex(tmp_path / "i").index(
            [*documents(3, CONTRACT), *documents(9, CONTRACT.replace(weights="v", base_model="lm-two"))[3:]]
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyError(), OSError(), StopAsyncIteration(), KeyboardInterrupt(), SystemExit()], ids=repr)
@pytest.mark.parametrize("done", [0, 60])
def test_exception_of_the_pipeline_reaches_the_caller_and_leaves_nothing(
    tmp_path: Path, done: int, error: BaseException
) -> None:
    with pytest.raises(type(error)) as caught:
        ImpactIndex(tmp_path / "i").index(failing(done, error))
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_exception_in_a_real_pipeline_keeps_the_old_index(index: ImpactIndex) -> None:
    def encode(frame: pd.DataFrame) -> pd.DataFrame:
        if "t250" in set(frame["text"]):
            raise MemoryError("no memory left")
        return frame.assign(toks=pd.Series([{"a": 1}] * len(frame), index=frame.index, dtype=object))

    pipeline = pt.apply.generic(encode) >> index.toks_indexer(overwrite=True)
    with pytest.raises(MemoryError, match="no memory left"):
        pipeline.index({"docno": f"n{i}", "text": f"t{i}"} for i in range(300))
    index.verify()
    assert len(index) == 10
    pipeline.index({"docno": f"n{i}", "text": f"t{i}"} for i in range(200))
    assert len(index) == 200


def test_what_terrier_reads_otherwise_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inside.index import PostingFile

    original = PostingFile.write
    monkeypatch.setattr(PostingFile, "write", lambda self, ids, impacts, counts: original(self, ids, impacts + 1, counts))
    with pytest.raises(ImpactIndexError, match="Terrier reads .*False.* report this"):
        ImpactIndex(tmp_path / "i").index(documents())
    assert list(tmp_path.iterdir()) == []


def test_broken_spool_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyterrier_csplade.index import Spool

    def broken(self: Spool) -> Iterator[Any]:
        raise OSError("disk unplugged")

    monkeypatch.setattr(Spool, "shards", broken)
    with pytest.raises(OSError, match="disk unplugged"):
        ImpactIndex(tmp_path / "i").index(documents())
    assert list(tmp_path.iterdir()) == []


def test_index_at_the_path_is_not_replaced_unasked(index: ImpactIndex) -> None:
    with pytest.raises(ImpactIndexError, match="overwrite=True"):
        index.index(pytest.fail("the documents are read too early") for _ in [0])
    index.verify()


def test_overwriting_replaces_everything(index: ImpactIndex) -> None:
    retriever = index.retriever()
    query = pd.DataFrame([{"qid": "q", "query_toks": {"z": 1.0}}])
    assert len(retriever.transform(query)) == 0
    assert index.toks_indexer(overwrite=True).index([{"docno": "n", "toks": {"z": 4}}]) is index
    index.verify()
    assert (len(index), index.contract) == (1, None)
    assert retriever.transform(query)["score"].tolist() == [4]


def test_foreign_directory_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(ImpactIndexError, match="is not an index"):
        ImpactIndex(tmp_path).toks_indexer(overwrite=True).index(documents())
    assert (tmp_path / "thesis.tex").read_text() == "ten years of work"


def test_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    assert len(ImpactIndex(tmp_path / "i").index(documents())) == 10


def test_link_to_an_index_stays_a_link(index: ImpactIndex, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(index.directory)
    linked = ImpactIndex(tmp_path / "link")
    linked.toks_indexer(overwrite=True).index(documents(3))
    assert (tmp_path / "link").is_symlink() and len(ImpactIndex(index.directory)) == 3


def test_missing_index_is_one_sentence(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "nowhere")
    assert not index.built() and len(index) == 0
    for use in (index.verify, index.index_obj, lambda: search(index, {"a": 1})):
        with pytest.raises(ImpactIndexError, match="no index at"):
            use()


def test_index_of_others_can_be_searched_but_not_verified(tmp_path: Path) -> None:
    pt.IterDictIndexer(str(tmp_path / "i"), pretokenised=True).index([{"docno": "d", "toks": {"a": 3}}])
    index = ImpactIndex(tmp_path / "i")
    assert search(index, {"a": 0.5}) == [("d", 1.5)]
    with pytest.raises(ImpactIndexError, match="ImpactIndex did not build it"):
        index.verify()


FILES = [
    "data.direct.bf",
    "data.document.fsarrayfile",
    "data.inverted.bf",
    "data.lexicon.fsomapfile",
    "data.lexicon.fsomaphash",
    "data.meta-0.fsomapfile",
    "data.meta.idx",
    "data.meta.zdata",
    "data.properties",
    "pt_meta.json",
]


def test_manifest_covers_all_files(shared: ImpactIndex) -> None:
    shared.verify()
    files = {path.name for path in shared.directory.iterdir()} - {MANIFEST_FILE}
    assert files >= set(FILES)
    assert set(json.loads((shared.directory / MANIFEST_FILE).read_text())["files"]) == files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_file_is_named_by_verify_and_on_opening(index: ImpactIndex, name: str, damage: str) -> None:
    path = index.directory / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-1])
    for use in (index.verify, lambda: search(index, {"a": 1})):
        with pytest.raises(ImpactIndexError, match=name if name != "data.properties" or damage != "remove" else "no index"):
            use()


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[]", '{"files": {"../x": {"bytes": 1, "sha256": ""}}}', '{"files": {"x": 3}}']
)
def test_damaged_manifest_is_refused(index: ImpactIndex, content: str | None) -> None:
    path = index.directory / MANIFEST_FILE
    path.unlink() if content is None else path.write_text(content)
    for use in (index.verify, lambda: search(index, {"a": 1})):
        with pytest.raises(ImpactIndexError, match=MANIFEST_FILE):
            use()


def test_large_index_is_opened_without_reading_it_whole(index: ImpactIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    from inside.index import manifest as _manifest

    monkeypatch.setattr(_manifest, "HASHED_ON_OPENING", 10)
    monkeypatch.setattr(_manifest, "sha256", lambda path: pytest.fail("read whole"))
    assert len(search(index, {"a": 1})) == 10


def test_metadata_fields_are_stored(tmp_path: Path) -> None:
    stream = [{**document, "url": "u" * 1000 + document["docno"], "text": "not kept"} for document in documents()]
    indexer = ImpactIndex(tmp_path / "i").toks_indexer(meta={"docno": 20, "url": 10})
    assert indexer.index_inputs() == [["docno", "toks", "url"]]
    index = indexer.index(stream)
    assert list(index.meta_index().getKeys()) == ["docno", "url"]
    result = index.retriever(include_fields=["url"]).transform(pd.DataFrame([{"qid": "q", "query_toks": {"Ġb3": 1.0}}]))
    assert result["url"].tolist() == ["u" * 1000 + "d3"]


def test_pipeline_of_operators_builds_and_is_inspectable(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "i")
    pipeline = pt.apply.toks(lambda row: {"a": 1}) >> index
    assert pt.inspect.indexer_inputs(index) == [["docno", "toks"]]
    pipeline.index({"docno": f"d{i}", "text": "x"} for i in range(5))
    assert len(index) == 5


def test_plain_route_of_pyterrier_takes_our_vectors(tmp_path: Path) -> None:
    indexref = pt.IterDictIndexer(str(tmp_path / "plain"), pretokenised=True).index(documents(contract=CONTRACT))
    plain = pt.terrier.Retriever(indexref, wmodel="Tf")
    query = ImpactVector({"Ġb3": 0.5, "a": 1.0}, CONTRACT)
    result = plain.transform(pd.DataFrame([{"qid": "q", "query_toks": query}]))
    assert result["docno"].tolist()[:2] == ["d9", "d8"]
    assert result.set_index("docno")["score"]["d3"] == 5


def test_silent_unless_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = ImpactIndex(tmp_path / "i").index(documents())
        search(index, {"a": 1})
    assert capfd.readouterr().out == ""
    index.toks_indexer(overwrite=True, verbose=True).index(documents())
    assert "ImpactIndexer" in capfd.readouterr().err


def test_arguments_are_checked(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "i")
    with pytest.raises(ValueError, match="on_duplicate must be one of refuse, skip, last"):
        index.toks_indexer(on_duplicate="first")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown"):
        index.index(documents(), wrong=1)
