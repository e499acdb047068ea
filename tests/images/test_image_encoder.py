"""The encoder of pictures: vectors, contract, refusals, and pictures and texts in one index."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from inside.images import SETTINGS_FILE, WEIGHTS_FILE, encoder, last_norm
from pyterrier_csplade import CSPLADE, ContractError, ImpactIndex, MergeToks, Quantizer
from pyterrier_csplade._errors import DataError
from pyterrier_csplade.images import SavedHead, TransformersFeatures
from support.pictures import colours, drawn, random_head, saved_model

VECTORS = [np.random.default_rng(seed).normal(size=6).astype(np.float32) for seed in range(5)]
RECORDS = [{"docno": f"p{n}", "image_vec": vector} for n, vector in enumerate(VECTORS)]


def reference(csplade: CSPLADE, head: Path, vector: np.ndarray) -> np.ndarray:
    """Compute the weights of a picture with numpy and the language model's own modules."""
    w = {name: tensor.double().numpy() for name, tensor in load_file(head / WEIGHTS_FILE).items()}
    x = (vector.astype(np.float64) - w["mean"]) / w["deviation"]
    normal = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w["norm.weight"] + w["norm.bias"]
    inner = torch.nn.functional.gelu(torch.from_numpy(w["inner.weight"] @ normal + w["inner.bias"])).numpy()
    hidden = w["linear.weight"] @ x + w["linear.bias"] + w["outer.weight"] @ inner + w["outer.bias"]
    lm = csplade.backbone.model
    with torch.no_grad():
        normed = lm.model.norm(torch.from_numpy(hidden).float()[None])[0].double().numpy()
    states = w["scale"] * normed + w["offset"]
    logits = lm.lm_head.weight.detach().double().numpy() @ states
    return np.log1p(np.maximum(logits, 0))[csplade.vocabulary.token_ids]


def test_vectors_are_those_of_the_formula(world: Any) -> None:
    csplade, head, _ = world
    matrix = csplade.image_encoder(head, quantizer=None).impacts(RECORDS)
    for row, vector in enumerate(VECTORS):
        np.testing.assert_allclose(matrix[row].toarray()[0], reference(csplade, head, vector), atol=1e-5)
    assert 0 < matrix.nnz < matrix.shape[0] * matrix.shape[1]


def test_impacts_limits_and_contract(world: Any) -> None:
    csplade, head, _ = world
    frame = pd.DataFrame(RECORDS)
    weights = csplade.image_encoder(head, quantizer=None)(frame)["toks"]
    found = csplade.image_encoder(head, top_k=7, quantizer=Quantizer(50))(frame)["toks"]
    for toks, exact in zip(found, weights):
        expected = {term: int(weight * 50 + 0.5) for term, weight in list(exact.items())[:7]}
        assert toks == expected and list(toks.values()) == sorted(toks.values(), reverse=True)
        assert toks.contract.impact_scale == 50 and toks.contract.documents_for == csplade.contract.fingerprint
    assert weights[0].contract.impact_scale == 1


def test_a_picture_has_the_same_vector_in_every_batch(world: Any) -> None:
    csplade, head, _ = world
    together = list(csplade.image_encoder(head, quantizer=None).transform_iter(RECORDS))
    alone = list(csplade.image_encoder(head, batch_size=1, quantizer=None).transform_iter(RECORDS))
    framed = csplade.image_encoder(head, batch_size=2, quantizer=None)(pd.DataFrame(RECORDS))["toks"].tolist()
    for one, two, three in zip(together, alone, framed):
        assert one["toks"].keys() == two["toks"].keys() == three.keys()
        assert list(one["toks"].values()) == pytest.approx([two["toks"][term] for term in one["toks"]], abs=1e-5)


def test_pictures_go_through_the_features_of_the_head(world: Any) -> None:
    csplade, head, path = world
    array = drawn(4)
    Image.fromarray(array).save(path / "p.png")
    seeing = csplade.image_encoder(path / "seeing", features=colours, column="figure")
    given = [
        {"docno": "a", "figure": path / "p.png"},
        {"docno": "b", "figure": array},
        {"docno": "c", "figure": Image.fromarray(array)},
    ]
    found = seeing(pd.DataFrame(given))["toks"].tolist()
    ready = seeing.impacts([{"docno": "v", "image_vec": colours([array])[0]}])
    assert found[0] == found[1] == found[2] and sorted(found[0].values()) == sorted(ready.data.tolist())


