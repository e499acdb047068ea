"""Sparse vectors: contract of an encoder, vocabulary, impacts, matrices, pruning, and checks of user input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyterrier_csplade._lazy import lazy

if TYPE_CHECKING:
    from .checks import OneEncoder, check_contracts
    from .contract import CONTRACT_FILE, Contract, Variant, contract_preset
    from .folding import FoldTerms, fold_matrix, fold_term, fold_vocabulary
    from .grounding import Grounding, lexical_grounding
    from .impacts import MAX_IMPACT, ImpactVector, Quantizer, minimum_weight, to_vectors, top_k
    from .matrices import EncodedVectors, MatrixVectors, checked_pieces
    from .merging import MergeToks
    from .pruning import PruneToks
    from .vocabulary import MAX_TERM_BYTES, Vocabulary


__all__ = [
    "CONTRACT_FILE", "MAX_IMPACT", "MAX_TERM_BYTES", "Contract", "EncodedVectors", "FoldTerms", "Grounding", "ImpactVector",
    "MatrixVectors", "MergeToks", "OneEncoder", "PruneToks", "Quantizer", "Variant", "Vocabulary", "check_contracts",
    "checked_pieces", "contract_preset", "fold_matrix", "fold_term", "fold_vocabulary", "lexical_grounding", "minimum_weight",
    "to_vectors", "top_k",
]  # fmt: skip

# Imported when they are first used: a query table needs few of them, and some load pandas and PyTerrier.
_NAMES = {
    "checks": ["OneEncoder", "check_contracts"],
    "contract": ["CONTRACT_FILE", "Contract", "Variant", "contract_preset"],
    "folding": ["FoldTerms", "fold_matrix", "fold_term", "fold_vocabulary"],
    "grounding": ["Grounding", "lexical_grounding"],
    "impacts": ["MAX_IMPACT", "ImpactVector", "Quantizer", "minimum_weight", "to_vectors", "top_k"],
    "matrices": ["EncodedVectors", "MatrixVectors", "checked_pieces"],
    "merging": ["MergeToks"],
    "pruning": ["PruneToks"],
    "vocabulary": ["MAX_TERM_BYTES", "Vocabulary"],
}

__getattr__, __dir__ = lazy(__name__, {name: module for module, names in _NAMES.items() for name in names})
