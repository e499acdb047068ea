"""What a checkpoint says of the machine that wrote it: nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import pyterrier_csplade
from pyterrier_csplade import CSPLADE
from pyterrier_csplade.model import save_tokenizer
from support.models import TEXTS, language_model, tokenizer

TINY = Path(pyterrier_csplade.__file__).parent / "tiny"


def settings(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture
def loaded_offline(tmp_path: Path) -> Any:
    """A tokenizer that was loaded from a directory without network, which transformers writes down in it."""
    tokenizer().save_pretrained(tmp_path / "source")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "source", local_files_only=True)
    loaded.save_pretrained(tmp_path / "traces")
    assert settings(tmp_path / "traces")["local_files_only"] is True
    return loaded


def test_a_saved_tokenizer_does_not_say_how_it_was_loaded(loaded_offline: Any, tmp_path: Path) -> None:
    save_tokenizer(loaded_offline, tmp_path / "saved")
    theirs, ours = settings(tmp_path / "traces"), settings(tmp_path / "saved")
    assert theirs.items() - ours.items() == {("local_files_only", True), ("is_local", True)}
    assert ours.items() <= theirs.items()
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(TEXTS)["input_ids"] == loaded_offline(TEXTS)["input_ids"]


def test_a_saved_model_does_not_say_how_it_was_loaded(loaded_offline: Any, tmp_path: Path) -> None:
    model = CSPLADE((language_model(), loaded_offline))
    model.save(tmp_path / "saved")
    assert not {"is_local", "local_files_only"} & set(settings(tmp_path / "saved"))
    assert CSPLADE(tmp_path / "saved").contract == model.contract


def test_the_shipped_checkpoint_names_no_machine_and_keeps_its_contract() -> None:
    assert not {"is_local", "local_files_only"} & set(settings(TINY))
    stored = json.loads((TINY / "csplade_config.json").read_text(encoding="utf-8"))
    contract = CSPLADE.tiny().backbone.contract
    assert (contract.vocabulary_sha256, contract.weights) == (stored["vocabulary_sha256"], stored["weights"])
