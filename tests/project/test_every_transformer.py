"""Every transformer of the package obeys its parameters after use, as pt.GridScan needs, and can then be copied and pickled.

Transformers are found by looking through the package: a new one fails the first test until it has a case here.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]  # scikit-learn, which PyTerrier needs, brings it
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

import pyterrier_csplade
from pyterrier_csplade import (
    CSPLADE,
    ContractError,
    DataError,
    FoldTerms,
    ImpactIndex,
    MergeToks,
    OpenSearchIndex,
    PruneToks,
    Quantizer,
    QueryTable,
    hybrid,
)
from pyterrier_csplade.engines import PisaEngine, SeismicEngine
from support import fake_engines
from support.fake_opensearch import FakeCluster
from support.models import language_model, tokenizer
from support.pictures import colours, drawn, paler, random_head
from support.texts import DOCUMENTS

#: Bases, which are not used by themselves, and objects whose parameters are not settings of a transformation.
NOT_TRIED = {
    "AnseriniEngine", "AnseriniRetriever",  # need a Java of their own; tests/engines tries them
    "EncodedCollection", "Engine", "ImpactIndex", "OpenSearchIndex", "PisaEngine", "SeismicEngine", "StoredIndex",
}  # fmt: skip

TOPICS = pd.DataFrame({"qid": ["q1", "q2", "q3"], "query": ["inverted index", "dogs and cats", "causal language models"]})
DOCS = [{"docno": docno, "text": text, "body": text[::-1]} for docno, text in DOCUMENTS.items()]


@dataclass
class Case:
    """How to make a transformer, what it transforms, and two values of each of its parameters."""

    make: Callable[..., pt.Transformer]
    use: Callable[[pt.Transformer], Any]
    values: dict[str, tuple[Any, Any]]
    kept: frozenset[str] = frozenset()  # parameters that change no result


def frame(found: pd.DataFrame) -> Any:
    """What can be compared with ==."""
    return found.astype(object).where(found.notna(), None).to_dict("list")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A model, indexes of its vectors in every engine, and their input."""
    path = tmp_path_factory.mktemp("world")
    CSPLADE((language_model(), tokenizer())).save(path / "model")
    csplade = CSPLADE(path / "model")
    QueryTable.fit(csplade, TOPICS["query"], verbose=False).save(path / "table")
    vectors = list(csplade.doc_encoder(top_k=60).transform_iter(DOCS))
    index = ImpactIndex(path / "index")
    index.toks_indexer(meta=["docno", "text"]).index(vectors)
    index.add_guide(csplade.doc_encoder(counts=True).transform_iter(DOCS))
    index.add_guide(csplade.doc_encoder(counts=True).transform_iter(DOCS[:5]), name="half", k1=3.0)
    index.reorder()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, make in fake_engines.MODULES.items():
            monkeypatch.setitem(sys.modules, name, make())
        served = OpenSearchIndex(FakeCluster().client(), "docs")
        served.toks_indexer(meta=["body"], text="text", scale=0.2).index(vectors)
        monkeypatch.setattr("warnings.warn", lambda *a, **k: None)
        engines = {kind: kind(path / kind.__name__).index(vectors) for kind in (PisaEngine, SeismicEngine)}
        toks = csplade.query_encoder(top_k=20)(TOPICS)
        results = index.retriever(num_results=3, include_fields=["text"])(toks)
        yield {
            "head": random_head(csplade, path / "head"),
            "path": path, "csplade": csplade, "vectors": pd.DataFrame(vectors), "index": index, "served": served,
            "toks": toks, "results": results, **{kind.__name__: engine for kind, engine in engines.items()},
        }  # fmt: skip


@dataclass
class on:  # noqa: N801  # reads as a function
    """Transforms a frame."""

    inp: pd.DataFrame

    def __call__(self, transformer: pt.Transformer) -> Any:
        return frame(transformer(self.inp))


class or_refusal(on):  # noqa: N801
    """Transforms a frame, and returns the message where a value of a parameter is refused when it is used."""

    def __call__(self, transformer: pt.Transformer) -> Any:
        try:
            return super().__call__(transformer)
        except ContractError as error:
            return str(error)


