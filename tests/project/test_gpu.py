"""An accelerator gives the same results as a CPU, within its memory."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from inside.project import Backbone, GradientCache, load_tokenizer_and_model, max_pool_logits
from pyterrier_csplade import CSPLADE, Contract, Quantizer
from pyterrier_csplade.training import LoraSettings, adapt, train
from pyterrier_csplade.vectors import Variant
from support.models import TEXTS, language_model, tokenizer
from support.training_runs import LORA, adaptation_config, contrastive_config, log_of, make_base

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

VARIANTS: list[Variant] = ["causal", "echo", "bidirectional"]
# Texts of different lengths.
MANY = [" ".join(TEXTS[i % 6].split()[: 1 + i % 9] * (1 + i % 4)) for i in range(200)]


def pair(variant: Variant = "causal", device: str = "cuda", **settings: Any) -> CSPLADE:
    lm = language_model(hidden_size=64, intermediate_size=128).to(device)
    return CSPLADE((lm, tokenizer()), variant=variant, **settings)


@pytest.mark.parametrize("variant", VARIANTS)
def test_vectors_are_those_of_the_cpu(variant: Variant) -> None:
    expected = pair(variant, "cpu").encode_docs(MANY).toarray()
    csplade = pair(variant)
    assert csplade.backbone.device.type == "cuda"
    found = csplade.encode_docs(MANY).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("top_k", [None, 7])
def test_impacts_are_made_on_the_device_as_on_the_host(top_k: int | None) -> None:
    csplade, quantizer = CSPLADE.tiny(device="cuda", dtype="float32"), Quantizer(100)
    expected = quantizer(csplade.encode_docs(MANY, top_k=top_k), [str(i) for i in range(len(MANY))])
    found = csplade.encode_docs(MANY, top_k=top_k, quantizer=quantizer)
    assert found.dtype == np.int32 and found.nnz > 1000
    assert (found != expected).nnz == 0
    host = CSPLADE.tiny(device="cpu").encode_docs(MANY, quantizer=quantizer)
    assert top_k is not None or (found != host).nnz <= 0.001 * host.nnz, "rounding may move a weight over half an impact"


@pytest.mark.parametrize("variant", VARIANTS)
def test_texts_without_padding_have_the_vectors_of_padded_ones(variant: Variant) -> None:
    """In half precision, for which PyTorch has a kernel; eager attention pads."""
    if "window_size" not in inspect.signature(pytest.importorskip("torch.nn.attention.varlen").varlen_attn).parameters:
        pytest.skip("PyTorch's kernel knows no window")
    vectors = {}
    for implementation in ("sdpa", "eager"):
        lm = language_model(hidden_size=64, intermediate_size=128, attn_implementation=implementation)
        csplade = CSPLADE((lm.to("cuda", torch.bfloat16), tokenizer()), variant=variant)
        assert csplade.backbone.packs == (implementation == "sdpa")
        vectors[implementation] = csplade.encode_docs(MANY).toarray()
    difference = np.linalg.norm(vectors["sdpa"] - vectors["eager"]) / np.linalg.norm(vectors["eager"])
    assert difference < 0.02
    exact = pair(variant, "cpu").encode_docs(MANY).toarray()
    errors = {name: np.linalg.norm(found - exact) for name, found in vectors.items()}
    assert errors["sdpa"] < 1.2 * errors["eager"], "packing adds no error to that of bfloat16"


def test_bfloat16_drifts_by_its_rounding_only() -> None:
    exact = CSPLADE.tiny(device="cuda", dtype="float32").encode_docs(MANY).toarray()
    rounded = CSPLADE.tiny(device="cuda", dtype="bfloat16").encode_docs(MANY).toarray()
    cosines = (exact * rounded).sum(1) / np.maximum(np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1), 1e-9)
    assert cosines.min() > 0.99
    assert np.abs(exact - rounded).max() < 0.05 * exact.max()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Limit the device's memory to 1.5 GiB."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.5 * 2**30 / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_that_does_not_fit_is_halved_and_the_vectors_are_the_same(little_memory: None) -> None:
    texts = [f"{text} {'inverted index ' * 40}" for text in MANY]
    csplade = pair(batch_size=1024)
    expected = pair(batch_size=8).encode_docs(texts)
    taken: list[torch.Tensor] = [torch.empty(2**20, dtype=torch.uint8, device="cuda")]
    csplade.encode_docs(texts[:2])
    while torch.cuda.memory_reserved() < 1.35 * 2**30:
        taken.append(torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda"))
    found = csplade.encode_docs(texts)
    assert csplade.batch_encoder.token_limit is not None, "this test is to run out of memory"
    assert abs(found - expected).max() < 1e-5
    before = csplade.batch_encoder.token_limit
    csplade.encode_docs(texts)
    assert csplade.batch_encoder.token_limit == before, "what fits is remembered"


@pytest.mark.parametrize("quantization", ["int8", "nf4", "int8-weight-only"])
def test_quantised_models_are_near_the_exact_one(quantization: Any) -> None:
    if quantization == "int8-weight-only":
        pytest.importorskip("torchao")
    exact = CSPLADE.tiny(device="cuda", dtype="float32").encode_docs(TEXTS).toarray()
    found = CSPLADE.tiny(device="cuda", quantization=quantization).encode_docs(TEXTS).toarray()
    cosines = (exact * found).sum(1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1))
    assert cosines.min() > (0.75 if quantization == "nf4" else 0.98)


def test_the_gradient_of_the_streamed_maximum_is_that_of_all_logits() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    hidden, weight = (
        torch.randn(shape, device="cuda", generator=generator, dtype=torch.float64) for shape in ((5, 30, 16), (500, 16))
    )
    mask = torch.rand(5, 30, device="cuda", generator=generator) < 0.6
    gradients = []
    for pool in (max_pool_logits, lambda h, w, m: (h @ w.T).masked_fill(~m[..., None], float("-inf")).amax(1)):
        inputs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        pooled = pool(*inputs, mask)
        gradients.append(torch.autograd.grad((torch.relu(pooled) * torch.arange(500, device="cuda")).sum(), inputs))
    for found, expected in zip(*gradients):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and training data; the model is wide enough for blocks of 64 weights."""
    folder = make_base(tmp_path_factory.mktemp("base"))
    language_model(hidden_size=64, intermediate_size=128).save_pretrained(folder / "llama")
    return folder


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("phase", [adapt, train])
def test_both_phases_learn_in_bfloat16(base: Path, tmp_path: Path, phase: Any, quantization: Any) -> None:
    make_config = adaptation_config if phase is adapt else contrastive_config
    settings = {"steps": 12, "learning_rate": 1e-2, "lora": LORA, "bf16": True, "quantization": quantization}
    output = phase(make_config(base, tmp_path / "run", gradient_checkpointing=True, **settings))
    losses = log_of(output)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert CSPLADE(output).encode_docs(TEXTS).nnz > 0


