"""Training of image heads: pictures in the vocabulary of a text model."""

from __future__ import annotations

from .config import ImagesConfig, PictureValidation
from .stage import plan_images, train_images

__all__ = ["ImagesConfig", "PictureValidation", "plan_images", "train_images"]
