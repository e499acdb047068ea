"""An encoded collection as PyTerrier sees it: an artifact, a transformer, and a source for indexers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError, DataError
from pyterrier_csplade._settings import Settings
from pyterrier_csplade.vectors.checks import check_names
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.impacts import ImpactVector, to_vectors
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .documents import Part
from .encoding import encode_collection
from .opened import Lookup, OpenCollection, verify
from .recipe import Recipe
from .store import MANIFEST_FILE

if TYPE_CHECKING:
    from pyterrier_csplade.images.encoder import ImageEncoder
    from pyterrier_csplade.model.transformers import DocEncoder


# Number of documents that are turned into dictionaries together; our choice (not measured).
_CHUNK = 1024

#: Number of documents in a shard, of which a kill costs at most one; our choice (not measured).
SHARD_SIZE = 20_000


class EncodedCollection(Settings, pt.Artifact, pt.Transformer):
    """The sparse vectors of a collection's documents, encoded once and used for any number of indexes.

    An encoded collection feeds indexers without a model in memory (:meth:`get_corpus_iter`, :meth:`blocks`). As a transformer,
    it replaces ``doc_encoder()``: it adds ``toks`` to documents by their docnos.

    Example::

        collection = EncodedCollection("msmarco.vectors")
        collection.encode(csplade.doc_encoder(top_k=256), dataset.get_corpus_iter())
        ImpactIndex("msmarco.index").index_vectors(collection)

    Attributes:
        path: The directory of the collection.
        encoder: Encodes documents that are not in the collection; with None, they are refused.
    """

    ARTIFACT_TYPE = "sparse_vectors"
    ARTIFACT_FORMAT = "csplade"
    ARTIFACT_PACKAGE_HINT = "pyterrier-csplade"
    schematic = {"label": "Encoded documents", "help_url": None}

    def __init__(self, path: str | Path, *, encoder: DocEncoder | ImageEncoder | None = None) -> None:
        """Name a collection, which need not exist yet.

        Args:
            path: The directory of the collection.
            encoder: Encodes documents that are not in the collection, with the same model and settings; with None, they are
                refused.
        """
        super().__init__(path)
        self.encoder = encoder
        self._opened: OpenCollection | None = None
        self._lookup: tuple[OpenCollection, Lookup] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_lookup": None}  # opened again where it is needed

    @property
    def directory(self) -> Path:
        """The directory of the collection."""
        return Path(str(self.path))

    def built(self) -> bool:
        """Return whether the collection exists and is complete."""
        return (self.directory / MANIFEST_FILE).exists()

    @property
    def contract(self) -> Contract:
        """The contract of the encoder."""
        return self._open().recipe.contract

    @property
    def vocabulary(self) -> Vocabulary:
        """The index terms, in the order of the columns."""
        return self._open().vocabulary

    def __len__(self) -> int:
        return self._open().totals["documents"]

    def encode(
        self,
        encoder: DocEncoder | ImageEncoder,
        documents: Iterable[Mapping[str, Any]],
        *,
        shard_size: int = SHARD_SIZE,
        part: str = "0/1",
        max_empty: float = 0.5,
        verbose: bool = False,
    ) -> EncodedCollection:
        """Encode documents, or resume a call that was stopped, and return this collection.

        Args:
            encoder: The encoder, from :meth:`CSPLADE.doc_encoder` or :meth:`CSPLADE.image_encoder`.
            documents: The documents, with ``docno`` and the encoder's text field, or pictures. To resume, pass the same
                documents again; pictures are compared by the content of their files.
            shard_size: Number of documents in a file, which is written when all of them are encoded. Their texts are in memory
                together, and so are pictures, unless they are given by path.
            part: "i/n" encodes only every n-th shard, starting at shard i (from 0), so that n processes share the work.
            max_empty: Maximum share of a shard's texts without any impact. A larger share suggests that the model does not
                work.
            verbose: Whether to show a progress bar.

        Raises:
            CollectionError: The collection was begun with another model, other settings or documents, or another process is
                writing the same part.
            DataError: A document cannot be used, or there are no documents.
            OSError: The disk is full; finished shards stay.
        """
        if self.encoder is not None:
            raise ValueError("a collection with a fallback encoder can only be read: encode with EncodedCollection(path)")
        encode_collection(
            encoder,
            documents,
            self.directory,
            shard_size=shard_size,
            part=Part.parse(part),
            max_empty=max_empty,
            total=len(documents) if isinstance(documents, Sized) else None,
            verbose=verbose,
        )
        self.close()
        return self

    def verify(self) -> None:
        """Check the digest of each file, and all docnos and vectors. Reads the whole collection.

        Raises:
            CollectionError: There is no collection, it is incomplete, or files are damaged; the message names them.
        """
        verify(self.directory)

    def close(self) -> None:
        """Close the files, so that the next use opens the directory again."""
        self._opened = self._lookup = None

    def blocks(self) -> Iterator[tuple[Sequence[str], csr_matrix]]:
        """Yield docnos and vectors shard by shard, [documents, terms]: int32 impacts, or float32 weights."""
        for shard in self._open():
            yield shard.docnos, shard.rows(0, len(shard))

    def get_corpus_iter(self, *, verbose: bool = False) -> pt.model.IterDict:
        """Return ``docno`` and ``toks`` of all documents, in order, for any indexer.

        Args:
            verbose: Whether to show a progress bar.
        """
        opened = self._open()
        documents, total = _documents(opened), opened.totals["documents"]
        if verbose:
            documents = pt.tqdm(documents, desc="EncodedCollection", unit="d", total=total)
        return pt.utils.GeneratorLen(iter(documents), total)

    def transform_inputs(self) -> list[list[str]]:
        """Return the columns that documents need: ``docno``, and text or pictures if there is an encoder to fall back to."""
        return [["docno"]] if self.encoder is None else [["docno", field] for field in self.encoder.fields]

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``toks`` to documents.

        Raises:
            ContractError: A document is not in the collection, and :attr:`encoder` has another model or other settings.
            DataError: A document is not in the collection, and there is no encoder; the message names it.
        """
        inputs = self.transform_inputs()
        pt.validate.columns(inp, includes=next((i for i in inputs if {*i} <= {*inp.columns}), inputs[0]), context=self)
        check_names(inp.columns)
        toks = self._toks(inp) if len(inp) else []
        return inp.assign(toks=pd.Series(toks, index=inp.index, dtype=object))

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.path,)

    def __repr__(self) -> str:
        return f"EncodedCollection({', '.join([repr(str(self.path)), *self._changed()])})"

    def _open(self) -> OpenCollection:
        """Return the opened collection. A method calls this once, so that its results come from one version."""
        opened = self._opened
        if opened is None or opened.directory != self.directory:
            opened = self._opened = OpenCollection(self.directory)
        return opened

    def _find(self, opened: OpenCollection, docnos: Sequence[str]) -> list[tuple[int, int] | None]:
        found = self._lookup
        if found is None or found[0] is not opened:
            found = self._lookup = opened, Lookup(opened)
        return found[1].find(docnos)

    def _toks(self, inp: pd.DataFrame) -> list[ImpactVector]:
        opened = self._open()
        places = self._find(opened, inp["docno"].tolist())
        unknown = [row for row, place in enumerate(places) if place is None]
        others = iter(self._fall_back(inp.iloc[unknown], opened.recipe))
        return [next(others) if place is None else _vector(opened, *place) for place in places]

    def _fall_back(self, inp: pd.DataFrame, recipe: Recipe) -> list[ImpactVector]:
        if inp.empty:
            return []
        if self.encoder is None:
            raise DataError(
                f"document {inp['docno'].iloc[0]!r} is not in {self.path} ({len(inp):,} are missing): add an encoder with "
                "EncodedCollection(path, encoder=csplade.doc_encoder())"
            )
        if differences := Recipe.of(self.encoder, recipe.shard_size).differences(recipe):
            raise ContractError(f"{self.encoder!r} has other settings than the encoder of {self.path}: {differences}")
        return self.encoder(inp)["toks"].tolist()


def _documents(opened: OpenCollection) -> Iterator[dict[str, Any]]:
    for shard in opened:
        docnos = iter(shard.docnos)
        for start in range(0, len(shard), _CHUNK):
            rows = shard.rows(start, min(start + _CHUNK, len(shard)))
            for toks in to_vectors(rows, opened.vocabulary, opened.recipe.contract):
                yield {"docno": next(docnos), "toks": toks}


def _vector(opened: OpenCollection, shard: int, row: int) -> ImpactVector:
    return to_vectors(opened[shard].rows(row, row + 1), opened.vocabulary, opened.recipe.contract)[0]
