"""Low-rank adapters: merged into the model they were trained on, and into no other."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

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
    with pytest.raises(ContractError, match="has no adapter_model.safetensors, and weights in pickles are never read"):
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


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ],
)
def test_each_end_of_tied_weights_gets_its_own_part_of_an_adapter(settings: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    CSPLADE((language_model("llama-tied"), tokenizer())).save(tmp_path / "base")
    torch.manual_seed(1)
    adapted = get_peft_model(language_model("llama-tied"), LoraConfig(r=4, init_lora_weights=False, **settings))
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    csplade = CSPLADE(plain(tmp_path / "base"), adapter=tmp_path / "adapter")
    found = dense(csplade.encode_docs(TEXTS[:1]))[0]
    with torch.no_grad():
        logits = adapted.eval()(torch.tensor([tokenizer()(TEXTS[0])["input_ids"]])).logits
    expected = torch.log1p(torch.relu(logits.amax(dim=1)))[0, torch.from_numpy(csplade.vocabulary.token_ids)]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
    csplade.save(tmp_path / "saved")
    np.testing.assert_allclose(dense(CSPLADE(tmp_path / "saved").encode_docs(TEXTS[:1]))[0], found, rtol=1e-5, atol=1e-6)


def test_a_pair_with_an_adapter_on_the_head_must_be_merged_first() -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    settings: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "lm_head"], "init_lora_weights": False}
    adapted = get_peft_model(language_model(), LoraConfig(**settings)).eval()
    with pytest.raises(ContractError, match=r"its adapter changes the LM head: merge it first, .*merge_and_unload\(\)"):
        CSPLADE((adapted, tokenizer())).encode_docs(TEXTS)
    with torch.no_grad():
        logits = adapted(torch.tensor([tokenizer()(TEXTS[0])["input_ids"]])).logits
    merged = CSPLADE((adapted.merge_and_unload(), tokenizer()))
    expected = torch.log1p(torch.relu(logits.amax(dim=1)))[0, torch.from_numpy(merged.vocabulary.token_ids)]
    np.testing.assert_allclose(dense(merged.encode_docs(TEXTS[:1]))[0], expected.numpy(), rtol=1e-4, atol=1e-4)


def test_an_adapter_brings_its_own_tokenizer(checkpoint: Path, adapter: Path) -> None:
    from tokenizers import normalizers

    tokens = copy.deepcopy(tokenizer())
    tokens.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokens.save_pretrained(adapter)
    csplade = CSPLADE(plain(checkpoint), adapter=adapter)
    assert csplade.backbone.tokenize(["DOGS"], "query") == csplade.backbone.tokenize(["dogs"], "query")


@pytest.mark.parametrize(("base", "warns"), [("other/model", True), ("acme/checkpoint", False), (None, False)])
def test_an_adapter_that_names_another_base_is_reported(
    base: str | None, warns: bool, checkpoint: Path, adapter: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": base}))
    CSPLADE(plain(checkpoint), adapter=adapter).encode_docs(["a"])
    assert warns == any("names 'other/model' as its base model" in str(warning.message) for warning in recwarn)


@pytest.mark.parametrize("change", [{"lora_alpha": 99}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}])
def test_settings_of_an_adapter_are_part_of_the_fingerprint(change: dict[str, Any], checkpoint: Path, adapter: Path) -> None:
    before = CSPLADE(plain(checkpoint), adapter=adapter).contract
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not CSPLADE(checkpoint, adapter=adapter).contract.matches(before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"r": "8"}, "r in adapter_config.json must be of type int, found '8'"),
        ({"use_rslora": "no"}, "use_rslora in adapter_config.json must be of type bool"),
        ({"alpha_pattern": 3}, "alpha_pattern in adapter_config.json must be of type dict"),
        ({"peft_type": "UNHEARD_OF"}, "adapter_config.json cannot be used"),
        ({"peft_type": 3}, "peft_type in adapter_config.json must be of type str"),
        ("[" * 100_000, "adapter_config.json cannot be read as JSON"),
        ("[]", "adapter_config.json must contain an object"),
    ],
)
def test_a_damaged_adapter_is_an_error_of_this_package(
    content: dict[str, Any] | str, message: str, checkpoint: Path, adapter: Path
) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(json.loads(path.read_text()) | content))
    with pytest.raises(ContractError, match=message):
        CSPLADE(plain(checkpoint), adapter=adapter).encode_docs(["a"])


def test_a_directory_of_a_model_that_holds_an_adapter_too_is_refused(checkpoint: Path, adapter: Path) -> None:
    shutil.copy(adapter / "adapter_config.json", checkpoint)
    with pytest.raises(ContractError, match="contains an adapter"):
        CSPLADE(checkpoint).encode_docs(["a"])
