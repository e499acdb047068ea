"""Shared fixtures: a tiny random model, a small collection, and a machine without network."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from support.texts import DOCUMENTS

if TYPE_CHECKING:  # loads torch, which tests of the index do not need
    from pyterrier_csplade import CSPLADE

# The tests run in two processes; more threads of torch would only wait for a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing is fetched; without this, a name that is no file waits for a hub that does not answer.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# If a shell starts the tests in the background, they and their child processes ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests without the marker ``gpu``, which compare bit by bit with results of a CPU."""
    if "gpu" not in config.getoption("markexpr").replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """Exempt imported modules from garbage collection, which each training run starts: it took a third of a run."""
    gc.collect()
    gc.freeze()
    # At its end, the interpreter frees everything, or libraries report leaks. pytest collects garbage before.
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session")
def csplade() -> CSPLADE:
    """A random Llama model with 2 layers."""
    from pyterrier_csplade import CSPLADE
    from support.models import language_model, tokenizer

    return CSPLADE((language_model(), tokenizer()), batch_size=3)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> CSPLADE:
    """A model that fails the test if it is loaded."""
    from pyterrier_csplade import CSPLADE

    def refuse(self: CSPLADE) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(CSPLADE, "_load", refuse)
    return CSPLADE("some/model")


@pytest.fixture
def encoded(csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """A list to which each call of ``csplade``'s encoder adds its role and texts."""
    calls: list[tuple[str, list[str]]] = []
    encode = csplade.encode_tokenized

    def record(batch: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((batch.role, list(batch.texts)))
        return encode(batch, *args, **kwargs)

    monkeypatch.setattr(csplade, "encode_tokenized", record)
    return calls


@pytest.fixture
def documents() -> pd.DataFrame:
    """Eight documents."""
    return pd.DataFrame({"docno": list(DOCUMENTS), "text": list(DOCUMENTS.values())})


@pytest.fixture
def topics() -> pd.DataFrame:
    """Three queries."""
    return pd.DataFrame({"qid": ["q1", "q2", "q3"], "query": ["inverted index", "dogs and cats", "causal language models"]})


@pytest.fixture
def qrels() -> pd.DataFrame:
    """Judgements of the three queries."""
    return pd.DataFrame(
        {"qid": ["q1", "q2", "q2", "q3", "q3"], "docno": ["d1", "d4", "d7", "d5", "d2"], "label": [1, 2, 1, 1, 1]}
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if it opens a connection."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"network used: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One real OpenSearch node for all tests, which may kill and start it again; each test names its own indexes."""
    from support.opensearch_cluster import running

    with running(tmp_path_factory.mktemp("opensearch"), nodes=1) as cluster:
        yield cluster
