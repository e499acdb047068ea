"""Query tables on a server: text is searched without this package, as in OpenSearch's document-only mode."""

from __future__ import annotations

import io
import json
import math
import zipfile
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from pyterrier_csplade._errors import ContractError, ImpactIndexError
from pyterrier_csplade.queries.table import QueryTable
from pyterrier_csplade.queries.tokens import QueryTokens

from .connection import Backoff, Connection, explain, part
from .mapping import IMPACTS, TermNames
from .tokenizers import reading

# Texts by which the server's vectors are compared with the table's before it is used.
_PROBES = (
    "what is an inverted index?", " Heart attacks in 2024,  and 1999-2001\n(COVID-19) ", "don't we'LL x2 naïve Ünïcödé 検索 🙂",
)  # fmt: skip
# Relative difference of weights that float32 explains, with room; our choice (not measured).
_TOLERANCE = 1e-4
# The heaviest weight that Lucene's FeatureField takes; it refuses 0, so that tokens without a weight have this one.
_HEAVIEST, _NONE = 64.0, 1e-9
# Words that show how a tokenizer spells the first word of a query.
_WORDS = "the query of a user"


def pipeline(table: QueryTable, names: TermNames) -> dict[str, Any]:
    """Return an ingest pipeline that replaces the text of a document's field ``query`` by a query for the table's vector.

    Args:
        table: The table.
        names: Names of the index's terms.

    Raises:
        ContractError: The server cannot read queries as the tokenizer does; or a term can have no name.
    """
    content = table.content
    tokens, rows = content.tokens, content.rows
    terms = [names(term) for term in table.vocabulary]
    if None in terms:
        raise ContractError(
            f"the term {table.vocabulary[terms.index(None)]!r:.60} of the table has no name in the index: it needs one "
            f"{names.requirement}"
        )
    starts, places, values = rows.indptr.tolist(), rows.indices.tolist(), rows.data.astype(float).tolist()
    spelled = {i: token for token, i in tokens.spellings.items()}
    params = {
        **reading(content.tokenizer, split_special_tokens=content.split_special_tokens),
        "columns": {spelled[i]: column for i, column in zip(tokens.token_ids.tolist(), tokens.columns.tolist())},
        "rows": [{terms[places[at]]: values[at] for at in range(start, end)} for start, end in zip(starts, starts[1:])],
        "prefix": tokens.prefix,
        "room": tokens.room,
        "readable": tokens.readable(2**31),
        "counts": content.counts,
        "field": IMPACTS,
    }
    script = (files("pyterrier_csplade") / "engines" / "opensearch" / "query_table.painless").read_text(encoding="utf-8")
    contract = table.contract
    return {
        "description": f"Query table {contract.fingerprint[:12]} of pyterrier_csplade, for {contract.queries_for[:12]}",
        "processors": [{"script": {"lang": "painless", "source": script, "params": params}}],
    }


def store(connection: Connection, name: str, table: QueryTable, names: TermNames) -> None:
    """Store a table on the server, after it has encoded some texts as the table does.

    Args:
        connection: The cluster.
        name: Name of the ingest pipeline.
        table: The table.
        names: Names of the index's terms.

    Raises:
        ContractError: The server cannot read queries as the tokenizer does.
        ImpactIndexError: The server lacks a module, or encodes a text differently.
    """
    body, pauses = pipeline(table, names), Backoff(patience=30.0).pauses()
    docs = [{"_source": {"query": probe}} for probe in _PROBES]
    answer = connection("POST", "/_ingest/pipeline/_simulate", {"pipeline": body, "docs": docs}, pauses=pauses)
    vectors, answers = table.encode(_PROBES), connection.objects(answer, "docs")
    if len(answers) != len(_PROBES):
        raise connection.strange_answer(answer)
    for probe, vector, found in zip(_PROBES, vectors, answers):
        if "error" in found:
            kind, reason = explain(found)
            raise ImpactIndexError(f"{connection.name} cannot encode {probe!r}: {kind}: {reason}")
        wanted = {str(names(table.vocabulary[column])): weight for column, weight in zip(vector.indices, vector.data)}
        if not _equal(_weights(found), wanted):
            raise ImpactIndexError(f"{connection.name} encodes {probe!r} differently from the table: use QueryTable instead")
    connection("PUT", f"/_ingest/pipeline/{quote(name, safe='')}", body, pauses=pauses)


