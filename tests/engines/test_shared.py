"""Engines and OpenSearch after use: copied, pickled, shared by threads, replaced while a search runs, and named in tables."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]  # scikit-learn, which PyTerrier needs, brings it
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_csplade import ImpactIndexError, OpenSearchIndex
from pyterrier_csplade.engines import AnseriniEngine, Engine, PisaEngine, SeismicEngine
from pyterrier_csplade.storage import ArrayFile, ArrayWriter, write_manifest
from support import fake_engines, web
from support.fake_opensearch import FakeCluster, served
from support.paths import ROOT

PASSWORD = "s3cr3t/p%ss"
ENGINES = pytest.mark.parametrize("kind", [PisaEngine, SeismicEngine])
pytestmark = pytest.mark.filterwarnings("ignore:Seismic is approximate")

TERMS = [f"t{i}" for i in range(12)]
QUERIES = pd.DataFrame({"qid": [f"q{i}" for i in range(8)], "query_toks": [{t: 1.0, "all": 0.5} for t in TERMS[:8]]})


def documents(build: str, name: str | None = None) -> list[dict[str, Any]]:
    """Documents whose scores, and docnos unless they have a name, show which build they come from."""
    size = {"old": 10, "new": 100}[build]
    return [{"docno": f"{name or build}{i}", "toks": {"all": size, TERMS[i]: size + i}} for i in range(12)]


def found(results: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(results[["qid", "docno", "score"]].itertuples(index=False, name=None))


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in fake_engines.MODULES.items():
        monkeypatch.setitem(sys.modules, name, make())


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def retrieve(request: pytest.FixtureRequest, tmp_path: Path, cluster: FakeCluster) -> Iterator[pt.Transformer]:
    """A retriever that was not used."""
    if request.param is OpenSearchIndex:
        with served(cluster, PASSWORD) as url:
            index = OpenSearchIndex(url, "docs", auth=("me", PASSWORD))
            index.index(documents("old"))
            yield OpenSearchIndex(url, "docs", auth=("me", PASSWORD)).retriever(batch_size=1)
    else:
        request.param(tmp_path / "index").index(documents("old"))
        yield request.param(tmp_path / "index").retriever()


ALL = pytest.mark.parametrize("retrieve", [PisaEngine, SeismicEngine, OpenSearchIndex], indirect=True)


def in_worker(retriever: pt.Transformer) -> list[tuple[Any, ...]]:
    for name, make in fake_engines.MODULES.items():
        sys.modules.setdefault(name, make())
    return found(retriever(QUERIES))


@ALL
def test_copies_pickles_and_workers_search_after_use(retrieve: Any) -> None:
    expected = found(retrieve(QUERIES))
    assert len(expected) == 8 * 12
    index = retrieve.engine if hasattr(retrieve, "engine") else retrieve.index
    copies: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]
    for copied in copies:
        assert copied(index) == index and hash(copied(index)) == hash(index) and len(copied(index)) == 12
        assert copied(retrieve) == retrieve and found(copied(retrieve)(QUERIES)) == expected
    assert len(pickle.dumps(retrieve)) < 2000
    assert joblib.Parallel(n_jobs=2)([joblib.delayed(in_worker)(retrieve)]) == [expected]
    assert PASSWORD not in repr(retrieve) + str(retrieve) + repr(index)


def test_an_index_made_from_a_client_is_copied_but_not_pickled(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs").index(documents("old"))
    assert found(copy.deepcopy(index.retriever())(QUERIES)) == found(index.retriever()(QUERIES))
    with pytest.raises(TypeError, match="client of cluster:9200 cannot be pickled: give OpenSearchIndex the URL"):
        pickle.dumps(index.scorer())


@ALL
def test_threads_find_what_one_thread_finds(retrieve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def opening(engine: Engine, directory: Path) -> Any:
        opened.append(directory)
        time.sleep(0.05)
        return open_in(engine, directory)

    if hasattr(retrieve, "engine"):
        open_in = type(retrieve.engine).open_in
        monkeypatch.setattr(type(retrieve.engine), "open_in", opening)
    with ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(lambda _: found(retrieve(QUERIES)), range(24)))
    assert all(answer == answers[0] for answer in answers) and len(answers[0]) == 8 * 12
    assert len(opened) <= 1


@ENGINES
@pytest.mark.parametrize("used", [False, True])
def test_an_answer_comes_from_the_index_that_its_search_opened(
    kind: type[Engine], used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a search runs, the index is built again, and another search with the same retriever opens it."""
    index = kind(tmp_path / "index").index(documents("old"))
    retriever: Any = index.retriever()  # type: ignore[attr-defined]
    expected = found(retriever(QUERIES))
    other = kind(tmp_path / "other").index(documents("new")[::-1])
    wanted = found(other.retriever()(QUERIES))  # type: ignore[attr-defined]
    if not used:
        index.close()
    nested: list[Any] = []
    scan = fake_engines.scan

    def scanning(*args: Any) -> Any:
        if not nested:
            nested.append(None)
            shutil.rmtree(tmp_path / "index")
            kind(tmp_path / "index").index(documents("new")[::-1])
            index.close()
            nested[0] = found(retriever(QUERIES))
        return scan(*args)

    monkeypatch.setattr(fake_engines, "scan", scanning)
    assert found(retriever(QUERIES)) == expected
    assert nested == [wanted] and found(retriever(QUERIES)) == wanted


