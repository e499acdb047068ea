"""Block-max pruning of an index that is reordered, built again, replaced or damaged."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from pyterrier_csplade import ImpactIndex, ImpactIndexError
from pyterrier_csplade.index.search import open_blocks


def build(path: Path, impact: int = 1) -> ImpactIndex:
    stream = ({"docno": f"d{i}", "toks": {"a": 1 + i % 5, "b": impact, f"c{i % 7}": 3}} for i in range(300))
    return ImpactIndex(path).toks_indexer(overwrite=True).index(stream)


def found(index: ImpactIndex, query: dict[str, float], **options: object) -> list[tuple[str, float]]:
    frame = pd.DataFrame([{"qid": "q", "query_toks": query}])
    result = index.retriever(algorithm="bmp", **options).transform(frame)  # type: ignore[arg-type]
    return list(zip(result["docno"], result["score"]))


def test_an_index_is_reordered_and_keeps_its_ties(tmp_path: Path) -> None:
    index = build(tmp_path / "index")
    expected = found(index, {"a": 1.0, "c3": 0.5}, reordered=False)
    assert [score for _, score in expected] == sorted((score for _, score in expected), reverse=True)
    for order in (None, [f"d{i}" for i in reversed(range(300))]):
        assert index.reorder(order) is index
        assert found(index, {"a": 1.0, "c3": 0.5}, block_size=4) == expected
    assert len(found(index, {"a": 1.0}, num_results=7)) == 7
    assert found(index, {"never": 1.0}) == found(index, {}) == []
    heavy = found(index, {"a": 2.0**512, "b": 2.0**500})
    assert heavy[0] == ("d4", 5 * 2.0**512 + 2.0**500)


def test_side_lists_and_order_follow_the_index(tmp_path: Path) -> None:
    index = build(tmp_path / "index").reorder()
    assert found(index, {"b": 1.0})[0] == ("d0", 1)
    index = build(tmp_path / "index", impact=9)
    assert found(index, {"b": 1.0})[0] == ("d0", 9)
    # Files of the old index that were copied back do not belong to the new one.
    stale = {file.name: file.read_bytes() for file in (tmp_path / "index").glob("csplade_blocks*")}
    build(tmp_path / "index", impact=5)
    for name, content in stale.items():
        (tmp_path / "index" / name).write_bytes(content)
    assert found(ImpactIndex(tmp_path / "index"), {"b": 1.0})[0] == ("d0", 5)


@pytest.mark.parametrize("pattern", ["csplade_blocks-4-reordered.bin", "csplade_order.bin"])
@pytest.mark.parametrize("damage", ["cut", "first byte", "last byte", "empty"])
def test_damaged_files_are_refused(tmp_path: Path, pattern: str, damage: str) -> None:
    index = build(tmp_path / "index").reorder()
    found(index, {"a": 1.0})
    path = tmp_path / "index" / pattern
    content = bytearray(path.read_bytes())
    if damage == "first byte":
        content[0] ^= 1
    elif damage == "last byte":
        content[-1] ^= 1
    path.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(damage, len(content))])
    with pytest.raises(ImpactIndexError, match=f"{pattern}.*remove it"):
        found(ImpactIndex(tmp_path / "index"), {"a": 1.0})
    path.unlink()
    assert found(ImpactIndex(tmp_path / "index"), {"a": 1.0})[0] == ("d4", 5)


def test_a_damaged_list_is_not_built_upon(tmp_path: Path) -> None:
    index = build(tmp_path / "index")
    path = index.postings().file.path
    content = bytearray(path.read_bytes())
    content[0] ^= 1  # a document of the first list
    path.write_bytes(content)
    with pytest.raises(ImpactIndexError, match="postings of 'a'"):
        found(ImpactIndex(tmp_path / "index"), {"b": 1.0})


def test_two_processes_search_while_a_third_rebuilds(tmp_path: Path) -> None:
    index = build(tmp_path / "index").reorder()
    searching = textwrap.dedent(
        """
        import os, sys
        import pandas as pd
        from pyterrier_csplade import ImpactIndex, ImpactIndexError
        frame = pd.DataFrame([{"qid": "q", "query_toks": {"a": 1.0, "b": 1.0}}])
        seen = set()
        while not os.path.exists(sys.argv[2]):
            index = ImpactIndex(sys.argv[1])
            try:
                found = index.retriever(algorithm="bmp", block_size=8).transform(frame)
            except ImpactIndexError as error:
                assert "was built again while it was open: call close(), and search again" in str(error)
                continue
            best = list(zip(found["docno"], found["score"]))[0]
            assert best[0] == "d4" and len(found) == 300, best
            if not seen:
                print("ready", flush=True)
            seen.add(best[1] - 5)
        print(sorted(seen))
        """
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", searching, str(index.path), str(tmp_path / "end")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        for process in others:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for impact in range(1, 5):
            build(tmp_path / "index", impact=impact).reorder()
    finally:
        (tmp_path / "end").touch()
    for process in others:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.strip() and set(map(float, output.strip(" []\n").split(","))) <= {1.0, 2.0, 3.0, 4.0}


def test_lists_of_an_index_that_was_replaced_belong_to_it(tmp_path: Path) -> None:
    index = build(tmp_path / "index")
    old = index.postings()
    new = build(tmp_path / "index", impact=9).postings()
    for postings, best in ((old, 1.0), (new, 9.0), (old, 1.0)):
        sides = open_blocks(postings, 16, reordered=False)
        assert sides.file.metadata["identity"][2] == postings.index
        term = postings.number("b")
        assert term is not None
        assert sides.maxima[sides.starts[term]] == best
