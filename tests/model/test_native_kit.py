"""PyTerrier's own tests of transformers, and what it can say of pipelines without a model."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from typing import Any

import pyterrier as pt
import pytest

from pyterrier_csplade import CSPLADE, EncodedCollection, ImpactIndex, PruneToks, engines

os.environ["PT_TEST_TRANSFORMER_REPORTS"] = "0"
_NOT_LOADED = CSPLADE("some/model")


@pytest.mark.usefixtures("no_network", "unloaded")
class TestDocEncoder(pt.testing.transformer_test_class(_NOT_LOADED.doc_encoder)):  # type: ignore[misc]
    """PyTerrier's own tests of a transformer."""


@pytest.mark.usefixtures("no_network", "unloaded")
class TestQueryEncoder(pt.testing.transformer_test_class(_NOT_LOADED.query_encoder)):  # type: ignore[misc]
    """The same."""


@pytest.mark.usefixtures("no_network", "unloaded")
class TestScorer(pt.testing.transformer_test_class(_NOT_LOADED.scorer)):  # type: ignore[misc]
    """The same."""


@pytest.mark.usefixtures("no_network", "unloaded")
class TestRetriever(pt.testing.transformer_test_class(ImpactIndex("some.index").retriever)):  # type: ignore[misc]
    """The same."""


@pytest.mark.usefixtures("no_network", "unloaded")
class TestPipeline(
    pt.testing.transformer_test_class(lambda: _NOT_LOADED.query_encoder() >> ImpactIndex("some.index").retriever())  # type: ignore[misc]
):
    """The same."""


@pytest.mark.usefixtures("no_network")
class TestPostingsRetriever(
    pt.testing.transformer_test_class(lambda: ImpactIndex("some.index").retriever(algorithm="exhaustive"))  # type: ignore[misc]
):
    """The same."""


@pytest.mark.usefixtures("no_network")
class TestPruneToks(pt.testing.transformer_test_class(lambda: PruneToks(top_k=3))):  # type: ignore[misc]
    """The same."""


@pytest.mark.usefixtures("no_network")
class TestEncodedCollection(pt.testing.transformer_test_class(lambda: EncodedCollection("some.vectors"))):  # type: ignore[misc]
    """The same."""


ENGINES = sorted(name for name in engines.__all__ if isinstance(getattr(engines, name), type) and name != "Engine")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.usefixtures("no_network")
def test_retrievers_of_engines(name: str) -> None:
    """The same; none of the engines need be installed."""
    kit: Any = pt.testing.transformer_test_class(lambda: getattr(engines, name)("some.index").retriever())
    result = unittest.defaultTestLoader.loadTestsFromTestCase(kit).run(unittest.TestResult())
    assert result is not None and result.testsRun > 1
    assert not [trace for _, trace in result.errors + result.failures]


@pytest.mark.parametrize("name", ENGINES)
def test_pipelines_with_engines_can_be_drawn(unloaded: CSPLADE, no_network: None, name: str) -> None:
    index = getattr(engines, name)("some.index")
    for pipeline in (unloaded.doc_encoder() >> index, unloaded.query_encoder() >> index.retriever()):
        assert "CSPLADE" in pt.schematic.draw(pipeline)


def test_schematics_of_pipelines_need_no_network(no_network: None, unloaded: CSPLADE) -> None:
    indexing = unloaded.doc_encoder() >> ImpactIndex("some.index")
    reranking = unloaded.query_encoder() >> ImpactIndex("some.index").retriever() >> unloaded.scorer()
    for pipeline in (indexing, reranking):
        assert "CSPLADE" in pt.schematic.draw(pipeline)


def test_columns_flow_through_pipelines(unloaded: CSPLADE) -> None:
    retrieval = unloaded.query_encoder() >> ImpactIndex("some.index").retriever()
    assert pt.inspect.transformer_inputs(retrieval) == [["qid", "query"]]
    expected = ["qid", "query", "query_toks", "docid", "docno", "rank", "score"]
    assert sorted(pt.inspect.transformer_outputs(retrieval, ["qid", "query"])) == sorted(expected)


def test_no_jvm_and_no_torch_before_the_first_search() -> None:
    code = """
import sys, pandas as pd, pyterrier as pt
from pyterrier_csplade import ImpactIndex
retriever = ImpactIndex("nowhere").retriever()
retriever.transform(pd.DataFrame(columns=["qid", "query_toks"]))
pt.inspect.transformer_outputs(retriever % 5, ["qid", "query_toks"])
repr(retriever), hash(retriever), (retriever % 5).compile(), ImpactIndex("nowhere").toks_indexer().index_inputs()
print(pt.java.started(), sorted({"jnius", "torch", "transformers"} & set(sys.modules)))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split("\n")[0] == "False []"
