"""The Anserini adapter without Anserini: the command that builds, the query for Lucene, and the search for Java."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from inside.engines import anserini
from pyterrier_csplade import CspladeError, ImpactIndexError
from pyterrier_csplade.engines import AnseriniEngine

DOCUMENTS = [
    {"docno": "x", "toks": {"b": 3, "never": 0.4, "a": 2.5}},
    {"docno": "y", "toks": {}},
    {"docno": "z", "toks": {"Ġc": 7, "a": 1}},
]
# Keeps its input, as a complete index.
JAVA = """#!{python}
import json, pathlib, sys
arguments = sys.argv[1:]
if "--list-modules" in arguments:
    sys.exit(print("java.base@21.0.4\\n{module}@21.0.4"))
if "-version" in arguments:
    sys.exit(sys.stderr.write('openjdk version "{version}" 2024-07-16\\n') and 0)
index = pathlib.Path(arguments[arguments.index("-index") + 1])
source = pathlib.Path(arguments[arguments.index("-input") + 1])
index.mkdir(exist_ok=True)
(index / "command.json").write_text(json.dumps(arguments))
(index / "documents").write_bytes((source / "documents.jsonl").read_bytes())
print("Total 3 documents indexed")
if {complete}:
    (index / "segments_1").touch()
if {status}:
    sys.stderr.write("Exception in thread main: java.lang.OutOfMemoryError\\n")
    sys.exit({status})
"""


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a program that replaces Java and the packages around it."""
    monkeypatch.setattr(pt.java, "started", lambda: False)
    monkeypatch.setitem(sys.modules, "pyterrier_anserini", ModuleType("pyterrier_anserini"))
    pyserini = ModuleType("pyserini")
    pyserini.__file__ = str(tmp_path / "pyserini" / "__init__.py")
    monkeypatch.setitem(sys.modules, "pyserini", pyserini)
    jars = tmp_path / "pyserini" / "resources" / "jars"
    jars.mkdir(parents=True)
    (jars / "anserini-1.6.0-fatjar.jar").touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))

    def write(version: str = "21.0.4", module: str = "jdk.incubator.vector", status: int = 0, complete: bool = True) -> None:
        program = tmp_path / "jdk" / "bin" / "java"
        program.parent.mkdir(parents=True, exist_ok=True)
        values = {"python": sys.executable, "version": version, "module": module, "status": status, "complete": complete}
        program.write_text(JAVA.format(**values))
        program.chmod(0o755)

    return write


class Lucene:
    """The part of Lucene that the adapter uses."""

    def __init__(self) -> None:
        self.directories: list[str] = []
        self.similarities: list[Any] = []
        self.depths: list[int] = []
        self.error: Exception | None = None

    def __call__(self, name: str) -> Any:
        """Return a class."""
        found = {
            "java.nio.file.Paths": SimpleNamespace(get=str),
            "store.FSDirectory": SimpleNamespace(open=self._open),
            "index.DirectoryReader": SimpleNamespace(open=self._read),
            "search.IndexSearcher": lambda context: Searcher(self, context),
            "io.anserini.search.similarity.ImpactSimilarity": lambda: "impacts",
            "search.BooleanQuery$Builder": Builder,
            "search.BooleanClause$Occur": SimpleNamespace(SHOULD="should"),
            "index.Term": lambda field, text: (field, text),
            "search.TermQuery": lambda term: term,
            "search.BoostQuery": lambda term, weight: (*term, weight),
        }
        return found[name.removeprefix("org.apache.lucene.")]

    def _open(self, path: str) -> str:
        self.directories.append(path)
        return path

    def _read(self, path: str) -> Any:
        if self.error:
            raise self.error
        lines = (Path(path) / "documents").read_text(encoding="ascii").splitlines()
        # Lucene numbers documents in its own order.
        return SimpleNamespace(getContext=lambda: [json.loads(line) for line in reversed(lines)])


class Builder(list[Any]):
    """A query of clauses."""

    def add(self, clause: tuple[str, str, float], occur: str) -> None:
        """Add a clause."""
        assert occur == "should"
        self.append(clause)

    def build(self) -> list[Any]:
        """Return the clauses."""
        return list(self)


class Searcher:
    """Scores every document, in single precision."""

    def __init__(self, lucene: Lucene, documents: list[dict[str, Any]]) -> None:
        self.documents = documents
        self.depths = lucene.depths
        self.setSimilarity = lucene.similarities.append

    def search(self, clauses: list[tuple[str, str, float]], k: int) -> Any:
        """Return the best documents."""
        assert {field for field, _, _ in clauses} == {"contents"}
        self.depths.append(k)
        scores = [sum(weight * document["vector"].get(term, 0) for _, term, weight in clauses) for document in self.documents]
        best = sorted((i for i, score in enumerate(scores) if score), key=lambda i: -scores[i])[:k]
        return SimpleNamespace(scoreDocs=[SimpleNamespace(doc=i, score=float(np.float32(scores[i]))) for i in best])

    def storedFields(self) -> Any:
        """Return what finds a stored document."""
        return SimpleNamespace(document=lambda number: self.documents[number])


@pytest.fixture
def lucene(monkeypatch: pytest.MonkeyPatch) -> Lucene:
    found = Lucene()
    monkeypatch.setattr(anserini, "start", lambda: None)
    monkeypatch.setattr(pt.java, "autoclass", found)
    return found


