"""Queries derived from documents."""

from __future__ import annotations

from collections import Counter

import pytest

from pyterrier_csplade import DataError
from pyterrier_csplade.data import Source, suggested_queries


def source(documents: list[dict[str, str]]) -> Source:
    return Source("some documents", lambda: iter(documents), lambda: len(documents))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Dogs and cats sleep a lot. They eat.", "Dogs and cats sleep a lot."),
        ("Dr. Smith went to the U.S. for a year. Then he came back.", "Dr. Smith went to the U.S."),
        ("  no mark\nof punctuation ", "no mark of punctuation"),
        (" ".join(map(str, range(40))), " ".join(map(str, range(24)))),
        ("Is the value of 3.14 known to everybody? Yes.", "Is the value of 3.14 known to everybody?"),
    ],
)
def test_first_sentence(text: str, sentence: str) -> None:
    assert suggested_queries(source([{"text": text}]), ["text"], 1) == [sentence]


def test_titles_and_first_sentences_are_queries_once() -> None:
    documents = [
        {"docno": "1", "title": "Sleep", "text": "Dogs and cats sleep a lot. They eat."},
        {"docno": "2", "title": "Sleep", "text": " "},
        {"docno": "3", "text": "Something else"},
    ]
    expected = ["Sleep", "Dogs and cats sleep a lot.", "Something else"]
    assert suggested_queries(source(documents), ["title", "text"], 10) == expected
    assert suggested_queries(source(documents), ["title"], 10) == ["Sleep"]
    with pytest.raises(DataError, match="some documents: no document has text in body, abstract"):
        suggested_queries(source(documents), ["body", "abstract"], 10)


def test_documents_are_drawn_with_equal_probability() -> None:
    documents = [{"text": str(number)} for number in range(8)]
    drawn = Counter(text for seed in range(2000) for text in suggested_queries(source(documents), ["text"], 3, seed))
    assert sum(drawn.values()) == 6000 and all(650 < count < 850 for count in drawn.values())  # 750 on average
    assert suggested_queries(source(documents), ["text"], 3, 1) == suggested_queries(source(documents), ["text"], 3, 1)
