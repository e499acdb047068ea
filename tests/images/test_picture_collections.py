"""Pictures in encoded collections, in OpenSearch, in one experiment with texts, with folded terms, and in notebooks."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from ir_measures import RR
from PIL import Image

from pyterrier_csplade import (
    CSPLADE,
    CollectionError,
    ContractError,
    DataError,
    EncodedCollection,
    ImpactIndex,
    OpenSearchIndex,
    Quantizer,
)
from pyterrier_csplade.images import show_pictures
from support.fake_opensearch import FakeCluster
from support.opensearch_documents import impacts
from support.pictures import colours, drawn, saved_model

VECTORS = [np.random.default_rng(seed).normal(size=6).astype(np.float32) for seed in range(7)]
RECORDS = [{"docno": f"p{n}", "image_vec": vector} for n, vector in enumerate(VECTORS)]
TEXTS = [{"docno": "t1", "text": "An inverted index."}, {"docno": "t2", "text": "dogs and cats"}]


def figures(path: Path, count: int = 7) -> list[dict[str, Any]]:
    path.mkdir(exist_ok=True)
    for n in range(count):
        Image.fromarray(drawn(n)).save(path / f"{n}.png")
    return [{"docno": f"f{n}", "image": path / f"{n}.png"} for n in range(count)]


def test_an_encoded_collection_of_pictures(world: Any, tmp_path: Path) -> None:
    csplade, _, path = world
    seeing = csplade.image_encoder(path / "seeing", features=colours, top_k=9, batch_size=2)
    records = [*figures(tmp_path / "figures"), {"docno": "v", "image_vec": VECTORS[0]}]
    collection = EncodedCollection(tmp_path / "c").encode(seeing, records, shard_size=3)
    collection.verify()
    expected = list(seeing.transform_iter(records))
    assert list(collection.get_corpus_iter()) == [{"docno": r["docno"], "toks": r["toks"]} for r in expected]
    assert collection.contract == seeing.vector_contract() and collection.contract.documents_for == csplade.contract.fingerprint
    # A transformer, with an encoder for pictures that are not in it.
    frame = pd.DataFrame([{"docno": "new", "image": drawn(50)}, {"docno": "f2", "image": None}])
    found = EncodedCollection(tmp_path / "c", encoder=seeing)(frame)["toks"].tolist()
    assert found[1] == expected[2]["toks"] and found[0] == seeing(frame[:1])["toks"][0]
    index = ImpactIndex(tmp_path / "index").index_vectors(collection)
    results = (csplade.query_encoder() >> index.retriever(num_results=3)).search("inverted index")
    query = csplade.query_encoder()(pd.DataFrame({"qid": ["1"], "query": ["inverted index"]}))["query_toks"][0]
    scores = sorted((sum(query.get(t, 0) * i for t, i in r["toks"].items()) for r in expected), reverse=True)
    assert results["score"].tolist() == pytest.approx(scores[:3], rel=1e-4)


def test_a_collection_of_pictures_resumes_and_knows_changed_files(world: Any, tmp_path: Path) -> None:
    csplade, head, path = world
    seeing, records = csplade.image_encoder(path / "seeing", features=colours), figures(tmp_path / "figures")
    broken = [*records[:5], {"docno": "f5", "image": b"broken"}]
    with pytest.raises(DataError, match="document f5: the picture is damaged"):
        EncodedCollection(tmp_path / "c").encode(seeing, broken, shard_size=2)
    assert (tmp_path / "c" / "shard-000001.json").exists()
    EncodedCollection(tmp_path / "c").encode(seeing, records, shard_size=2).verify()
    Image.fromarray(drawn(99)).save(tmp_path / "figures" / "0.png")
    (tmp_path / "c" / "manifest.json").unlink()
    with pytest.raises(CollectionError, match="shard 0|shard-000000"):
        EncodedCollection(tmp_path / "c").encode(seeing, records, shard_size=2)
    with pytest.raises(CollectionError, match="weights"):
        EncodedCollection(tmp_path / "c").encode(csplade.image_encoder(head), RECORDS, shard_size=2)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"docno": "x", "text": "a"}, "document x has neither 'image' nor 'image_vec', only 'docno', 'text'"),
        ({"docno": "x", "image": "no.png"}, "document x: there is no file no.png"),
        ({"docno": "x", "image": None}, "document x: a picture must be a path, bytes"),
        ({"docno": "x", "image_vec": [1.0]}, r"document x: expected an image vector of 6 numbers, found an array \[1\]"),
        ({"docno": "p0", "image_vec": VECTORS[0]}, "'p0' of document 2 appears twice"),
    ],
)
def test_bad_pictures_of_a_collection_are_named(world: Any, tmp_path: Path, record: dict[str, Any], message: str) -> None:
    csplade, _, path = world
    seeing = csplade.image_encoder(path / "seeing", features=colours)
    with pytest.raises(DataError, match=message):
        EncodedCollection(tmp_path / "c").encode(seeing, [RECORDS[0], record])


def test_pictures_and_texts_in_opensearch(world: Any) -> None:
    csplade, head, path = world
    cluster, quantizer = FakeCluster(), Quantizer(10)
    pictures = csplade.image_encoder(head, top_k=5, quantizer=quantizer)
    texts = csplade.doc_encoder(top_k=5, quantizer=quantizer)
    rows = [*texts.transform_iter(TEXTS), *pictures.transform_iter(RECORDS)]
    index = OpenSearchIndex(cluster.client(), "docs")
    index.toks_indexer().index([{"docno": row["docno"], "toks": row["toks"]} for row in rows])
    found = impacts(cluster)
    assert {docno: sorted(vector.values()) for docno, vector in found.items()} == {
        row["docno"]: sorted(row["toks"].values()) for row in rows
    }
    assert index.contract is not None and index.contract.documents_for == csplade.contract.fingerprint
    (pictures >> OpenSearchIndex(cluster.client(), "pictures")).index(RECORDS)
    assert len(impacts(cluster, "pictures")) == 7
    stranger = saved_model(path / "stranger", seed=3)
    with pytest.raises(ContractError):
        (stranger.query_encoder() >> index.retriever()).search("dogs")


def test_one_experiment_over_texts_and_pictures(world: Any, tmp_path: Path) -> None:
    csplade, head, _ = world
    pictures, index = csplade.image_encoder(head), ImpactIndex(tmp_path / "index")
    documents = [*csplade.doc_encoder().transform_iter(TEXTS), *pictures.transform_iter(RECORDS)]
    index.toks_indexer().index([{"docno": d["docno"], "toks": d["toks"]} for d in documents])
    topics = pd.DataFrame({"qid": ["q1", "q2"], "query": ["inverted index", "dogs"]})
    weights = csplade.query_encoder()(topics)["query_toks"].tolist()
    scores = [{d["docno"]: sum(q.get(t, 0) * i for t, i in d["toks"].items()) for d in documents} for q in weights]
    ranked = [sorted(found, key=lambda docno: -found[docno]) for found in scores]  # noqa: B023
    # One query asks for a text, the other one for a picture.
    relevant = ["t1", next(docno for docno in ranked[1] if docno.startswith("p"))]
    qrels = pd.DataFrame({"qid": ["q1", "q2"], "docno": relevant, "label": [1, 1]})
    pipeline = csplade.query_encoder() >> index.retriever(algorithm="exhaustive")
    table = pt.Experiment([pipeline], topics, qrels, [RR], perquery=True)
    found = dict(zip(table["qid"], table["value"]))
    assert found == pytest.approx({f"q{n + 1}": 1 / (ranked[n].index(relevant[n]) + 1) for n in (0, 1)})


def test_pictures_with_folded_terms(world: Any, tmp_path: Path) -> None:
    csplade, head, path = world
    folded = CSPLADE(path / "model", fold="case+space")
    plain = csplade.image_encoder(head, quantizer=None).impacts(RECORDS).toarray()
    found = folded.image_encoder(head, quantizer=None).impacts(RECORDS).toarray()
    words = {term: term.lstrip("\u0120").lower() for term in csplade.vocabulary if term.replace("\u0120", "").isascii()}
    column = {term: folded.vocabulary.column(word) for term, word in words.items()}
    together = {term: place for term, place in column.items() if place is not None}
    assert len(folded.vocabulary) < len(csplade.vocabulary) and len(together) > len(set(together.values())) > 20
    for place in set(together.values()):
        members = [csplade.vocabulary.column(term) for term, other in together.items() if other == place]
        np.testing.assert_allclose(found[:, place], plain[:, members].max(axis=1), atol=1e-5)
    index = ImpactIndex(tmp_path / "index")
    rows = [*folded.doc_encoder().transform_iter(TEXTS), *folded.image_encoder(head).transform_iter(RECORDS)]
    index.toks_indexer().index([{"docno": row["docno"], "toks": row["toks"]} for row in rows])
    assert len((folded.query_encoder() >> index.retriever()).search("inverted index"))
    unfolded = csplade.image_encoder(head)(pd.DataFrame(RECORDS))[["docno", "toks"]].to_dict("records")
    with pytest.raises(ContractError):  # terms of another vocabulary
        ImpactIndex(tmp_path / "mixed").toks_indexer().index([*folded.doc_encoder().transform_iter(TEXTS), *unfolded])


def test_pictures_are_shown_with_their_terms(world: Any) -> None:
    csplade, _, path = world
    seeing = csplade.image_encoder(path / "seeing", features=colours)
    frame = seeing(pd.DataFrame([{"docno": "<a>", "image": drawn(1, 300, 200)}, {"docno": "b", "image": drawn(2)}]))
    html = show_pictures(frame)._repr_html_()
    thumbnails = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", html)]
    assert [thumbnail.size for thumbnail in thumbnails] == [(64, 96), (30, 20)]
    assert html.count("<tr>") == 3 and "&lt;a&gt;" in html and "<a>" not in html
    strongest = next(iter(frame["toks"][0].items()))
    assert f"{strongest[0]} {strongest[1]}" in html.replace("&#x27;", "'").replace("&quot;", '"').replace("&amp;", "&")
    with pytest.raises(DataError, match="picture b: the picture is damaged"):
        show_pictures(pd.DataFrame([{"docno": "b", "image": b"broken"}]))