def _weights(answer: Any) -> dict[str, float]:
    """Return the vector in the server's answer for a document: name of a term to weight; nothing for other answers."""
    query = part(part(part(answer, "doc"), "_source"), "query")
    try:
        clauses = [part(clause, "rank_feature") for clause in part(query, "bool").get("should", [])]
        return {str(clause["field"]).partition(".")[2]: float(clause["boost"]) for clause in clauses}
    except (LookupError, TypeError, ValueError):
        return {}


def _equal(found: dict[str, float], wanted: dict[str, float]) -> bool:
    return found.keys() == wanted.keys() and all(
        math.isclose(weight, wanted[name], rel_tol=_TOLERANCE) for name, weight in found.items()
    )


def tokenizer_model(table: QueryTable, names: TermNames) -> bytes:
    """Return the ZIP file of a sparse tokenizer of ml-commons: ``tokenizer.json``, and ``idf.json`` with the weights.

    ml-commons (``SparseTokenizerModel.java``) decodes each different token of a text on its own, looks its weight up by the
    decoded string, and takes 1 for strings without one. The decoder here gives the names of the index's terms. The prefix
    becomes a space before the text, or nothing; where that space is a token of its own, its weight is 0.

    Args:
        table: The table.
        names: Names of the index's terms.

    Raises:
        ContractError: ml-commons cannot express the table; the message names the unsupported part.
    """
    content = table.content
    tokens, scheme = content.tokens, names.scheme["terms"]
    prompt = _prompt(tokens)
    reasons = [
        ("expansion: make a table with Filling(kind='counts')", table.expansion.nnz > 0),
        ("tokens that count repeatedly", table.counts),
        ("folded terms", len(set(tokens.columns.tolist())) < len(tokens.columns)),
        (f"terms that are named by {scheme}: open the index without vocabulary", scheme != "strings"),
        ("special tokens that are read as text", content.split_special_tokens),
        ("a prefix that changes the tokens of a query", prompt is None),
        (f"weights above {_HEAVIEST:g}", bool((table.weights > _HEAVIEST).any())),
    ]
    for reason, found in reasons:
        if found:
            raise ContractError(f"a sparse tokenizer of ml-commons cannot express {reason}")
    parts = json.loads(content.tokenizer)
    replaced = [("%", "%25"), (".", "%2E")]
    parts["decoder"] = {
        "type": "Sequence",
        "decoders": [{"type": "Replace", "pattern": {"String": sign}, "content": name} for sign, name in replaced],
    }
    parts["post_processor"] = None
    room = tokens.room - len(tokens.ids(tokens.prefix + _WORDS)) + len(tokens.ids((prompt or "") + _WORDS))
    parts["truncation"] = {"direction": "Right", "max_length": room, "strategy": "LongestFirst", "stride": 0}
    if prompt:
        steps = [{"type": "Prepend", "prepend": prompt}, *([parts["normalizer"]] if parts["normalizer"] else [])]
        parts["normalizer"] = {"type": "Sequence", "normalizers": steps}
    weights = {names(term): max(float(weight), _NONE) for term, weight in zip(table.vocabulary, table.weights)}
    spelled = {i: token for token, i in tokens.spellings.items()}
    weights |= {names(spelled[i]): _NONE for i in tokens.ids(prompt or "")}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as files_of_model:
        for name, value in (("tokenizer.json", parts), ("idf.json", weights)):
            files_of_model.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), json.dumps(value, ensure_ascii=False))
    return packed.getvalue()


def _prompt(tokens: QueryTokens) -> str | None:
    """Return what makes the same tokens as the prefix, without the prefix; None if nothing does."""
    if tokens.prefix[-1:].isalnum():  # it may be joined with the first word
        return None
    whole = tokens.ids(tokens.prefix + _WORDS)
    alone = {prompt: tokens.ids(prompt + _WORDS) for prompt in ("", " ")}
    return next((prompt for prompt, ids in alone.items() if whole[-len(ids) :] == ids), None)