def test_pisa_does_not_open_files_of_another_build(tmp_path: Path) -> None:
    """It opens the files at its path again for other settings."""
    index = PisaEngine(tmp_path / "index").index(documents("old"))
    retriever: Any = index.retriever()
    expected = found(retriever(QUERIES))
    shutil.rmtree(tmp_path / "index")
    for rebuild in (lambda: None, lambda: PisaEngine(tmp_path / "index").index(documents("new")[::-1])):
        rebuild()
        retriever.set_parameter("num_results", 5)
        with pytest.raises(ImpactIndexError, match=r"index was removed or built again while it was open: call close\(\)"):
            retriever(QUERIES)
        retriever.set_parameter("num_results", 1000)
        assert found(retriever(QUERIES)) == expected
    index.close()
    assert {docno[:3] for _, docno, _ in found(retriever(QUERIES))} == {"new"}


def rebuilt(cluster: FakeCluster) -> None:
    OpenSearchIndex(cluster.client(), "one").toks_indexer(overwrite=True).index(documents("new", "d"))


def switched(cluster: FakeCluster) -> None:
    OpenSearchIndex(cluster.client(), "two").toks_indexer(overwrite=True).index(documents("new", "d"))
    cluster.aliases["docs"] = ["two"]


def during(cluster: FakeCluster, replace: Callable[[FakeCluster], None], *, search: int, times: int = 1) -> None:
    """Replace the index before a search from now on, and before each of the next searches if so often."""
    searches, under_way = 0, False

    def fault(method: str, path: str, body: Any) -> None:
        nonlocal searches, under_way
        if path.endswith("_msearch") and not under_way:
            searches += 1
            under_way = True
            if search <= searches < search + times:
                replace(cluster)
            under_way = False

    cluster.faults = [fault] * 1000


@pytest.mark.parametrize("replace", [rebuilt, switched])
@pytest.mark.parametrize("kind", ["retriever", "scorer"])
def test_an_answer_comes_from_one_build_of_an_index_on_a_cluster(
    replace: Callable[[FakeCluster], None], kind: str, cluster: FakeCluster
) -> None:
    OpenSearchIndex(cluster.client(), "one").index(documents("old", "d"))
    cluster.aliases["docs"] = ["one"]
    search = getattr(OpenSearchIndex(cluster.client(), "docs"), kind)(batch_size=2)
    frame = QUERIES.assign(docno="d3") if kind == "scorer" else QUERIES
    old = found(search(frame))
    during(cluster, replace, search=2)
    answer = found(search(frame))
    cluster.faults = []
    assert answer == found(search(frame)) != old  # entirely from the new build
    during(cluster, rebuilt, search=1, times=10**6)
    cluster.aliases["docs"] = ["one"]
    with pytest.raises(ImpactIndexError, match="'docs' at cluster:9200 was replaced 3 times while it was searched"):
        search(frame)


