"""Whatever is opened again and again leaves no files open."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyterrier_csplade import CSPLADE, EncodedCollection, ImpactIndex, QueryTable
from pyterrier_csplade.engines import PisaEngine, SeismicEngine
from pyterrier_csplade.queries import TableEncoder
from support import fake_engines
from support.models import TEXTS, language_model, tokenizer
from support.pictures import random_head
from support.vector_collections import documents, encode

QUERIES = pd.DataFrame({"qid": ["1"], "query": ["inverted index"]})
PICTURES = pd.DataFrame({"docno": ["p"], "image_vec": [np.ones(6)]})


@pytest.fixture(scope="module")
def uses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Callable[[], Any]]]:
    """Functions that open an object from its files and use it once."""
    path = tmp_path_factory.mktemp("objects")
    CSPLADE((language_model(), tokenizer())).save(path / "model")
    csplade = CSPLADE(path / "model")
    QueryTable.fit(csplade, TEXTS, verbose=False).save(path / "table")
    random_head(csplade, path / "head")
    encode(path / "collection", csplade)
    toks = csplade.query_encoder()(QUERIES)
    vectors = list(csplade.doc_encoder().transform_iter(documents()))
    index = ImpactIndex(path / "index")
    index.index(vectors)
    index.add_guide({"docno": document["docno"], "toks_tf": document["toks"]} for document in vectors)
    index.reorder()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, make in fake_engines.MODULES.items():
            monkeypatch.setitem(sys.modules, name, make())
        for kind in (PisaEngine, SeismicEngine):
            kind(path / kind.__name__).index(vectors)
        yield {
            "model": lambda: CSPLADE(path / "model").encode_queries(["index"]),
            "table": lambda: QueryTable.load(path / "table")(QUERIES),
            "table encoder": lambda: TableEncoder.load(path / "table").encode(["index"]),
            "head": lambda: csplade.image_encoder(path / "head")(PICTURES),
            "collection": lambda: list(EncodedCollection(path / "collection").get_corpus_iter()),
            "collection, in part": lambda: next(iter(EncodedCollection(path / "collection").get_corpus_iter())),
            "bmp": lambda: ImpactIndex(path / "index").retriever(algorithm="bmp")(toks),
            "guided": lambda: ImpactIndex(path / "index").retriever(algorithm="guided")(toks),
            "scorer": lambda: ImpactIndex(path / "index").scorer()(toks.assign(docno="d1")),
            "PISA": lambda: PisaEngine(path / "PisaEngine").retriever()(toks),
            "Seismic": lambda: SeismicEngine(path / "SeismicEngine").retriever()(toks),
        }


NAMES = [
    "model", "table", "table encoder", "head", "collection", "collection, in part", "bmp", "guided", "scorer", "PISA",
    "Seismic",
]  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors as Linux does")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [5, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_no_descriptors_are_left(uses: dict[str, Callable[[], Any]], name: str, count: int) -> None:
    if name in ("bmp", "guided"):
        pytest.importorskip("numba")
    assert list(uses) == NAMES
    uses[name]()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(count):
        uses[name]()
    assert len(os.listdir("/proc/self/fd")) <= before
