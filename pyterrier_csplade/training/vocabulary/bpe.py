"""Byte-pair encodings in the form of tokenizer.json: their bytes, their normalisation, and cut vocabularies."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers

from pyterrier_csplade._errors import ContractError

# SentencePiece's character for a space, and its names of bytes.
_SPACE = "▁"
_BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]
# Between punctuation, a symbol, an underscore, a tab or a line break, and a letter: a word begins here, as after a space.
_WORD_START = Regex(r"(?<=[^\w ]|_)(?=[^\W\d_])")
# Steps of a normalisation, in the order in which they are applied.
_STEPS = {
    "nfkc": normalizers.NFKC(),
    "lowercase": normalizers.Lowercase(),
    "words": normalizers.Replace(_WORD_START, " "),
}


def byte_characters() -> list[str]:
    """Return the characters that stand for the bytes in byte-level encodings (GPT-2)."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


_BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


def normal_text(text: str, steps: Sequence[str]) -> str:
    """Apply steps of a normalisation to a text."""
    for step in steps:
        text = _STEPS[step].normalize_str(text)
    return text


class BytePairs:
    """A byte-pair encoding, either byte-level (GPT-2, Llama 3, Qwen) or of SentencePiece (Llama 2, Mistral, Gemma).

    Attributes:
        state: The content of its tokenizer.json.
        tokens: Ids of the tokens, added ones included.
        byte_level: Whether each character of a token represents a byte. Otherwise, it is a SentencePiece encoding.
        byte_ids: The token of each single byte. Byte-level encodings may lack tokens of some bytes, and drop these bytes.
    """

    def __init__(self, backend: Tokenizer, name: str) -> None:
        """Read a tokenizer.

        Args:
            backend: The tokenizer of the library ``tokenizers``.
            name: The model's name in error messages.

        Raises:
            ContractError: The tokenizer is of another kind, or has settings with which rows cannot be removed; the message
                names them.
        """
        self.name = name
        self.state: dict[str, Any] = json.loads(backend.to_str())
        self.state["truncation"] = self.state["padding"] = None
        self._model: dict[str, Any] = self.state["model"]
        self._check_model()
        self.byte_level = "ByteLevel" in set(_types([self.state["pre_tokenizer"], self.state["normalizer"]]))
        self.tokens: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        if not self.byte_level and not (self._model.get("byte_fallback") and self.tokens.keys() >= set(_BYTE_NAMES)):
            raise ContractError(
                f"{name}: its tokenizer is neither byte-level nor falls back to tokens of all 256 bytes, so that words would "
                "become unknown tokens"
            )
        self.byte_ids = {
            byte: self.tokens[token]
            for byte, token in enumerate(byte_characters() if self.byte_level else _BYTE_NAMES)
            if token in self.tokens
        }

    def _check_model(self) -> None:
        kind = self._model["type"]
        if kind != "BPE":
            raise ContractError(f"{self.name}: its tokenizer is {kind}: only byte-pair encodings (BPE) can be changed")
        for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if self._model.get(setting):
                raise ContractError(
                    f"{self.name}: its tokenizer has {setting} {self._model[setting]!r}, with which it cannot be changed"
                )

    @property
    def tokenizer(self) -> Tokenizer:
        """A tokenizer with this state."""
        return Tokenizer.from_str(json.dumps(self.state))

    @cached_property
    def added(self) -> dict[str, int]:
        """Ids of the added tokens, special ones included."""
        return {token["content"]: token["id"] for token in self.state["added_tokens"]}

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs of tokens that are joined, in the order of their ranks."""
        return [(first, second) for first, second in self._model["merges"]]

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in reversed(list(enumerate(self.merges)))}

    def bytes_of(self, token: str) -> bytes:
        """Return the bytes of the text of a token."""
        if token in self.added or (self.byte_level and not _BYTE_OF.keys() >= set(token)):
            return token.encode()
        if self.byte_level:
            return bytes(_BYTE_OF[character] for character in token)
        if token in _BYTE_NAMES:
            return bytes([int(token[3:5], 16)])
        return token.replace(_SPACE, " ").encode()

    def spelled(self, text: bytes) -> str:
        """Return the spelling of bytes in tokens.

        Raises:
            UnicodeDecodeError: The bytes are not characters, as SentencePiece encodings require.
        """
        if self.byte_level:
            return "".join(self._characters[byte] for byte in text)
        return text.decode().replace(" ", _SPACE)

    @cached_property
    def _characters(self) -> list[str]:
        return byte_characters()

    @cached_property
    def names(self) -> dict[int, str]:
        """Tokens by their ids."""
        return {token_id: token for token, token_id in self.tokens.items()}

    def normalised(self, steps: Sequence[str], *, always: bool = False) -> BytePairs:
        """Return the tokenizer with more normalisation: the steps, and then a space before each text without one.

        Args:
            steps: Some of "nfkc", "lowercase" and "words", in this order.
            always: Whether to add the space even without steps.
        """
        if not steps and not always:
            return self
        parts: list[dict[str, Any]] = [json.loads(_STEPS[step].__getstate__()) for step in steps]
        if self._begins_with_space():
            parts.append({"type": "Replace", "pattern": {"Regex": r"\A "}, "content": ""})
        else:
            # Like a prefix space of the pre-tokenizer, which some pre-tokenizers would also insert within texts.
            parts.append({"type": "Prepend", "prepend": " "})
            parts.append({"type": "Replace", "pattern": {"Regex": r"\A  "}, "content": " "})
        before = self.state["normalizer"]
        rest = before["normalizers"] if before and before["type"] == "Sequence" else [before] if before else []
        state = {**self.state, "normalizer": {"type": "Sequence", "normalizers": parts + rest}}
        return self._with(state)

    def _begins_with_space(self) -> bool:
        """Whether the tokenizer puts a space before a text."""
        tokenizer = self.tokenizer
        text = tokenizer.normalizer.normalize_str("a") if tokenizer.normalizer else "a"
        if tokenizer.pre_tokenizer:
            text = tokenizer.pre_tokenizer.pre_tokenize_str(text)[0][0]
        return text != "a"

    def closed(self, kept: Iterable[int]) -> set[int]:
        """Add all tokens that merges need to produce the given tokens.

        Within a word, the merges inside the span of a final token are the merges that produce it from its characters alone,
        because merges across its ends would have joined it with its neighbours. If all of these tokens, the merges among them
        and the order of the merges are kept, a text whose tokens are all kept is therefore tokenised as before.
        """
        closed = set(kept)
        for token_id in list(closed):
            if self.names[token_id] not in self.added:
                closed.update(self.tokens[part] for part in self._made_on_the_way(self.names[token_id]))
        return closed

    def _made_on_the_way(self, token: str) -> Iterator[str]:
        parts = list(token)
        yield from (part for part in parts if part in self.tokens)
        while len(parts) > 1:
            ranked = [(self._ranks[pair], place) for place, pair in enumerate(zip(parts, parts[1:])) if pair in self._ranks]
            if not ranked:
                return
            place = min(ranked)[1]
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
            yield parts[place]

    def cut(self, kept: Collection[int]) -> tuple[BytePairs, list[int]]:
        """Remove all other tokens.

        Args:
            kept: Ids of the tokens to keep, including added tokens, tokens of bytes, and the tokens of :meth:`closed`.

        Returns:
            The new tokenizer, and the old id of each new id, in the old order.
        """
        old_ids = sorted(kept)
        new_ids = {old: new for new, old in enumerate(old_ids)}
        vocabulary = {
            token: new_ids[old]
            for token, old in sorted(self._model["vocab"].items(), key=lambda item: item[1])
            if old in new_ids
        }
        merges = [
            [first, second]
            for first, second in self.merges
            if first in vocabulary and second in vocabulary and first + second in vocabulary
        ]
        state = {
            **self.state,
            "model": {**self._model, "vocab": vocabulary, "merges": merges},
            "added_tokens": [{**token, "id": new_ids[token["id"]]} for token in self.state["added_tokens"]],
            "post_processor": renumbered_processor(self.state["post_processor"], new_ids),
        }
        return self._with(state), old_ids

    def _with(self, state: dict[str, Any]) -> BytePairs:
        return BytePairs(Tokenizer.from_str(json.dumps(state)), self.name)


def _types(value: Any) -> Iterator[str]:
    """Yield the types of all components."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _types(part)


def renumbered_processor(processor: Any, new_ids: Mapping[int, int]) -> Any:
    """Renumber the special tokens that a post-processor adds."""
    if not isinstance(processor, dict):
        return processor
    changed = dict(processor)
    if processor["type"] == "Sequence":
        changed["processors"] = [renumbered_processor(part, new_ids) for part in processor["processors"]]
    elif processor["type"] == "TemplateProcessing":
        changed["special_tokens"] = {
            name: {**token, "ids": [new_ids[old] for old in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
    else:
        for end in ("sep", "cls"):
            if end in processor:
                changed[end] = [processor[end][0], new_ids[processor[end][1]]]
    return changed
