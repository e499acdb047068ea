"""Terms as people read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from inside.model import readable
from pyterrier_csplade import CSPLADE
from support.models import TEXTS, tokenizer

BYTES = {"Ġheart": "heart", "ing": "-ing", "Ġ": "' '", ":": ":", "Ġ(": "(", "5": "-5", "Ċ": "'\\n'", "ðŁ": "ðŁ", "Ġgro": "gro"}
PIECES = {"▁heart": "heart", "ing": "-ing", ":": ":"}
WORDS = {"heart": "heart", "##ing": "-ing"}


@pytest.mark.parametrize(
    ("decoder", "terms"),
    [(decoders.ByteLevel(), BYTES), (decoders.Metaspace(), PIECES), (decoders.WordPiece(), WORDS)],
)
def test_spelling_by_hand(decoder: Any, terms: dict[str, str]) -> None:
    backend = Tokenizer(models.WordLevel({term: i for i, term in enumerate(["1", *terms])}, unk_token="1"))
    backend.decoder = decoder
    assert dict(zip(terms, readable(PreTrainedTokenizerFast(tokenizer_object=backend), terms))) == terms


def test_decode_and_explain_for_people(csplade: CSPLADE) -> None:
    row = csplade.encode_docs(TEXTS[:1])
    plain, pretty = csplade.decode(row), csplade.decode(row, pretty=True)
    assert list(pretty.values()) == list(plain.values())
    spelled = dict(zip(plain, pretty))
    assert spelled["Ġposition"] == "position" and spelled["ition"] == "-ition"
    pair = (csplade.backbone.model, csplade.backbone.tokenizer)
    folded = CSPLADE(pair, fold="case+space")
    words = folded.decode(folded.encode_docs(TEXTS[:1]), pretty=True)
    assert {"position", "ition"} <= words.keys() and not any(word.startswith("-") and len(word) > 1 for word in words)
    contributions = csplade.explain("term", TEXTS[0])
    assert list(csplade.explain("term", TEXTS[0], pretty=True).values()) == list(contributions.values())


def test_no_term_is_lost_where_two_are_read_alike(csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = csplade.vocabulary.terms[:3]
    row = csr_matrix((np.array([3.0, 2.0, 1.0]), ([0, 0, 0], [0, 1, 2])), shape=(1, len(csplade.vocabulary)))
    monkeypatch.setattr("pyterrier_csplade.model.csplade.readable", lambda _, names, folded: ["same"] * len(names))
    assert csplade.decode(row, pretty=True) == {"same": 3.0, terms[1]: 2.0, terms[2]: 1.0}
    assert tokenizer().get_vocab().keys() > set(terms)
