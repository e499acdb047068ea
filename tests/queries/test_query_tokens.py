"""The tokens of a query: spaces, case, prefixes, special tokens, lengths, repetitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inside.queries import QueryTokens, twins
from pyterrier_csplade import Contract, Vocabulary
from support.bpe import KINDS, SPECIAL, tokenizer_of


def tokens(kind: str, *, split_special_tokens: bool = False, **contract: Any) -> tuple[QueryTokens, Vocabulary]:
    """The tokens and the vocabulary of a tokenizer, all of whose tokens but the special ones are index terms."""
    backend = KINDS[kind]()
    vocabulary = Vocabulary.from_tokens(backend.get_vocab(), special_ids=range(len(SPECIAL)), size=10_000)
    token_ids = vocabulary.token_ids
    made = QueryTokens(backend.to_str(), Contract(**contract), token_ids, split_special_tokens=split_special_tokens)
    return made, made.vocabulary


def terms(kind: str, query: str, **settings: Any) -> set[str]:
    """The terms of one query."""
    read, vocabulary = tokens(kind, **settings)
    return {vocabulary[column] for column in read([query]).indices}


@pytest.mark.parametrize("kind", ["llama-3", "smollm-2"])
def test_without_a_prefix_the_first_word_has_no_space(kind: str) -> None:
    assert terms(kind, "heart attack") == {"heart", "Ġattack"}


@pytest.mark.parametrize("kind", ["llama-3", "smollm-2"])
def test_after_a_prefix_the_first_word_has_a_space_and_the_prefix_is_no_term(kind: str) -> None:
    assert terms(kind, "heart attack", query_prefix="query: ") == {"Ġheart", "Ġattack"}
    assert terms(kind, "heart attack", query_prefix="query:") - {"heart"} == {"Ġattack"}
    # The word of the prefix is a term where the query has it, too.
    assert "Ġquery" not in terms(kind, "heart", query_prefix="query: ")


def test_a_tokenizer_that_puts_a_space_first_always_has_it() -> None:
    assert terms("sentencepiece", "heart attack") == {"▁heart", "▁attack"}
    assert terms("sentencepiece", "heart attack", query_prefix="query: ") == {"▁heart", "▁attack"}


def test_a_token_that_begins_in_the_prefix_and_ends_in_the_query_belongs_to_the_query() -> None:
    assert terms("smollm-2", "art attack", query_prefix="query: he") == {"Ġheart", "Ġattack"}


@pytest.mark.parametrize("kind", ["llama-3", "smollm-2"])
def test_case_makes_other_terms(kind: str) -> None:
    assert terms(kind, "a Heart") == {"a", "ĠHeart"} and terms(kind, "a heart") == {"a", "Ġheart"}
    assert terms(kind, "Heart") == {"Heart"}


@pytest.mark.parametrize("kind", ["llama-3", "smollm-2"])
def test_folding_makes_one_term_of_all_spellings(kind: str) -> None:
    queries = ("heart attack", "a heart attack", "Heart attack", "a Heart attack")
    assert all(terms(kind, query, fold="case+space") - {"a"} == {"heart", "attack"} for query in queries)
    read, vocabulary = tokens(kind, fold="case+space")
    column = vocabulary.column("heart")
    assert column is not None and read(["heart Heart heart"], counts=True)[0, column] == 3


def test_digits() -> None:
    assert terms("smollm-2", "the 2024") == {"the", "Ġ", "2", "0", "4"}


def test_repetitions_count_once_unless_counts_are_asked_for() -> None:
    read, vocabulary = tokens("smollm-2")
    query, column = "a heart attack heart attack heart", vocabulary.column("Ġheart")
    assert column is not None
    assert read([query])[0, column] == 1 and read([query], counts=True)[0, column] == 3


def test_special_tokens_in_a_query_are_no_terms_unless_they_are_read_as_text() -> None:
    assert terms("llama-3", "<s> heart</s>") == {"Ġheart"}
    assert {"<", ">"} & terms("llama-3", "<s> heart</s>", split_special_tokens=True)


def test_the_length_of_the_contract_counts_prefix_and_special_tokens() -> None:
    query = "heart attack of the heart"
    assert terms("llama-3", query, query_length=6) == {"heart", "Ġattack", "Ġof", "Ġthe", "Ġheart"}
    assert terms("llama-3", query, query_length=5) == {"heart", "Ġattack", "Ġof", "Ġthe", "Ġheart"}
    with pytest.warns(UserWarning, match="1 query was longer than 4 tokens"):
        assert terms("llama-3", query, query_length=4, add_bos=True, add_eos=True) == {"heart", "Ġattack"}
    with pytest.warns(UserWarning, match="longer than 4 tokens"):  # "query" and ":"
        assert terms("llama-3", query, query_length=4, query_prefix="query: ") == {"Ġheart", "Ġattack"}


def test_a_query_of_any_length_is_cut_before_it_is_tokenised() -> None:
    with pytest.warns(UserWarning, match="longer than 4 tokens"):
        assert terms("llama-3", "heart " + "attack " * 10**6, query_length=4) == {"heart", "Ġattack"}


def test_blank_queries_and_none_at_all() -> None:
    read, vocabulary = tokens("llama-3", query_prefix="query: ")
    assert read(["", "  \n", "heart"]).getnnz(axis=1).tolist() == [0, 0, 1]
    assert read([]).shape == (0, len(vocabulary))


def test_truncation_and_padding_of_the_file_do_not_count() -> None:
    backend = KINDS["llama-3"]()
    backend.enable_truncation(2)
    backend.enable_padding(length=20, pad_id=5, pad_token="!")
    vocabulary = Vocabulary.from_tokens(backend.get_vocab(), special_ids=[0, 1, 2], size=10_000)
    found = QueryTokens(backend.to_str(), Contract(), vocabulary.token_ids)(["heart attack of the heart"])
    assert found.nnz == 5


@pytest.mark.filterwarnings("ignore:1 query was longer")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "query: ", ". "])
def test_terms_are_those_that_transformers_finds(kind: str, prefix: str) -> None:
    queries = ["heart attack", "What is a Heart attack?", "  the  heart of 2024", "cats & dogs", "größe 🙂"]
    read, vocabulary = tokens(kind, query_prefix=prefix, query_length=9)
    tokenizer = tokenizer_of(kind)
    before = len(tokenizer(prefix, add_special_tokens=False)["input_ids"])
    for query in queries:
        whole = tokenizer(prefix + query, add_special_tokens=False, return_offsets_mapping=True)
        kept = [
            i for i, (_, end) in list(zip(whole["input_ids"], whole["offset_mapping"]))[:9] if not prefix or end > len(prefix)
        ]
        assert len(kept) >= min(len(whole["input_ids"]), 9) - before
        expected = sorted({tokenizer.convert_ids_to_tokens(i) for i in kept if i > 2})
        assert sorted(vocabulary[column] for column in read([query]).indices) == expected


def test_the_first_word_is_bare_with_some_tokenizers() -> None:
    assert tokens("llama-3")[0].starts_bare and tokens("smollm-2")[0].starts_bare
    assert not tokens("llama-3", query_prefix="query: ")[0].starts_bare and not tokens("sentencepiece")[0].starts_bare


def test_the_text_of_a_term() -> None:
    assert tokens("llama-3")[0].text_of("Ġheart") == " heart" and tokens("smollm-2")[0].text_of("heart") == "heart"


def test_twins() -> None:
    vocabulary = Vocabulary(["heart", "Ġheart", "Heart", "ĠHeart", "ĠATTACK", "attack", "Ġx"], np.arange(7))
    assert twins(vocabulary, bare=True) == {0: 1, 2: 1, 3: 1}
    assert twins(vocabulary, bare=False) == {2: 0, 3: 1}


def test_a_tokenizer_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="the tokenizer cannot be read"):
        QueryTokens("{}", Contract(), np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="the tokenizer has no token 99999"):
        QueryTokens(KINDS["llama-3"]().to_str(), Contract(), np.array([99_999]))
