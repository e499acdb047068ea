"""Behaviour that all engines share, with stand-ins for their packages: refusals, damage, replacement, ranking."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import pyterrier_csplade.engines
from pyterrier_csplade import Contract, ContractError, CspladeError, DataError, ImpactIndexError, ImpactVector, MatrixVectors
from pyterrier_csplade.engines import Engine, PisaEngine, SeismicEngine
from support.fake_engines import MODULES

CONTRACT = Contract(weights="w", base_model="lm-one")
MANIFEST_FILE = "csplade_manifest.json"
DOCUMENTS = [{"docno": f"d{i}", "toks": ImpactVector({"all": 2, f"t{i % 3}": 1 + i}, CONTRACT)} for i in range(7)]
QUERY = pd.DataFrame([{"qid": "q", "query_toks": {"all": 1.0}}])

pytestmark = [
    pytest.mark.parametrize("kind", [PisaEngine, SeismicEngine]),
    pytest.mark.filterwarnings("ignore:Seismic is approximate"),
]


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in MODULES.items():
        monkeypatch.setitem(sys.modules, name, make())


def found(index: Engine, query: pd.DataFrame = QUERY, **options: Any) -> list[str]:
    return index.retriever(**options).transform(query)["docno"].tolist()  # type: ignore[attr-defined, no-any-return]


def test_ties_have_the_order_of_indexing_and_a_cutoff_is_obeyed(kind: type[Engine], tmp_path: Path) -> None:
    index = kind(tmp_path / "index").index(DOCUMENTS)
    assert found(index) == [f"d{i}" for i in range(7)]
    assert len(found(index, num_results=3)) == 3
    query = pd.DataFrame([{"qid": "q", "query_toks": {"t1": 1.0, "all": 1.0}}])
    assert found(index, query) == ["d4", "d1", "d0", "d2", "d3", "d5", "d6"]


def test_queries_without_a_known_term_have_no_rows(kind: type[Engine], tmp_path: Path) -> None:
    retriever = kind(tmp_path / "index").index(DOCUMENTS).retriever()  # type: ignore[attr-defined]
    frame = pd.DataFrame({"qid": list("abcd"), "query_toks": [{"never": 2.0}, {}, None, {"all": 0.0}]})
    columns = ["qid", "query_toks", "docid", "docno", "rank", "score"]
    for queries in (frame, frame.head(0)):
        none = retriever.transform(queries)
        assert none.empty and list(none.columns) == columns == pt.inspect.transformer_outputs(retriever, ["qid", "query_toks"])
    with pytest.raises(DataError, match="query 'q': the weight of 'all'"):
        retriever.transform(pd.DataFrame([{"qid": "q", "query_toks": {"all": -1.0}}]))
    assert retriever == kind(tmp_path / "index").retriever() != kind(tmp_path / "other").retriever()  # type: ignore[attr-defined]


def test_an_index_is_opened_again_with_its_contract(kind: type[Engine], tmp_path: Path) -> None:
    kind(tmp_path / "index").index(DOCUMENTS)
    index = kind(tmp_path / "index")
    assert len(index) == 7 and index.contract == CONTRACT and index.index_inputs() == [["docno", "toks"]]
    assert repr(index) == f"{kind.__name__}({str(tmp_path / 'index')!r})"
    assert repr(index.retriever()) == f"{index!r}.retriever()"  # type: ignore[attr-defined]
    other = Contract(weights="other", base_model="lm-two")
    with pytest.raises(ContractError, match="lm-two.*lm-one"):
        found(index, pd.DataFrame([{"qid": "q", "query_toks": ImpactVector({"all": 1.0}, other)}]))
    with pytest.raises(ContractError, match="'d1'.*lm-two.*lm-one"):
        kind(tmp_path / "two").index([DOCUMENTS[0], {"docno": "d1", "toks": ImpactVector({"all": 1}, other)}])
    plain = kind(tmp_path / "plain").index([{"docno": "d", "toks": {"all": 1}}])
    assert plain.contract is None and found(plain) == ["d"]


def test_a_replaced_index_is_seen_after_closing(kind: type[Engine], tmp_path: Path) -> None:
    index = kind(tmp_path / "index").index(DOCUMENTS[:2])
    retriever = index.retriever()  # type: ignore[attr-defined]
    assert retriever.transform(QUERY)["docno"].tolist() == ["d0", "d1"]
    shutil.rmtree(tmp_path / "index")
    kind(tmp_path / "index").index(DOCUMENTS[4:])
    assert retriever.transform(QUERY)["docno"].tolist() == ["d0", "d1"]  # what was opened stays open
    index.close()
    assert retriever.transform(QUERY)["docno"].tolist() == ["d4", "d5", "d6"]
    # Building through the same object closes it.
    shutil.rmtree(tmp_path / "index")
    index.index(DOCUMENTS[3:4])
    assert retriever.transform(QUERY)["docno"].tolist() == ["d3"]


def test_an_index_of_another_engine_is_refused(kind: type[Engine], tmp_path: Path) -> None:
    other = PisaEngine if kind is SeismicEngine else SeismicEngine
    kind(tmp_path / "index").index(DOCUMENTS)
    with pytest.raises(ImpactIndexError, match=f"index is an index of {kind.name}, not of {other.name}"):
        len(other(tmp_path / "index"))


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "no manifest", "manifest"])
def test_damage_is_named(kind: type[Engine], damage: str, tmp_path: Path) -> None:
    kind(tmp_path / "index").index(DOCUMENTS)
    (own, *_) = [f for f in (tmp_path / "index").iterdir() if f.name not in (MANIFEST_FILE, "csplade_engine.bin")]
    content = own.read_bytes()
    if damage == "missing":
        own.unlink()
        message = rf"{own.name} is missing: build or copy"
    elif damage == "cut":
        own.write_bytes(content[:-1])
        message = rf"{own.name} has {len(content) - 1:,} bytes, not {len(content):,}: build or copy"
    elif damage == "changed":
        own.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        message = f"{own.name} has changed"
    elif damage == "no manifest":
        (tmp_path / "index" / MANIFEST_FILE).unlink()
        message = f"{MANIFEST_FILE} is missing"
    else:
        (tmp_path / "index" / MANIFEST_FILE).write_text('{"files": {"../up": {"bytes": 1, "sha256": ""}}}')
        message = rf"{MANIFEST_FILE} is damaged \(an entry is not a file.*build the index again"
    with pytest.raises(ImpactIndexError, match=message):
        found(kind(tmp_path / "index"))


def test_nothing_is_overwritten_and_nothing_is_left(kind: type[Engine], tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        yield DOCUMENTS[0]
        raise RuntimeError("out of memory")

    index = kind(tmp_path / "index")
    for documents, error, message in (
        (failing(), RuntimeError, "out of memory"),
        ([{"docno": "d", "toks": {"a": 0.2}}, {"docno": "e", "toks": {}}], DataError, "nothing to index: 2 documents, none"),
        ([], DataError, "nothing to index: 0 documents"),
        ([DOCUMENTS[0], DOCUMENTS[0]], DataError, "'d0'"),
        ([{"docno": "d", "toks": {"a": float("nan")}}], DataError, "document 'd': the weight of 'a'"),
    ):
        with pytest.raises(error, match=message):
            index.index(documents)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="unknown arguments: batch_size"):
        index.index(DOCUMENTS, batch_size=3)
    with pytest.raises(ImpactIndexError, match=r"no index at .*index: build it with \(csplade.doc_encoder\(\) >> engine\)"):
        found(index)
    (tmp_path / "index").mkdir()  # an empty directory is no index
    index.index(DOCUMENTS)
    with pytest.raises(ImpactIndexError, match="index exists: choose another path, or remove it"):
        index.index(DOCUMENTS[:1])
    assert len(found(kind(tmp_path / "index"))) == 7
    (tmp_path / "file").touch()
    with pytest.raises(ImpactIndexError, match="file exists: choose another path"):
        kind(tmp_path / "file").index(DOCUMENTS)


def test_an_index_whose_engine_is_not_installed_names_its_extra(
    kind: type[Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind(tmp_path / "index").index(DOCUMENTS)
    monkeypatch.setitem(sys.modules, kind.module, None)
    with pytest.raises(CspladeError, match=rf"{kind.__name__} needs .*pip install \"pyterrier-csplade\[{kind.extra}\]\""):
        found(kind(tmp_path / "index"))


def test_names_of_the_package(kind: type[Engine]) -> None:
    assert getattr(pyterrier_csplade.engines, kind.__name__) is kind and issubclass(kind, pyterrier_csplade.engines.Engine)
    with pytest.raises(AttributeError, match="has no attribute 'LuceneEngine'"):
        _ = pyterrier_csplade.engines.LuceneEngine


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_vectors_and_queries_of_any_kind_score_as_numpy_does(
    kind: type[Engine], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    shape = int(generator.integers(1, 12)), int(generator.integers(1, 9))
    impacts = generator.integers(1, 256, shape) * (generator.random(shape) < 0.5)
    impacts[0, 0] = impacts[-1, -1] = 5
    terms = [f"t{i}" for i in generator.permutation(shape[1])]
    vectors = MatrixVectors([f"d{i}" for i in range(shape[0])], csr_matrix(impacts.astype(np.int32)), terms, CONTRACT)
    index = kind(tmp_path_factory.mktemp("engine") / "index").index_vectors(vectors)
    # Multiples of 1/32 of the heaviest are exact in all of them.
    weights = generator.integers(0, 33, shape[1]) / 32
    weights[0] = 1
    query = pd.DataFrame([{"qid": "q", "query_toks": {t: w for t, w in zip(terms, weights.tolist()) if w}}])
    result = index.retriever(**({"toks_scale": 32} if kind is PisaEngine else {})).transform(query)  # type: ignore[attr-defined]
    scores = impacts @ weights
    expected = [i for i in np.lexsort((np.arange(shape[0]), -scores)) if scores[i] > 0]
    assert result["docid"].tolist() == expected and result["docno"].tolist() == [f"d{i}" for i in expected]
    assert result["score"].tolist() == pytest.approx(scores[expected])