def query(**toks: float) -> pd.DataFrame:
    return pd.DataFrame([{"qid": "q", "query_toks": toks}])


def test_anserini_is_given_numbers_and_asked_for_impacts(java: Any, lucene: Lucene, tmp_path: Path) -> None:
    java()
    index = AnseriniEngine(tmp_path / "index").index(DOCUMENTS)
    lines = (tmp_path / "index" / "documents").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "0", "contents": "", "vector": {"0": 3, "1": 3}},
        {"id": "1", "contents": "", "vector": {}},
        {"id": "2", "contents": "", "vector": {"1": 1, "2": 7}},
    ]
    command = json.loads((tmp_path / "index" / "command.json").read_text())
    assert command[:2] == ["-cp", str(tmp_path / "pyserini/resources/jars/anserini-1.6.0-fatjar.jar")]
    assert command[2:5] == ["--add-modules", "jdk.incubator.vector", "io.anserini.index.IndexCollection"]
    assert {"-impact", "-pretokenized"} <= set(command) and command[command.index("-collection") + 1] == "JsonVectorCollection"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index", "jdk", "pyserini"]  # the vectors are gone
    found = index.retriever(num_results=5).transform(query(a=0.5, Ġc=2.0, unknown=9.0))
    assert found[["docno", "score"]].to_numpy().tolist() == [["z", 14.5], ["x", 1.5]]
    assert lucene.directories == [str(tmp_path / "index")] and lucene.similarities == ["impacts"]
    assert len(index.retriever(num_results=1).transform(query(a=1.0))) == 1 and lucene.depths == [5, 1]
    assert index.retriever().transform(query(unknown=1.0)).empty


def test_ties_of_lucene_have_the_order_of_indexing(java: Any, lucene: Lucene, tmp_path: Path) -> None:
    java()
    index = AnseriniEngine(tmp_path / "index").index([{"docno": f"d{i}", "toks": {"a": 1}} for i in range(12)])
    assert index.retriever().transform(query(a=1.0))["docno"].tolist() == [f"d{i}" for i in range(12)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"status": 1}, "Exception in .*OutOfMemoryError$"), ({"complete": False}, "Total 3 documents indexed$")],
)
def test_a_build_that_fails_leaves_nothing(java: Any, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """Anserini exits with 0 after some errors."""
    java(**settings)
    with pytest.raises(ImpactIndexError, match=f"Anserini could not build the index: {message}"):
        AnseriniEngine(tmp_path / "index").index(DOCUMENTS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["jdk", "pyserini"]


def test_an_index_that_lucene_cannot_open_is_named(java: Any, lucene: Lucene, tmp_path: Path) -> None:
    java()
    AnseriniEngine(tmp_path / "index").index(DOCUMENTS)
    lucene.error = RuntimeError("JVM exception occurred: codec header mismatch")
    with pytest.raises(ImpactIndexError, match=r"Lucene cannot open .*index: .*codec header mismatch"):
        AnseriniEngine(tmp_path / "index").retriever().transform(query(a=1.0))


def test_one_thread(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="searches with one thread, found threads=2"):
        AnseriniEngine(tmp_path / "index").retriever(threads=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "17.0.12"}, "found version 17: install one and set JAVA_HOME"),
        ({"version": "1.8.0_422"}, "found version 8"),
        ({"module": "jdk.net"}, "found one without jdk.incubator.vector"),
    ],
)
def test_an_unsuitable_java_is_refused(java: Any, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    java(**settings)
    with pytest.raises(CspladeError, match=f"Anserini needs a complete JDK of version 21 or newer, {message}"):
        AnseriniEngine(tmp_path / "index").index(DOCUMENTS)
    assert not (tmp_path / "index").exists()


def test_java_is_found_where_pyjnius_looks(java: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java()
    anserini.check_java()
    for name in ("JAVA_HOME", "JDK_HOME", "JRE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "jdk" / "bin"))
    anserini.check_java()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CspladeError, match="found none: install one"):
        anserini.check_java()
    monkeypatch.setenv("JDK_HOME", str(tmp_path / "jdk"))
    anserini.check_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))  # comes first
    with pytest.raises(CspladeError, match="found none"):
        anserini.check_java()


@pytest.mark.parametrize(
    ("version", "refused"), [("21.0.4", ""), ("23", ""), ("17.0.12", "found version 17"), ("1.8.0_1", "8")]
)
def test_a_java_that_runs_is_asked_itself(version: str, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAVA_HOME does not matter then."""
    properties = SimpleNamespace(getProperty={"java.version": version}.__getitem__)
    monkeypatch.setattr(pt.java, "started", lambda: True)
    monkeypatch.setattr(pt.java, "autoclass", {"java.lang.System": properties}.__getitem__)
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    if refused:
        with pytest.raises(CspladeError, match=refused):
            anserini.check_java()
    else:
        anserini.check_java()


def test_missing_credentials_are_one_sentence(java: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("Missing credentials. Please pass an `api_key`\nand more")

    java()
    engine = AnseriniEngine(tmp_path / "index").index(DOCUMENTS)
    monkeypatch.setattr(anserini, "start", refuse)
    with pytest.raises(CspladeError, match="with pyserini: Missing credentials.*OPENAI_API_KEY set to any value") as raised:
        engine.retriever().transform(pd.DataFrame([{"qid": "q", "query_toks": {"a": 1.0}}]))
    assert "\n" not in str(raised.value)
