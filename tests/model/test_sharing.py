"""Models that threads share, and copies and pickles of models that have been used."""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyterrier_csplade import CSPLADE, Contract, ContractError
from support.models import language_model, tokenizer
from support.results import results
from support.texts import dense

THREADS = 6
TEXTS = ["dogs and cats", "inverted index"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    CSPLADE((language_model(), tokenizer())).save(path)
    return path


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """Call ``work`` with each number in a thread of its own, all at once."""
    start = threading.Barrier(THREADS)

    def wait_and_work(number: int) -> Any:
        start.wait(30)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(wait_and_work, range(THREADS)))


@pytest.mark.parametrize("objects", [1, THREADS])
def test_the_first_use_may_come_from_many_threads(saved: Path, objects: int) -> None:
    expected = dense(CSPLADE(saved).encode_docs(TEXTS))
    for _ in range(3):
        models = [CSPLADE(saved) for _ in range(objects)]
        found = in_threads(lambda number, models=models: models[number % objects].encode_docs(TEXTS))  # type: ignore[misc]
        assert all((dense(matrix) == expected).all() for matrix in found)


@pytest.mark.parametrize("head", ["streamed", "screened"])
def test_threads_that_share_encoders_get_what_one_gets_and_count_every_text(
    topics: pd.DataFrame, documents: pd.DataFrame, head: Any
) -> None:
    short = Contract(query_length=20, document_length=40)
    csplade = CSPLADE((language_model(), tokenizer()), head=head, batch_size=2, contract=short)
    inp = results(topics, documents).head(8).copy()
    inp["text"] += " long" * 60
    inp["query"] += " long" * 60
    transformers = [csplade.query_encoder(), csplade.doc_encoder(counts=True), csplade.scorer()]
    with pytest.warns(UserWarning, match="truncated"):
        expected = [transformer(inp) for transformer in transformers]
    before = dict(csplade.truncated)
    rounds = 3
    found = in_threads(lambda number: [[transformer(inp) for transformer in transformers] for _ in range(rounds)])
    for answers in (answers for each in found for answers in each):
        for frame, other in zip(answers, expected):
            pd.testing.assert_frame_equal(frame, other)
    assert csplade.truncated == {role: (rounds * THREADS + 1) * count for role, count in before.items()}
    assert all(before.values())


def test_threads_may_use_one_language_model_with_two_masks() -> None:
    pair = language_model(), tokenizer()
    models = [CSPLADE(pair, variant=variant) for variant in ("causal", "bidirectional")]  # type: ignore[arg-type]
    expected = [dense(model.encode_docs(TEXTS)) for model in models]
    changed = []

    def wait(module: Any, args: Any, output: Any) -> None:
        before = pair[0].config.is_causal
        time.sleep(0.05)
        changed.append(pair[0].config.is_causal != before)

    pair[0].model.layers[0].register_forward_hook(wait)
    found = in_threads(lambda number: dense(models[number % 2].encode_docs(TEXTS)))
    assert changed == [False] * THREADS
    assert all((answer == expected[number % 2]).all() for number, answer in enumerate(found))


def test_a_pickle_and_a_copy_of_a_named_model_hold_no_weights(saved: Path) -> None:
    csplade = CSPLADE(saved, batch_size=3)
    expected = dense(csplade.encode_docs(TEXTS))
    pickled = pickle.dumps(csplade)
    assert len(pickled) < 10_000
    for other in (pickle.loads(pickled), copy.deepcopy(csplade), copy.copy(csplade)):
        assert other == csplade and repr(other) == repr(csplade) and other.truncated is not csplade.truncated
        np.testing.assert_array_equal(dense(other.encode_docs(TEXTS)), expected)


def test_a_directory_that_holds_another_model_by_now_is_refused(saved: Path, tmp_path: Path) -> None:
    """Copies and pickles encoded with the other model, without a word."""
    path = Path(shutil.copytree(saved, tmp_path / "model"))
    used, unused = CSPLADE(path), CSPLADE(path)
    expected = dense(used.encode_docs(TEXTS))
    sent, copied = pickle.dumps(used), copy.deepcopy(used)
    np.testing.assert_array_equal(dense(pickle.loads(sent).encode_docs(TEXTS)), expected)
    shutil.rmtree(path)
    CSPLADE((language_model(seed=8), tokenizer())).save(path)
    np.testing.assert_array_equal(dense(used.encode_docs(TEXTS)), expected)
    for other in (pickle.loads(sent), copied):
        with pytest.raises(ContractError, match="model contains another model than before this copy or pickle: create another"):
            other.encode_docs(TEXTS)
    assert (dense(unused.encode_docs(TEXTS)) != expected).any()


def test_a_pickle_of_a_pair_holds_the_pair() -> None:
    csplade = CSPLADE((language_model(), tokenizer()), variant="echo")
    expected = dense(csplade.encode_docs(TEXTS))
    for other in (pickle.loads(pickle.dumps(csplade)), copy.deepcopy(csplade)):
        assert other.contract.variant == "echo"
        np.testing.assert_array_equal(dense(other.encode_docs(TEXTS)), expected)


def test_arguments_of_loading_cannot_change_once_the_model_is_loaded(saved: Path) -> None:
    csplade = CSPLADE(saved)
    csplade.variant = "echo"
    csplade.variant = None
    assert csplade.contract.variant == "causal"
    for name, value in {"variant": "echo", "fold": "case+space", "layers": 1, "dtype": "float64", "model": "other"}.items():
        with pytest.raises(AttributeError, match=f"{name} cannot be set after the model is loaded: create another CSPLADE"):
            setattr(csplade, name, value)
    csplade.batch_size = 2
    csplade.text_field = "body"
    assert csplade.doc_encoder().text_field == "body" and csplade.doc_encoder().model_batch_size == 2
    again = copy.deepcopy(csplade)
    again.fold = "case+space"  # a copy is not loaded yet
    assert again.contract.fold == "case+space"


def test_a_model_may_be_saved_where_it_was_loaded_and_from_many_threads(saved: Path, tmp_path: Path) -> None:
    """The weights of a loaded model may be a map of the file; and two writers mixed their files."""
    shutil.copytree(saved, tmp_path / "model")
    csplade = CSPLADE(tmp_path / "model")
    expected = dense(csplade.encode_docs(TEXTS))
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "model" / "model-00001-of-00002.safetensors").write_bytes(b"of an earlier model")
    (tmp_path / "model" / ".csplade-save-1").mkdir()  # of a process that was killed
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda _: csplade.save(tmp_path / "model"), range(4)))
    assert np.array_equal(dense(csplade.encode_docs(TEXTS)), expected)
    assert np.array_equal(dense(CSPLADE(tmp_path / "model").encode_docs(TEXTS)), expected)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {path.name for path in saved.iterdir()} | {"notes.txt"}


def test_a_model_that_cannot_be_saved_leaves_the_earlier_one(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(saved, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    other = CSPLADE((language_model(seed=5), tokenizer()))

    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(other.backbone.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        other.save(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
