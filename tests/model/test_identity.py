"""The digest of a model: it changes with all that changes vectors, and with nothing else."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inside.model import CONTRACT_FILE, identity
from pyterrier_csplade import CSPLADE, Contract, ContractError
from support.models import TEXTS, language_model, tokenizer
from support.paths import TESTS
from support.texts import dense


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("identity") / "saved"
    CSPLADE((language_model(), tokenizer())).save(path)
    return path


@pytest.fixture
def checkpoint(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_a_bit(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    values = tensors["model.layers.1.mlp.up_proj.weight"].view(torch.int32)
    values[5, 7] ^= 1 << 12
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


CHANGES: dict[str, Callable[[Path], None]] = {
    "eps": lambda path: edit(path / "config.json", rms_norm_eps=0.1),
    "rope": lambda path: edit(path / "config.json", rope_parameters={"rope_theta": 5.0, "rope_type": "default"}),
    "activation": lambda path: edit(path / "config.json", hidden_act="relu"),
    "positions": lambda path: edit(path / "config.json", max_position_embeddings=100),
    "normalizer": lambda path: edit(path / "tokenizer.json", normalizer={"type": "Lowercase"}),
    "pre-tokenizer": lambda path: edit(path / "tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
    "bit": flip_a_bit,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_vectors_is_refused_and_changes_the_fingerprint(change: str, checkpoint: Path) -> None:
    before = CSPLADE(checkpoint).contract
    CHANGES[change](checkpoint)
    with pytest.raises(ContractError, match="its weights is 2:.*mixed, or one was changed"):
        CSPLADE(checkpoint).encode_docs(["a"])
    (checkpoint / CONTRACT_FILE).unlink()
    after = CSPLADE(checkpoint).contract
    assert after.fingerprint != before.fingerprint and not after.matches(before)


@pytest.mark.parametrize(
    "setting", [{"transformers_version": "4.0"}, {"_name_or_path": "x/y"}, {"dtype": "bfloat16"}, {"attention_dropout": 0.5}]
)
def test_what_changes_no_vector_is_not_covered(setting: dict[str, Any], checkpoint: Path) -> None:
    edit(checkpoint / "config.json", **setting)
    assert CSPLADE(checkpoint).contract == Contract.load(checkpoint / CONTRACT_FILE)


def test_the_division_into_files_and_the_type_of_the_copy_make_no_difference(checkpoint: Path, tmp_path: Path) -> None:
    csplade = CSPLADE(checkpoint)
    csplade.backbone.model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    shutil.copytree(checkpoint, tmp_path / "sharded", dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.safetensors"))
    sharded = [CSPLADE(tmp_path / "sharded", dtype=dtype).contract for dtype in ("float32", "bfloat16", "float16")]
    assert sharded == [csplade.contract] * 3
    half = language_model().to(torch.bfloat16)
    CSPLADE((half, tokenizer())).save(tmp_path / "half")
    assert CSPLADE((half.float(), tokenizer())).contract == CSPLADE(tmp_path / "half").contract


@pytest.mark.parametrize("name", ["llama-tied", "gpt_neox", "opt", "gemma3"])
def test_a_pair_and_its_saved_directory_agree(name: str, tmp_path: Path) -> None:
    pair = CSPLADE((language_model(name), tokenizer()))
    pair.save(tmp_path)
    assert CSPLADE(tmp_path).contract == pair.contract


@pytest.mark.parametrize(
    "change",
    [{"logit_scale": 2.0}, {"document_prefix": "zebra "}, {"query_prefix": "zebra "}, {"pool_special": True, "add_eos": True}],
)
def test_probes_notice_a_changed_contract(change: dict[str, Any], checkpoint: Path) -> None:
    edit(checkpoint / CONTRACT_FILE, **change)
    with pytest.raises(ContractError, match=r"the vector of the (query|document) .* is not the one in|weights"):
        CSPLADE(checkpoint).encode_docs(["a"])


def test_probes_are_small_and_stay_out_of_the_contract(checkpoint: Path) -> None:
    assert (checkpoint / CONTRACT_FILE).stat().st_size < 8192
    assert len(json.loads((checkpoint / CONTRACT_FILE).read_text())["probes"]) == 5
    assert "probes" not in CSPLADE(checkpoint).contract.to_dict()


def test_a_checkpoint_of_version_0_1_0_opens_with_one_warning_and_matches_both_ways(tmp_path: Path) -> None:
    landed = Path(shutil.copytree(TESTS / "fixtures" / "landed" / "checkpoint", tmp_path / "landed"))
    older = Contract.load(landed / CONTRACT_FILE)
    with pytest.warns(UserWarning, match="covers only some of the weights") as caught:
        csplade = CSPLADE(landed)
        contract = csplade.contract
    assert len([w for w in caught if "version 0.1.0" in str(w.message)]) == 1
    csplade.save(tmp_path / "again")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        newer = CSPLADE(tmp_path / "again").contract
    assert newer.weights == contract.other_weights and newer.weights.startswith("2:")
    for one in (older, contract, newer):
        for other in (older, contract, newer):
            assert one.matches(other)
    assert not newer.matches(newer.replace(weights="2:other")) and not older.matches(older.replace(weights="f" * 64))
    assert newer.matches(newer.replace(other_weights="f" * 64))
    np.testing.assert_array_equal(dense(csplade.encode_docs(TEXTS)), dense(CSPLADE(tmp_path / "again").encode_docs(TEXTS)))


def test_digests_of_large_files_are_kept_beside_them(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "_KEPT_FROM", 0)
    file, kept = checkpoint / "model.safetensors", checkpoint / ".csplade_digests.json"
    CSPLADE(checkpoint).backbone  # noqa: B018
    assert kept.is_file()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "digests", lambda *args: pytest.fail("the file was read again"))
        CSPLADE(checkpoint).backbone  # noqa: B018
    kept.write_text("[" * 100_000)
    CSPLADE(checkpoint).backbone  # noqa: B018
    flip_a_bit(checkpoint)
    os.utime(file, ns=(1, 1))
    with pytest.raises(ContractError, match="weights"):
        CSPLADE(checkpoint).backbone  # noqa: B018
    kept.unlink()
    kept.mkdir()  # as if the directory could not be written
    (checkpoint / CONTRACT_FILE).unlink()
    CSPLADE(checkpoint).backbone  # noqa: B018
    assert len(list((tmp_path / "cache" / "pyterrier_csplade").iterdir())) == 1


def test_a_tensor_that_is_not_finite_is_named(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["lm_head.weight"][7, 3] = torch.nan
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ContractError, match=r"lm_head\.weight holds values that are not finite"):
        CSPLADE(checkpoint).encode_docs(["a"])
