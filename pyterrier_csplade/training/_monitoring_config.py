"""Configuration of what watches and steers a contrastive run: sparsity budget, validation, reports."""

# Annotations are evaluated here: the constructors of subclasses elsewhere have the same, and tools resolve them there.

from dataclasses import dataclass, field
from typing import Any

from pyterrier_csplade._errors import ConfigError

from ._config import TrainingConfig
from ._index_size import POSTING_BYTES


def parse_measure(name: str) -> Any:
    """Return a measure of ir_measures by its name.

    Raises:
        ConfigError: There is none of this name.
    """
    import ir_measures

    try:
        return ir_measures.parse_measure(name)
    except (ValueError, NameError, SyntaxError) as error:
        raise ConfigError(f"ir_measures knows no measure {name!r}; names are like nDCG@10, RR@10, R@100, AP") from error


@dataclass(frozen=True, kw_only=True)
class TargetNnz:
    """Active terms that vectors shall have in the mean when training ends; None leaves a side to its lambda.

    Attributes:
        query: Active terms of a query.
        document: Active terms of a passage.
    """

    query: float | None = None
    document: float | None = None

    def __post_init__(self) -> None:
        for name in ("query", "document"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, found {value}")


@dataclass(frozen=True, kw_only=True)
class ValidationSettings:
    """Retrieval over a slice of a collection every some steps.

    The slice holds every document that is judged for its queries, and others up to ``documents``.

    Attributes:
        collection: A directory with docs.jsonl.gz, topics.SPLIT.tsv and qrels.SPLIT.txt, or the name of a PyTerrier dataset
            (``irds:`` ids included).
        split: Of a directory's files; "test" names those without a split.
        steps: Optimizer steps between two validations.
        documents: Documents of the slice at most, unless more are judged.
        queries: Queries of the slice at most.
        measures: Names of ir_measures. The first one decides which checkpoint is the best.
        patience: Validations without a better value after which the run stops; 0 never stops it.
        terrier: Whether a Terrier index is built and searched, which needs Java. Without it, the same impacts are searched
            exactly in memory, and the index size is estimated from the postings.
    """

    collection: str
    split: str = "dev"
    steps: int = 500
    documents: int = 10_000
    queries: int = 500
    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10", "R@100"])
    patience: int = 0
    terrier: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "documents", "queries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, found {getattr(self, name)}")
        if self.patience < 0:
            raise ConfigError(f"patience must not be negative, found {self.patience}")
        if not self.measures:
            raise ConfigError("measures names none")
        for name in self.measures:
            parse_measure(name)


@dataclass(frozen=True, kw_only=True)
class MonitoringConfig(TrainingConfig):
    """What watches and steers a run; none of it is in the paper.

    Attributes:
        max_bad_rows: Training rows that may be unusable: they are left out, with a warning that names and counts them.
        target_nnz: Sparsity to end with: lambda_query and lambda_document are where a controller begins.
        target_index_mb: Size of a Terrier index to end with, in 10^6 bytes, in the place of ``target_nnz.document``:
            a posting counts as 19 bytes, as measured for csplade-tiny at impact scale 100.
        target_index_documents: Documents of that index.
        stop_on_collapse: Whether a run whose vectors are all empty, or all full and blind, is saved and stopped.
        validation: Retrieval in the course of training; the trained model is then the best one, not the last one.
    """

    max_bad_rows: int = 0
    target_nnz: TargetNnz | None = None
    target_index_mb: float | None = None
    target_index_documents: int | None = None
    stop_on_collapse: bool = True
    validation: ValidationSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bad_rows < 0:
            raise ConfigError(f"max_bad_rows must not be negative, found {self.max_bad_rows}")
        if (self.target_index_mb is None) != (self.target_index_documents is None):
            raise ConfigError("target_index_mb and target_index_documents belong together")
        if self.target_index_mb is not None and self.target_nnz is not None and self.target_nnz.document is not None:
            raise ConfigError("target_index_mb and target_nnz.document contradict each other: give one of them")
        for name in ("target_index_mb", "target_index_documents"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be positive, found {value}")

    @property
    def targets(self) -> dict[str, float | None]:
        """Active terms to end with, of "query" and "document"; None without a target."""
        asked = self.target_nnz or TargetNnz()
        document = asked.document
        if self.target_index_mb is not None and self.target_index_documents is not None:
            document = max(1.0, self.target_index_mb * 1e6 / (self.target_index_documents * POSTING_BYTES))
        return {"query": asked.query, "document": document}
