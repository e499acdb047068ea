"""Export to sentence-transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pyterrier_csplade._errors import ContractError

from .backbone import Backbone
from .hub import remove_traces

if TYPE_CHECKING:
    from pyterrier_csplade import QueryTable

    from .csplade import CSPLADE


# A query that shows how a tokenizer treats the first word.
_WORDS = "the query of a user"
# Settings of architectures that change the logits after the LM head; see ``backbone.finish_logits``.
_FINISHING = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def export_sentence_transformers(model: CSPLADE, path: str | Path, *, queries: QueryTable | None = None) -> None:
    """Save a model as a ``SparseEncoder`` that consists of modules of sentence-transformers.

    The modules are the model without its head; a ``Dense`` layer with the head's weights, times the contract's logit scale, for
    every token; and ``SpladePooling``. The vectors equal those of CSPLADE over all rows of the head: column ``token_ids[c]`` is
    column ``c`` of CSPLADE. ``encode_query`` and ``encode_document`` add the prefixes.

    If queries and documents have different maximum lengths, a ``Router`` has a side for each, and the directory contains the
    model without its head twice. The causal and the bidirectional variant can be exported. The echo variant and special tokens
    that are not pooled cannot.

    With a query table, the ``Router`` has a ``SparseStaticEmbedding`` with the table's weights as the side of the queries. If
    the space at the end of a prefix is a token of its own, that token has the weight 0.

    Args:
        model: A model without an unmerged adapter.
        path: A directory, which ``SparseEncoder(path)`` loads.
        queries: A query table for this model, without expansion (``Filling(kind="counts")``) and without counting repeated
            tokens.

    Raises:
        ContractError: The modules of sentence-transformers cannot express the contract, the model or the table, and the message
            names what they lack; or the table belongs to another model.
    """
    _check_loading(model)
    backbone, path = model.backbone, Path(path)
    _check_expressible(backbone)
    try:
        from sentence_transformers import SparseEncoder
        from sentence_transformers.base.modules import Dense, Router, Transformer
        from sentence_transformers.sparse_encoder.modules import SpladePooling
    except ImportError as error:
        raise ContractError("this needs sentence-transformers 6: pip install -U sentence-transformers") from error
    contract = backbone.contract
    prompts = {"query": contract.query_prefix, "document": contract.document_prefix}
    if contract.query_side is not None and queries is None:
        raise ContractError("the model's queries are encoded by a table: pass queries=csplade.query_encoder()")
    static = None if queries is None else _static(backbone, queries, prompts)
    inner = path / "base"
    lm: Any = backbone.model
    lm.base_model.save_pretrained(inner)
    _tokenizer(backbone).save_pretrained(inner)
    query, document = contract.query_length, contract.document_length
    reader: Any = Transformer(str(inner), max_seq_length=document)
    if query != document and static is None:
        reader = Router.for_query_document([Transformer(str(inner), max_seq_length=query)], [reader])
    head: Any = backbone.head
    weight, bias = head.weight.detach().float() * contract.logit_scale, getattr(head, "bias", None)
    dense = Dense(
        weight.shape[1], weight.shape[0], bias=bias is not None, activation_function=torch.nn.Identity(),
        init_weight=weight.clone(), init_bias=None if bias is None else bias.detach().float() * contract.logit_scale,
        module_input_name="token_embeddings", module_output_name="token_embeddings",
    )  # fmt: skip
    modules = [reader, dense, SpladePooling("max")]
    if static is not None:
        modules = [Router.for_query_document([static], modules)]
    encoder = SparseEncoder(modules=modules, prompts=prompts, device="cpu")
    encoder.save_pretrained(str(path))
    remove_traces(path)


def _static(backbone: Backbone, queries: QueryTable, prompts: dict[str, str]) -> Any:
    """Return the module with a table's weights, and set the query prompt so that it gives the tokens of the prefixed query."""
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    contract, tokenizer = backbone.contract, copy.deepcopy(backbone.tokenizer)
    if not queries.contract.answers(contract):
        raise ContractError(
            f"the query table was made for the documents of {queries.contract.queries_for[:12]}, not of {contract.summary}: "
            "make a table for this model"
        )

    def read(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[no-any-return]

    whole = read(contract.query_prefix + _WORDS)
    prompt = next((prompt for prompt in ("", " ") if whole[-len(read(prompt + _WORDS)) :] == read(prompt + _WORDS)), None)
    reasons = [
        ("the expansion of a query table: make one with Filling(kind='counts')", queries.expansion.nnz > 0),
        ("a query table that counts repeated tokens", queries.counts),
        ("a prefix that changes the tokens of a query", prompt is None),
    ]
    _refuse(reasons)
    prompts["query"] = prompt or ""
    before = len(whole) - len(read(prompts["query"] + _WORDS))
    tokenizer.model_max_length = contract.query_length - contract.add_bos - contract.add_eos - before
    weight = torch.zeros(len(backbone.head.weight))
    weight[backbone.columns.cpu()] = torch.from_numpy(queries.weights)
    weight[read(prompts["query"])] = 0
    return SparseStaticEmbedding(tokenizer, weight, frozen=True)


def _check_loading(model: CSPLADE) -> None:
    if model.quantization is not None:
        raise ContractError(
            f"a model loaded with quantization={model.quantization!r} cannot be exported: load it without quantization"
        )


def _check_expressible(backbone: Backbone) -> None:
    contract = backbone.contract
    config: Any = backbone.model.config
    reasons = [
        ("folding: no module merges columns", contract.fold is not None),
        ("echo: no module reads a text twice and pools over the second copy", contract.variant == "echo"),
        (
            "special tokens outside of the maximum: SpladePooling pools every position",
            (contract.add_bos or contract.add_eos) and not contract.pool_special,
        ),
        (
            "the soft-capping or scaling of this architecture after its LM head",
            any(getattr(config, name, None) for name in _FINISHING),
        ),
        ("an adapter that is not merged: merge it first", hasattr(backbone.model, "merge_and_unload")),
    ]
    _refuse(reasons)


def _refuse(reasons: list[tuple[str, bool]]) -> None:
    for reason, found in reasons:
        if found:
            raise ContractError(f"sentence-transformers cannot express {reason}")


def _tokenizer(backbone: Backbone) -> Any:
    """Return a copy of the tokenizer that adds the special tokens of the contract and no others."""
    from tokenizers.processors import TemplateProcessing

    tokenizer, contract = copy.deepcopy(backbone.tokenizer), backbone.contract
    tokens = {"add_bos": tokenizer.bos_token, "add_eos": tokenizer.eos_token}
    used = {flag: token for flag, token in tokens.items() if getattr(contract, flag)}
    single = " ".join(filter(None, [used.get("add_bos"), "$A", used.get("add_eos")]))
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in used.values()]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
