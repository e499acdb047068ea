"""Sharing an index: its card, its package, and the cost of opening it."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import huggingface_hub
import lz4.frame
import pyterrier as pt
import pytest
import requests

from pyterrier_csplade import Contract, ImpactIndex
from support.indexes import CONTRACT, documents, search
from support.web import served


def build(path: Path, contract: Contract | None) -> ImpactIndex:
    return ImpactIndex(path).index(documents(contract=contract))


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The upload to Hugging Face: file name to content, and the name of the repository."""
    sent: dict[str, Any] = {}

    def upload(repo_id: str, folder_path: str, **_: Any) -> str:
        sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()}, repo=repo_id)
        return repo_id

    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    for name in ("create_repo", "create_branch"):
        monkeypatch.setattr(huggingface_hub, name, lambda *args, **kwargs: None)
    return sent


def test_card_on_hugging_face_is_filled(tmp_path: Path, uploaded: dict[str, Any]) -> None:
    contract = CONTRACT.replace(base_model="meta-llama/Llama-3.2-1B", document_prefix="passage: ", document_length=256)
    build(tmp_path / "i", contract).to_hf("me/my-index", branch="v2", pretty_name="My index")
    card = uploaded["README.md"].decode()
    assert "TODO" not in card
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "pretty_name: 'My index'" in front and "- pyterrier-artifact.sparse_index.terrier" in front
    headings = re.findall("^## (.*)$", body, flags=re.MULTILINE)
    assert headings == ["Description", "Usage", "Benchmarks", "Reproduction", "Metadata"]
    for fact in ("10 documents with 2 terms", contract.summary, "256 tokens", "'passage: '", "has the impact 100"):
        assert fact in " ".join(body.split())
    usage = re.findall("```python\n(.*?)```", body, flags=re.DOTALL)
    assert "ImpactIndex.from_hf('me/my-index@v2')" in usage[0] and "CSPLADE('meta-llama/Llama-3.2-1B')" in usage[0]
    for code in usage:
        compile(code, "card", "exec")


def test_card_of_an_unknown_encoder_says_so(tmp_path: Path, uploaded: dict[str, Any]) -> None:
    build(tmp_path / "i", None).to_hf("me/my-index")
    card = uploaded["README.md"].decode()
    assert "TODO" not in card and "The document encoder is unknown." in card and "'me/my-index'" in card


def test_card_on_zenodo_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Answer:
        def __init__(self) -> None:
            links = dict.fromkeys(("html", "latest_draft", "bucket", "discard"), "somewhere")
            self.values = {"id": 123, "links": links}

        def raise_for_status(self) -> None:
            pass

        def json(self) -> dict[str, Any]:
            return self.values

    def answer(url: str, **kwargs: Any) -> Answer:
        sent.append(kwargs.get("json"))
        return Answer()

    monkeypatch.setattr(requests, "post", answer)
    monkeypatch.setattr(requests, "put", answer)
    build(tmp_path / "i", CONTRACT.replace(base_model="a <b> & c")).to_zenodo(pretty_name="My index")
    (metadata,) = [values["metadata"] for values in sent if values]
    assert metadata["title"] == "My index" and "pyterrier-artifact.sparse_index.terrier" in metadata["keywords"]
    assert "TODO" not in metadata["description"] and "ImpactIndex.from_zenodo('123')" in metadata["description"]
    assert "a &lt;b&gt; &amp; c" in metadata["description"]


def test_package_from_a_url_is_the_same_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(tmp_path / "i", CONTRACT)
    index.build_package(str(tmp_path / "package.tar.lz4"), verbose=False)
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    with served(tmp_path) as address:
        again = ImpactIndex.from_url(f"{address}/package.tar.lz4")
        plain = pt.Artifact.from_url(f"{address}/package.tar.lz4")
    again.verify()
    assert type(again) is ImpactIndex and again.directory != index.directory
    assert again.contract == CONTRACT
    query = {"a": 0.3, "Ġb4": 2.0}
    assert search(again, query) == search(index, query)
    assert type(plain) is pt.terrier.TerrierIndex and len(plain) == 10


def test_an_archive_of_a_stranger_writes_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members with "..", absolute paths, links and devices are skipped; later members do not follow a skipped link."""
    index, victim, home = build(tmp_path / "i", CONTRACT), tmp_path / "victim", tmp_path / "home"
    victim.mkdir()
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(home))
    members = [("../outside", b"0"), (f"{victim}/absolute", b"0"), ("a/../../outside", b"0")]
    links = [
        ("link", tarfile.SYMTYPE, str(victim)),
        ("hard", tarfile.LNKTYPE, "/etc/hostname"),
        ("up", tarfile.SYMTYPE, "../.."),
    ]
    with lz4.frame.open(tmp_path / "package.tar.lz4", "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind, target in [*links, ("null", tarfile.CHRTYPE, ""), ("pipe", tarfile.FIFOTYPE, "")]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        for name, content in [*members, ("link/through", b"0"), ("up/through", b"0")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for path in index.directory.iterdir():
            archive.add(path, path.name)
    before = {path for path in tmp_path.rglob("*") if home not in path.parents}
    with served(tmp_path) as address:
        again = ImpactIndex.from_url(f"{address}/package.tar.lz4")
    assert {path for path in tmp_path.rglob("*") if home not in path.parents} - {home} == before
    found = [path for path in home.rglob("*") if path.name in ("outside", "absolute", "link", "hard", "up", "null", "pipe")]
    assert all(path.is_dir() and not path.is_symlink() for path in found) and not list(victim.iterdir())
    assert all(path.is_relative_to(again.directory) for path in found)
    again.verify()


#: Prints the CPU time of PyTerrier's import, and of this package's import and of a first name of it after that.
IMPORTS = """
import time
start = time.process_time()
import pyterrier
print(time.process_time() - start)
import pyterrier_csplade
print(time.process_time() - start)
from pyterrier_csplade import ImpactIndex
print(time.process_time() - start)
"""


def test_the_import_costs_little_more_than_that_of_pyterrier() -> None:
    command = [sys.executable, "-c", IMPORTS]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    runs = [[float(seconds) for seconds in output.split()] for output in outputs]
    for place in (1, 2):
        # PyTerrier took 0.4 s on the machine where this limit was set; there it is 0.3 s.
        assert min(run[place] / run[0] for run in runs) < 1.75, runs


def test_coerce_gives_the_class_that_it_was_called_on(tmp_path: Path) -> None:
    index = ImpactIndex(tmp_path / "index")
    assert ImpactIndex.coerce(index) is index
    for given in (str(tmp_path / "index"), tmp_path / "index", pt.terrier.TerrierIndex(str(tmp_path / "index"))):
        assert type(ImpactIndex.coerce(given)) is ImpactIndex and ImpactIndex.coerce(given) == index
    with pytest.raises(TypeError, match="expected an index or its path, found 3"):
        ImpactIndex.coerce(3)
