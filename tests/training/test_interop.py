"""Published models of others, and sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from inside.training import add_lora
from pyterrier_csplade import CSPLADE, Contract, ContractError, contract_preset, export_sentence_transformers
from pyterrier_csplade.training import LoraSettings
from support import models

WIDTH = 32  # of the tiny models


def bidirectional_logits(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits under a full attention mask that is written out."""
    full = torch.where(mask[:, None, None, :].bool(), 0.0, torch.finfo(torch.float32).min).expand(-1, 1, ids.shape[1], -1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=full, position_ids=positions, use_cache=False).logits


def pad(sequences: list[list[int]], length: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.full((len(sequences), length), 2), torch.zeros(len(sequences), length, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        place = slice(0, len(sequence)) if side == "right" else slice(length - len(sequence), length)
        ids[row, place], mask[row, place] = torch.tensor(sequence), 1
    return ids, mask


def as_laconic_encodes(model: Any, prefix: str, texts: list[str]) -> np.ndarray:
    """Prefix, no special tokens, padded on the right to a maximum length; padding is pushed below every logit."""
    sequences = [models.tokenizer().encode(prefix + text, add_special_tokens=False)[:64] for text in texts]
    ids, mask = pad(sequences, 64, "right")
    logits = bidirectional_logits(model, ids, mask) + (1 - mask[..., None]) * -1e6
    return torch.log(1 + torch.relu(logits.max(dim=1).values)).numpy()


def as_lion_sp_encodes(model: Any, texts: list[str], length: int) -> np.ndarray:
    """The first token is BOS and takes part, padding on the left, logits times width ** -0.25."""
    sequences = [[0, *models.tokenizer().encode(text, add_special_tokens=False)][:length] for text in texts]
    ids, mask = pad(sequences, max(map(len, sequences)), "left")
    logits = bidirectional_logits(model, ids, mask) * WIDTH**-0.25 + (1 - mask[..., None]) * -1e6
    return torch.log(1 + torch.relu(logits.max(dim=1).values)).numpy()


def test_laconic_look_alike() -> None:
    contract = contract_preset("laconic", query_length=64, document_length=64)
    csplade = CSPLADE((models.language_model(), models.tokenizer()), contract=contract)
    eager = models.language_model(attn_implementation="eager")
    for found, prefix in ((csplade.encode_queries(models.TEXTS), "query: "), (csplade.encode_docs(models.TEXTS), "passage: ")):
        expected = as_laconic_encodes(eager, prefix, models.TEXTS)[:, csplade.vocabulary.token_ids]
        np.testing.assert_allclose(found.toarray(), expected, atol=1e-5)


def lion_adapter(folder: Path) -> Path:
    """An adapter whose base model is named by a path of its author."""
    adapted = add_lora(models.language_model(), LoraSettings(rank=2, dropout=0.0))
    torch.manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder / "adapter")
    config = folder / "adapter/adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "base_model_name_or_path": "/home/user/checkpoints/mntp", "task_type": None}))
    models.language_model().save_pretrained(folder / "base")
    models.tokenizer().save_pretrained(folder / "base")
    return folder


def test_lion_sp_look_alike(tmp_path: Path) -> None:
    folder = lion_adapter(tmp_path)
    contract = contract_preset("lion-sp-8b", logit_scale=WIDTH**-0.25, document_length=20)
    csplade = CSPLADE(folder / "base", adapter=folder / "adapter", contract=contract)
    from peft import PeftModel

    eager = AutoModelForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
    reference = PeftModel.from_pretrained(eager, str(folder / "adapter")).merge_and_unload().eval()
    for found, length in ((csplade.encode_queries(models.TEXTS), 64), (csplade.encode_docs(models.TEXTS), 20)):
        expected = as_lion_sp_encodes(reference, models.TEXTS, length)[:, csplade.vocabulary.token_ids]
        np.testing.assert_allclose(found.toarray(), expected, atol=2e-5)
    without = CSPLADE(folder / "base", adapter=folder / "adapter", contract=contract.replace(pool_special=False))
    assert abs(without.encode_docs(models.TEXTS) - csplade.encode_docs(models.TEXTS)).max() > 0.01


def test_presets() -> None:
    assert contract_preset("lion-sp-8b").logit_scale == 0.125
    assert contract_preset("lion-sp-1b").logit_scale == pytest.approx(0.1487, abs=1e-4)
    assert contract_preset("laconic", document_length=512).document_length == 512
    with pytest.raises(ContractError, match="there is no preset 'lion'; the presets are laconic, lion-sp-1b, lion-sp-8b"):
        contract_preset("lion")


# ---------------------------------------------------------------------- sentence-transformers

SAME: dict[str, Any] = {"query_length": 24, "document_length": 24}
CONTRACTS = {
    "causal": Contract(**SAME),
    "prefixes and scale": Contract(query_prefix="query: ", document_prefix="passage: ", logit_scale=0.5, **SAME),
    "bidirectional": Contract(variant="bidirectional", **SAME),
    "Lion-SP": contract_preset("lion-sp-8b", logit_scale=0.42, **SAME),
    "two lengths": Contract(query_length=4, document_length=12, query_prefix="query: "),
    "two lengths, Lion-SP": contract_preset("lion-sp-8b", query_length=4, document_length=12),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_sentence_transformers_gives_the_same_vectors(tmp_path: Path, name: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    csplade = CSPLADE((models.language_model("llama-tied"), models.tokenizer()), contract=CONTRACTS[name])
    export_sentence_transformers(csplade, tmp_path / "export")
    for path in (tmp_path / "export").rglob("tokenizer_config.json"):
        assert not {"is_local", "local_files_only"} & set(json.loads(path.read_text(encoding="utf-8")))
    encoder = sentence_transformers.SparseEncoder(str(tmp_path / "export"), device="cpu")
    texts = [text for text in models.TEXTS if text]
    for found, expected in (
        (encoder.encode_document(texts), csplade.encode_docs(texts)),
        (encoder.encode_query(texts), csplade.encode_queries(texts)),
    ):
        dense = found.to_dense().numpy()[:, csplade.vocabulary.token_ids]
        np.testing.assert_allclose(dense, expected.toarray(), atol=1e-5)


@pytest.mark.parametrize(
    ("contract", "model", "reason"),
    [
        (Contract(variant="echo", **SAME), "llama", "echo: no module reads a text twice"),
        (Contract(add_bos=True, **SAME), "llama", "special tokens outside of the maximum"),
        (Contract(**SAME), "gemma2", "the soft-capping or scaling of this architecture after its LM head"),
    ],
)
def test_what_sentence_transformers_cannot_express(tmp_path: Path, contract: Contract, model: str, reason: str) -> None:
    csplade = CSPLADE((models.language_model(model, attn_implementation="eager"), models.tokenizer()), contract=contract)
    with pytest.raises(ContractError, match=f"sentence-transformers cannot express {reason}"):
        export_sentence_transformers(csplade, tmp_path / "export")
    assert not (tmp_path / "export").exists()
