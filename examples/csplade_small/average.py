"""Average the weights of trained models ("model soups", arXiv 2203.05482). The result encodes like one model.

Usage: python average.py OUTPUT MODEL MODEL ...

The models are directories with the same configuration, trained from each other or from the same model. OUTPUT gets the
tokenizer and the contract of the last one, and the mean of each tensor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from pyterrier_csplade import CSPLADE


def main(output: Path, models: list[Path]) -> None:
    loaded = [AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for model in models]
    mean = loaded[-1]
    with torch.no_grad():
        for name, parameter in mean.named_parameters():
            parameter.copy_(torch.stack([model.get_parameter(name) for model in loaded]).mean(0))
    last = CSPLADE(models[-1])
    contract = last.contract.replace(weights="", other_weights="", probes=(), base_model=None)
    CSPLADE((mean, last.backbone.tokenizer), contract=contract).save(output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(model) for model in sys.argv[2:]])