def test_decode_and_explain(world: Any) -> None:
    csplade, head, _ = world
    transformer = csplade.image_encoder(head)
    weights = reference(csplade, head, VECTORS[0])
    decoded = transformer.decode(VECTORS[0], top_k=5)
    assert [csplade.vocabulary.index(term) for term in decoded] == np.argsort(-weights)[:5].tolist()
    query = csplade.encode_queries(["inverted index"]).toarray()[0]
    explained = transformer.explain("inverted index", VECTORS[0])
    expected = {csplade.vocabulary[i]: query[i] * weights[i] for i in np.flatnonzero(query * weights > 0)}
    assert explained == pytest.approx(expected, abs=1e-4)
    assert list(explained.values()) == sorted(explained.values(), reverse=True)


@pytest.mark.parametrize("name", ["gemma3", "cohere", "granite", "opt", "gpt_neox"])
def test_every_architecture_ends_in_its_own_norm_and_head(name: str, tmp_path: Path) -> None:
    csplade = saved_model(tmp_path / "model", name=name)
    head = random_head(csplade, tmp_path / "head")
    transformer = csplade.image_encoder(head, quantizer=None)
    matrix = transformer.impacts(RECORDS)
    saved, backbone = SavedHead.load(head), csplade.backbone
    with torch.no_grad():
        states = saved.head(torch.from_numpy(np.stack(VECTORS)), last_norm(backbone))
        logits = backbone.finish_logits(backbone.head(states) - (0 if backbone.head.bias is None else backbone.head.bias))
    expected = torch.log1p(logits.relu())[:, backbone.columns].numpy()
    np.testing.assert_allclose(matrix.toarray(), expected, atol=1e-4)
    assert matrix.nnz


def test_texts_and_pictures_in_one_index(world: Any, tmp_path: Path) -> None:
    csplade, head, _ = world
    texts = [{"docno": "t1", "text": "An inverted index."}, {"docno": "t2", "text": "dogs and cats"}]
    index = ImpactIndex(tmp_path / "index")
    documents = list(csplade.doc_encoder().transform_iter(texts))
    pictures = [{**record, "toks": record["toks"]} for record in csplade.image_encoder(head).transform_iter(RECORDS)]
    index.toks_indexer().index([documents[0], *pictures, documents[1]])
    assert index.contract is not None
    assert index.contract.documents_for == csplade.contract.fingerprint != index.contract.fingerprint
    found = (csplade.query_encoder() >> index.retriever(algorithm="exhaustive")).search("inverted index")
    query = csplade.query_encoder()(pd.DataFrame({"qid": ["1"], "query": ["inverted index"]}))["query_toks"][0]
    expected = {
        d["docno"]: sum(query.get(term, 0) * impact for term, impact in d["toks"].items()) for d in [*documents, *pictures]
    }
    assert dict(zip(found["docno"], found["score"])) == pytest.approx({d: s for d, s in expected.items() if s}, rel=1e-4)
    scored = csplade.scorer()(pd.DataFrame([{"qid": "1", "query": "inverted index", **p} for p in pictures]))
    assert dict(zip(scored["docno"], scored["score"])) == pytest.approx(
        {p["docno"]: expected[p["docno"]] for p in pictures}, rel=1e-4
    )


def test_another_head_or_model_in_an_index_is_refused(world: Any, tmp_path: Path) -> None:
    csplade, head, path = world
    other = random_head(csplade, tmp_path / "other", seed=1)
    text = next(csplade.doc_encoder().transform_iter([{"docno": "t", "text": "dogs"}]))
    one, two = (list(csplade.image_encoder(h).transform_iter(RECORDS[n : n + 1]))[0] for n, h in enumerate((head, other)))
    with pytest.raises(ContractError, match="'p1' was encoded by an image head .*'p0' by an image head"):
        ImpactIndex(tmp_path / "index").toks_indexer().index([text, one, two])
    stranger = saved_model(tmp_path / "stranger", seed=3)
    with pytest.raises(ContractError, match="'p0' was encoded by an image head"):
        strange = next(stranger.doc_encoder().transform_iter([{"docno": "s", "text": "dogs"}]))
        ImpactIndex(tmp_path / "index").toks_indexer().index([strange, one])
    with pytest.raises(ContractError, match=r"was trained for the texts of \w{12}, this is .*: load that model"):
        stranger.image_encoder(head)(pd.DataFrame(RECORDS))
    index = ImpactIndex(tmp_path / "pictures")
    index.toks_indexer().index([one])
    with pytest.raises(ContractError):
        (stranger.query_encoder() >> index.retriever()).search("dogs")


