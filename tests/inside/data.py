"""Private parts of ``pyterrier_csplade.data`` that tests use."""

from pyterrier_csplade.data import python_docs

__all__ = ["python_docs"]
