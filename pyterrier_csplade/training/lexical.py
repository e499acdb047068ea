"""The lexical loss, which fits a text's vector to the weights of a bag of words on its own tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyterrier_csplade.model.head import activate

from .config import LexicalSettings
from .distributed import world_size
from .own_tokens import OwnTokenFinder, OwnTokens


@dataclass(frozen=True)
class TermStatistics:
    """Statistics of a corpus for a bag of words.

    Attributes:
        frequencies: Number of texts that contain each index term, int64 [terms].
        texts: Number of texts.
        tokens: Number of tokens that are index terms, including repetitions.
    """

    frequencies: np.ndarray
    texts: int
    tokens: int


def count_own_tokens(blocks: Iterable[Sequence[Sequence[int]]], find: OwnTokenFinder) -> TermStatistics:
    """Count the own tokens of texts."""
    frequencies, texts, tokens = np.zeros(find.terms, dtype=np.int64), 0, 0
    for block in blocks:
        own = find(block, "document")
        frequencies += np.bincount(own.columns.numpy(), minlength=find.terms)
        texts += len(block)
        tokens += int(own.counts.sum(dtype=torch.float64))
    return TermStatistics(frequencies, texts, tokens)


class LexicalLoss:
    """Computes the lexical loss of texts from their pooled logits.

    With h the pooled logits of a text before the activation, w = log(1 + ReLU(h)), T its own tokens and t their targets::

        L = mean over T of (w - t)^2 + revive_weight * mean over T of ReLU(revive_below - h)
            + others_weight * sum over all other terms of w^2

    averaged over the texts. The second term has a gradient where the activation has none, so it revives dead own tokens. The
    target of a token is ``scale`` times its idf divided by the largest idf in the corpus. "bm25" multiplies it by the
    saturation and length normalisation of BM25, which is 1 for a token that occurs once in a text of mean length.

    The loss and the defaults of its settings are our choice (measured: for the first 10 layers of SmolLM2, adapted, 190 steps
    of 16 passages with target "idf" reduced 32,000 active terms to 113, with .865 of the own tokens live, and contrastive
    training at temperature 1 did not collapse afterwards).
    """

    def __init__(self, statistics: TermStatistics, settings: LexicalSettings) -> None:
        """Prepare the targets."""
        self.settings = settings
        self.idf = torch.from_numpy(scaled_idf(statistics)).float()
        self.mean_length = max(1.0, statistics.tokens / max(1, statistics.texts))

    def targets(self, own: OwnTokens, texts: int) -> Tensor:
        """Return the targets of own tokens of ``texts`` texts, float32 [tokens]."""
        settings = self.settings
        self.idf = self.idf.to(own.columns.device)
        targets = settings.scale * self.idf[own.columns]
        if settings.target == "idf":
            return targets
        lengths = own.lengths(texts)[own.rows] / self.mean_length
        damped = own.counts + settings.k1 * (1 - settings.b + settings.b * lengths)
        return targets * own.counts * (settings.k1 + 1) / damped

    def __call__(self, logits: Tensor, own: OwnTokens, texts: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, without ``settings.weight``.

        Args:
            logits: Pooled logits before the activation, [texts of this process, terms].
            own: The own tokens of these texts.
            texts: Number of texts of all processes, by which the sum over the texts is divided.

        Returns:
            The loss, with the gradient of this process's share of it; and the figures ``lexical``, ``lexical_error`` and
            ``lexical_others`` (the loss and its terms), and ``own_live`` (the share of own tokens with a logit above 0). The
            mean of a figure over the processes is its mean over all texts.
        """
        settings, count, processes = self.settings, len(logits), world_size()
        weights = activate(logits)
        own_logits = logits[own.rows, own.columns]
        share_of_mean = 1 / own.per_text(count).clamp(min=1)[own.rows]  # for the mean over a text's own tokens
        error = ((activate(own_logits) - self.targets(own, count)).square() * share_of_mean).sum()
        dead = ((settings.revive_below - own_logits).relu() * share_of_mean).sum()
        others = weights.index_put((own.rows, own.columns), weights.new_zeros(())).square().sum()
        loss = error + settings.revive_weight * dead + settings.others_weight * others
        live = ((own_logits > 0) * share_of_mean).sum()
        figures = {"lexical": loss, "lexical_error": error, "lexical_others": others, "own_live": live}
        share = loss / texts
        value = share + ((processes - 1) * share).detach()
        return value, {name: figure.detach() * processes / texts for name, figure in figures.items()}


def scaled_idf(statistics: TermStatistics) -> np.ndarray:
    """Compute the idf of BM25, ln(1 + (N - n + 0.5) / (n + 0.5)), divided by the largest idf of a term in the corpus.

    Terms that do not occur in the corpus get 1, like the rarest terms.
    """
    texts, frequencies = statistics.texts, statistics.frequencies.astype(np.float64)
    idf = np.log1p((texts - frequencies + 0.5) / (frequencies + 0.5))
    largest = idf[frequencies > 0].max(initial=0.0)
    return np.minimum(idf / largest, 1.0) if largest else np.ones_like(idf)