@ENGINES
def test_an_engine_is_an_artifact(kind: type[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``pt.Artifact.load`` finds the class through setup.py; the installed metadata may be older."""
    declared = re.findall(r'"(sparse_index\.\S+) = (pyterrier_csplade\.engines:\S+)"', (ROOT / "setup.py").read_text())
    points = [EntryPoint(name, value, "pyterrier.artifact") for name, value in declared]
    monkeypatch.setattr(pt.utils, "entry_points", lambda group: points if group == "pyterrier.artifact" else [])
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    index = kind(tmp_path / "index").index(documents("old"))
    expected = found(index.retriever()(QUERIES))  # type: ignore[attr-defined]
    index.build_package(str(tmp_path / "good.tar.lz4"), verbose=False)
    own = next(file for file in sorted(index.directory.iterdir()) if file.name.startswith(("inv", "seismic")))
    content = own.read_bytes()
    own.write_bytes(content[:-1] + b"?")
    with pytest.raises(ImpactIndexError, match=f"{own.name} has changed"):
        index.verify()
    index.build_package(str(tmp_path / "bad.tar.lz4"), verbose=False)
    own.write_bytes(content)
    with web.served(tmp_path) as address:
        good, bad = (pt.Artifact.from_url(f"{address}/{name}.tar.lz4") for name in ("good", "bad"))
    for loaded in (pt.Artifact.load(str(index.path)), kind.load(str(index.path)), good):
        assert type(loaded) is kind and found(loaded.retriever()(QUERIES)) == expected
        loaded.verify()
    with pytest.raises(ImpactIndexError, match=f"{own.name} has changed"):
        bad.retriever()(QUERIES)
    assert {kind.ARTIFACT_FORMAT for kind in (PisaEngine, SeismicEngine, AnseriniEngine)} == {
        name.partition(".")[2] for name, _ in declared
    }


@ENGINES
@pytest.mark.parametrize("lost", ["engine", "contract"])
def test_names_without_their_origin_are_damaged(kind: type[Engine], lost: str, tmp_path: Path) -> None:
    index = kind(tmp_path / "index").index(documents("old"))
    path = index.directory / "csplade_engine.bin"
    old = ArrayFile(path, memory=True)
    path.unlink()
    writer = ArrayWriter(path)
    for name in ("docnos.text", "docnos.starts", "terms.text", "terms.starts"):
        writer.add(name, old[name])
    writer.finish({key: value for key, value in old.metadata.items() if key != lost})
    write_manifest(index.directory)
    with pytest.raises(ImpactIndexError, match=r"csplade_engine\.bin has changed since it was written \(footer\)"):
        kind(index.path).open()


@ENGINES
def test_an_index_of_a_version_without_artifacts_opens(kind: type[Engine], tmp_path: Path) -> None:
    index = kind(tmp_path / "index").index(documents("old"))
    expected = found(index.retriever()(QUERIES))  # type: ignore[attr-defined]
    manifest = index.directory / "csplade_manifest.json"
    values = json.loads(manifest.read_text())
    del values["files"]["pt_meta.json"]
    (index.directory / "pt_meta.json").unlink()
    manifest.write_text(json.dumps(values))
    assert found(kind(index.path).retriever()(QUERIES)) == expected  # type: ignore[attr-defined]


@ALL
def test_names_are_short_and_can_name_files(retrieve: Any, tmp_path: Path) -> None:
    index = retrieve.engine if hasattr(retrieve, "engine") else retrieve.index
    if isinstance(index, OpenSearchIndex):
        retrieve = index.retriever()
    other = copy.copy(retrieve)
    other.set_parameter("num_results", 3)
    place = "docs" if isinstance(index, OpenSearchIndex) else "index"
    assert str(index) == f"{type(index).__name__}({place})"
    assert str(retrieve) == f"{type(retrieve).__name__}({place})"
    assert str(other) == f"{type(retrieve).__name__}({place}, num_results=3)"
    systems = [retrieve, other]
    if isinstance(index, OpenSearchIndex):
        systems.append(index.retriever(filter={"range": {"year": {"gte": 'a/"b'}}}))
        assert "/" not in str(index.scorer()) + str(index.bm25())
    assert all(pt.io.ok_filename(str(system)) for system in systems)
    (tmp_path / "runs").mkdir()
    qrels = pd.DataFrame([{"qid": "q0", "docno": "old0", "label": 1}])
    pt.Experiment(systems[:2], QUERIES, qrels, ["num_ret"], save_dir=str(tmp_path / "runs"))
    assert len(list((tmp_path / "runs").glob("*.res.gz"))) == 2


def test_arguments_that_are_set_after_use_are_obeyed(cluster: FakeCluster) -> None:
    index = OpenSearchIndex(cluster.client(), "docs")
    rows: list[Any] = [{**document, "text": "words", "year": "1999"} for document in documents("old")]
    indexer = index.toks_indexer()
    for name, value in (("text", "text"), ("meta", "year"), ("analyzer", "standard")):
        indexer.set_parameter(name, value)
    indexer.index(rows)
    properties = cluster.indexes["docs"]["mappings"]["properties"]
    assert properties["text"] == {"type": "text", "analyzer": "standard"} and properties["year"] == {"type": "keyword"}
    retriever = index.retriever(num_results=1)
    assert "year" not in retriever(QUERIES)
    retriever.set_parameter("include_fields", "year")
    assert set(retriever(QUERIES)["year"]) == {"1999"}
