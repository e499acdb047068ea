"""csplade-tiny in 8 and 4 bits: trained weights show what random ones do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyterrier_csplade import CSPLADE, ContractError
from pyterrier_csplade.model import Backbone, self_test


@pytest.mark.parametrize(("quantization", "similarity"), [("int8", 0.998), ("nf4", 0.85)])
def test_it_loads_and_gives_near_vectors(quantization: Any, similarity: float) -> None:
    """Layers are 704 wide, five and a half of the blocks that bitsandbytes packs; float weights are the reference."""
    exact, near = (
        model.encode_docs(["Cats sleep for most of the day."]).toarray()[0]
        for model in (CSPLADE.tiny(), CSPLADE.tiny(quantization=quantization))
    )
    assert similarity < exact @ near / np.linalg.norm(exact) / np.linalg.norm(near) < 1 - 1e-7


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
