"""GGUF files as models."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyterrier_csplade import CSPLADE, ContractError
from support.gguf_files import write_gguf
from support.models import TEXTS, language_model, tokenizer
from support.texts import dense

# Texts whose tokens do not depend on how a byte-level tokenizer splits other characters than ASCII.
ASCII = TEXTS[:4]


def model_file(directory: Path, name: str = "llama", **settings: Any) -> tuple[Path, Any]:
    lm = language_model(name, intermediate_size=64, **settings)
    return directory / "model.gguf", write_gguf(lm, tokenizer(), directory / "model.gguf")


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_vectors_are_those_of_the_rounded_model(name: str, tmp_path: Path) -> None:
    path, lm = model_file(tmp_path, name)
    found, expected = CSPLADE(path), CSPLADE((lm, tokenizer()))
    assert found.vocabulary.terms == expected.vocabulary.terms
    assert found.backbone.tokenizer.get_vocab() == tokenizer().get_vocab()
    assert found.backbone.tokenizer.special_tokens_map == tokenizer().special_tokens_map
    np.testing.assert_allclose(dense(found.encode_docs(ASCII)), dense(expected.encode_docs(ASCII)), rtol=1e-4, atol=1e-5)
    assert not hasattr(found.backbone.model.config, "quantization_config")


def test_a_saved_directory_has_the_identity_of_the_file_in_every_type(tmp_path: Path) -> None:
    path, _ = model_file(tmp_path)
    csplade = CSPLADE(path)
    csplade.save(tmp_path / "saved")
    loaded = CSPLADE(tmp_path / "saved")
    assert loaded.contract.matches(csplade.contract)
    assert CSPLADE(path, dtype="bfloat16").contract.matches(csplade.contract)
    assert CSPLADE(path, quantization="nf4").contract.matches(csplade.contract)


def test_transformers_finds_the_version_of_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Python 3.10, it looks for a version in the module, and otherwise refuses every file."""
    gguf = pytest.importorskip("gguf")
    monkeypatch.setattr(gguf, "__version__", "another", raising=False)
    monkeypatch.delattr(gguf, "__version__")
    assert CSPLADE(model_file(tmp_path)[0]).encode_docs(["a"]).nnz
    assert gguf.__version__ == importlib.metadata.version("gguf")


@pytest.mark.parametrize(("layers", "kept"), [(1, [0]), ([0, 2], [0, 2])])
def test_some_layers_of_a_file(layers: Any, kept: list[int], tmp_path: Path) -> None:
    path, lm = model_file(tmp_path, num_hidden_layers=4)
    lm.save_pretrained(tmp_path / "whole")
    tokenizer().save_pretrained(tmp_path / "whole")
    found, expected = CSPLADE(path, layers=layers), CSPLADE(tmp_path / "whole", layers=kept)
    np.testing.assert_allclose(dense(found.encode_docs(ASCII)), dense(expected.encode_docs(ASCII)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ContractError, match="has 4 layers, numbered from 0 to 3"):
        CSPLADE(path, layers=5).encode_docs(["a"])


def test_a_file_that_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.gguf"):
        CSPLADE(tmp_path / "absent.gguf")
    (tmp_path / "torn.gguf").write_bytes(b"GGUF torn")
    with pytest.raises(ContractError, match=r"torn\.gguf"):
        CSPLADE(tmp_path / "torn.gguf").encode_docs(["a"])