def test_a_duplicate_docno_is_refused_and_an_empty_picture_is_counted(world: Any, tmp_path: Path) -> None:
    csplade, head, _ = world
    indexer = csplade.image_encoder(head) >> ImpactIndex(tmp_path / "twice")
    with pytest.raises(DataError, match="'p0'"):
        indexer.index([RECORDS[0], RECORDS[0]])
    index = ImpactIndex(tmp_path / "empty").toks_indexer(max_empty=1)
    heaviest = [max(toks.values()) for toks in csplade.image_encoder(head, quantizer=None)(pd.DataFrame(RECORDS))["toks"]]
    (csplade.image_encoder(head, min_weight=max(heaviest)) >> index).index(RECORDS)
    metadata = json.loads((tmp_path / "empty" / "pt_meta.json").read_text())["csplade"]
    assert (metadata["documents"], metadata["empty_documents"]) == (5, 4)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image_vec": [1.0, 2.0]}, r"picture x: expected an image vector of 6 numbers, found an array \[2\]"),
        ({"image_vec": [0, 0, 0, float("nan"), 0, 0]}, "picture x: the image vector contains a number that is not finite"),
        ({"image_vec": "abc"}, "picture x: an image vector must contain numbers, found 'abc'"),
        ({"image": b"broken"}, "picture x: the picture is damaged"),
        ({"image": None}, "picture x: a picture must be a path"),
    ],
)
def test_bad_rows_are_refused_by_docno(world: Any, record: dict[str, Any], message: str) -> None:
    csplade, _, path = world
    with pytest.raises(DataError, match=message):
        csplade.image_encoder(path / "seeing", features=colours).impacts([{"docno": "x", **record}])


def test_features_that_are_not_the_heads_are_refused(world: Any) -> None:
    csplade, head, path = world

    def greys(pictures: Any) -> np.ndarray:
        return colours(pictures)[:, ::-1]

    record = [{"docno": "x", "image": drawn(1)}]
    with pytest.raises(ContractError, match=r"was trained on features with name 'support\.pictures\.colours', these have"):
        csplade.image_encoder(path / "seeing", features=greys).impacts(record)
    greys.__module__, greys.__qualname__ = "support.pictures", "colours"
    with pytest.raises(ContractError, match="the features of a test picture differ from the features"):
        csplade.image_encoder(path / "seeing", features=greys).impacts(record)
    with pytest.raises(ContractError, match="picture x: the head .* add the column 'image_vec', or pass features"):
        csplade.image_encoder(head).impacts(record)
    with pytest.raises(ContractError, match="the features have 3 numbers, the head .* reads 6"):
        csplade.image_encoder(head, features=lambda pictures: np.ones((len(pictures), 3))).impacts(record)
    with pytest.raises(DataError, match=r"returned an array \[1\] for 1 pictures"):
        csplade.image_encoder(head, features=lambda pictures: np.ones(len(pictures))).impacts(record)
    with pytest.raises(ValueError, match="features must be"):
        csplade.image_encoder(head, features=3)


