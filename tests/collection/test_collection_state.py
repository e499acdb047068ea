"""Collections after use: copies, other paths, threads, and directories that are replaced while they are read."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import pandas as pd
import pytest

from inside.collection import opened
from pyterrier_csplade import CSPLADE, CollectionError, EncodedCollection
from support.vector_collections import documents, encode

DOCS = pd.DataFrame(documents()).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def versions(csplade: CSPLADE, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two collections of the same documents, with other vectors."""
    path = tmp_path_factory.mktemp("versions")
    return {name: encode(path / name, csplade, top_k=top_k).directory for name, top_k in (("a", 12), ("b", 5))}


def looked_up(collection: EncodedCollection) -> list[Any]:
    return collection(DOCS)["toks"].tolist()


def streamed(collection: EncodedCollection) -> list[Any]:
    return list(collection.get_corpus_iter())


def stacked(collection: EncodedCollection) -> list[Any]:
    return [(docnos, matrix.toarray().tolist()) for docnos, matrix in collection.blocks()]


READS = [looked_up, streamed, stacked]


def test_copies_and_pickles_made_after_use_work(versions: dict[str, Path]) -> None:
    used = EncodedCollection(versions["a"])
    expected = [read(used) for read in READS]
    for other in (copy.copy(used), copy.deepcopy(used), pickle.loads(pickle.dumps(used))):
        assert other == used and [read(other) for read in READS] == expected
    assert len(pickle.dumps(used)) < 1000  # was 30 kB of vectors


@pytest.mark.slow
def test_joblib_workers_read_after_use(versions: dict[str, Path]) -> None:
    used = EncodedCollection(versions["a"])
    expected = looked_up(used)
    (found,) = joblib.Parallel(n_jobs=2)(joblib.delayed(used)(DOCS) for _ in range(1))
    assert found["toks"].tolist() == expected


@pytest.mark.parametrize("read", READS)
def test_a_path_that_is_set_after_use_is_obeyed(versions: dict[str, Path], read: Any) -> None:
    used = EncodedCollection(versions["a"])
    before = read(used)
    used.set_parameter("path", versions["b"])
    assert read(used) == read(EncodedCollection(versions["b"])) != before
    assert used == EncodedCollection(versions["b"])


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(("lasting", "linked"), [(True, True), (False, True), (False, False)])
def test_threads_share_a_collection_that_is_replaced(
    versions: dict[str, Path], tmp_path: Path, read: Any, lasting: bool, linked: bool
) -> None:
    """Each answer comes from one version, or is refused; without replacements, all are right."""
    expected = [read(EncodedCollection(path)) for path in versions.values()]
    places = [shutil.copytree(path, tmp_path / name) for name, path in versions.items()]
    place, done = tmp_path / "c", threading.Event()
    answers: list[int | str] = []
    os.symlink(places[0], place) if linked else places.pop(0).rename(place)
    shared = EncodedCollection(place)

    def ask(number: int) -> None:
        for _ in range(12):
            try:
                answers.append(expected.index(read(shared)))
            except (CollectionError, FileNotFoundError) as error:
                answers.append(str(error))
                shared.close()

    def replace() -> None:
        while not done.wait(0.002 if linked else 0.02):
            if linked:
                places.reverse()
                os.symlink(places[0], tmp_path / "new")
                os.replace(tmp_path / "new", place)
            else:
                place.rename(tmp_path / "old")
                places[0].rename(place)
                (tmp_path / "old").rename(places[0])
            shared.close()

    changing = threading.Thread(target=replace)
    if not lasting:
        changing.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(4)))
    finally:
        done.set()
        if not lasting:
            changing.join()
    found = {answer for answer in answers if isinstance(answer, int)}
    refused = {answer for answer in answers if isinstance(answer, str)}
    assert len(answers) == 48
    assert found == {0} and not refused if lasting else found <= {0, 1}


@pytest.mark.parametrize("other", [True, False])
def test_a_collection_that_is_replaced_between_its_shards(versions: dict[str, Path], tmp_path: Path, other: bool) -> None:
    """A shard of another collection has the same name, and may have the same size."""
    place = shutil.copytree(versions["a"], tmp_path / "c")
    expected = streamed(EncodedCollection(place))
    reading = EncodedCollection(place)
    documents = iter(reading.get_corpus_iter())
    found = [next(documents) for _ in range(5)]
    shutil.rmtree(place)
    shutil.copytree(versions["b"] if other else versions["a"], place, copy_function=shutil.copyfile)
    if other:
        with pytest.raises(
            CollectionError, match=r"shard-000001.safetensors was replaced .*: close\(\) the collection and read"
        ):
            next(documents)
        with pytest.raises(CollectionError, match="was replaced"):
            looked_up(reading)
        reading.close()
        assert streamed(reading) == streamed(EncodedCollection(versions["b"]))
    else:  # copied back, with the same content
        assert [*found, *documents] == expected


def test_a_collection_that_is_replaced_while_it_is_opened(
    versions: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(versions["a"], tmp_path / "c")
    load = vars(opened)["load_terms"]

    def load_late(*arguments: Any) -> Any:
        shutil.copytree(versions["b"], place, dirs_exist_ok=True)
        return load(*arguments)

    monkeypatch.setattr(opened, "load_terms", load_late)
    with pytest.raises(CollectionError, match=r"c was replaced while it was opened: close\(\)"):
        len(EncodedCollection(place))


def test_a_collection_that_is_extended_while_it_is_read(csplade: CSPLADE, tmp_path: Path) -> None:
    reading = encode(tmp_path / "c", csplade, documents(10))
    expected = streamed(encode(tmp_path / "d", csplade, documents(20)))
    stream = reading.get_corpus_iter()
    first = next(iter(stream))
    encode(tmp_path / "c", csplade, documents(20))
    assert len(stream) == 10 and [first, *stream] == expected[:10]
    assert len(reading) == 10 and streamed(reading) == expected[:10]
    reading.close()
    assert streamed(reading) == expected
