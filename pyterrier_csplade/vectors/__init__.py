"""Sparse vectors: contract of an encoder, vocabulary, impacts, matrices, pruning, and checks of what users give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyterrier_csplade._lazy import lazy

if TYPE_CHECKING:
    from .checks import (
        MAX_DOCNO_LENGTH,
        OneEncoder,
        as_names,
        check_choice,
        check_contracts,
        check_docno,
        check_encoded,
        check_field,
        check_finite,
        check_matrix,
        check_min_weight,
        check_positive,
        check_record,
        check_texts,
        check_top_k,
        check_weights,
        query_ids,
        text_length,
        text_qids,
    )
    from .contract import CONTRACT_FILE, IDENTITY, Contract, Fold, Variant, contract_preset
    from .folding import FoldTerms, Spelling, fold_matrix, fold_term, fold_vocabulary
    from .grounding import Grounding, lexical_grounding
    from .impacts import MAX_IMPACT, ImpactVector, Quantizer, heaviest_mass, minimum_weight, to_vectors, top_k
    from .matrices import EncodedVectors, MatrixVectors, checked_pieces, row_pieces
    from .merging import MergeToks
    from .pruning import PruneToks
    from .vocabulary import MAX_TERM_BYTES, Vocabulary, is_index_term

__all__ = [
    "CONTRACT_FILE", "IDENTITY", "MAX_DOCNO_LENGTH", "MAX_IMPACT", "MAX_TERM_BYTES", "Contract", "EncodedVectors", "Fold",
    "FoldTerms", "Grounding", "ImpactVector", "MatrixVectors", "MergeToks", "OneEncoder", "PruneToks", "Quantizer", "Spelling",
    "Variant", "Vocabulary", "as_names", "check_choice", "check_contracts", "check_docno", "check_encoded", "check_field",
    "check_finite", "check_matrix", "check_min_weight", "check_positive", "check_record", "check_texts", "check_top_k",
    "check_weights", "checked_pieces", "contract_preset", "fold_matrix", "fold_term", "fold_vocabulary", "heaviest_mass",
    "is_index_term", "lexical_grounding", "minimum_weight", "query_ids", "row_pieces", "text_length", "text_qids",
    "to_vectors", "top_k",
]  # fmt: skip

# Imported when they are first used: a query table needs few of them, and some load pandas and PyTerrier.
_NAMES = {
    "checks": [
        "MAX_DOCNO_LENGTH",
        "OneEncoder",
        "as_names",
        "check_choice",
        "check_contracts",
        "check_docno",
        "check_encoded",
        "check_field",
        "check_finite",
        "check_matrix",
        "check_min_weight",
        "check_positive",
        "check_record",
        "check_texts",
        "check_top_k",
        "check_weights",
        "query_ids",
        "text_length",
        "text_qids",
    ],
    "contract": ["CONTRACT_FILE", "IDENTITY", "Contract", "Fold", "Variant", "contract_preset"],
    "folding": ["FoldTerms", "Spelling", "fold_matrix", "fold_term", "fold_vocabulary"],
    "grounding": ["Grounding", "lexical_grounding"],
    "impacts": ["MAX_IMPACT", "ImpactVector", "Quantizer", "heaviest_mass", "minimum_weight", "to_vectors", "top_k"],
    "matrices": ["EncodedVectors", "MatrixVectors", "checked_pieces", "row_pieces"],
    "merging": ["MergeToks"],
    "pruning": ["PruneToks"],
    "vocabulary": ["MAX_TERM_BYTES", "Vocabulary", "is_index_term"],
}

__getattr__, __dir__ = lazy(__name__, {name: module for module, names in _NAMES.items() for name in names})
