"""Vocabularies that are trained on a corpus: their tokens, and the rows that they get from old tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from inside.training import sparsemax
from pyterrier_csplade import CSPLADE
from pyterrier_csplade.training import VocabularyConfig, make_vocabulary
from support.encodings import SENTENCES, encoding
from support.vocabularies import save_corpus, save_model


def train(tmp_path: Path, model: Path, **settings: Any) -> Path:
    corpus = str(save_corpus(tmp_path / "docs.jsonl"))
    values = {"kind": "corpus", "size": 330, "measured_documents": 0, **settings}
    return make_vocabulary(VocabularyConfig(model=str(model), output=str(tmp_path / "new"), corpus=corpus, **values))


def report_of(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "vocabulary_report.json").read_text())
    return report


def input_rows(directory: Path) -> np.ndarray:
    rows: np.ndarray = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    return rows


def divided(before: Any, after: Any) -> tuple[int, list[int]]:
    """Return the id of a new word that no old token has in any case, and the ids of its old pieces."""
    old = {token.lower().lstrip("Ġ") for token in before.get_vocab()}
    words = (token for token in sorted(after.get_vocab()) if token.startswith("Ġ") and token[1:].isascii() and len(token) > 4)
    word = next(token for token in words if token[1:] not in old)
    return after.convert_tokens_to_ids(word), before(f" {word[1:]}", add_special_tokens=False)["input_ids"]


def test_rows_are_means_weighted_by_documents(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base")
    new = train(tmp_path, model, match_norms=False)
    before, after = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(new)
    old, made = input_rows(model), input_rows(new)
    counted = [set(before(text, add_special_tokens=False)["input_ids"]) for text in SENTENCES]
    weight = {i: 1 + sum(i in ids for ids in counted) for i in range(len(before))}
    checked = 0
    for token in ("Ġheart", "Ġthe", "Ġinsulin", "art"):
        if token not in after.get_vocab():
            continue
        forms = {token.lower(), *({token[1:].lower()} if token[0] == "Ġ" else ())}
        found = [i for other, i in before.get_vocab().items() if other.lower() in forms]
        expected = sum(weight[i] * old[i] for i in found) / sum(weight[i] for i in found)
        np.testing.assert_allclose(made[after.convert_tokens_to_ids(token)], expected, rtol=1e-5, atol=1e-6)
        checked += len(found) > 1
    assert checked >= 2
    for token in ("<s>", "</s>"):
        assert np.array_equal(made[after.convert_tokens_to_ids(token)], old[before.convert_tokens_to_ids(token)])
    assert "random" not in report_of(new)["rows_by_origin"]["model.embed_tokens.weight"]


def test_a_word_without_a_token_is_the_mean_of_its_pieces(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base", size=300)  # few merges: most words of the new vocabulary are divided
    new = train(tmp_path, model, match_norms=False, size=400)
    before, after = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(new)
    old, made = input_rows(model), input_rows(new)
    place, ids = divided(before, after)
    assert len(ids) > 1
    np.testing.assert_allclose(made[place], old[ids].mean(0), rtol=1e-5, atol=1e-6)


def test_lengths_are_matched(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base", size=300)
    free, matched = tmp_path / "free", tmp_path / "matched"
    train(tmp_path, model, match_norms=False, size=400).rename(free)
    train(tmp_path, model, size=400).rename(matched)
    place, _ = divided(AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(matched))
    lengths = {name: float(np.linalg.norm(input_rows(path)[place])) for name, path in (("free", free), ("matched", matched))}
    typical = report_of(matched)["lengths_by_decile_before"]
    assert lengths["free"] < 0.8 * min(typical)
    assert min(abs(lengths["matched"] - one) for one in typical) < 1e-4


def test_texts_are_normalised_and_nothing_is_unknown(tmp_path: Path) -> None:
    new = train(tmp_path, save_model(tmp_path / "base", "gemma"), keep_texts=["query: "], measured_documents=2)
    tokenizer = AutoTokenizer.from_pretrained(new)
    assert tokenizer.decode(tokenizer("Heart 🙂 ① ￼", add_special_tokens=False)["input_ids"]) == " heart 🙂 1 ￼"
    assert tokenizer("120", add_special_tokens=False)["input_ids"][-3:] == tokenizer.convert_tokens_to_ids(["1", "2", "0"])
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    assert len(tokenizer) <= 330 and len(input_rows(new)) == len(tokenizer)
    csplade = CSPLADE(str(new), device="cpu")
    assert not [term for term in csplade.vocabulary if term.isascii() and term != term.lower()]
    assert report_of(new)["after"]["bits_per_byte"] > 0


def test_random_rows_and_neighbours(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base", size=300)
    train(tmp_path, model, rows="random", size=400).rename(tmp_path / "random")
    train(tmp_path, model, rows="neighbours", size=400).rename(tmp_path / "neighbours")
    counts = {
        name: report_of(tmp_path / name)["rows_by_origin"]["model.embed_tokens.weight"] for name in ("random", "neighbours")
    }
    assert counts["random"].keys() == {"copied", "random"} and counts["random"]["copied"] == len(
        encoding("gpt2", 300).added_tokens_decoder
    )
    assert counts["neighbours"]["neighbours"] > 0 and "random" not in counts["neighbours"]
    again = train(tmp_path, model, rows="random", size=400)
    assert np.array_equal(input_rows(again), input_rows(tmp_path / "random"))


def test_an_untied_head_may_take_first_pieces(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base", size=300, architecture="llama")
    new = train(tmp_path, model, match_norms=False, size=400, output_rows="first_piece")
    before, after = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(new)
    place, ids = divided(before, after)
    old, made = load_file(model / "model.safetensors"), load_file(new / "model.safetensors")
    np.testing.assert_allclose(made["lm_head.weight"][place], old["lm_head.weight"][ids[0]], rtol=1e-6)
    np.testing.assert_allclose(
        made["model.embed_tokens.weight"][place], old["model.embed_tokens.weight"][ids].mean(0), rtol=1e-5, atol=1e-6
    )


def test_sparsemax_projects_onto_the_simplex() -> None:
    # By hand: (1, 0.8, -1) has support 2 and threshold (1.8 - 1) / 2 = 0.4.
    np.testing.assert_allclose(sparsemax(np.array([[1.0, 0.8, -1.0], [0.8, -1.0, 1.0]])), [[0.6, 0.4, 0], [0.4, 0, 0.6]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 258}, "size must be above 259, the bytes and the 3 added tokens, found 258"),
        ({"output_rows": "first_piece"}, "output_rows: the LM head of .* is tied to the input embeddings: leave it out"),
    ],
)
def test_settings_that_the_model_cannot_have(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path, save_model(tmp_path / "base"), **settings)
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))
