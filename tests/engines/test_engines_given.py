"""Input of the engines, worked out by hand: terms and documents as numbers, impacts, repetitions, settings, limits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inside.engines import seismic
from pyterrier_csplade import Contract, DataError, ImpactVector
from pyterrier_csplade.engines import PisaEngine, SeismicEngine
from support.fake_engines import MODULES
from support.pages import PAGES, blocks

CONTRACT = Contract(weights="w", base_model="lm-one")
# Half an impact is rounded up to 1; less is left out, and its term gets no number. b is 0, a 1, Ġc 2.
DOCUMENTS = [
    {"docno": "x\ny", "toks": ImpactVector({"b": 3, "never": 0.4, "a": 2.5}, CONTRACT)},
    {"docno": "empty", "toks": ImpactVector({}, CONTRACT)},
    {"docno": "é", "toks": ImpactVector({"Ġc": 7, "never": -2, "a": 0.5}, CONTRACT)},
]
NUMBERED = {"0": {"0": 3, "1": 3}, "1": {}, "2": {"1": 1, "2": 7}}


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    made = {name: make() for name, make in MODULES.items()}
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def queries(*toks: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame({"qid": [f"q{i}" for i in range(len(toks))], "query_toks": list(toks)})


def calls(module: Any, name: str) -> list[Any]:
    return [call[1:] for call in module.calls if call[0] == name]


def test_examples_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(blocks(next(page for page in PAGES if page.stem == "engines"), "python3")), names)
    assert names["pipeline"].search("inverted index")["docno"].iloc[0] == "d1"
    assert names["table"]["exact_recall@10"].tolist()[0] == 1 and (tmp_path / "tradeoff.png").is_file()


def test_pisa_gets_numbers_and_repetitions(tmp_path: Path, modules: dict[str, Any]) -> None:
    pisa = modules["pyterrier_pisa"]
    index = PisaEngine(tmp_path / "index").index(DOCUMENTS)
    assert json.loads((tmp_path / "index" / "inv.json").read_text()) == NUMBERED
    # Compressed during the build: otherwise the manifest would not list the file.
    assert "inv.compressed" in json.loads((tmp_path / "index" / "csplade_manifest.json").read_text())["files"]
    assert calls(pisa, "PisaIndex")[0][0] == {"stemmer": "none", "stops": "none", "batch_size": 20_000}
    retriever = index.retriever(toks_scale=10, num_results=7, threads=2, query_algorithm="wand")
    found = retriever.transform(queries({"a": 0.25, "Ġc": 1.0, "b": 0.04}, {"b": 0.04}, {"b": 0.05, "unknown": 3.0}))
    # 0.25, 1 and 0.04 become 3, 10 and 0 repetitions (half goes up); a query without repetitions is not sent.
    assert calls(pisa, "transform") == [({"q0": {"1": 3.0, "2": 10.0}, "q2": {"0": 1.0}},)]
    assert found[["qid", "docno"]].to_numpy().tolist() == [["q0", "é"], ["q0", "x\ny"], ["q2", "x\ny"]]
    assert found["score"].tolist() == pytest.approx([7.3, 0.9, 0.3])
    settings = {"num_results": 7, "query_algorithm": "wand", "toks_scale": 1.0, "threads": 2, "verbose": False}
    assert calls(pisa, "quantized")[-1] == (settings,)
    assert repr(retriever).endswith(".retriever(query_algorithm='wand', toks_scale=10, num_results=7, threads=2)")
    assert retriever.transform(queries({"b": 0.04})).empty and len(calls(pisa, "transform")) == 1


def test_pisa_refuses_what_it_cannot_repeat(tmp_path: Path) -> None:
    index = PisaEngine(tmp_path / "index").index(DOCUMENTS)
    with pytest.raises(DataError, match="query 'q1': PISA would repeat its terms too often: use a smaller toks_scale"):
        index.retriever().transform(queries({"a": 9999.0}, {"a": 9999.0, "b": 1.1}))
    assert len(index.retriever().transform(queries({"a": 10_000.0}))) == 2
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"toks_scale must be above 0 and finite, found {scale}"):
            index.retriever(toks_scale=scale)


def test_pisa_is_asked_for_one_retriever_until_the_index_is_opened_again(tmp_path: Path, modules: dict[str, Any]) -> None:
    index = PisaEngine(tmp_path / "index").index(DOCUMENTS)
    retriever = index.retriever()
    built = len(calls(modules["pyterrier_pisa"], "quantized"))
    for opened in (1, 1, 2):
        if opened == 2:
            index.close()
        retriever.transform(queries({"a": 1.0}))
        assert len(calls(modules["pyterrier_pisa"], "quantized")) == built + opened


def test_seismic_gets_batches(tmp_path: Path, modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seismic, "_BATCH", 2)
    engine = SeismicEngine(tmp_path / "index", n_postings=9, centroid_fraction=0.2, summary_energy=0.3, threads=2)
    with pytest.warns(UserWarning, match="approximate.*exact_recall"):
        index = engine.index(DOCUMENTS)
    assert modules["seismic"].calls[:2] == [("add", 2, [0, 2, 2]), ("add", 1, [0, 2])]
    assert json.loads((tmp_path / "index" / "seismic.index.seismic").read_text()) == ["SeismicIndex", NUMBERED]
    settings = {"n_postings": 9, "centroid_fraction": 0.2, "summary_energy": 0.3, "num_threads": 2}
    assert modules["seismic"].calls[2] == ("SeismicIndex", settings)
    retriever = index.retriever(query_cut=3, heap_factor=0.5, num_results=6, threads=4)
    found = retriever.transform(queries({"a": 0.5}, {"unknown": 1.0}, {"Ġc": 2.0}))
    assert modules["seismic"].calls[3] == ("batch_search", 6, {"query_cut": 3, "heap_factor": 0.5, "num_threads": 4})
    # Rankings that come in another order still belong to their queries.
    assert found[["qid", "docno", "score"]].to_numpy().tolist() == [["q0", "x\ny", 1.5], ["q0", "é", 0.5], ["q2", "é", 14.0]]
    assert repr(retriever).endswith(".retriever(query_cut=3, heap_factor=0.5, num_results=6, threads=4)")


@pytest.mark.parametrize("most, name", [(3, "SeismicIndex"), (2, "SeismicIndexLV")])
@pytest.mark.filterwarnings("ignore:Seismic is approximate")
def test_seismic_numbers_many_terms_with_another_class(
    most: int, name: str, tmp_path: Path, modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seismic, "_MAX_TERMS", most)
    SeismicEngine(tmp_path / "index").index(DOCUMENTS)
    assert name in [call[0] for call in modules["seismic"].calls]
    # The stand-in asserts that one class builds and opens the index.
    found = SeismicEngine(tmp_path / "index").retriever().transform(queries({"Ġc": 1.0}))
    assert found["docno"].tolist() == ["é"]
