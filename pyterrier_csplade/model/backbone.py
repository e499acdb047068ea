"""The language model as an encoder: from token ids to the weights of Eq. 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyterrier_csplade._errors import ContractError, DataError
from pyterrier_csplade.vectors.contract import Contract
from pyterrier_csplade.vectors.folding import fold_vocabulary

from .attention import text_bounds, used_by
from .head import activate, max_pool_logits
from .hub import own_errors
from .terms import index_terms
from .transformers_internals import attention_of

Role = Literal["query", "document"]

# Settings with the number of positions; MPT uses the second.
_POSITIONS = ("max_position_embeddings", "max_seq_len")
# Texts with different first tokens.
_DIFFERENT = ("a", "b", "1", "the")


@dataclass(frozen=True)
class TokenizedBatch:
    """Tokenised texts, the result of ``CSPLADE.tokenize``.

    Attributes:
        texts: The texts.
        names: Names of the texts in error messages.
        role: "query" or "document".
        sequences: Token ids of each text.
        truncated: Number of texts that were longer than the maximum length.
    """

    texts: Sequence[str]
    names: Sequence[str]
    role: Role
    sequences: Sequence[Sequence[int]]
    truncated: int = 0


class Backbone(nn.Module):
    """A causal language model whose pooled and activated LM-head logits are the representation of a text.

    Attributes:
        model: The transformers model, or a PEFT model around it.
        tokenizer: The tokenizer.
        contract: The contract, which says how texts are encoded.
        vocabulary: The index terms, folded if the contract says so.
        vocabulary_sha256: Digest of the index terms before folding.
        columns: The head's row of each index term, int64 [terms]; of a folded term, the first row.
        column_of_token: Column in the vocabulary of each row of the head, int64, ascending without folding; -1 if the row is
            not an index term.
        packs: Whether inference packs the texts of a batch into one row without padding; the self-test sets this.
    """

    def __init__(self, model: Any, tokenizer: Any, contract: Contract) -> None:
        """Combine a model, its tokenizer and a contract.

        Raises:
            ContractError: The tokenizer does not support the contract; the message names the field of the contract.
        """
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.contract = contract
        choose_attention(self._lm, causal=contract.attention == "causal")
        self.packs = False
        special_ids, self.vocabulary = index_terms(tokenizer, len(self.head.weight), contract.vocabulary_sha256)
        self.vocabulary_sha256, members = self.vocabulary.sha256, torch.from_numpy(self.vocabulary.token_ids)
        columns = torch.arange(len(self.vocabulary))
        if contract.fold:
            self.vocabulary, folded = fold_vocabulary(self.vocabulary)
            columns = torch.from_numpy(folded)
        self.columns: Tensor
        self.column_of_token: Tensor
        self._special: Tensor
        self.register_buffer("columns", torch.from_numpy(self.vocabulary.token_ids), persistent=False)
        column_of_token = torch.full((len(self.head.weight),), -1, dtype=torch.long)
        column_of_token[members] = columns
        self.register_buffer("column_of_token", column_of_token, persistent=False)
        self.register_buffer("_special", torch.tensor(sorted(special_ids), dtype=torch.long), persistent=False)
        rows = len(self._lm.get_input_embeddings().weight)
        self._without_row = {i: token for token, i in tokenizer.get_vocab().items() if i >= rows}
        pad = tokenizer.pad_token_id
        self._pad = pad if pad is not None and pad < rows else 0  # any token: padding is masked
        self._check_room()

    def longest(self, length: int) -> int:
        """Return ``length``, or the number of tokens that fit into the model's positions if it is less (echo: one copy)."""
        config = self._lm.config.get_text_config()
        found = [getattr(config, name, None) for name in _POSITIONS]
        rope = getattr(config, "rope_parameters", None) or {}
        if "dynamic" in str(rope.get("rope_type")):  # beyond this number, rotations depend on earlier texts
            found.append(rope.get("original_max_position_embeddings"))
        copies = 2 if self.contract.variant == "echo" else 1
        return min([length, *(positions // copies for positions in found if isinstance(positions, int))])

    @property
    def _short(self) -> int | None:
        """Number of positions up to which LongRoPE uses its short factors; None for models without LongRoPE."""
        rope = getattr(self._lm.config.get_text_config(), "rope_parameters", None) or {}
        kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict) and kind.get("rope_type") == "longrope"]
        return min((kind["original_max_position_embeddings"] for kind in kinds), default=None)

    @property
    def rotates_by_length(self) -> bool:
        """Whether rotations depend on the longest text of a batch (LongRoPE)."""
        return self._short is not None

    def _check_room(self) -> None:
        contract, tokenizer = self.contract, self.tokenizer
        for flag, name in (("add_bos", "bos_token"), ("add_eos", "eos_token")):
            if getattr(contract, flag) and getattr(tokenizer, f"{name}_id") is None:
                raise ContractError(
                    f"the contract has {flag}=True, but the tokenizer has no {name}: set it, or leave {flag} out"
                )
        for role, prefix in (("query", contract.query_prefix), ("document", contract.document_prefix)):
            length = self.longest(getattr(contract, f"{role}_length"))
            room = length - contract.add_bos - contract.add_eos
            # The tokens of different texts are compared, because a tokenizer may join the end of a prefix with the start of a
            # text. They may all be the unknown token.
            texts = [prefix + text for text in _DIFFERENT]
            whole = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            if room < 1 or len({tuple(ids[:room]) for ids in whole}) == 1 < len(set(map(tuple, whole))):
                raise ContractError(
                    f"the contract's {role}_length of {length} tokens leaves no room for a text after {role}_prefix "
                    f"{prefix!r:.80} and special tokens: raise {role}_length"
                )

    @property
    def _lm(self) -> Any:
        """The transformers model without the PEFT wrapper. Its layers contain the adapters."""
        return without_wrapper(self.model)

    def _keep_attention(self) -> None:
        """Set the attention mask again if the model has been used with another contract."""
        causal = self.contract.attention == "causal"
        if getattr(self._lm.config.get_text_config(), "is_causal", None) != causal:
            choose_attention(self._lm, causal=causal)

    @property
    def head(self) -> Any:
        """The LM head, a linear layer whose weight is [tokens, width]."""
        return self._lm.get_output_embeddings()

    @property
    def device(self) -> torch.device:
        """Device of the model and its inputs."""
        return self.columns.device

    @property
    def attn_implementation(self) -> str:
        """The attention implementation that the model was loaded with."""
        return attention_of(self._lm.config)

    def tokenize(
        self, texts: Sequence[str], role: Role, contract: Contract | None = None, names: Sequence[str] | None = None
    ) -> tuple[list[list[int]], int]:
        """Convert texts to token ids, with the contract's prefix, special tokens and maximum length.

        An empty text has no tokens, not even a prefix or special tokens.

        Args:
            texts: The texts.
            role: "query" or "document".
            contract: A contract with other lengths; the model's contract by default.
            names: Names of the texts in error messages; "text 0", "text 1" ... by default.

        Returns:
            The ids of each text (one copy for echo), and the number of truncated texts.

        Raises:
            ContractError: The tokenizer fails.
            DataError: A text contains an added token for which the model has no row; the message names both.
        """
        contract, tokenizer = contract or self.contract, self.tokenizer
        prefix = contract.query_prefix if role == "query" else contract.document_prefix
        length = contract.query_length if role == "query" else contract.document_length
        before = [tokenizer.bos_token_id] if contract.add_bos else []
        after = [tokenizer.eos_token_id] if contract.add_eos else []
        room = length - len(before) - len(after)
        readable = self.readable(room)
        if not texts:  # tokenizers refuse an empty list
            return [], 0
        with own_errors("the tokenizer fails at a text: is its file whole?"):
            encoded = tokenizer([prefix + text[:readable] for text in texts], add_special_tokens=False, verbose=False)[
                "input_ids"
            ]
        cut = sum(len(ids) > room or len(text) > readable for ids, text in zip(encoded, texts))
        if self._without_row:
            for position, ids in enumerate(encoded):
                if token := next((self._without_row[i] for i in ids[:room] if i in self._without_row), None):
                    raise DataError(
                        f"{names[position] if names else f'text {position}'} contains the token {token!r}, which was added to "
                        "the tokenizer but has no row in the model: remove it from the text, or call "
                        "model.resize_token_embeddings(len(tokenizer)) and train it"
                    )
        return [before + ids[:room] + after if text.strip() else [] for ids, text in zip(encoded, texts)], cut

    def readable(self, tokens: int) -> int:
        """Return the number of characters that can affect the first tokens of a text, to bound memory for long texts."""
        if not hasattr(self, "_longest"):
            self._longest = max(map(len, self.tokenizer.get_vocab()))
        return (tokens + 1) * self._longest  # no token is longer, so later characters cannot change them

    def collate(self, sequences: Sequence[Sequence[int]], tokens: int = 0) -> dict[str, Tensor]:
        """Pad token ids on the right, and mark the pooled positions.

        The two copies of echo are adjacent. Padding between them would make a text's vector depend on its batch.

        Args:
            sequences: Token ids of each text.
            tokens: Minimum length of each row, including padding; by default the length of the longest text.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 [batch, length]; ``pool_mask``, bool [batch, length], which is false for
            padding, special tokens (unless the contract pools them) and the first copy of echo.
        """
        copies = 2 if self.contract.variant == "echo" else 1
        lengths = torch.tensor([[len(ids)] for ids in sequences])
        places = torch.arange(copies * max(tokens, int(lengths.max())))
        real = places < copies * lengths
        input_ids = torch.full(real.shape, self._pad)
        input_ids[real] = torch.tensor([token for ids in sequences for token in [*ids] * copies], dtype=torch.long)
        pool_mask = real & (places >= (copies - 1) * lengths)
        if not self.contract.pool_special:
            pool_mask &= ~torch.isin(input_ids, self._special.cpu())
        batch = {"input_ids": input_ids, "attention_mask": real.long(), "pool_mask": pool_mask}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """Compute the representations of a batch (Eq. 1).

        Returns:
            Non-negative float32 weights [batch, index terms].
        """
        return activate(self.pooled_logits(input_ids, attention_mask, pool_mask))

    def pooled_logits(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """Compute the maxima of the logits before the activation, float32 [batch, index terms]."""
        return self.pool(self.hidden_states(input_ids, attention_mask), pool_mask)

    def pool(self, hidden: Tensor, pool_mask: Tensor) -> Tensor:
        """Compute ``pooled_logits`` from the hidden states [batch, length, width]."""
        return self._of_terms(self.finish_logits(max_pool_logits(hidden, self.head.weight, pool_mask)))

    def _of_terms(self, pooled: Tensor) -> Tensor:
        """Select the logits of index terms from [texts, tokens]; a folded term gets its largest logit."""
        if not self.contract.fold:
            return pooled.index_select(1, self.columns)
        members = (self.column_of_token >= 0).nonzero()[:, 0]
        columns = self.column_of_token[members].expand(len(pooled), -1)
        largest = pooled.new_full((len(pooled), len(self.vocabulary)), float("-inf"))
        return largest.scatter_reduce(1, columns, pooled[:, members], "amax")

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the last hidden states [batch, length, width], undefined for padding."""
        self._keep_attention()
        if self.packs and not self.training:
            return self.packed_states(input_ids, attention_mask)
        short = self._short
        if short is not None and input_ids.shape[1] > short:
            return self._states_of_lengths(input_ids, attention_mask, short)
        return self._states(input_ids, attention_mask)

    def _states_of_lengths(self, input_ids: Tensor, attention_mask: Tensor, short: int) -> Tensor:
        """Compute the states of texts up to ``short`` tokens and of longer texts separately, because their rotations differ."""
        lengths = attention_mask.sum(dim=1)
        parts = []
        for rows in ((lengths <= short).nonzero()[:, 0], (lengths > short).nonzero()[:, 0]):
            if len(rows):
                longest = int(lengths[rows].max())
                states = self._states(input_ids[rows, :longest], attention_mask[rows, :longest])
                parts.append((rows, nn.functional.pad(states, (0, 0, 0, input_ids.shape[1] - longest))))
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return torch.cat([states for _, states in parts])[order]

    def _states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = self._lm.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return output.last_hidden_state

    def packed_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute ``hidden_states`` from a single row of all texts without padding, each text with its own positions.

        The states are correct only for attention implementations that separate packed texts.
        """
        real = attention_mask.bool()
        positions = (attention_mask.cumsum(1) - 1)[real]
        with used_by(self._lm):
            output = self._lm.base_model(
                input_ids=input_ids[real][None], position_ids=positions[None], use_cache=False, **text_bounds(attention_mask)
            )
        places = attention_mask.flatten().cumsum(0).view_as(attention_mask) - 1
        return output.last_hidden_state[0, places.clamp(min=0)]

    def reference_logits(self, input_ids: Tensor, attention_mask: Tensor, pool_mask: Tensor) -> Tensor:
        """Compute ``pooled_logits`` from the model's own logits, for tests. All logits must fit into memory."""
        self._keep_attention()
        logits = self._lm(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits.float()
        pooled = logits.masked_fill(~pool_mask[..., None], float("-inf")).amax(dim=1)
        return self._of_terms(pooled) * self.contract.logit_scale

    def finish_logits(self, pooled: Tensor, tokens: slice | Tensor = slice(None)) -> Tensor:
        """Apply the head's bias, the architecture's function after the head, and the contract's scale.

        All of them are non-decreasing in the logit, so they commute with the maximum.

        Args:
            pooled: Products of states and rows of the head, [..., tokens].
            tokens: The rows of the head; all by default.
        """
        bias = self.head.bias
        pooled = pooled if bias is None else pooled + bias[tokens]
        finished, scale = finish_logits(self._lm.config.get_text_config(), pooled), self.contract.logit_scale
        return finished if scale == 1 else finished * scale


def without_wrapper(model: Any) -> Any:
    """Return the transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def choose_attention(lm: Any, *, causal: bool) -> None:
    """Set causal or bidirectional attention, in the configuration (which decides masks) and the modules (flash attention)."""
    for config in {id(config): config for config in (lm.config, lm.config.get_text_config())}.values():
        config.is_causal = causal
    for module in lm.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = causal


def finish_logits(config: Any, logits: Tensor) -> Tensor:
    """Apply the function of the architecture after the LM head, which is monotonic and thus commutes with the maximum."""
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scale := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits
