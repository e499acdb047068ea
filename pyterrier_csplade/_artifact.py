"""What an index says of itself where it is shared: its card on Hugging Face and Zenodo."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

import pyterrier as pt

from ._contract import Contract
from ._metadata import read_contract, read_metadata

_CARD = """## Description

A Terrier index of learned sparse impacts, {documents:,} documents with {mean:.0f} terms each in the mean, built by
[pyterrier_csplade](https://arxiv.org/abs/2504.10816) {version}. {encoder}

## Usage

```python
from pyterrier_csplade import CSPLADE, ImpactIndex

index = ImpactIndex.{load}
index.verify()  # compares the SHA-256 of every file
csplade = CSPLADE({model!r})  # the same model as that of the documents; another one is refused
retriever = csplade.query_encoder() >> index.retriever()
retriever.search("how do sparse vectors work")
```

Without pyterrier_csplade, `pt.Artifact.{load}` opens it as a plain `pt.terrier.TerrierIndex`, of which `.tf()` searches for
`query_toks` with the same ranking; its scores are the dot product divided by the query's largest weight.

## Benchmarks

No effectiveness was measured when the index was built. `pt.Experiment([retriever], topics, qrels, ["nDCG@10"])` measures it.

## Reproduction

```python
index = ImpactIndex("my.index")
(csplade.doc_encoder() >> index).index(corpus_iter)  # dicts with docno and text
```

"""

_ENCODER = """Their encoder: {summary}; documents of at most {length} tokens, prefix {prefix!r}, {scale:g} as the impact
of the weight 1."""


class ImpactArtifact(pt.terrier.TerrierIndex):
    """A Terrier index of impacts as an artifact that can be shared."""

    @property
    def directory(self) -> Path:
        """The directory of the index, absolute and free of links."""
        return Path(os.path.realpath(str(self.path)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}{', memory=True' if self.memory else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImpactArtifact) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        return type(self), self.directory, self.memory

    def _hf_readme(self, *, repo: str, branch: str | None = "main", **kwargs: Any) -> str:
        """Fill PyTerrier's card, of which only the parts around its content are kept."""
        card: str = super()._hf_readme(repo=repo, branch=branch, **kwargs)
        head, tail = card.partition("## Description")[0], card.rpartition("## Metadata")[2]
        name = repo if branch in (None, "main") else f"{repo}@{branch}"
        return f"{head}{self._card(f'from_hf({name!r})')}## Metadata{tail}"

    def _zenodo_metadata(self, *, zenodo_id: str, **kwargs: Any) -> dict[str, Any]:
        metadata: dict[str, Any] = super()._zenodo_metadata(zenodo_id=zenodo_id, **kwargs)
        tail = metadata["description"].rpartition("<h2>Metadata</h2>")[2]
        card = html.escape(self._card(f"from_zenodo({str(zenodo_id)!r})"), quote=False)
        return {**metadata, "description": f"<pre>\n{card}</pre>\n\n<h2>Metadata</h2>{tail}"}

    def _card(self, load: str) -> str:
        values, contract = read_metadata(self.directory), read_contract(self.directory)
        return _CARD.format(
            documents=values["documents"],
            mean=values["postings"] / values["documents"],
            version=values["version"],
            encoder="Their encoder is not known." if contract is None else _describe(contract),
            load=load,
            model=(contract and contract.base_model) or "the model of the documents",
        )


def _describe(contract: Contract) -> str:
    return _ENCODER.format(
        summary=contract.summary,
        length=contract.document_length,
        prefix=contract.document_prefix,
        scale=contract.impact_scale,
    )
