"""Guided traversal: the sources of guides, their content, and the results of searches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from scipy.sparse import csr_matrix

from inside.index import bm25, folded
from pyterrier_csplade import CSPLADE, DataError, ImpactIndex, ImpactIndexError, MatrixVectors
from pyterrier_csplade.index.search import (
    POSTINGS_FILE,
    Budget,
    Postings,
    algorithm,
    counts_source,
    learned_source,
    read_guide,
    terrier_source,
    write_guide,
    write_postings,
)

DOCUMENTS, VOCABULARY = 10_000, 80
TERMS = [f"Ġt{i}" for i in range(VOCABULARY)]
DOCNOS = [f"d{i}" for i in range(DOCUMENTS)]


def impacts(seed: int = 3) -> csr_matrix:
    generator = np.random.default_rng(seed)
    mask = generator.random((DOCUMENTS, VOCABULARY)) < 0.9 / np.arange(1, VOCABULARY + 1) ** 0.5
    return csr_matrix(mask * generator.integers(1, 200, mask.shape))


MATRIX = impacts()


@pytest.fixture(scope="module")
def postings(tmp_path_factory: pytest.TempPathFactory) -> Postings:
    directory = tmp_path_factory.mktemp("guided")
    write_postings(directory, MatrixVectors(DOCNOS, MATRIX, TERMS))
    return Postings(directory / POSTINGS_FILE)


@pytest.fixture(scope="module")
def guide(postings: Postings) -> csr_matrix:
    """A guide: a noisy copy of two thirds of the impacts, with further postings, quantised as in its file."""
    generator = np.random.default_rng(4)
    noisy = MATRIX.copy()
    noisy.data = np.maximum(1, noisy.data * generator.lognormal(0, 0.5, noisy.nnz)).astype(np.int64)
    noisy.data[generator.random(noisy.nnz) < 0.33] = 0
    own = csr_matrix((generator.random(MATRIX.shape) < 0.05) * 50)
    noisy = noisy.maximum(own)
    noisy.eliminate_zeros()
    directory = postings.file.path.parent
    (directory / "other").mkdir()
    write_postings(directory / "other", MatrixVectors(DOCNOS, noisy, TERMS))
    other = Postings(directory / "other" / POSTINGS_FILE)
    write_guide(postings, "noisy", learned_source(postings, other))
    values = np.clip(np.rint(noisy.toarray() * (255 / noisy.data.max())), 1, 255) * (noisy.toarray() > 0)
    return csr_matrix(values * (MATRIX.toarray() > 0))


def queries(count: int) -> list[dict[str, float]]:
    generator = np.random.default_rng(9)
    picks = (generator.choice(VOCABULARY, generator.integers(1, 15), replace=False) for _ in range(count))
    return [{TERMS[c]: float(generator.integers(1, 16)) / 4 for c in pick} for pick in picks]


def dense_scores(matrix: csr_matrix, query: dict[str, float]) -> np.ndarray:
    scores: np.ndarray = matrix.astype(np.float64) @ np.array([query.get(term, 0.0) for term in TERMS])
    return scores


def search(postings: Postings, query: dict[str, float], k: int, **options: Any) -> Any:
    translated = postings.query(query)
    postings.check(translated.terms)
    return algorithm("guided", {"guide": "noisy", **options}).prepare(postings)(translated, k, Budget())


def test_guide_holds_the_other_models_weights_at_the_postings_of_the_index(postings: Postings, guide: csr_matrix) -> None:
    guides, maxima, scale = read_guide(postings, "noisy", "zero")
    columns = guide.tocsc()
    for number, term in enumerate(postings.terms):
        docids, _ = postings.list_of(number)
        start, end = postings.starts[number], postings.starts[number + 1]
        expected = columns[:, TERMS.index(term)].toarray().ravel()
        assert np.array_equal(guides[start:end], expected[docids])
        assert maxima[number] == expected.max()
    assert scale == MATRIX.data.max() / 255


def test_shares_may_be_whole_numbers(postings: Postings, guide: csr_matrix) -> None:
    query = queries(1)[0]
    whole, real = (search(postings, query, 10, alpha=a, beta=a, gamma=0.5) for a in (1, 1.0))
    assert (whole.docids.tolist(), whole.scores.tolist()) == (real.docids.tolist(), real.scores.tolist())


def test_filling(postings: Postings, guide: csr_matrix) -> None:
    zero, one, scaled = (read_guide(postings, "noisy", fill)[0] for fill in ("zero", "one", "scaled"))
    missing = zero == 0
    assert 0.2 < missing.mean() < 0.5
    assert np.array_equal(one[missing], np.ones(missing.sum())) and np.array_equal(one[~missing], zero[~missing])
    ratio = zero[~missing].mean() / postings.impacts[~missing].mean()
    assert np.array_equal(scaled[missing], np.clip(np.rint(postings.impacts[missing] * ratio), 1, 255))
    for fill in ("mean", None):
        with pytest.raises(ValueError, match="fill must be one of zero, one, scaled"):
            algorithm("guided", {"fill": fill})


@pytest.mark.parametrize("k", [1, 10, 500])
def test_without_the_guides_share_it_is_exact(postings: Postings, guide: csr_matrix, k: int) -> None:
    for query in queries(40):
        found = search(postings, query, k, alpha=0.0, beta=0.0, gamma=0.0)
        scores = dense_scores(MATRIX, query)
        order = np.argsort(-scores, kind="stable")[:k]
        order = order[scores[order] > 0]
        assert np.array_equal(found.docids, order) and np.array_equal(found.scores, scores[order])


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_one_share_everywhere_ranks_exactly_by_that_mix(postings: Postings, guide: csr_matrix, share: float) -> None:
    """With equal shares, bounds, thresholds and final scores agree, so the result is the k best of the mix."""
    scale = MATRIX.data.max() / 255
    for query in queries(40):
        found = search(postings, query, 10, alpha=share, beta=share, gamma=share, fill="zero")
        mixed = share * scale * dense_scores(guide, query) + (1 - share) * dense_scores(MATRIX, query)
        assert found.scores == pytest.approx(np.sort(mixed)[::-1][: len(found.scores)], rel=1e-12)
        assert found.scores == pytest.approx(mixed[found.docids], rel=1e-12)


@pytest.mark.parametrize("fill", ["zero", "one", "scaled"])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_guided_scores_are_right_and_recall_is_that_of_a_heuristic(
    postings: Postings, guide: csr_matrix, fill: str, gamma: float
) -> None:
    """Results have exact scores; some documents may be missing, but never all, and few with a good guide."""
    recalls = []
    for query in queries(40):
        found = search(postings, query, 10, fill=fill, gamma=gamma)
        learned = dense_scores(MATRIX, query)
        if gamma == 0:
            assert np.array_equal(found.scores, learned[found.docids])
        assert np.array_equal(found.scores, np.sort(found.scores)[::-1])
        best = np.argsort(-learned, kind="stable")[:10]
        recalls.append(len(np.intersect1d(best, found.docids)) / len(best))
    assert 0.3 < np.mean(recalls) < 1.0


def test_guide_that_is_the_learned_model_loses_nothing(postings: Postings, guide: csr_matrix) -> None:
    write_guide(postings, "same", learned_source(postings, postings))
    for query in queries(20):
        found = search(postings, query, 10, guide="same", beta=0.0)
        assert np.array_equal(found.docids, np.argsort(-dense_scores(MATRIX, query), kind="stable")[: len(found.docids)])


def test_folding() -> None:
    assert [folded(term) for term in ("Ġthe", "The", "▁THE", "the", " the")] == ["the"] * 5
    assert folded("Ġ") == "Ġ" and folded("Ã©") != folded("ã©")


def test_bm25_is_that_of_the_formula() -> None:
    counts = np.array([[2, 0, 1], [0, 3, 1], [1, 0, 0]], dtype=float)
    weights = bm25(csr_matrix(counts), 0.9, 0.4).toarray()
    for d, t in np.ndindex(3, 3):
        df, length = (counts[:, t] > 0).sum(), counts[d].sum()
        idf = math.log(1 + (3 - df + 0.5) / (df + 0.5))
        expected = idf * counts[d, t] * 1.9 / (counts[d, t] + 0.9 * (1 - 0.4 + 0.4 * length / (8 / 3)))
        assert weights[d, t] == pytest.approx(expected)


def small(tmp_path: Path) -> ImpactIndex:
    toks = [{"Ġcats": 5, "cats": 2, "Ġdog": 3}, {"Ġdog": 7, "Cats": 4}, {"Ġdog": 1, "Ġbird": 9}]
    return ImpactIndex(tmp_path / "index").index({"docno": f"d{i}", "toks": t} for i, t in enumerate(toks))


def test_counts_of_folded_tokens(tmp_path: Path) -> None:
    index = small(tmp_path)
    counts = [{"Cats": 1, "Ġcats": 2}, {"Ġdog": 1}, {"Ġdog": 2, "Ġbird": 1}]
    documents = [{"docno": f"d{i}", "toks_tf": c} for i, c in reversed(list(enumerate(counts)))]
    source = counts_source(index.postings(), documents, 0.82, 0.68)
    expected = bm25(csr_matrix([[3, 0, 0], [0, 1, 0], [0, 2, 1]]), 0.82, 0.68).toarray()
    for term, column in (("cats", 0), ("Ġcats", 0), ("Cats", 0), ("Ġdog", 1), ("Ġbird", 2)):
        docids, weights = source.list_of(term)
        assert docids.tolist() == np.flatnonzero(expected[:, column]).tolist()
        assert weights == pytest.approx(expected[docids, column])
    assert len(source.list_of("Ġnever")[0]) == 0
    index.add_guide(documents)
    retriever = index.retriever(algorithm="guided", num_results=2)
    exact = index.retriever(algorithm="exhaustive", num_results=2)
    query = pd.DataFrame([{"qid": "1", "query_toks": {"Ġdog": 1.0, "cats": 2.0}}])
    pd.testing.assert_frame_equal(retriever.transform(query), exact.transform(query))


@pytest.mark.parametrize(
    "documents, message",
    [
        ([{"docno": "d0", "toks": {}}], "'d0' has no toks_tf.*counts=True"),
        ([{"docno": "d9", "toks_tf": {}}], "'d9'"),
        ([{"docno": "d0", "toks_tf": {}}] * 2, "'d0' appears twice"),
        ([{"docno": "d0", "toks_tf": {"a": -1}}], "'d0': toks_tf: the weight of 'a' must be finite and at least 0, found -1"),
        ([{"docno": "d0", "toks_tf": {"a": float("nan")}}], "'d0': toks_tf: the weight of 'a' must be finite"),
        ([{"docno": "d0", "toks_tf": {"a": "1"}}], "'d0': toks_tf: the weight of 'a' must be finite"),
        ([], "there are no documents for a guide"),
        (["d0"], "document 1 must be a dict, found 'd0'"),
    ],
)
def test_counts_that_cannot_be_used_are_refused(tmp_path: Path, documents: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        small(tmp_path).add_guide(documents)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"k1": float("nan")}, "k1 must be"), ({"k1": "1"}, "k1 must be"), ({"b": 5}, "b must be"), ({"b": None}, "b must be")],
)
def test_settings_of_bm25_are_checked(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    """They made guides of no meaning."""
    with pytest.raises(ValueError, match=message):
        small(tmp_path).add_guide([{"docno": "d0", "toks_tf": {"a": 1}}], **settings)


def test_missing_guide_and_wrong_names(tmp_path: Path) -> None:
    index = small(tmp_path)
    query = pd.DataFrame([{"qid": "1", "query_toks": {"Ġdog": 1.0}}])
    with pytest.raises(ImpactIndexError, match="no guide 'bm25'.*add_guide"):
        index.retriever(algorithm="guided").transform(query)
    with pytest.raises(ValueError, match="letters"):
        index.add_guide(index, "../x")
    for option in ("alpha", "beta", "gamma"):
        with pytest.raises(ValueError, match=option):
            index.retriever(algorithm="guided", **{option: 1.5})  # type: ignore[arg-type]
    index.add_guide(index, "self")
    path = index.directory / "csplade_guide_self.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ImpactIndexError, match="csplade_guide_self.bin"):
        index.retriever(algorithm="guided", guide="self").transform(query)


def test_no_changed_byte_of_a_guide_becomes_a_ranking(tmp_path: Path) -> None:
    index = small(tmp_path)
    index.add_guide(index, "self")
    path, query = index.directory / "csplade_guide_self.bin", pd.DataFrame([{"qid": "1", "query_toks": {"Ġdog": 1.0}}])
    written = path.read_bytes()
    expected, refused = index.retriever(algorithm="guided", guide="self").transform(query), 0
    for place in range(0, len(written), 7):
        path.write_bytes(written[:place] + bytes([written[place] ^ 4]) + written[place + 1 :])
        try:
            found = ImpactIndex(index.path).retriever(algorithm="guided", guide="self").transform(query)
        except ImpactIndexError:
            refused += 1
        else:  # a padding byte
            pd.testing.assert_frame_equal(found, expected)
    assert refused > len(written) / 14


def test_guide_goes_with_its_index(tmp_path: Path) -> None:
    index = small(tmp_path)
    index.add_guide(index, "self")
    kept = (index.directory / "csplade_guide_self.bin").read_bytes()
    index.toks_indexer(overwrite=True).index([{"docno": "d", "toks": {"Ġdog": 1}}])
    (index.directory / "csplade_guide_self.bin").write_bytes(kept)
    with pytest.raises(ImpactIndexError, match="another index"):
        index.retriever(algorithm="guided", guide="self").transform(pd.DataFrame([{"qid": "1", "query_toks": {"Ġdog": 1.0}}]))


@pytest.mark.parametrize("stemmer", ["porter", None])
def test_bm25_of_a_terrier_index(tmp_path: Path, stemmer: str | None) -> None:
    texts = {"d2": "dog dog bird", "x": "dog", "d0": "Cats and more cats", "d1": "the dog"}
    terrier = pt.terrier.TerrierIndex(str(tmp_path / "words"))
    terrier.indexer(meta={"docno": 20}, stemmer=stemmer, stopwords=None).index(
        {"docno": docno, "text": text} for docno, text in texts.items()
    )
    index = small(tmp_path)
    source = terrier_source(index.postings(), tmp_path / "words", 0.82, 0.68)
    words = ["dog", "bird", "cats", "and", "more", "the"]
    counts = csr_matrix([[text.lower().split().count(word) for word in words] for text in texts.values()], dtype=np.float64)
    expected = bm25(counts, 0.82, 0.68).toarray()
    at = list(texts)
    for term, word, docs in (("Ġdog", "dog", ["d1", "d2"]), ("Cats", "cats", ["d0"]), ("Ġbird", "bird", ["d2"])):
        docids, weights = source.list_of(term)
        assert [f"d{docid}" for docid in docids] == docs
        assert weights == pytest.approx([expected[at.index(docno), words.index(word)] for docno in docs])
    index.add_guide(terrier)
    result = index.retriever(algorithm="guided", num_results=1)([{"qid": "1", "query_toks": {"Ġdog": 1.0}}])
    assert [row["docno"] for row in result] == ["d1"]


def test_encoder_counts_tokens_on_request(csplade: CSPLADE) -> None:
    documents = pd.DataFrame({"docno": ["a", "b", "c"], "text": ["dogs and dogs", "", "cats"]})
    encoder = csplade.doc_encoder(counts=True)
    encoded = encoder.transform(documents)
    ids = csplade.backbone.tokenizer(["dogs and dogs"], add_special_tokens=False)["input_ids"][0]
    tokens = csplade.backbone.tokenizer.convert_ids_to_tokens(ids)
    assert encoded["toks_tf"][0] == {token: tokens.count(token) for token in tokens} and encoded["toks_tf"][1] == {}
    assert [row["toks_tf"] for row in encoder.transform_iter(documents.to_dict("records"))] == encoded["toks_tf"].tolist()
    assert "toks_tf" not in csplade.doc_encoder().transform(documents).columns
    assert encoder != csplade.doc_encoder() and repr(encoder).endswith("doc_encoder(counts=True)")
    assert "toks_tf" in pt.inspect.transformer_outputs(encoder, ["docno", "text"])
