"""Encoding on a Ray cluster that loses workers and nodes: ``pip install .[ray] && pytest -n 0 -m cluster``, two minutes."""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inside.cli import main
from inside.collection import OnRay, Part, cluster, encode_collection
from pyterrier_csplade import CSPLADE, CspladeError, DataError, EncodedCollection
from support.models import language_model, tokenizer
from support.paths import TESTS
from support.ray_workers import NotingQuantizer
from support.vector_collections import content, documents, jsonl


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "ray":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.raises(CspladeError, match=r'Ray is not installed: pip install "pyterrier-csplade\[ray\]"'),
        cluster("local", 1),
    ):
        pass


def listening() -> set[str]:
    """Addresses to which servers of Ray listen, in hexadecimal as in /proc/net."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    sockets = {f"socket:[{line[9]}]": line[1].split(":")[0] for line in lines if line[3] == "0A"}
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ray" in (process / "cmdline").read_bytes():
                found |= {sockets[target] for fd in (process / "fd").iterdir() if (target := os.readlink(fd)) in sockets}
    return found


@pytest.mark.cluster
def test_the_command_starts_a_cluster_that_nobody_else_reaches(model: CSPLADE, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    docs = jsonl(tmp_path / "docs.jsonl", documents())
    command = [sys.executable, "-m", "pyterrier_csplade", "encode", docs, "--model", str(model.model), "--shard-size", "5"]
    command += ["--output", str(tmp_path / "c"), "--ray", "local"]
    process = subprocess.Popen([*command, "--workers", "1"])
    heard: set[str] = set()
    while process.poll() is None:
        heard |= listening()
        time.sleep(0.2)
    assert process.returncode == 0
    assert heard and heard <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert main(["verify", str(tmp_path / "c")]) == 0
    without = subprocess.run(command, capture_output=True, text=True)
    assert without.returncode == 2 and "has no GPU: set the number of processes with --workers" in without.stderr


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head node without CPUs, and two nodes with one CPU each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS), before or ""])
    os.environ.update(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")
    local = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        local.add_node(num_cpus=1)
    yield local
    local.shutdown()  # type: ignore[no-untyped-call]
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CSPLADE:
    path = tmp_path_factory.mktemp("model")
    CSPLADE((language_model(), tokenizer())).save(path)
    return CSPLADE(path)


@pytest.fixture
def runner(nodes: Any) -> Iterator[OnRay]:
    with cluster(nodes.address, 2) as joined:
        yield joined


def when(condition: Callable[[], Any], act: Callable[[], Any]) -> threading.Thread:
    def wait() -> None:
        while not condition():
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.cluster
def test_errors_of_workers(runner: OnRay, model: CSPLADE, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shard \d: .* texts \(100%\) have no impact above 0"):
        encode_collection(
            model.doc_encoder(min_weight=1e6), documents(), tmp_path / "c", shard_size=5, part=Part(), runner=runner
        )


@pytest.mark.cluster
@pytest.mark.parametrize("lost", ["worker", "node"])
def test_losing_a_worker_or_a_node_loses_nothing(nodes: Any, runner: OnRay, model: CSPLADE, tmp_path: Path, lost: str) -> None:
    pids, output = tmp_path / "pids", tmp_path / "c"
    pids.mkdir()
    killed: list[str] = []

    def lose() -> None:
        if lost == "node":
            nodes.remove_node(nodes.worker_nodes.copy().pop())
        else:
            killed.append(min(os.listdir(pids)))
            os.kill(int(killed[0]), signal.SIGKILL)

    inp = documents(60)
    loss = when(lambda: len(list(output.glob("shard-*.json"))) >= 3 and len(os.listdir(pids)) == 2, lose)
    noting: Any = NotingQuantizer(pids)
    encoder = model.doc_encoder(top_k=12, quantizer=noting)
    outcome = encode_collection(encoder, inp, output, shard_size=2, part=Part(), runner=runner)
    loss.join(60)
    assert not loss.is_alive() and outcome.complete
    if lost == "worker":
        assert not Path(f"/proc/{killed[0]}").exists()
        assert len(os.listdir(pids)) == 3  # another took its place
    EncodedCollection(tmp_path / "alone").encode(model.doc_encoder(top_k=12), inp, shard_size=2)
    assert content(output) == content(tmp_path / "alone")
