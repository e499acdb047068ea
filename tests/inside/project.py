"""Private parts of the package that the tests in ``tests/project`` use."""

from pyterrier_csplade._settings import Settings
from pyterrier_csplade.cli.main import main
from pyterrier_csplade.model.backbone import Backbone
from pyterrier_csplade.model.head import max_pool_logits
from pyterrier_csplade.training.gradient_cache import GradientCache
from pyterrier_csplade.training.run import load_tokenizer_and_model

__all__ = ["Backbone", "GradientCache", "Settings", "load_tokenizer_and_model", "main", "max_pool_logits"]
