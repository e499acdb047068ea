"""Inside of ``pyterrier_csplade.training``, without ``monitoring`` and ``planning``."""

from __future__ import annotations

from pyterrier_csplade.training import (
    adaptation,
    batches,
    checkpoints,
    contrastive,
    distributed,
    objective,
    pooled,
    query_distillation,
    run,
    streamed_loss,
    trainer,
)
from pyterrier_csplade.training.adaptation import Predictor, draw_positions
from pyterrier_csplade.training.batches import Collator, Labels, RowDataset, write_rows
from pyterrier_csplade.training.checkpoints import damage_of, last_checkpoint, prepared, publish, remove_old, unfinished
from pyterrier_csplade.training.config import POSTING_BYTES
from pyterrier_csplade.training.expansion import ExpansionControl, own_terms_only
from pyterrier_csplade.training.fields import config_from_dict
from pyterrier_csplade.training.gradient_cache import GradientCache
from pyterrier_csplade.training.images.kept import kept
from pyterrier_csplade.training.images.losses import both_ways, distillation, gate_loss
from pyterrier_csplade.training.images.pairs import Pairs, encode_pairs, read_pairs
from pyterrier_csplade.training.images.start import make_head
from pyterrier_csplade.training.images.trainer import HeadModel, head_figures
from pyterrier_csplade.training.learned_table import LearnedTable, padded_tokens
from pyterrier_csplade.training.lexical import LexicalLoss, TermStatistics, scaled_idf
from pyterrier_csplade.training.losses import (
    DocumentFrequencies,
    accuracy,
    anti_zero,
    df_factor,
    df_flops,
    flops,
    kl_loss,
    l0_mask,
    l1,
    margin_mse_loss,
    ramped,
    ranking_loss,
)
from pyterrier_csplade.training.objective import ContrastiveObjective
from pyterrier_csplade.training.own_tokens import OwnTokenFinder, OwnTokens
from pyterrier_csplade.training.packing import PackedDataset, PassageDataset, cut_passages, pack_corpus
from pyterrier_csplade.training.pooled import PassageCollator, count_terms, passage_contract
from pyterrier_csplade.training.query_distillation import vector_loss
from pyterrier_csplade.training.readers import read_rows
from pyterrier_csplade.training.rows import TrainingRow, passage_text
from pyterrier_csplade.training.run import add_lora, load_tokenizer_and_model, reporters
from pyterrier_csplade.training.schedules import TemperatureSchedule, WeightSchedule, make_schedule
from pyterrier_csplade.training.streamed_loss import streamed_prediction_loss
from pyterrier_csplade.training.table_distillation import distil_weights
from pyterrier_csplade.training.trainer import CurvesTrainer
from pyterrier_csplade.training.training_encoder import TrainingEncoder, draw_tokens, predictable
from pyterrier_csplade.training.vocabulary.bpe import BytePairs
from pyterrier_csplade.training.vocabulary.checks import changed_documents, check_kept, check_tokenizer, largest_difference
from pyterrier_csplade.training.vocabulary.counts import checksum
from pyterrier_csplade.training.vocabulary.neighbours import sparsemax
from pyterrier_csplade.training.vocabulary.shards import read_tensors, rewrite

__all__ = [
    "HeadModel",
    "Pairs",
    "both_ways",
    "distillation",
    "encode_pairs",
    "gate_loss",
    "head_figures",
    "kept",
    "make_head",
    "read_pairs",
    "ExpansionControl",
    "TemperatureSchedule",
    "distil_weights",
    "own_terms_only",
    "LearnedTable",
    "LexicalLoss",
    "padded_tokens",
    "query_distillation",
    "vector_loss",
    "TermStatistics",
    "scaled_idf",
    "OwnTokenFinder",
    "OwnTokens",
    "PassageDataset",
    "cut_passages",
    "PassageCollator",
    "count_terms",
    "passage_contract",
    "TrainingEncoder",
    "draw_tokens",
    "predictable",
    "POSTING_BYTES",
    "BytePairs",
    "Collator",
    "ContrastiveObjective",
    "CurvesTrainer",
    "DocumentFrequencies",
    "GradientCache",
    "Labels",
    "PackedDataset",
    "Predictor",
    "WeightSchedule",
    "RowDataset",
    "TrainingRow",
    "accuracy",
    "adaptation",
    "add_lora",
    "anti_zero",
    "changed_documents",
    "check_kept",
    "check_tokenizer",
    "checksum",
    "largest_difference",
    "batches",
    "checkpoints",
    "config_from_dict",
    "contrastive",
    "damage_of",
    "df_factor",
    "df_flops",
    "distributed",
    "draw_positions",
    "flops",
    "kl_loss",
    "l0_mask",
    "l1",
    "last_checkpoint",
    "load_tokenizer_and_model",
    "make_schedule",
    "margin_mse_loss",
    "objective",
    "pooled",
    "pack_corpus",
    "passage_text",
    "prepared",
    "publish",
    "ramped",
    "ranking_loss",
    "read_rows",
    "read_tensors",
    "remove_old",
    "reporters",
    "rewrite",
    "sparsemax",
    "run",
    "streamed_loss",
    "streamed_prediction_loss",
    "trainer",
    "unfinished",
    "write_rows",
]
