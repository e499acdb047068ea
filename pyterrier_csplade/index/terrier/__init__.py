"""The files of a Terrier 5 index, written in bulk and read without Java.

Terrier's own writers process one document after another. The writers here create the same structures from arrays: postings with
gamma-coded gaps and unary impacts, forward (``direct``) and inverted; the lexicon; the document index; and the metadata.
"""

from __future__ import annotations

from .java import Jdk4pyInit, summary
from .reader import TerrierFiles

__all__ = ["Jdk4pyInit", "TerrierFiles", "summary"]
