from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyterrier_csplade import Vocabulary
from pyterrier_csplade.vectors import MAX_TERM_BYTES


def test_leaves_out_what_the_lexicon_cannot_hold() -> None:
    tokens = {"<s>": 0, "a": 1, "": 2, "Ġ" * 30: 3, "Ġ" * 31: 4, "\ud800": 5, "Ġthe": 6, "beyond the head": 7}
    vocabulary = Vocabulary.from_tokens(tokens, special_ids={0}, size=7)
    assert list(vocabulary) == ["a", "Ġ" * 30, "Ġthe"]
    assert vocabulary.token_ids.tolist() == [1, 3, 6]


def test_leaves_out_what_terrier_would_sort_otherwise_than_it_searches() -> None:
    assert list(Vocabulary.from_tokens({"！": 0, "▁🙂": 1, "▁the": 2}, special_ids=(), size=3)) == ["！", "▁the"]
    assert list(Vocabulary.from_tokens({"▁🙂": 0, "▁the": 1}, special_ids=(), size=2)) == ["▁🙂", "▁the"]


def test_columns_and_terms_are_inverse() -> None:
    vocabulary = Vocabulary(["b", "a"], [4, 2])
    assert [vocabulary.column(term) for term in vocabulary] == [0, 1]
    assert vocabulary[1] == "a"
    assert "c" not in vocabulary
    assert vocabulary.column("c") is None


def test_refuses_a_term_that_appears_twice() -> None:
    with pytest.raises(ValueError, match="each term only once"):
        Vocabulary(["a", "a"], [0, 1])


def test_digest_tells_terms_ids_and_their_limits_apart() -> None:
    digests = {Vocabulary(*v).sha256 for v in [(["a", "b"], [0, 1]), (["a", "b"], [1, 0]), (["ab"], [0]), (["a"], [0])]}
    assert len(digests) == 4


@given(st.lists(st.text(), unique=True, max_size=30))
def test_every_kept_term_fits_and_every_other_does_not(tokens: list[str]) -> None:
    vocabulary = Vocabulary.from_tokens({token: i for i, token in enumerate(tokens)}, special_ids=(), size=1000)
    fitting = [token for token in tokens if 1 <= len(token.encode("utf-8", "surrogatepass")) <= MAX_TERM_BYTES]
    fitting = [token for token in fitting if not any("\ud800" <= c <= "\udfff" for c in token)]
    if any("\ue000" <= c <= "\uffff" for token in fitting for c in token):
        fitting = [token for token in fitting if all(c <= "\uffff" for c in token)]
    assert list(vocabulary) == fitting


def test_llama_3_keeps_all_but_its_200_longest_tokens() -> None:
    vocabulary = Vocabulary.from_tokens(llama_3_tokens(), special_ids=(), size=128_256)
    assert len(vocabulary) == 127_800
    assert max(len(term.encode()) for term in vocabulary) == MAX_TERM_BYTES


def llama_3_tokens() -> dict[str, int]:
    """Return the 128,000 tokens of the real Llama 3 tokenizer in byte-level spelling."""
    import base64
    import importlib.util
    from pathlib import Path

    from transformers.convert_slow_tokenizer import bytes_to_unicode

    spec = importlib.util.find_spec("llama_models")
    if spec is None or spec.origin is None:
        pytest.skip("the package llama-models, which holds the tokenizer file, is not installed")
    path = next(Path(spec.origin).parent.glob("llama3/**/tokenizer.model"))
    spelling = bytes_to_unicode()
    rows = (line.split() for line in path.read_text().splitlines())
    return {"".join(spelling[byte] for byte in base64.b64decode(token)): int(rank) for token, rank in rows}
