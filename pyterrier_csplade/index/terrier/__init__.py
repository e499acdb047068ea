"""The files of a Terrier 5 index, written in bulk and read without Java.

Terrier's own writers take one document after the other. The writers here make the same structures from arrays: postings with
gamma coded gaps and unary impacts, forward (``direct``) and inverted, the lexicon, the document index and the metadata.
"""

from __future__ import annotations

from .inverted import Transposition, write_direct, write_inverted
from .java import Jdk4pyInit, check_reachable, start, summary
from .lexicon import write_lexicon
from .meta import FieldLength, write_meta
from .properties import write_properties
from .reader import TerrierFiles

__all__ = [
    "FieldLength",
    "Jdk4pyInit",
    "TerrierFiles",
    "Transposition",
    "check_reachable",
    "start",
    "summary",
    "write_direct",
    "write_inverted",
    "write_lexicon",
    "write_meta",
    "write_properties",
]
