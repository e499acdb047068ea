"""Models of which only some layers are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inside.model import CONTRACT_FILE
from pyterrier_csplade import CSPLADE, Contract, ContractError
from support.models import TEXTS, language_model, tokenizer
from support.texts import dense

# Layers whose output is added to the residual stream: a decoder layer in which they are zero changes nothing.
WRITERS = re.compile(r"(o_proj|out_proj|down_proj|fc2|attention\.dense|dense_4h_to_h)\.(weight|bias)$")
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {},
    "gemma3": {
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    },
    "opt": {},
    "gpt_neox": {},
}


def silenced(name: str, kept: list[int]) -> CSPLADE:
    """The whole model, in which the layers that are not kept pass their input on."""
    lm = language_model(name, num_hidden_layers=4, **SETTINGS[name])
    for path, parameter in lm.named_parameters():
        layer = re.search(r"layers\.(\d+)\.", path)
        if layer and int(layer[1]) not in kept and WRITERS.search(path):
            parameter.data.zero_()
    return CSPLADE((lm, tokenizer()))


def base(directory: Path, name: str = "llama", **settings: Any) -> Path:
    """A language model of four layers, without a contract."""
    lm = language_model(name, num_hidden_layers=4, **SETTINGS[name], **settings)
    lm.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("name", "layers", "kept"),
    [("llama", 2, [0, 1]), ("llama", [0, 1], [0, 1]), *((name, [1, 2], [1, 2]) for name in SETTINGS)],
)
def test_kept_layers_compute_what_they_do_in_the_whole_model(
    name: str, layers: int | list[int], kept: list[int], tmp_path: Path
) -> None:
    cut = CSPLADE(base(tmp_path, name), layers=layers)
    found, expected = cut.encode_docs(TEXTS), silenced(name, kept).encode_docs(TEXTS)
    np.testing.assert_allclose(dense(found), dense(expected), rtol=1e-5, atol=1e-5)
    lm = cut.backbone.model
    assert lm.config.num_hidden_layers == len(kept)
    indices = [module.layer_idx for module in lm.modules() if hasattr(module, "layer_idx")]
    assert sorted(set(indices)) == list(range(len(kept)))
    if name == "gemma3":
        assert lm.config.layer_types == [SETTINGS[name]["layer_types"][index] for index in kept]


def test_a_cut_model_generates_with_its_cache_as_without(tmp_path: Path) -> None:
    lm = CSPLADE(base(tmp_path, "gemma3"), layers=[1, 2]).backbone.model
    ids = torch.tensor([tokenizer()(TEXTS[0])["input_ids"]])
    cached, plain = (lm.generate(ids, max_new_tokens=8, do_sample=False, use_cache=cache) for cache in (True, False))
    assert cached.tolist() == plain.tolist()


@pytest.mark.parametrize("layers", [3, [0, 3]])
def test_a_saved_cut_model_is_an_ordinary_directory_with_the_same_identity(layers: int | list[int], tmp_path: Path) -> None:
    cut = CSPLADE(base(tmp_path / "base"), layers=layers)
    cut.save(tmp_path / "saved")
    names = {name.split(".")[2] for name in load_file(tmp_path / "saved/model.safetensors") if "layers" in name}
    assert sorted(names) == [str(index) for index in range(cut.backbone.model.config.num_hidden_layers)]
    assert "layers" not in json.loads((tmp_path / "saved" / CONTRACT_FILE).read_text())
    loaded = CSPLADE(tmp_path / "saved")
    assert loaded.contract.matches(cut.contract) and loaded.contract.fingerprint == cut.contract.fingerprint
    np.testing.assert_allclose(dense(loaded.encode_docs(TEXTS)), dense(cut.encode_docs(TEXTS)), rtol=1e-6)


def test_the_fingerprint_depends_on_the_kept_layers_and_not_on_the_type(tmp_path: Path) -> None:
    base(tmp_path)
    kinds: list[dict[str, Any]] = [{}, {"layers": 2}, {"layers": [0, 2]}, {"layers": [1, 2]}]
    fingerprints = [CSPLADE(tmp_path, **kind).contract.fingerprint for kind in kinds]
    assert len({*fingerprints}) == 4
    assert CSPLADE(tmp_path, layers=2, dtype="bfloat16").contract.fingerprint == fingerprints[1]
    assert CSPLADE(tmp_path, layers=4).contract.fingerprint == fingerprints[0]


@pytest.mark.parametrize("quantization", ["nf4", pytest.param("int8-weight-only", marks=pytest.mark.slow)])
def test_cut_models_can_be_quantised(quantization: Any, tmp_path: Path) -> None:
    CSPLADE(base(tmp_path / "base"), layers=[1, 3]).save(tmp_path / "saved")
    found = CSPLADE(tmp_path / "base", layers=[1, 3], quantization=quantization)
    expected = CSPLADE(tmp_path / "saved", quantization=quantization)
    assert found.contract.fingerprint == expected.contract.fingerprint
    np.testing.assert_array_equal(dense(found.encode_docs(TEXTS)), dense(expected.encode_docs(TEXTS)))


def test_files_in_pieces(tmp_path: Path) -> None:
    lm = language_model(num_hidden_layers=4)
    lm.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    found = CSPLADE(tmp_path, layers=[1, 3]).encode_docs(TEXTS)
    np.testing.assert_allclose(dense(found), dense(silenced("llama", [1, 3]).encode_docs(TEXTS)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (5, "has 4 layers, numbered from 0 to 3, so 5 cannot be kept"),
        ([0, 4], "has 4 layers, numbered from 0 to 3, so layer 4 cannot be kept"),
    ],
)
def test_layers_that_a_model_does_not_have(layers: Any, message: str, tmp_path: Path) -> None:
    csplade = CSPLADE(base(tmp_path), layers=layers)
    with pytest.raises(ContractError, match=message):
        csplade.encode_docs(["a"])


@pytest.mark.parametrize("layers", [0, -1, [], [1, 0], [0, 0], [-1, 0], True, 2.0, "2", [0, "1"], 2**40, [0, 2**40]])
def test_what_is_no_choice_of_layers(layers: Any, tmp_path: Path) -> None:
    for make in (lambda: CSPLADE("some/model", layers=layers), lambda: Contract(layers=layers)):
        with pytest.raises(ContractError, match="layers must be a positive number of layers, or indices of layers, ascending"):
            make()


def test_layers_beside_a_contract_or_a_loaded_model(tmp_path: Path) -> None:
    CSPLADE((language_model(num_hidden_layers=4), tokenizer())).save(tmp_path)
    with pytest.raises(ContractError, match=r"layers=2 contradicts .*, which was trained with all of its layers"):
        CSPLADE(tmp_path, layers=2)
    with pytest.raises(ValueError, match="layers=2 is for loading"):
        CSPLADE((language_model(), tokenizer()), layers=2)
    (tmp_path / CONTRACT_FILE).unlink()
    with pytest.raises(ContractError, match=r"layers=2 contradicts the given contract, which has \[0, 3\]"):
        CSPLADE(tmp_path, layers=2, contract=Contract(layers=[0, 3]))
    given = CSPLADE(tmp_path, contract=Contract(layers=[0, 3]))
    assert given.contract.fingerprint == CSPLADE(tmp_path, layers=[0, 3]).contract.fingerprint


def test_indices_of_the_first_layers_are_their_number() -> None:
    assert Contract(layers=[0, 1, 2]) == Contract(layers=3) == Contract(layers=np.int64(3))  # type: ignore[arg-type]
    assert Contract(layers=[0, 2]).layers == [0, 2] and Contract(layers=(0, 2)).layers == [0, 2]  # type: ignore[arg-type]
    values = Contract(layers=[0, 2]).to_dict()
    assert Contract.from_dict(json.loads(json.dumps(values))) == Contract(layers=[0, 2])
    assert "layers" not in Contract().to_dict()


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter that was trained on layers 0 and 3 of a base model."""
    from peft import LoraConfig, get_peft_model

    cut = CSPLADE(base(tmp_path / "base"), layers=[0, 3])
    torch.manual_seed(5)
    lm = get_peft_model(cut.backbone.model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    lm.save_pretrained(tmp_path / "adapter")
    cut.contract.replace(weights="", other_weights="").save(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_loads_its_base_and_cuts_it(adapter: Path) -> None:
    from peft import PeftModel

    cut = CSPLADE(adapter.parent / "base", layers=[0, 3])
    expected = CSPLADE((PeftModel.from_pretrained(cut.backbone.model, adapter), tokenizer())).encode_docs(TEXTS)
    loaded = CSPLADE(adapter)
    np.testing.assert_allclose(dense(loaded.encode_docs(TEXTS)), dense(expected), rtol=1e-4, atol=1e-5)
    assert loaded.backbone.model.config.num_hidden_layers == 2
    named = CSPLADE(adapter.parent / "base", adapter=adapter)
    assert named.contract == loaded.contract and loaded.contract.layers == [0, 3]
    loaded.save(adapter.parent / "saved")
    found = CSPLADE(adapter.parent / "saved").encode_docs(TEXTS)
    np.testing.assert_allclose(dense(found), dense(expected), rtol=1e-4, atol=1e-5)
    with pytest.raises(ContractError, match=r"layers=3 contradicts .*adapter, which was trained with layers=\[0, 3\]"):
        CSPLADE(adapter, layers=3)


@pytest.mark.parametrize("named", [None, "no/such", 3])
def test_an_adapter_whose_base_is_not_there(named: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
    with pytest.raises(ContractError, match=r"is an adapter whose base model is not found .*: pass it, CSPLADE\(base model"):
        CSPLADE(tmp_path).encode_docs(["a"])
