"""Memory and time of rewriting a large model in the vocabulary stage, with random weights in many files.

The default is the shape of Llama-3.1-8B with 4 of its 32 layers (4 GB on the disk). The tables of tokens, which determine the
memory, have their full size. ``--layers 32`` makes the whole model (16 GB, written twice). Run::

    python benchmarks/vocabulary_rewriting.py build/rewriting --kind cut
    python benchmarks/vocabulary_rewriting.py build/rewriting --kind corpus
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from pyterrier_csplade.training import VocabularyConfig, make_vocabulary

TEXTS = ["The heart pumps blood.", "An inverted index maps every term to its postings.", "Cats sleep for most of the day."] * 50
WORDS = sorted({word for text in TEXTS for word in text.rstrip(".").split()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the models are written")
    parser.add_argument("--kind", choices=["cut", "corpus"], default="cut")
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=14_336)
    parser.add_argument("--layers", type=int, default=4)
    arguments = parser.parse_args()
    model, output = arguments.directory / "model", arguments.directory / arguments.kind
    if not (model / "tokenizer.json").is_file():
        shutil.rmtree(model, ignore_errors=True)
        write_model(model, arguments)
    shutil.rmtree(output, ignore_errors=True)
    corpus = arguments.directory / "docs.jsonl"
    corpus.write_text("".join(json.dumps({"docno": str(n), "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    before, started = peak(), time.monotonic()
    settings: dict[str, Any] = {"size": 400} if arguments.kind == "corpus" else {}
    make_vocabulary(
        VocabularyConfig(
            model=str(model), output=str(output), kind=arguments.kind, corpus=str(corpus), measured_documents=0, **settings
        )
    )
    size = sum(file.stat().st_size for file in model.glob("*.safetensors")) / 1e9
    files = len(list(model.glob("*.safetensors")))
    sys.stdout.write(
        f"{arguments.kind}: {size:.2f} GB in {files} files, {time.monotonic() - started:.1f} s, peak {peak():.2f} GB "
        f"(libraries alone {before:.2f} GB)\n"
    )


def peak() -> float:
    """Return the largest resident memory of this process so far, mapped files included, in GB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write_model(directory: Path, shape: argparse.Namespace) -> None:
    """Write a model of random bfloat16 weights, one file for each layer and table."""
    directory.mkdir(parents=True)
    heads, groups = max(1, shape.width // 128), max(1, shape.width // 512)
    head_width = shape.width // heads
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.intermediate, tie_word_embeddings=False,
        num_hidden_layers=shape.layers, num_attention_heads=heads, num_key_value_heads=groups, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(directory)
    parts: list[dict[str, tuple[int, ...]]] = [{"model.embed_tokens.weight": (shape.vocabulary, shape.width)}]
    for layer in range(shape.layers):
        inner = {"gate": (shape.intermediate, shape.width), "up": (shape.intermediate, shape.width)}
        sizes = {
            **{f"mlp.{name}_proj": size for name, size in inner.items()},
            "mlp.down_proj": (shape.width, shape.intermediate),
            "self_attn.q_proj": (shape.width, shape.width),
            "self_attn.k_proj": (groups * head_width, shape.width),
            "self_attn.v_proj": (groups * head_width, shape.width),
            "self_attn.o_proj": (shape.width, shape.width),
            "input_layernorm": (shape.width,),
            "post_attention_layernorm": (shape.width,),
        }
        parts.append({f"model.layers.{layer}.{name}.weight": size for name, size in sizes.items()})
    parts.append({"model.norm.weight": (shape.width,), "lm_head.weight": (shape.vocabulary, shape.width)})
    weight_map = {}
    for number, tensors in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        write_file(directory / file, tensors, seed=number)
        weight_map |= dict.fromkeys(tensors, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    write_tokenizer(directory, shape.vocabulary)


def write_file(path: Path, tensors: Mapping[str, tuple[int, ...]], seed: int) -> None:
    """Write bfloat16 numbers from -2 to 2, a few at once."""
    rng, header, place = np.random.default_rng(seed), {}, 0
    for name, size in tensors.items():
        end = place + 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        block = (rng.integers(0, 2**16, 2**22, dtype=np.uint16) & 0xBFFF).tobytes()  # exponents below that of 2
        while place:
            file.write(block[: min(place, len(block))])
            place -= min(place, len(block))


def write_tokenizer(directory: Path, size: int) -> None:
    """Write a byte-level tokenizer with the words of the texts; the other tokens have names and no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens, merges = ["<s>", "</s>", *alphabet], []
    for word in WORDS:
        made = "Ġ"
        for character in word:
            if made + character not in tokens:
                merges.append((made, character))
                tokens.append(made + character)
            made += character
    tokens += [f"<unused{number}>" for number in range(size - len(tokens))]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(directory)


if __name__ == "__main__":
    main()
