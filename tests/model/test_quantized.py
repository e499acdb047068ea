"""csplade-tiny in 8 and 4 bits: trained weights show what random ones do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyterrier_csplade import CSPLADE, ContractError
from pyterrier_csplade.model import Backbone, self_test
from support.models import TEXTS, language_model, tokenizer


@pytest.mark.parametrize(("quantization", "similarity"), [("int8", 0.998), ("nf4", 0.85)])
def test_it_loads_and_gives_near_vectors(quantization: Any, similarity: float) -> None:
    """Layers are 704 wide, which is not a multiple of the blocks of bitsandbytes; float weights are the reference."""
    exact, near = (
        model.encode_docs(["Cats sleep for most of the day."]).toarray()[0]
        for model in (CSPLADE.tiny(), CSPLADE.tiny(quantization=quantization))
    )
    assert similarity < exact @ near / np.linalg.norm(exact) / np.linalg.norm(near) < 1 - 1e-7


def test_reading_the_weights_of_a_4_bit_model_changes_nothing(tmp_path: Path) -> None:
    """state_dict() of weights that bitsandbytes has packed for its CPU kernel replaces them by others."""
    CSPLADE((language_model(hidden_size=64, intermediate_size=128), tokenizer())).save(tmp_path)
    model = CSPLADE(tmp_path, quantization="nf4")
    before = model.encode_docs(TEXTS).toarray()
    model.backbone.model.state_dict()
    assert np.array_equal(model.encode_docs(TEXTS).toarray(), before)


def test_a_packed_4_bit_model_is_refused(tmp_path: Path) -> None:
    CSPLADE((language_model(hidden_size=64, intermediate_size=128), tokenizer())).save(tmp_path)
    lm = CSPLADE(tmp_path, quantization="nf4").backbone.model
    next(module for module in lm.modules() if hasattr(module, "quant_state")).weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(ContractError, match=r"bitsandbytes has packed its 4-bit weights for a CPU.*load it with CSPLADE\("):
        CSPLADE((lm, tokenizer())).encode_docs(TEXTS)


def test_a_causal_mask_is_told_from_none_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CSPLADE.tiny(quantization="int8").backbone
    monkeypatch.setattr(Backbone, "_keep_attention", lambda self: None)
    model.model.config.is_causal = True
    with pytest.raises(ContractError, match="bidirectional.*does not see the last token"):
        self_test(model)
    model.contract = model.contract.replace(variant="causal")
    self_test(model)
    model.model.config.is_causal = False
    with pytest.raises(ContractError, match="causal.*sees the last token"):
        self_test(model)


def test_the_self_test_leaves_the_products_of_8_bits_as_they_were() -> None:
    thresholds = {m.state.threshold for m in CSPLADE.tiny(quantization="int8").backbone.model.modules() if hasattr(m, "state")}
    assert thresholds == {6.0}