CUTS: dict[str, Any] = {"top_k": (None, 3), "min_weight": (0.0, 0.4)}
SIZE: dict[str, Any] = {"batch_size": (None, 2)}
FIELDS: dict[str, Any] = {"num_results": (1000, 2), "include_fields": (None, ["text"])}
LIMITS: dict[str, Any] = {"max_terms": (None, 1), "max_postings": (None, 1), "max_ms": (None, 1e6)}
THREADS: dict[str, Any] = {"threads": (1, 3)}


def cases(world: dict[str, Any]) -> dict[str, Case]:
    """Return the cases by the names of their transformers."""
    return {**cases_of_encoders(world), **cases_of_the_index(world), **cases_of_engines(world), **cases_of_algorithms(world)}


def results_of(world: dict[str, Any]) -> pd.DataFrame:
    return world["results"].assign(body=[text[::-1] for text in world["results"]["text"]])


def cases_of_encoders(world: dict[str, Any]) -> dict[str, Case]:
    csplade, documents = world["csplade"], pd.DataFrame(DOCS)
    by_text = on(results_of(world)[["qid", "query", "docno", "text", "body"]])
    return {
        "DocEncoder": Case(
            csplade.doc_encoder,
            on(documents),
            {"text_field": (None, "body"), **CUTS, "quantizer": ("default", Quantizer(7)), "counts": (False, True), **SIZE},
            frozenset({"batch_size"}),
        ),
        "QueryEncoder": Case(csplade.query_encoder, on(TOPICS), {**CUTS, **SIZE}, frozenset({"batch_size"})),
        "QueryTable": Case(lambda: QueryTable.load(world["path"] / "table"), on(TOPICS), {}),
        "Scorer": Case(csplade.scorer, by_text, {"text_field": (None, "body"), **SIZE}, frozenset({"batch_size"})),
        "FoldTerms": Case(
            FoldTerms,
            or_refusal(world["vectors"].assign(qid="q", query_toks=world["vectors"]["toks"])),
            {"spelling": ("byte-level", "sentencepiece"), "on": ("toks", "query_toks")},
        ),
        "PruneToks": Case(lambda **a: PruneToks(**({"top_k": 9} | a)), on(world["vectors"]), {"top_k": (2, 7)}),
        "PruneToks mass": Case(lambda **a: PruneToks(**({"mass": 0.9} | a)), on(world["vectors"]), {"mass": (0.9, 0.3)}),
        "PruneToks weight": Case(
            lambda **a: PruneToks(**({"min_weight": 1} | a)), on(world["vectors"]), {"min_weight": (1, 170)}
        ),
        "PruneToks on": Case(
            lambda **a: PruneToks(**({"top_k": 2} | a)),
            on(world["vectors"].assign(qid="q", query_toks=world["vectors"]["toks"])),
            {"on": ("toks", "query_toks")},
        ),
        **cases_of_pictures(world),
    }


def cases_of_pictures(world: dict[str, Any]) -> dict[str, Case]:
    pictures = pd.DataFrame({
        "docno": ["p1", "p2"], "image": [drawn(1), drawn(2)], "other": [drawn(3), drawn(4)], "vec": [[0.1] * 6, None],
    })  # fmt: skip
    merged = world["vectors"]["toks"].iloc[::-1].reset_index(drop=True)
    return {
        "ImageEncoder": Case(
            lambda **a: world["csplade"].image_encoder(world["head"], **({"features": colours} | a)),
            on(pictures),
            {"features": (colours, paler), "column": ("image", "other"), "vector_column": ("image_vec", "vec"),
             "output": ("toks", "image_toks"), **CUTS, "quantizer": ("default", Quantizer(7)), **SIZE},
            frozenset({"batch_size"}),
        ),
        "MergeToks": Case(
            MergeToks,
            on(world["vectors"].assign(image_toks=merged, more=merged.iloc[::-1].tolist())),
            {"other": ("image_toks", "more"), "method": ("max", "sum"), "weight": (1.0, 0.5)},
        ),
    }  # fmt: skip