ON_THE_CPU = """
import sys
from pathlib import Path
from support.training_runs import LORA, adaptation_config, contrastive_config
from pyterrier_csplade.training import adapt, train

base, output, phase = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
make_config, run = {"adapt": (adaptation_config, adapt), "train": (contrastive_config, train)}[phase]
run(make_config(base, output, lora=LORA, steps=4))
"""


@pytest.mark.parametrize("phase", [adapt, train])
def test_losses_are_those_of_the_cpu(base: Path, tmp_path: Path, phase: Any) -> None:
    make_config = adaptation_config if phase is adapt else contrastive_config
    found = log_of(phase(make_config(base, tmp_path / "gpu", lora=LORA, steps=4)))
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    arguments = [str(base), str(tmp_path / "cpu"), phase.__name__]
    subprocess.run([sys.executable, "-c", ON_THE_CPU, *arguments], check=True, env=environment)
    np.testing.assert_allclose(found, log_of(tmp_path / "cpu"), rtol=1e-3)


def test_the_second_pass_of_a_part_has_the_dropout_of_the_first(base: Path, tmp_path: Path) -> None:
    """GradCache and plain accumulation cut the batch into the same parts, whose random numbers come from the device."""
    lora = LoraSettings(rank=2, dropout=0.5)
    tokenizer, model = load_tokenizer_and_model(contrastive_config(base, tmp_path / "run", lora=lora))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    backbone = Backbone(model.cuda(), tokenizer, Contract(query_length=32, document_length=64)).cuda().train()
    parts = [backbone.collate(backbone.tokenize(TEXTS[start : start + 2], "document")[0]) for start in (0, 2, 4)]
    gradients = []
    for keep_graphs in (True, False):
        torch.manual_seed(0)
        backbone.zero_grad()
        cache = GradientCache(Accelerator(), backbone, keep_graphs=keep_graphs)
        vectors = cache.encode(parts)
        cache.backward(torch.autograd.grad(vectors.square().sum(), vectors)[0])
        gradients.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 10
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
