"""The files of a Terrier 5 index, written in bulk.

Terrier's own writers take one document after the other. What stands here writes the same structures from arrays: postings with
gamma coded gaps and unary impacts, forward (``direct``) and inverted, the lexicon, the document index, the metadata.
"""

from __future__ import annotations

from .inverted import Transposition, write_direct, write_inverted
from .lexicon import write_lexicon
from .meta import FieldLength, write_meta
from .properties import write_properties

__all__ = ["FieldLength", "Transposition", "write_direct", "write_inverted", "write_lexicon", "write_meta", "write_properties"]
