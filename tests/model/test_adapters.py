"""Low-rank adapters: merged into the model they were trained on, and into no other."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inside.model import CONTRACT_FILE
from pyterrier_csplade import CSPLADE, ContractError
from support.models import TEXTS, language_model, tokenizer
from support.texts import dense


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    CSPLADE((language_model(), tokenizer())).save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    lm = get_peft_model(language_model(), LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    lm.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def plain(checkpoint: Path) -> Path:
    """A checkpoint of the base model, which has no contract."""
    (checkpoint / CONTRACT_FILE).unlink()
    return checkpoint


def test_an_adapter_is_merged_and_changes_the_vectors_as_unmerged(checkpoint: Path, adapter: Path) -> None:
    from peft import PeftModel

    unmerged = CSPLADE((PeftModel.from_pretrained(language_model(), adapter), tokenizer()))
    merged = CSPLADE(plain(checkpoint), adapter=adapter)
    np.testing.assert_allclose(dense(merged.encode_docs(TEXTS)), dense(unmerged.encode_docs(TEXTS)), rtol=1e-4, atol=1e-5)
    assert not np.allclose(dense(merged.encode_docs(TEXTS)), dense(CSPLADE(checkpoint).encode_docs(TEXTS)), atol=1e-2)
    merged.save(adapter.parent / "saved")
    loaded = CSPLADE(adapter.parent / "saved")
    np.testing.assert_allclose(dense(loaded.encode_docs(TEXTS)), dense(merged.encode_docs(TEXTS)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ContractError, match="merge it first"):
        unmerged.save(adapter.parent / "unmerged")


def test_an_adapter_with_other_keys_or_bad_values_is_refused(checkpoint: Path, adapter: Path) -> None:
    plain(checkpoint)
    path = adapter / "adapter_model.safetensors"
    good = load_file(path)
    first = sorted(good)[0]
    renamed = {("renamed." + k if k == first else k): v for k, v in good.items()}
    missing = {k: v for k, v in good.items() if k != first}
    not_finite = good | {first: torch.full_like(good[first], math.nan)}
    for tensors, message in [(renamed, "does not fit"), (missing, "missing tensors"), (not_finite, "not finite")]:
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(ContractError, match=message):
            CSPLADE(checkpoint, adapter=adapter).encode_docs(["a"])


def test_pickled_adapters_are_never_read(checkpoint: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("a pickle was read"))
    with pytest.raises(ContractError, match="has no adapter_model.safetensors; weights in pickles are never read"):
        CSPLADE(plain(checkpoint), adapter=adapter).encode_docs(["a"])


def test_an_adapter_of_another_rank_or_width_is_refused(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    CSPLADE((language_model(hidden_size=64), tokenizer())).save(tmp_path / "wide")
    with pytest.raises(ContractError, match="does not fit"):
        CSPLADE(plain(tmp_path / "wide"), adapter=adapter).encode_docs(["a"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    with pytest.raises(ContractError, match="does not fit"):
        CSPLADE(plain(checkpoint), adapter=adapter).encode_docs(["a"])


def test_an_adapter_on_another_base_is_refused(checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    contract = CSPLADE(plain(checkpoint), adapter=adapter).contract
    contract.save(adapter)
    assert CSPLADE(checkpoint, adapter=adapter).contract == contract
    CSPLADE((language_model(seed=1), tokenizer())).save(tmp_path / "other")
    with pytest.raises(ContractError, match="weights"):
        CSPLADE(plain(tmp_path / "other"), adapter=adapter).encode_docs(["a"])
