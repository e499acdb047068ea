"""Private parts of ``pyterrier_csplade.data`` that tests use."""

from pyterrier_csplade.data import python_docs
from pyterrier_csplade.data.queries import first_sentence

__all__ = ["first_sentence", "python_docs"]
