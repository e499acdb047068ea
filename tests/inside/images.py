"""Inside ``pyterrier_csplade.images``."""

from __future__ import annotations

from pyterrier_csplade.images import encoder, features, measures, pictures
from pyterrier_csplade.images.head import SETTINGS_FILE, WEIGHTS_FILE, last_norm, picture_logits

__all__ = ["SETTINGS_FILE", "WEIGHTS_FILE", "encoder", "features", "last_norm", "measures", "picture_logits", "pictures"]
