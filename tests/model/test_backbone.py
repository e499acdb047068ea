"""The representation is Eq. 1 for every architecture, variant and attention implementation, whatever stands beside a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pyterrier_csplade import CSPLADE, Contract, ContractError
from pyterrier_csplade.model import Backbone, prepare_backbone, self_test
from support.models import ARCHITECTURES, TEXTS, language_model, tokenizer

VARIANTS = ("causal", "echo", "bidirectional")


def backbone(name: str = "llama", *, attn_implementation: str = "eager", tokens: Any = None, **contract: Any) -> Backbone:
    lm = language_model(name, attn_implementation=attn_implementation)
    return prepare_backbone(lm, tokens or tokenizer(), Contract(**contract), "digest", name=name)


def encode(model: Backbone, texts: Sequence[str]) -> torch.Tensor:
    with torch.no_grad():
        return model(**model.collate(model.tokenize(texts, "document")[0]))


def equation_1(lm: Any, ids: Sequence[int], *, first: int = 0) -> np.ndarray:
    """One text alone, through the model's own logits, in numpy."""
    with torch.no_grad():
        logits = lm(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, first:].numpy()
    return np.log1p(np.maximum(logits.max(axis=0), 0))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_equation_1_on_the_models_own_logits(name: str, variant: str) -> None:
    model = backbone(name, variant=variant)
    lm = language_model(name, attn_implementation="eager")
    lm.config.is_causal = variant != "bidirectional"
    for text, found in zip(TEXTS, encode(model, TEXTS).numpy()):
        ids = tokenizer()(text)["input_ids"]
        expected = equation_1(lm, ids * 2, first=len(ids)) if variant == "echo" else equation_1(lm, ids)
        np.testing.assert_allclose(found, expected[model.vocabulary.token_ids], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_texts_vector_does_not_depend_on_its_batch(variant: str, attn_implementation: str) -> None:
    model = backbone(variant=variant, attn_implementation=attn_implementation)
    alone = torch.cat([encode(model, [text]) for text in TEXTS])
    orders: list[list[int]] = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 5], [3, 3, 4]]
    for order in orders:
        together = encode(model, [TEXTS[i] for i in order])
        torch.testing.assert_close(together, alone[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_neither_length_nor_side_changes_a_vector(variant: str) -> None:
    model, left = backbone(variant=variant), tokenizer()
    expected = encode(model, [TEXTS[3]])
    ids = model.tokenize([TEXTS[3]], "document")[0]
    batch = model.collate([*ids, [5] * 40])
    with torch.no_grad():
        torch.testing.assert_close(model(**batch)[:1], expected, rtol=1e-5, atol=1e-5)
    left.padding_side = "left"
    try:
        torch.testing.assert_close(encode(model, TEXTS)[3:4], expected, rtol=1e-5, atol=1e-5)
    finally:
        left.padding_side = "right"


def test_sdpa_and_eager_agree() -> None:
    for variant in VARIANTS:
        sdpa, eager = (encode(backbone(variant=variant, attn_implementation=i), TEXTS) for i in ("sdpa", "eager"))
        torch.testing.assert_close(sdpa, eager, rtol=1e-5, atol=1e-5)


def test_echo_differs_from_causal_and_bidirectional_from_both() -> None:
    causal, echo, both = (encode(backbone(variant=variant), TEXTS) for variant in VARIANTS)
    assert not torch.allclose(causal, echo, atol=1e-3)
    assert not torch.allclose(causal, both, atol=1e-3)
    assert not torch.allclose(echo, both, atol=1e-3)


def test_prefix_bos_and_eos_follow_the_contract() -> None:
    plain = tokenizer()
    model = backbone(query_prefix="query: ", document_prefix="passage: ", add_bos=True, add_eos=True, query_length=6)
    assert model.tokenize(["dogs"], "document")[0] == [[0, *plain("passage: dogs")["input_ids"], 1]]
    assert model.tokenize(["dogs and cats, and dogs"], "query") == (
        [[0, *plain("query: dogs and cats")["input_ids"][:4], 1]],
        1,
    )
    assert model.tokenize(["", "  \n"], "document")[0] == [[], []]


def test_special_tokens_are_neither_pooled_nor_index_terms() -> None:
    model = backbone(add_bos=True, add_eos=True)
    assert not {"<s>", "</s>", "<pad>"} & set(model.vocabulary)
    batch = model.collate(model.tokenize(["dogs"], "document")[0])
    assert batch["pool_mask"][0].tolist() == [False, *[True] * (batch["input_ids"].shape[1] - 2), False]


def test_logit_scale_multiplies_the_logits() -> None:
    plain, scaled = encode(backbone(), TEXTS), encode(backbone(logit_scale=0.5), TEXTS)
    torch.testing.assert_close(torch.expm1(scaled), 0.5 * torch.expm1(plain))


def test_a_text_of_any_length_is_cut_at_the_maximum_and_counted() -> None:
    model = backbone(document_length=20)
    long = "index " * 833_334
    (ids,), cut = model.tokenize([long], "document")
    assert ids == tokenizer()(long[:200])["input_ids"][:20]
    assert cut == 1


def test_a_text_of_any_length_takes_bounded_memory() -> None:
    class Tokenizer:
        """Remembers the longest text that it gets."""

        longest = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer(), name)

        def __call__(self, texts: list[str], **settings: Any) -> Any:
            self.longest = max(self.longest, *map(len, texts))
            return tokenizer()(texts, **settings)

    tokens = Tokenizer()
    csplade = CSPLADE((language_model(), tokens), contract=Contract(document_length=20))
    documents = [{"docno": "d", "text": "index " * 833_334}]
    with pytest.warns(UserWarning, match="1 document was longer than 20 tokens"):
        (document,) = csplade.doc_encoder(counts=True)(documents)
    assert sum(document["toks_tf"].values()) == 20 and document["toks"]
    assert tokens.longest < 1000


def test_lengths_never_exceed_the_models_positions() -> None:
    assert backbone().contract.document_length == 128
    assert backbone(variant="echo").contract.document_length == 64


def test_a_model_that_serves_two_variants_gives_each_its_own_vectors() -> None:
    lm, contracts = language_model(), [Contract(variant=variant) for variant in ("causal", "bidirectional")]
    alone = [encode(Backbone(language_model(), tokenizer(), contract).eval(), TEXTS) for contract in contracts]
    shared = [Backbone(lm, tokenizer(), contract).eval() for contract in contracts]
    for _ in range(2):
        for model, expected in zip(shared, alone):
            torch.testing.assert_close(encode(model, TEXTS), expected)
    assert not torch.allclose(alone[0], alone[1])


def test_the_self_test_refuses_a_model_that_ignores_is_causal(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone(variant="bidirectional")
    monkeypatch.setattr(Backbone, "_keep_attention", lambda self: None)
    model.model.config.is_causal = True
    with pytest.raises(ContractError, match="bidirectional.*does not see the last token"):
        self_test(model)
    model = backbone()
    model.model.config.is_causal = False
    with pytest.raises(ContractError, match="causal.*sees the last token"):
        self_test(model)


def test_the_self_test_refuses_logits_that_it_cannot_reproduce() -> None:
    model = backbone()
    original = model.model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        output.logits = output.logits.sin()
        return output

    model.model.forward = forward
    with pytest.raises(ContractError, match="after its LM head"):
        self_test(model)


def test_gradients_reach_every_part_of_the_model() -> None:
    model = backbone("llama-tied")
    model(**model.collate(model.tokenize(TEXTS, "document")[0])).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.model.parameters())
