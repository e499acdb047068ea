"""The command ``index``, which builds a Terrier index from documents or vectors."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import DataError, ImpactIndexError

from .arguments import Say, count, examples, new_path, share
from .given import given_vectors, stored_collection
from .models import add_model_options, named_model

if TYPE_CHECKING:
    from pyterrier_csplade.collection.collection import EncodedCollection
    from pyterrier_csplade.data.sources import Source
    from pyterrier_csplade.index.index import ImpactIndex


def add_command(commands: Any, say: Say) -> None:
    """Add ``index`` to the command line."""
    index = commands.add_parser(
        "index",
        help="encode and index documents, or index vectors without loading a model",
        description="Encode and index documents, or index vectors without loading a model.",
        **examples(
            "index docs.jsonl --output docs.csplade --meta text", "index docs.vectors --output docs.csplade --top-k 128"
        ),
    )
    index.add_argument(
        "source",
        metavar="SOURCE",
        help="directory from encode, or documents in any form that encode accepts; vectors are read from the field toks or "
        "vector, if there is one",
    )
    index.add_argument("--output", required=True, type=new_path, metavar="DIR", help="directory of the index")
    index.add_argument(
        "--overwrite", action="store_true", help="replace an index, which stays usable until the new one is complete"
    )
    index.add_argument("--fields", nargs="+", default=["text"], metavar="F", help="fields that form the text; default: text")
    index.add_argument(
        "--meta", nargs="+", default=[], metavar="F", help="fields to store with the docno, to show them in results"
    )
    index.add_argument("--top-k", type=count, metavar="K", help="keep the K heaviest terms of a document")
    index.add_argument("--max-empty", type=share, default=0.5, metavar="X", help="largest share of documents without impacts")
    add_model_options(index)
    resume = "run the same command again: encoded shards are kept, and an index is never left incomplete"
    index.set_defaults(run=lambda arguments: _index(arguments, say), again=resume)


def _index(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.data.sources import open_source
    from pyterrier_csplade.index.index import ImpactIndex
    from pyterrier_csplade.index.indexer import check_target
    from pyterrier_csplade.index.metadata import read_metadata
    from pyterrier_csplade.index.terrier.java import start

    index = ImpactIndex(arguments.output)
    if index.built() and not arguments.overwrite:
        raise ImpactIndexError(f"there is an index at {arguments.output}: replace it with --overwrite")
    check_target(index.directory)  # before documents are encoded
    say(f"indexing {arguments.source}: {arguments.output}")
    collection = stored_collection(arguments.source)
    if collection is not None:
        if arguments.meta:
            raise DataError(f"{arguments.source} contains vectors, but no field {arguments.meta[0]!r}: leave --meta out")
        _from_collection(index, collection, arguments, {}, arguments.top_k)
    else:
        source = open_source(arguments.source)
        field = source.vector_field()
        if field is None:
            index.toks_indexer(meta=arguments.meta)  # checks the names before documents are encoded
            for name in arguments.meta:
                next(iter(_values(source, name)), None)
            start()  # reports missing Java before the documents are encoded
            collection = _encode(source, arguments, say)
            _from_collection(index, collection, arguments, {name: _values(source, name) for name in arguments.meta}, None)
        else:
            _from_vectors(index, source, field, arguments)
    say(f"indexed {read_metadata(index.directory)['documents']:,} documents: {arguments.output}")


def _encode(source: Source, arguments: argparse.Namespace, say: Say) -> EncodedCollection:
    """Encode documents into a directory beside the index, so that an interrupted command resumes."""
    from pyterrier_csplade.collection.collection import SHARD_SIZE, EncodedCollection
    from pyterrier_csplade.collection.documents import Part
    from pyterrier_csplade.collection.encoding import encode_collection
    from pyterrier_csplade.storage.signals import stopping

    path = arguments.output.with_name(f"{arguments.output.name}.vectors")
    encoder = named_model(arguments).doc_encoder(top_k=arguments.top_k)
    say(f"writing the vectors to {path}, from which they can be indexed again; remove it when it is no longer needed")
    with stopping():
        encode_collection(
            encoder,
            source.documents(arguments.fields, encoder.text_field),
            path,
            shard_size=SHARD_SIZE,
            part=Part(),
            max_empty=arguments.max_empty,
            total=source.count(),
            verbose=True,
            say=say,
        )
    return EncodedCollection(path)


def _from_collection(
    index: ImpactIndex,
    collection: EncodedCollection,
    arguments: argparse.Namespace,
    meta: dict[str, Iterable[str]],
    top_k: int | None,
) -> None:
    from pyterrier_csplade.vectors.pruning import PruneToks

    vectors = collection if top_k is None else PruneToks(top_k=top_k).vectors(collection)
    index.index_vectors(vectors, meta=meta, overwrite=arguments.overwrite, max_empty=arguments.max_empty, verbose=True)


def _from_vectors(index: ImpactIndex, source: Source, field: str, arguments: argparse.Namespace) -> None:
    from pyterrier_csplade.vectors.pruning import PruneToks

    documents = given_vectors(source, field)
    if arguments.top_k is not None:
        documents = PruneToks(top_k=arguments.top_k).transform_iter(documents)
    meta = ["docno", *arguments.meta]
    indexer = index.toks_indexer(meta=meta, overwrite=arguments.overwrite, max_empty=arguments.max_empty, verbose=True)
    indexer.index(documents)


def _values(source: Source, field: str) -> Iterable[str]:
    from pyterrier_csplade.data.directory import field_texts

    for document in source.read():
        yield field_texts(document, [field], f"{source.name}, document {document.get('docno')}")[0]
