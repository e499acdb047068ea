"""The model card of a saved model."""

from __future__ import annotations

from pathlib import Path

from pyterrier_csplade.vectors.contract import Contract

# The Hugging Face hub reads the front matter. base_model is left out if it is a directory.
_CARD = """\
---
library_name: pyterrier-csplade
pipeline_tag: feature-extraction
tags:
- pyterrier
- sparse-encoder
- learned-sparse-retrieval
- csplade
{base}---

# {name}

A [CSPLADE](https://arxiv.org/abs/2504.10816) model for learned sparse retrieval: a causal language model that encodes a text
as a sparse vector over its vocabulary, `log(1 + ReLU(max over positions of the LM-head logits))`.

| | |
|---|---|
| variant | {variant} |
| prefixes | query {query_prefix!r}, document {document_prefix!r} |
| maximum tokens | query {query_length}, document {document_length} |
| special tokens | BOS {add_bos}, EOS {add_eos} |
| vocabulary | {terms:,} terms |

## Use

```python
import pyterrier as pt
from pyterrier_csplade import CSPLADE, ImpactIndex

csplade = CSPLADE("{name}")
index = ImpactIndex("my.index")
(csplade.doc_encoder() >> index).index(corpus_iter)  # dicts with docno and text
retriever = csplade.query_encoder() >> index.retriever()
```

Loading applies and checks the settings in `csplade_config.json`. Training data and effectiveness: to be added by the
authors of the model.
"""


def write_card(path: Path, contract: Contract, terms: int) -> None:
    """Write ``README.md`` into the directory of a saved model, unless the file exists."""
    card = path / "README.md"
    if card.exists():
        return
    base = contract.base_model
    published = base is not None and base.count("/") == 1 and not Path(base).exists()
    values = {name: getattr(contract, name) for name in (
        "variant", "query_prefix", "document_prefix", "query_length", "document_length", "add_bos", "add_eos"
    )}  # fmt: skip
    text = _CARD.format(name=path.resolve().name, base=f"base_model: {base}\n" if published else "", terms=terms, **values)
    card.write_text(text, encoding="utf-8")
