"""The vocabulary stage, before adaptation: a language model whose tokens fit a corpus."""

from __future__ import annotations

from .config import VocabularyConfig
from .stage import make_vocabulary

__all__ = ["VocabularyConfig", "make_vocabulary"]
