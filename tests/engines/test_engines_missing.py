"""A missing engine or Java is named in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inside.engines import anserini
from pyterrier_csplade import CspladeError
from pyterrier_csplade.engines import AnseriniEngine, PisaEngine, SeismicEngine


def test_an_engine_that_is_not_installed_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for engine, module in ((PisaEngine, "pyterrier_pisa"), (SeismicEngine, "seismic")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(CspladeError, match=rf"pip install \"pyterrier-csplade\[{engine.extra}\]\""):
            engine(tmp_path / "index").index([{"docno": "d", "toks": {"a": 1}}])


def test_an_old_java_is_refused_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anserini, "_java_version", lambda: 17)
    with pytest.raises(CspladeError, match="JDK of version 21 or newer, found version 17.*JAVA_HOME"):
        AnseriniEngine(tmp_path / "index").index([{"docno": "d", "toks": {"a": 1}}])
    monkeypatch.setattr(anserini, "_java_version", lambda: 0)
    with pytest.raises(CspladeError, match="found none"):
        anserini.check_java()
    monkeypatch.setattr(anserini, "_java_version", lambda: 25)
    monkeypatch.setattr(anserini, "_has_module", lambda: False)
    with pytest.raises(CspladeError, match="found one without jdk.incubator.vector"):
        anserini.check_java()


@pytest.mark.parametrize(
    "line, version", [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_452"', 8), ("", 0)]
)
def test_the_version_of_java_is_read(line: str, version: int, tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho '{line}' >&2\n")
    java.chmod(0o755)
    code = "from pyterrier_csplade.engines import anserini; print(anserini._java_version())"
    environment = {"JAVA_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert int(done.stdout) == version