def cases_of_the_index(world: dict[str, Any]) -> dict[str, Case]:
    index, results = world["index"], results_of(world)
    return {
        "ImpactRetriever": Case(
            index.retriever, on(world["toks"]), {**FIELDS, **THREADS, "exact_scores": (True, False)}, frozenset({"threads"})
        ),
        "PostingsScorer": Case(index.scorer, on(results), {}),
        "Hybrid": Case(
            lambda **a: hybrid(*(index.retriever(algorithm="exhaustive", max_terms=terms) for terms in (None, 2)), **a),
            on(world["toks"]),
            {"method": ("rrf", "zscore"), "weights": (None, (0.2, 1.5)), "num_results": (1000, 2)},
        ),
        "FieldLoader": Case(
            index.text_loader, on(results[["qid", "docno", "docid"]]), {"fields": ("*", ["docno"])}
        ),
    }  # fmt: skip


def cases_of_engines(world: dict[str, Any]) -> dict[str, Case]:
    served, results = world["served"], results_of(world)
    return {
        "OpenSearchRetriever": Case(
            served.retriever,
            on(world["toks"]),
            {"num_results": (1000, 2), "include_fields": (None, ["body"]), "batch_size": (32, 2),
             "filter": (None, {"term": {"body": DOCS[0]["body"]}})},
            frozenset({"batch_size"}),
        ),
        "OpenSearchScorer": Case(served.scorer, on(results), {"batch_size": (32, 1)}, frozenset({"batch_size"})),
        "PisaRetriever": Case(
            world["PisaEngine"].retriever,
            on(world["toks"]),
            {"num_results": (1000, 2), "toks_scale": (1000.0, 4.0), "query_algorithm": ("maxscore", "wand"), **THREADS},
            frozenset({"query_algorithm", "threads"}),
        ),
        "SeismicRetriever": Case(
            world["SeismicEngine"].retriever,
            on(world["toks"]),
            {"num_results": (1000, 2), "query_cut": (10, 1), "heap_factor": (0.7, 0.1), **THREADS},
            frozenset({"query_cut", "heap_factor", "threads"}),  # of the stand-in, which only notes them
        ),
    }  # fmt: skip


def cases_of_algorithms(world: dict[str, Any]) -> dict[str, Case]:
    index = world["index"]
    options: dict[str, dict[str, Any]] = {
        "exhaustive": {},
        "maxscore": {},
        "bmp": {"alpha": (1.0, 0.2), "beta": (1.0, 0.2), "block_size": (4, 2), "reordered": (True, False)},
        "guided": {
            "guide": ("bm25", "half"),
            "alpha": (1.0, 0.0),
            "beta": (1.0, 0.0),
            "gamma": (0.0, 0.9),
            "fill": ("scaled", "one"),
        },
    }
    return {
        f"PostingsRetriever {algorithm}": Case(
            lambda algorithm=algorithm, **settings: index.retriever(algorithm=algorithm, **settings),
            on(world["toks"]),
            {**FIELDS, **LIMITS, **THREADS, **own},
            frozenset(
                {"threads", "max_ms", "block_size", "reordered", "alpha", "beta", "gamma", "guide", "fill", "max_postings"}
            ),
        )
        for algorithm, own in options.items()
    }


NAMES = [
    "DocEncoder", "QueryEncoder", "QueryTable", "Scorer", "FoldTerms", "PruneToks", "PruneToks mass",
    "PruneToks weight", "PruneToks on", "ImageEncoder", "MergeToks",
    "ImpactRetriever", "PostingsScorer", "FieldLoader", "Hybrid",
    "OpenSearchRetriever", "OpenSearchScorer", "PisaRetriever", "SeismicRetriever",
    *(f"PostingsRetriever {name}" for name in ("exhaustive", "maxscore", "bmp", "guided")),
]  # fmt: skip


def concrete_transformers() -> dict[str, type]:
    """Public transformers of the package that have no subclass in it."""
    found = {}
    for module in pkgutil.walk_packages(pyterrier_csplade.__path__, "pyterrier_csplade."):
        if ".kernels" in module.name or module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(value) and issubclass(value, pt.Transformer) and value.__module__ == module.name:
                found[name] = value
    own = [value for value in found.values()]
    return {
        name: value
        for name, value in found.items()
        if name[0] != "_"
        and not issubclass(value, pt.Indexer)
        and not any(issubclass(other, value) for other in own if other is not value)
    }


