"""Pictures in the vocabulary of a text model: loading, features, the image head and its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyterrier_csplade._lazy import lazy

if TYPE_CHECKING:
    from .encoder import ImageEncoder
    from .features import EfficientNetLite0, TransformersFeatures
    from .head import ImageHead, SavedHead
    from .notebook import show_pictures
    from .pictures import open_picture

__all__ = [
    "EfficientNetLite0", "ImageEncoder", "ImageHead", "SavedHead", "TransformersFeatures", "open_picture", "show_pictures",
]  # fmt: skip

_MODULES = {
    "EfficientNetLite0": "features", "ImageEncoder": "encoder", "ImageHead": "head", "SavedHead": "head",
    "TransformersFeatures": "features", "open_picture": "pictures", "show_pictures": "notebook",
}  # fmt: skip

__getattr__, __dir__ = lazy(__name__, _MODULES)
