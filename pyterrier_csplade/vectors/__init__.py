"""Sparse vectors: contract of an encoder, vocabulary, impacts, matrices, pruning, and checks of what users give."""

from __future__ import annotations

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
