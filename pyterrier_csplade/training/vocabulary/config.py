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
    must,
)

#: What happens to the vocabulary.
Kind = Literal["lower", "cut", "corpus"]
#: How a token that no old one equals gets its row; for output rows, see ``VocabularyConfig``.
Rows = Literal["pieces", "neighbours", "random"]
#: A step of the tokenizer's normalisation: compatible characters become one, letters become lower-case, and a word after
#: punctuation gets a space before it.
Step = Literal["nfkc", "lowercase", "words"]


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig(Checked):
    """The vocabulary stage: makes a causal language model whose tokens are normalised, cut to a corpus, or both.

    Attributes:
        model: Hub id or directory of a causal language model with a tokenizer.
        output: Directory of the new model; it must not hold a model yet.
        kind: "lower" lets the tokenizer normalise texts, and keeps all weights; tokens that no normalised text has are then no
            index terms. "cut" removes the tokens that the corpus does not use, with their rows of the weights. "cut" with
            ``normalise`` does both. "corpus" trains a byte-level tokenizer on the corpus, and makes the rows of its tokens from
            the old ones; the adaptation phase must follow.
        corpus: Source of the text: a file of documents (JSONL, TSV, CSV, Parquet, TREC) or the name of a PyTerrier dataset,
            ``irds:`` ids included. "lower" needs it for measurements only.
        revision: Revision of a hub model.
        text_fields: Fields of a document, joined by a space.
        normalise: Steps of the normalisation, which also puts a space before every text, so that its first word is the same
            token as elsewhere. "words" does the same for a letter after punctuation, a symbol, an underscore or a line break.
            None: [nfkc, lowercase] for "lower" and "corpus", and nothing for "cut".
        min_documents: Documents in which a token must occur to survive a cut, which with 1 is lossless for the corpus; for
            "corpus", occurrences of a pair of tokens that is joined.
        keep_texts: Texts whose tokens survive a cut, such as the prefixes of queries and documents.
        size: Tokens of "corpus", at most 300,000; fewer if the corpus has not enough pairs.
        rows: For "corpus": a token whose text is an old token, in any case, gets the mean of these, weighted by document
            frequency. Any other token gets the mean of the old tokens of its text ("pieces"), or of tokens in the same contexts
            ("neighbours"). "random" draws all rows, for comparisons.
        output_rows: "first_piece" gives other tokens the row of their first old token in an LM head that is not tied, because a
            language model predicts a word by it.
        match_norms: Whether rows that are not copied get the median length of old rows that are about as frequent.
        measured_documents: Documents of the corpus on which the model is run before and after, for bits per byte and active
            terms; 0 runs no model, which saves memory and time.
        seed: Seed of the choice of these documents.
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
        if self.kind != "lower" and self.corpus is None:
            raise SettingError(f"kind {self.kind!r} needs a corpus: name the documents", ("kind",))
        if self.kind == "lower" and self.normalise == []:
            raise SettingError("kind 'lower' normalises: normalise must name a step", ("normalise",))
        if (self.kind == "corpus") != (self.size is not None):
            raise SettingError("size belongs to kind 'corpus', which needs it", ("size",))
        for name in ("rows", "output_rows", "match_norms"):
            if self.kind != "corpus" and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise SettingError(f"{name} is a setting of kind 'corpus'", (name,))
        if self.kind == "lower" and self.min_documents > 1:
            raise SettingError("kind 'lower' removes no tokens: min_documents is for 'cut'", ("min_documents",))

    @property
    def steps(self) -> list[Step]:
        """The steps of the normalisation, in the order in which they are applied."""
        chosen = self.normalise if self.normalise is not None else [] if self.kind == "cut" else ["nfkc", "lowercase"]
        return [step for step in get_args(Step) if step in chosen]
