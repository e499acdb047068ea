"""Which Ray clusters are joined, with a stand-in for Ray: none with security holes, none exposed to the network by mistake."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from inside.collection import cluster
from pyterrier_csplade import CspladeError


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for Ray, whose answers may be changed; ``calls`` lists what it was asked."""
    module: Any = ModuleType("ray")
    module.__version__ = "2.54.0"
    module.calls, module.running, module.error = [], False, None
    module.resources, module.addresses = {"CPU": 4.0, "GPU": 2.0}, ["127.0.0.1"]

    def init(address: str, **settings: Any) -> None:
        module.calls.append(("init", address, settings))
        if module.error:
            raise module.error

    context = SimpleNamespace(enable_progress_bars=True)
    module.init = init
    module.shutdown = lambda: module.calls.append(("shutdown",))
    module.is_initialized = lambda: module.running
    module.cluster_resources = lambda: module.resources
    module.nodes = lambda: [{"NodeManagerAddress": address} for address in module.addresses]
    module.data = ModuleType("ray.data")
    module.data.DataContext = SimpleNamespace(get_current=lambda: context)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setitem(sys.modules, "ray.data", module.data)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "x")  # restored at the end
        monkeypatch.delenv(name)
    return module


@pytest.mark.parametrize(("resources", "workers", "expected"), [
    ({"GPU": 2.0}, None, (2, 1)), ({"GPU": 2.0}, 5, (5, 1)), ({"CPU": 8.0}, 3, (3, 0)),
])  # fmt: skip
def test_workers_and_their_gpus(ray: Any, resources: dict[str, float], workers: int | None, expected: tuple[int, int]) -> None:
    ray.resources = resources
    with cluster("auto", workers) as runner:
        assert (runner.workers, runner.gpus) == expected
        assert [call[:2] for call in ray.calls] == [("init", "auto")]
        assert "include_dashboard" not in ray.calls[0][2]
    assert ray.calls[-1] == ("shutdown",)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0" and "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ


def test_without_a_gpu_the_number_of_processes_is_needed(ray: Any) -> None:
    ray.resources = {"CPU": 8.0}
    with pytest.raises(CspladeError, match="the Ray cluster has no GPU: set the number of processes with --workers"):
        cluster("auto", None).__enter__()
    assert ray.calls[-1] == ("shutdown",)


@pytest.mark.parametrize("version", ["2.53.1", "2.9.3", "1.13.0"])
def test_a_ray_with_known_holes_is_not_started(ray: Any, version: str) -> None:
    ray.__version__ = version
    with pytest.raises(CspladeError, match=f"Ray {version} has known security holes: pip install"):
        cluster("local", 1).__enter__()
    assert ray.calls == []


@pytest.mark.parametrize("version", ["2.54.0", "2.100.0", "3.0.0.dev0"])
def test_a_newer_ray_is_taken(ray: Any, version: str) -> None:
    ray.__version__ = version
    with cluster("local", 1) as runner:
        assert runner.workers == 1


def test_a_local_cluster_listens_to_this_machine_alone(ray: Any) -> None:
    with cluster("local", 1):
        assert ray.calls[0][2]["include_dashboard"] is False
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    ray.addresses, ray.calls = ["10.0.0.7"], []
    with pytest.raises(CspladeError, match="would listen on the network: start the encoding in a new process"):
        cluster("local", 1).__enter__()
    assert ray.calls[-1] == ("shutdown",)
    with cluster("10.0.0.7:6379", 1):  # allowed, because its address was given
        pass


@pytest.mark.parametrize("error", [ConnectionError("Failed to connect"), ValueError("Malformed address")])
def test_a_cluster_that_is_not_there_is_named(ray: Any, error: Exception) -> None:
    ray.error = error
    with pytest.raises(CspladeError, match=f"there is no Ray cluster at 'head:6379': {error}"):
        cluster("head:6379", 1).__enter__()


def test_a_cluster_that_the_caller_joined_stays(ray: Any) -> None:
    ray.running = True
    with pytest.raises(RuntimeError, match="of the run"), cluster("auto", 1):
        raise RuntimeError("of the run")
    assert ray.calls == []
