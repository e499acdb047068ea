"""Configuration of the vocabulary stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from pyterrier_csplade.training.fields import (
    BE_A_SEED,
    BE_AT_LEAST_1,
    NOT_BE_EMPTY,
    NOT_BE_NEGATIVE,
    Checked,
    SettingError,
    check_model,
    must,
)

#: How the vocabulary is changed.
Kind = Literal["lower", "cut", "corpus"]
#: How the rows of new tokens are made; ``VocabularyConfig`` describes the values.
Rows = Literal["pieces", "neighbours", "random"]
#: A step of the tokenizer's normalisation. "nfkc" unifies compatible characters, "lowercase" lower-cases letters, and "words"
#: puts a space before words after punctuation.
Step = Literal["nfkc", "lowercase", "words"]


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig(Checked):
    """The vocabulary stage, which makes a causal language model whose tokens are normalised, cut to a corpus, or trained on it.

    Attributes:
        model: Hub id or directory of a causal language model with a tokenizer.
        output: Directory of the new model, which must be empty or not exist.
        kind: "lower" lets the tokenizer normalise texts, and keeps all weights. Tokens that cannot occur in normalised texts
            are then not index terms. "cut" removes the tokens that the corpus does not use, with their rows of the weights;
            with ``normalise``, it also normalises texts. "corpus" trains a byte-level tokenizer on the corpus, and makes the
            rows of its tokens from the old rows; the adaptation phase must follow.
        corpus: Source of the text: a file of documents (JSONL, TSV, CSV, Parquet, TREC) or the name of a PyTerrier dataset
            (including ``irds:`` ids). "lower" needs it only for measurements.
        revision: Revision of a hub model.
        text_fields: Fields of a document, joined by a space.
        normalise: Steps of the normalisation, which also puts a space before every text, so that its first word is the same
            token as elsewhere. "words" does the same for a letter after punctuation, a symbol, an underscore or a line break.
            None: [nfkc, lowercase] for "lower" and "corpus", and nothing for "cut".
        min_documents: Minimum number of documents with a token; a cut removes rarer tokens. With 1, it is lossless for the
            corpus. For "corpus", minimum number of occurrences of a pair of tokens that is joined.
        keep_texts: Texts whose tokens are kept in a cut, such as the prefixes of queries and documents.
        size: Number of tokens for "corpus", at most 300,000. There are fewer if the corpus does not have enough pairs.
        rows: How the rows are made, for "corpus". If the old vocabulary has the text of a token in any case, its row is the
            mean of these old rows, weighted by document frequency. Otherwise, it is the mean of the rows of the old tokens in
            its text ("pieces"), or a mixture of the rows of tokens in similar contexts ("neighbours"). "random" draws all rows,
            for comparisons.
        output_rows: "first_piece" gives a token that consists of several old tokens the row of the first one, in an LM head
            that is not tied, because a language model predicts a word by its first token.
        match_norms: Whether rows that are not copied get the median length of old rows of similar frequency.
        measured_documents: Number of documents of the corpus for measurements with the model before and after the change (bits
            per byte and active terms). 0 does not run the model, which saves memory and time.
        seed: Seed of the choice of these documents, and of random rows.
    """

    model: str = field(metadata=NOT_BE_EMPTY)
    output: str = field(metadata=NOT_BE_EMPTY)
    kind: Kind
    corpus: str | None = field(default=None, metadata=NOT_BE_EMPTY)
    revision: str | None = None
    text_fields: list[str] = field(default_factory=lambda: ["text"], metadata=NOT_BE_EMPTY)
    normalise: list[Step] | None = None
    min_documents: int = field(default=1, metadata=BE_AT_LEAST_1)
    keep_texts: list[str] = field(default_factory=list)
    size: int | None = field(default=None, metadata=must("be from 257 to 300,000", lambda value: 256 < value <= 300_000))
    rows: Rows = "pieces"
    output_rows: Literal["pieces", "first_piece"] = "pieces"
    match_norms: bool = True
    measured_documents: int = field(default=200, metadata=NOT_BE_NEGATIVE)
    seed: int = field(default=42, metadata=BE_A_SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_model(self.model, self.revision)
        if self.kind != "lower" and self.corpus is None:
            raise SettingError(f"kind {self.kind!r} needs a corpus: set corpus to documents", ("kind",))
        if self.kind == "lower" and self.normalise == []:
            raise SettingError("kind 'lower' normalises: normalise must name a step", ("normalise",))
        if (self.kind == "corpus") != (self.size is not None):
            raise SettingError("set size for kind 'corpus', and only for this kind", ("size",))
        for name in ("rows", "output_rows", "match_norms"):
            if self.kind != "corpus" and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise SettingError(f"{name} can only be set for kind 'corpus'", (name,))
        if self.kind == "lower" and self.min_documents > 1:
            raise SettingError("kind 'lower' removes no tokens: min_documents is for 'cut'", ("min_documents",))

    @property
    def steps(self) -> list[Step]:
        """The steps of the normalisation, in the order in which they are applied."""
        chosen = self.normalise if self.normalise is not None else [] if self.kind == "cut" else ["nfkc", "lowercase"]
        return [step for step in get_args(Step) if step in chosen]