def test_damaged_and_missing_heads_are_refused(world: Any, tmp_path: Path) -> None:
    csplade, head, _ = world
    with pytest.raises(ContractError, match="contains no image head .*train-images makes one"):
        csplade.image_encoder(tmp_path / "none")(pd.DataFrame(RECORDS))
    changed = tmp_path / "changed"
    shutil.copytree(head, changed)
    tensors = load_file(changed / WEIGHTS_FILE)
    save_file({**tensors, "offset": tensors["offset"] + 1}, changed / WEIGHTS_FILE)
    with pytest.raises(ContractError, match="its weights are not those of its contract"):
        SavedHead.load(changed)
    (changed / WEIGHTS_FILE).write_bytes(b"garbage")
    with pytest.raises(ContractError, match="is damaged"):
        SavedHead.load(changed)
    values = json.loads((head / SETTINGS_FILE).read_text())
    for change, message in (({"format": 2}, "newer format"), ({"pictures": {"mode": "L"}}, "pictures were read differently")):
        (changed / SETTINGS_FILE).write_text(json.dumps({**values, **change}))
        with pytest.raises(ContractError, match=message):
            SavedHead.load(changed)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": 10**7}, {"width": 10**9}, {"hidden": 2**40}, {"hidden": True}, {"inputs": "6"}, {"inputs": -1},
        {"features": []}, {"features": {}}, {"features": {"name": 3}},
        {"features": {"name": "efficientnet-lite0", "size": "x"}},
        {"features": {"name": "transformers", "source": None}}, {"probe": "x"}, {"probe": [1.0]}, {"probe": {"a": 1}},
        {"probe": None}, {"contract": []}, {"kind": "chair"},
    ],
)  # fmt: skip
def test_crafted_settings_of_a_head_are_refused(world: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    """In little memory: a size is compared with the file of the weights before anything of this size is made."""
    _, head, _ = world
    shutil.copytree(head, tmp_path / "crafted")
    values = json.loads((head / SETTINGS_FILE).read_text())
    (tmp_path / "crafted" / SETTINGS_FILE).write_text(json.dumps({**values, **changes}))
    with pytest.raises(ContractError, match="crafted"):
        SavedHead.load(tmp_path / "crafted")


def test_heads_of_other_types_and_folders_in_place_of_files(world: Any, tmp_path: Path) -> None:
    _, head, _ = world
    changes: list[Callable[[torch.Tensor], torch.Tensor]] = [torch.Tensor.double, lambda t: t[None], lambda t: t * torch.nan]
    for number, change in enumerate(changes):
        shutil.copytree(head, tmp_path / f"{number}")
        tensors = load_file(head / WEIGHTS_FILE)
        save_file({**tensors, "offset": change(tensors["offset"])}, tmp_path / f"{number}" / WEIGHTS_FILE)
        with pytest.raises(ContractError, match=f"{tmp_path}/{number}|the image head"):
            SavedHead.load(tmp_path / f"{number}")
    for name in (SETTINGS_FILE, WEIGHTS_FILE):
        shutil.copytree(head, tmp_path / name)
        (tmp_path / name / name).unlink()
        (tmp_path / name / name).mkdir()
        with pytest.raises(ContractError, match="is damaged|contains no image head"):
            SavedHead.load(tmp_path / name)


def test_the_first_use_may_come_from_many_threads(world: Any, tmp_path: Path) -> None:
    """Of a head whose features are a model of transformers, which is loaded then, and of the text model."""
    _, _, path = world
    encoder_of_pictures(tmp_path / "vit")
    made = TransformersFeatures(tmp_path / "vit")
    csplade = CSPLADE(path / "model")
    head = random_head(csplade, tmp_path / "head", inputs=16, features=(made.identity, encoder.probe(made)))
    frame = pd.DataFrame([{"docno": f"p{n}", "image": drawn(n)} for n in range(3)])
    expected = csplade.image_encoder(head)(frame)["toks"].tolist()
    for _ in range(2):
        shared = CSPLADE(path / "model").image_encoder(head)
        start = threading.Barrier(6)

        def work(_: int, shared: Any = shared, start: Any = start) -> list[Any]:
            start.wait(30)
            return shared(frame)["toks"].tolist()  # type: ignore[no-any-return]

        with ThreadPoolExecutor(6) as pool:
            assert all(found == expected for found in pool.map(work, range(6)))


def encoder_of_pictures(directory: Path) -> None:
    """Save a tiny random image encoder."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 24, "patch_size": 8}
    transformers.ViTModel(transformers.ViTConfig(**sizes, intermediate_size=24)).save_pretrained(directory)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}).save_pretrained(
        directory
    )


@pytest.mark.parametrize("way", ["pickle", "copy", "features"])
def test_a_directory_that_holds_another_head_by_now_is_refused(world: Any, tmp_path: Path, way: str) -> None:
    """A copy, a pickle, and an encoder whose features were changed took the other head silently."""
    csplade, head, _ = world
    shutil.copytree(head, tmp_path / "head")
    used, unused = (csplade.image_encoder(tmp_path / "head") for _ in range(2))
    expected = used.impacts(RECORDS).toarray()
    sent = pickle.dumps(used)
    np.testing.assert_array_equal(pickle.loads(sent).impacts(RECORDS).toarray(), expected)
    shutil.rmtree(tmp_path / "head")
    random_head(csplade, tmp_path / "head", seed=4)
    np.testing.assert_array_equal(used.impacts(RECORDS).toarray(), expected)
    assert (unused.impacts(RECORDS).toarray() != expected).any()
    if way == "features":
        used.set_parameter("features", colours)
    other = {"pickle": lambda: pickle.loads(sent), "copy": lambda: copy.deepcopy(used), "features": lambda: used}[way]()
    with pytest.raises(ContractError, match="head contains another image head than before: create another encoder"):
        other.impacts(RECORDS)


def test_another_text_model_is_checked_after_use(world: Any, tmp_path: Path) -> None:
    """The states of the head went through the layers of both models."""
    csplade, head, _ = world
    encoder = csplade.image_encoder(head)
    expected = encoder.impacts(RECORDS).toarray()
    encoder.model = saved_model(tmp_path / "other", seed=3)
    with pytest.raises(ContractError, match="was trained for the texts of"):
        encoder.impacts(RECORDS)
    encoder.model = CSPLADE(csplade.model)
    np.testing.assert_array_equal(encoder.impacts(RECORDS).toarray(), expected)


@pytest.mark.parametrize("name", ["column", "vector_column", "output"])
@pytest.mark.parametrize("value", ["", None, 3])
def test_names_of_columns_are_checked(world: Any, name: str, value: Any) -> None:
    csplade, head, _ = world
    with pytest.raises(ValueError, match=f"the name of a column must be a text that is not empty, found {value!r}"):
        csplade.image_encoder(head).set_parameter(name, value)


def test_merging_a_picture_with_its_text(world: Any) -> None:
    csplade, head, _ = world
    frame = pd.DataFrame([{**record, "text": "dogs and cats"} for record in RECORDS])
    both = (csplade.doc_encoder() >> csplade.image_encoder(head, output="image_toks"))(frame)
    for text, picture, largest, total in zip(
        both["toks"], both["image_toks"], MergeToks()(both)["toks"], MergeToks(method="sum", weight=0.3)(both)["toks"]
    ):
        terms = {*text, *picture}
        assert largest == {term: max(text.get(term, 0), picture.get(term, 0)) for term in terms}
        exact = {term: int(text.get(term, 0) + 0.3 * picture.get(term, 0) + 0.5) for term in terms}
        assert total == {term: impact for term, impact in exact.items() if impact}
        assert list(total.values()) == sorted(total.values(), reverse=True)
        assert largest.contract.made_for(csplade.contract)
    assert "image_toks" not in MergeToks()(both)
    streamed = list(MergeToks().transform_iter(both.to_dict("records")))
    assert [record["toks"] for record in streamed] == MergeToks()(both)["toks"].tolist()


def test_merging_refuses_what_does_not_fit(world: Any, tmp_path: Path) -> None:
    csplade, head, _ = world
    frame = pd.DataFrame([{**RECORDS[0], "text": "dogs"}])
    stranger = saved_model(tmp_path / "stranger", seed=3)
    mixed = csplade.image_encoder(head, output="image_toks")(stranger.doc_encoder()(frame))
    with pytest.raises(ContractError, match="document 'p0': image_toks was encoded by"):
        MergeToks()(mixed)
    with pytest.raises(ContractError, match="document 'p0': toks and image_toks mix impacts and float weights"):
        MergeToks()(pd.DataFrame([{"docno": "p0", "toks": {"a": 3}, "image_toks": {"b": 0.5}}]))
    with pytest.raises(DataError, match="document 'p0': image_toks must be a dict"):
        MergeToks()(pd.DataFrame([{"docno": "p0", "toks": {"a": 3}, "image_toks": "b"}]))
    with pytest.raises(ValueError, match="method must be one of max, sum"):
        MergeToks(method="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight must be a number"):
        MergeToks(weight=-1)
    missing = pd.DataFrame([{"docno": "p0", "toks": {"a": 3}, "image_toks": None}])
    assert MergeToks()(missing)["toks"][0] == {"a": 3}


def test_memory_is_flat_over_a_stream(world: Any) -> None:
    csplade, head, _ = world
    taken: list[int] = []

    def stream() -> Iterator[dict[str, Any]]:
        for n in range(10_000):
            taken.append(n)
            yield {"docno": str(n), "image_vec": VECTORS[n % 5]}

    first = next(csplade.image_encoder(head, batch_size=16).transform_iter(stream()))
    assert first["docno"] == "0" and len(taken) == 16
