"""csplade-small: the stored part that this package contains, and the assembled model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from inside.model import CONTRACT_FILE
from pyterrier_csplade import CSPLADE
from support.paths import ROOT

FOLDER = ROOT / "pyterrier_csplade/small"
#: SmolLM2-135M: layers, rows of the embeddings, width.
LAYERS, ROWS, WIDTH = 30, 49_152, 576


def test_the_stored_part_is_what_the_card_says() -> None:
    config, contract = (json.loads((FOLDER / name).read_text()) for name in ("config.json", CONTRACT_FILE))
    kept = json.loads((FOLDER / "assembly.json").read_text())["layers"]
    assert kept == [0, 1, 2, 3, 4, 27, 28, 29] and config["num_hidden_layers"] == len(kept) and max(kept) < LAYERS
    rows = np.load(FOLDER / "rows.npy")
    assert len(rows) == config["vocab_size"] and 0 <= rows.min() <= rows.max() < ROWS
    with safe_open(FOLDER / "weights.safetensors", "pt") as stored:
        assert not [name for name in stored.keys() if "embed_tokens" in name or "lm_head" in name]  # noqa: SIM118 (no dict)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 40e6
    card = (FOLDER / "MODEL_CARD.md").read_text()
    parameters = config["vocab_size"] * WIDTH + _size_of_layers()
    assert f"{parameters / 1e6:.0f} million parameters" in card and f"{config['vocab_size']:,} of its {ROWS:,} tokens" in card
    lengths = f"at most {contract['query_length']} tokens per query and {contract['document_length']} per document"
    assert contract["variant"] == "bidirectional" and lengths in " ".join(card.split())


def _size_of_layers() -> int:
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(FOLDER))
    return sum(value.numel() for name, value in lm.named_parameters() if "embed_tokens" not in name)


@pytest.mark.slow
def test_the_assembled_model_is_the_one_that_was_stored() -> None:
    """Needs the base model in the cache: ``pyterrier-csplade fetch small``."""
    small = CSPLADE.small()
    terms = small.decode(small.encode_queries(["What causes heart attacks?"]), pretty=True)  # its probes are compared first
    assert {"heart", "attacks", "attack", "causes"} <= {term.strip() for term in list(terms)[:6]}