def test_every_transformer_has_a_case(world: dict[str, Any]) -> None:
    tried = {name.split()[0] for name in cases(world)} | {"BM25Retriever"}  # tests/engines
    assert set(NAMES) == cases(world).keys()
    assert concrete_transformers().keys() - NOT_TRIED <= tried
    for name, case in cases(world).items():
        kind = type(case.make())
        parameters = inspect.signature(kind.__init__).parameters.values()
        settings = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "verbose"}
        covered = {setting for other, c in cases(world).items() if other.split()[0] == name.split()[0] for setting in c.values}
        assert settings <= covered, name


@pytest.mark.parametrize("name", NAMES)
def test_parameters_that_are_set_after_use_are_obeyed(world: dict[str, Any], name: str) -> None:
    case = cases(world)[name]
    for parameter, (first, second) in case.values.items():
        used = case.make(**{parameter: first})
        before = case.use(used)
        used.set_parameter(parameter, second)
        fresh = case.make(**{parameter: second})
        after = case.use(used)
        assert after == case.use(fresh), parameter
        assert used == fresh and repr(used) == repr(fresh), parameter
        assert parameter in case.kept or after != before, f"{parameter} shows no difference: choose other values"
        used.set_parameter(parameter, first)
        assert case.use(used) == before, parameter


_WHOLE: tuple[Any, ...] = (0, -1, 2.5, float("nan"), "x", [])
_LIMIT: tuple[Any, ...] = (0, -1, float("nan"), "x", [])
_SHARE: tuple[Any, ...] = (-1, 2, float("nan"), "x", None, [])
_FIELDS: tuple[Any, ...] = (5, float("nan"), [5])
#: Values that no parameter of this name takes.
REFUSED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(["num_results", "threads", "query_cut", "block_size", "max_terms", "top_k", "batch_size"], _WHOLE),
    **dict.fromkeys(["max_postings", "max_ms", "toks_scale"], _LIMIT),
    **dict.fromkeys(["alpha", "beta", "gamma", "mass"], _SHARE),
    **dict.fromkeys(["heap_factor", "min_weight", "weight"], (-1, float("nan"), float("inf"), "x", [])),
    **dict.fromkeys(["include_fields", "fields"], _FIELDS),
    **dict.fromkeys(["method", "fill", "spelling", "on", "query_algorithm"], ("x", 3, [])),
    **dict.fromkeys(["text_field", "column", "vector_column", "output", "other"], (3, "", [])),
    "weights": (3, [-1, 1], [float("nan"), 1], "ab", [1]),
    "filter": ("x", 3, []),
    "guide": (None, 3, "a b", []),
    "quantizer": (3, "x"),
}


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_valid_are_refused_after_use(world: dict[str, Any], name: str) -> None:
    case = cases(world)[name]
    used = case.make()
    before = case.use(used)
    for parameter in case.values.keys() & REFUSED.keys():
        value = used.get_parameter(parameter)
        for refused in REFUSED[parameter]:
            with pytest.raises(ValueError):
                used.set_parameter(parameter, refused)
                case.use(used)
            used.set_parameter(parameter, value)
    assert case.use(used) == before


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("BM25", "Hybrid"))])
def test_numbers_of_numpy_are_numbers(world: dict[str, Any], name: str) -> None:
    case = cases(world)[name]
    used, expected = case.make(), case.make()
    for parameter, (_, second) in case.values.items():
        if type(second) in (int, float):
            used.set_parameter(parameter, np.int64(second) if type(second) is int else np.float64(second))
            expected.set_parameter(parameter, second)
    assert case.use(used) == case.use(expected)


def test_attributes_are_checked_as_parameters_are(world: dict[str, Any]) -> None:
    retriever, scorer = world["served"].retriever(), world["served"].scorer()
    for transformer, name in ((retriever, "num_results"), (retriever, "batch_size"), (scorer, "batch_size")):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, found -1"):
            setattr(transformer, name, -1)


