"""The plan of a training run: whether it can start, and its estimated cost."""

from __future__ import annotations

from .cost import GPUS, Gpu, Load, Method, find_gpu, memory_parts, step_flops
from .plan import Plan
from .sample import RowSample, sample_corpus, sample_rows
from .shape import ModelShape, model_shape, read_model_config

__all__ = [
    "GPUS", "Gpu", "Load", "Method", "ModelShape", "Plan", "RowSample", "find_gpu", "memory_parts", "model_shape",
    "read_model_config", "sample_corpus", "sample_rows", "step_flops",
]  # fmt: skip
