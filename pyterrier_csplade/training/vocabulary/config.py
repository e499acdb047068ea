"""Configuration of the vocabulary stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyterrier_csplade.training.fields import Checked, SettingError, must

#: What happens to the vocabulary.
Kind = Literal["lower", "cut"]
#: A step of the tokenizer's normalisation.
Step = Literal["nfkc", "lowercase"]


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig(Checked):
    """The vocabulary stage: makes a causal language model whose tokens are normalised, cut to a corpus, or both.

    Attributes:
        model: Hub id or directory of a causal language model with a tokenizer.
        output: Directory of the new model; it must not hold a model yet.
        kind: "lower" lets the tokenizer normalise texts, and keeps all weights; tokens that no normalised text has are then no
            index terms. "cut" removes the tokens that the corpus does not use, with their rows of the weights. "cut" with
            ``normalise`` does both.
        corpus: Source of the text: a file of documents (JSONL, TSV, CSV, Parquet, TREC) or the name of a PyTerrier dataset,
            ``irds:`` ids included. "lower" needs it for measurements only.
        revision: Revision of a hub model.
        text_fields: Fields of a document, joined by a space.
        normalise: Steps of the normalisation, which also puts a space before every text, so that its first word is the same
            token as elsewhere. None: [nfkc, lowercase] for "lower", and nothing for "cut".
        min_documents: Documents in which a token must occur to survive a cut. With 1, the cut is lossless for the corpus.
        keep_texts: Texts whose tokens survive a cut, such as the prefixes of queries and documents.
        measured_documents: Documents of the corpus on which the model is run before and after, for bits per byte and active
            terms; 0 runs no model, which saves memory and time.
        seed: Seed of the choice of these documents.
    """

    model: str = field(metadata=must("not be empty", bool))
    output: str = field(metadata=must("not be empty", bool))
    kind: Kind
    corpus: str | None = field(default=None, metadata=must("not be empty", bool))
    revision: str | None = None
    text_fields: list[str] = field(default_factory=lambda: ["text"], metadata=must("not be empty", bool))
    normalise: list[Step] | None = None
    min_documents: int = field(default=1, metadata=must("be at least 1", lambda value: value >= 1))
    keep_texts: list[str] = field(default_factory=list)
    measured_documents: int = field(default=200, metadata=must("not be negative", lambda value: value >= 0))
    seed: int = field(default=42, metadata=must("be from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "lower" and self.corpus is None:
            raise SettingError(f"kind {self.kind!r} needs a corpus: name the documents", ("kind",))
        if self.kind == "lower" and self.normalise == []:
            raise SettingError("kind 'lower' normalises: normalise must name a step", ("normalise",))
        if self.kind == "lower" and self.min_documents > 1:
            raise SettingError("kind 'lower' removes no tokens: min_documents is for 'cut'", ("min_documents",))

    @property
    def steps(self) -> list[Step]:
        """The steps of the normalisation, in the order in which they are applied."""
        chosen = self.normalise if self.normalise is not None else ["nfkc", "lowercase"] if self.kind == "lower" else []
        return [step for step in ("nfkc", "lowercase") if step in chosen]