def test_settings_of_indexers_are_checked_when_they_are_set(world: dict[str, Any], tmp_path: Path) -> None:
    for indexer, refused in (
        (world["index"].toks_indexer(), {"meta": 5, "on_duplicate": "keep", "max_empty": "x"}),
        (world["served"].toks_indexer(), {"scale": "x", "max_empty": 2, "shards": 0, "replicas": "x", "parallel": None}),
        (SeismicEngine(tmp_path), {"n_postings": 0, "centroid_fraction": "x", "summary_energy": 0, "threads": 2.5}),
    ):
        for name, value in refused.items():
            with pytest.raises(ValueError, match=name):
                indexer.set_parameter(name, value)
    indexer = world["index"].toks_indexer()
    indexer.set_parameter("meta", "text")
    assert indexer == world["index"].toks_indexer(meta=["text"])
    with pytest.raises(ValueError, match="n_postings must be a whole number"):
        SeismicEngine(tmp_path, n_postings="3500")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_two_columns_of_one_name_are_refused(world: dict[str, Any], name: str) -> None:
    case = cases(world)[name]
    if not isinstance(case.use, on):
        pytest.fail("give the case on(frame)")
    for column in case.use.inp.columns:
        twice = pd.concat([case.use.inp, case.use.inp[[column]]], axis=1)
        with pytest.raises(DataError, match=f"two columns '{column}'"):
            case.make()(twice)


# Those of OpenSearch use a client here, which cannot be pickled; tests/engines tries them with a URL.
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("OpenSearch")])
def test_copies_and_pickles_made_after_use_work(world: dict[str, Any], name: str) -> None:
    case = cases(world)[name]
    used = case.make()
    expected = case.use(used)
    for other in (copy.deepcopy(used), pickle.loads(pickle.dumps(used)), copy.copy(used)):
        assert other == used and case.use(other) == expected
    assert len(pickle.dumps(used)) < 10_000
    assert case.use(used) == expected


def test_a_grid_scan_compares_what_it_says(world: dict[str, Any]) -> None:
    qrels = pd.DataFrame([{"qid": qid, "docno": docno, "label": 1} for qid in TOPICS["qid"] for docno in DOCUMENTS])
    for retriever in (world["index"].retriever(), world["index"].retriever(algorithm="exhaustive")):
        pipeline = world["csplade"].query_encoder() >> retriever
        grid = {retriever: {"num_results": [1, 5]}}
        table = pt.GridScan(pipeline, grid, TOPICS, qrels, ["num_ret"])
        assert table["num_ret"].tolist() == [3, 15]


def test_a_pipeline_works_in_another_process_after_use(world: dict[str, Any], tmp_path: Path) -> None:
    pipeline = world["csplade"].query_encoder() >> world["index"].retriever(algorithm="exhaustive", num_results=3)
    expected = frame(pipeline(TOPICS)[["qid", "docno", "score"]])
    (tmp_path / "object").write_bytes(pickle.dumps((pipeline, TOPICS)))
    code = (
        "import json, pickle, sys\n"
        "pipeline, topics = pickle.load(open(sys.argv[1], 'rb'))\n"
        "sys.stdout.write(json.dumps(pipeline(topics)[['qid', 'docno', 'score']].to_dict('list')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "object")], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected


@pytest.mark.slow  # starts two processes that import torch
def test_joblib_workers_search_after_use(world: dict[str, Any]) -> None:
    pipeline = world["csplade"].query_encoder() >> world["index"].retriever(algorithm="exhaustive", num_results=3)
    expected = pipeline(TOPICS)
    parts = joblib.Parallel(n_jobs=2)(joblib.delayed(pipeline)(TOPICS.iloc[at : at + 2]) for at in (0, 2))
    found = pd.concat(parts)
    assert frame(found[["qid", "docno"]]) == frame(expected[["qid", "docno"]])
    # A query's weights depend in their last digits on the other queries of its batch.
    assert found["score"].tolist() == pytest.approx(expected["score"].tolist(), rel=1e-5)
