"""An encoded collection as PyTerrier sees it: an artifact, a transformer, and a source for indexers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError, DataError
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import ImpactVector, to_vectors
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .documents import Part
from .encoding import encode_collection
from .opened import Lookup, OpenCollection, verify
from .recipe import Plan
from .store import MANIFEST_FILE

if TYPE_CHECKING:
    from pyterrier_csplade.model.transformers import DocEncoder


# Documents that are dictionaries at the same time.
_CHUNK = 1024

#: Documents of a shard; ours. At most one shard is encoded again after a kill.
SHARD_SIZE = 20_000


class EncodedCollection(pt.Artifact, pt.Transformer):
    """The sparse vectors of a collection's documents, encoded once for whatever is built of them.

    It feeds indexers, without a model in memory (:meth:`get_corpus_iter`, :meth:`blocks`), and stands in for ``doc_encoder()``:
    as a transformer it adds ``toks`` to documents by their docno.

    Example::

        collection = EncodedCollection("msmarco.vectors")
        collection.encode(csplade.doc_encoder(top_k=256), dataset.get_corpus_iter())
        ImpactIndex("msmarco.index").index_vectors(collection)

    Attributes:
        path: Its directory.
        encoder: Encodes the documents that are not in the collection; None refuses them.
    """

    ARTIFACT_TYPE = "sparse_vectors"
    ARTIFACT_FORMAT = "csplade"
    ARTIFACT_PACKAGE_HINT = "pyterrier-csplade"
    schematic = {"label": "Encoded documents", "help_url": None}

    def __init__(self, path: str | Path, *, encoder: DocEncoder | None = None) -> None:
        """Name a collection, which need not exist yet.

        Args:
            path: Its directory.
            encoder: Encodes the documents that are not in the collection: the same model and settings. None refuses them.
        """
        super().__init__(path)
        self.encoder = encoder
        self._opened: OpenCollection | None = None
        self._lookup: Lookup | None = None

    @property
    def directory(self) -> Path:
        """The directory of the collection."""
        return Path(str(self.path))

    def built(self) -> bool:
        """Whether the collection is there, and complete."""
        return (self.directory / MANIFEST_FILE).exists()

    @property
    def contract(self) -> Contract:
        """The contract of the encoder."""
        return self._open().plan.contract

    @property
    def vocabulary(self) -> Vocabulary:
        """The index terms, in the order of the columns."""
        return self._open().vocabulary

    def __len__(self) -> int:
        return self._open().totals["documents"]

    def encode(
        self,
        encoder: DocEncoder,
        documents: Iterable[Mapping[str, Any]],
        *,
        shard_size: int = SHARD_SIZE,
        part: str = "0/1",
        max_empty: float = 0.5,
        verbose: bool = False,
    ) -> EncodedCollection:
        """Encode documents, or go on where an earlier call was stopped.

        Args:
            encoder: As :meth:`CSPLADE.doc_encoder` makes it.
            documents: With ``docno`` and the encoder's text field; to go on, the same ones again from the first.
            shard_size: Documents of a file, which is written when all of them are encoded.
            part: "i/n" encodes every n-th shard only, from the i-th on (counted from 0): n processes share the work.
            max_empty: Largest share of a shard's texts without any impact; more is the mark of a model that does not work.
            verbose: Whether to show a progress bar.

        Returns:
            This collection.

        Raises:
            CollectionError: Model, settings or documents are not those that the collection was begun with, or another process
                writes the same part.
            DataError: A document cannot be used, or there are none.
            OSError: The disk is full; what was finished stays.
        """
        if self.encoder is not None:
            raise ValueError("a collection that falls back to an encoder is complete: encode with EncodedCollection(path)")
        encode_collection(
            encoder,
            documents,
            self.directory,
            shard_size=shard_size,
            part=Part.parse(part),
            max_empty=max_empty,
            total=_length(documents),
            verbose=verbose,
        )
        self.close()
        return self

    def verify(self) -> None:
        """Read and check everything: the digest of each file, and that the vectors are what they should be.

        Raises:
            CollectionError: There is no collection, it is not complete, or files are damaged; names them.
        """
        verify(self.directory)

    def close(self) -> None:
        """Forget what was read, so that the next use reads what is in the directory then."""
        self._opened = self._lookup = None

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and vectors shard by shard, [documents, terms]: int32 impacts, or float32 weights."""
        for shard in self._open():
            yield shard.docnos, shard.rows(0, len(shard))

    def get_corpus_iter(self, *, verbose: bool = False) -> pt.model.IterDict:
        """Return ``docno`` and ``toks`` of all documents in their order, for any indexer.

        Args:
            verbose: Whether to show a progress bar.
        """
        documents = self._documents()
        if verbose:
            documents = pt.tqdm(documents, desc="EncodedCollection", unit="d", total=len(self))
        return pt.utils.GeneratorLen(iter(documents), len(self))

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that documents need: with an encoder to fall back to, its own as well."""
        return [["docno"] if self.encoder is None else ["docno", self.encoder.text_field]]

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``toks`` to documents.

        Raises:
            ContractError: A document is not in the collection, whose encoder is not :attr:`encoder`.
            DataError: A document is not in the collection, and there is no encoder to fall back to; names it.
        """
        pt.validate.columns(inp, includes=self.transform_inputs()[0], context=self)
        toks = self._toks(inp) if len(inp) else []
        return inp.assign(toks=pd.Series(toks, index=inp.index, dtype=object))

    def __repr__(self) -> str:
        encoder = "" if self.encoder is None else f", encoder={self.encoder!r}"
        return f"EncodedCollection({str(self.path)!r}{encoder})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedCollection) and (self.path, self.encoder) == (other.path, other.encoder)

    def __hash__(self) -> int:
        return hash((EncodedCollection, self.path, self.encoder))

    def _open(self) -> OpenCollection:
        if self._opened is None:
            self._opened = OpenCollection(self.directory)
        return self._opened

    def _documents(self) -> Iterator[dict[str, Any]]:
        for shard in self._open():
            docnos = iter(shard.docnos)
            for start in range(0, len(shard), _CHUNK):
                rows = shard.rows(start, min(start + _CHUNK, len(shard)))
                for toks in to_vectors(rows, self.vocabulary, self.contract):
                    yield {"docno": next(docnos), "toks": toks}

    def _toks(self, inp: pd.DataFrame) -> list[ImpactVector]:
        if self._lookup is None:
            self._lookup = Lookup(self._open())
        docnos = inp["docno"].tolist()
        places = self._lookup.find(docnos)
        unknown = [row for row, place in enumerate(places) if place is None]
        others = iter(self._fall_back(inp.iloc[unknown]))
        return [next(others) if place is None else self._vector(*place) for place in places]

    def _vector(self, shard: int, row: int) -> ImpactVector:
        return to_vectors(self._open()[shard].rows(row, row + 1), self.vocabulary, self.contract)[0]

    def _fall_back(self, inp: pd.DataFrame) -> list[ImpactVector]:
        if inp.empty:
            return []
        if self.encoder is None:
            raise DataError(
                f"document {inp['docno'].iloc[0]!r} is not in {self.path} ({len(inp):,} are not): give it an encoder, "
                "EncodedCollection(path, encoder=csplade.doc_encoder())"
            )
        plan = self._open().plan
        differences = Plan.of(self.encoder, plan.shard_size).differences(plan)
        if differences:
            raise ContractError(f"{self.encoder!r} does not encode as {self.path} was encoded: {differences}")
        return self.encoder(inp)["toks"].tolist()


def _length(documents: Iterable[Any]) -> int | None:
    try:
        return len(documents)  # type: ignore[arg-type]
    except TypeError:
        return None
