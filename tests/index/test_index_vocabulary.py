"""Every index term is found again, alone and with its own score."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from inside.index import is_index_term
from pyterrier_csplade import DataError, ImpactIndex, Vocabulary
from support.terms import spell


def build(path: Path, terms: list[str], per_document: int) -> ImpactIndex:
    """Index each term once, with the impact 1 + its place modulo 97."""
    blocks = [range(start, min(start + per_document, len(terms))) for start in range(0, len(terms), per_document)]
    stream = ({"docno": f"d{i}", "toks": {terms[j]: 1 + j % 97 for j in block}} for i, block in enumerate(blocks))
    return ImpactIndex(path).index(stream)


def assert_found_alone(index: ImpactIndex, terms: list[str], chosen: list[int], per_document: int) -> None:
    queries = pd.DataFrame({"qid": [str(j) for j in chosen], "query_toks": [{terms[j]: 0.5} for j in chosen]})
    result = index.retriever().transform(queries)
    assert result["qid"].tolist() == queries["qid"].tolist()
    assert result["docno"].tolist() == [f"d{j // per_document}" for j in chosen]
    assert result["score"].tolist() == [(1 + j % 97) / 2 for j in chosen]


# An index may hold characters from U+E000 to U+FFFF or those beyond: see the last test.
BASIC = st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF)
BEYOND = st.characters(max_codepoint=0xD7FF) | st.characters(min_codepoint=0x10000)


# Failures are not shrunk, because each try builds an index.
@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from([BASIC, BEYOND]).flatmap(
        lambda a: st.lists(st.text(a, min_size=1).filter(is_index_term), unique=True, min_size=50)
    )
)
def test_any_terms(tmp_path_factory: pytest.TempPathFactory, terms: list[str]) -> None:
    index = build(tmp_path_factory.mktemp("terms") / "i", terms, 7)
    assert index.collection_statistics().getNumberOfUniqueTerms() == len(terms)
    assert_found_alone(index, terms, list(range(len(terms))), 7)


@pytest.mark.parametrize("last", ["\uffff", "\U0010ffff"])
def test_terms_of_the_greatest_length_harm_no_neighbour(tmp_path: Path, last: str) -> None:
    long = {c * (60 // len(c.encode())) for c in ["a", "é", "Ġ", "語", "~", "\0", last]}
    terms = sorted({*long, *(f"a{i:02}" for i in range(40)), "~", last})
    assert_found_alone(build(tmp_path / "i", terms, 5), terms, list(range(len(terms))), 5)


@pytest.mark.parametrize("pair", [("\ue000", "\U00010000"), ("！", "🙂"), ("Ġ\ufffd", "Ġ🙂")])
def test_terms_that_would_hide_each_other_are_refused(tmp_path: Path, pair: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="cannot find"):
        build(tmp_path / "i", ["a", *pair], 1)


def test_terms_that_only_look_like_it_are_found(tmp_path: Path) -> None:
    terms = ["！a", "a🙂", "❤\ufe0f", "❤a", "\ufe0fx", "b", "c"]
    assert_found_alone(build(tmp_path / "i", terms, 2), terms, list(range(len(terms))), 2)


def test_whole_vocabulary_of_llama_3(tmp_path: Path) -> None:
    pytest.importorskip("llama_models")
    lines = files("llama_models").joinpath("llama3/tokenizer.model").read_text().splitlines()
    tokens = {spell(base64.b64decode(token)): int(rank) for token, rank in (line.split() for line in lines)}
    assert len(tokens) == len(lines) == 128_000
    terms = list(Vocabulary.from_tokens(tokens, special_ids=[], size=128_256))
    assert len(terms) == 127_800  # 200 have more than 60 bytes
    index = build(tmp_path / "i", terms, 500)
    assert index.collection_statistics().getNumberOfUniqueTerms() == len(terms)
    lexicon = {entry.getKey() for entry in index.lexicon()}
    assert lexicon == set(terms)
    longest = sorted(range(len(terms)), key=lambda j: len(terms[j].encode()))[-100:]
    chosen = np.random.default_rng(0).choice(len(terms), 300, replace=False).tolist()
    assert_found_alone(index, terms, sorted({*chosen, *longest}), 500)
