"""Pictures and image heads for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyterrier_csplade import CSPLADE
from pyterrier_csplade.images import ImageHead, SavedHead
from support.models import language_model, tokenizer


def saved_model(directory: Path, **settings: Any) -> CSPLADE:
    """Save a tiny random model, and load it from its directory."""
    CSPLADE((language_model(**settings), tokenizer())).save(directory)
    return CSPLADE(directory)


def random_head(model: CSPLADE, directory: Path, *, inputs: int = 6, seed: int = 0, features: Any = None) -> Path:
    """Save a random head for a model; ``features`` is a pair of settings and vector of the fixed picture."""
    torch.manual_seed(seed)
    head = ImageHead(inputs, model.backbone.head.weight.shape[1], hidden=8)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    settings, probe = features or (None, [])
    SavedHead.made(head, model.contract, settings, probe, {}).save(directory)
    return directory


def colours(pictures: Any) -> np.ndarray:
    """Features of pictures: mean and standard deviation of each colour."""
    pixels = [np.asarray(picture, dtype=np.float32) / 255 for picture in pictures]
    return np.stack([np.concatenate([p.mean(axis=(0, 1)), p.std(axis=(0, 1))]) for p in pixels])


def paler(pictures: Any) -> np.ndarray:
    """Other features."""
    return 0.2 + 0.5 * colours(pictures)


def drawn(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    """A random picture, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
