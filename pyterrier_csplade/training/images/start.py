"""Initialisation of an image head: ridge regression of the captions' deviations from their mean vector, and calibration."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from pyterrier_csplade.images.head import ImageHead, last_norm
from pyterrier_csplade.model.backbone import Backbone

from .config import ImagesConfig
from .pairs import Pairs

# Number of pictures for the choice of scale and offset; our choice (not measured).
_CALIBRATED = 256
# Active terms of the median picture at the start, as a multiple of the target, so that the regulariser can choose terms and no
# picture is empty; our choice (not measured).
_ROOM = 2.0
# Halvings of the interval in which the offset is searched.
_HALVINGS = 60


def make_head(config: ImagesConfig, pairs: Pairs, backbone: Backbone) -> ImageHead:
    """Make the head that a run starts from.

    The captions' document vectors C are regressed on the standardised image vectors X, through the LM head E and the weight g
    of the last norm: with D = C - mean(C) and E' = E diag(g)::

        A = (X'X + ridge * n * I)^-1 X' D E' (E''E')^-1

    A is then scaled to hidden states of unit size. A regression of C itself would give every picture the average caption, and
    so cause co-activation.
    """
    torch.manual_seed(config.seed)
    width = backbone.head.weight.shape[1]
    head = ImageHead(pairs.vectors.shape[1], width, config.hidden)
    vectors = torch.from_numpy(pairs.vectors)
    head.standardise_by(vectors)
    norm = last_norm(backbone).cpu()
    rows = backbone.head.weight.detach().float().cpu()[backbone.columns.cpu()]
    with torch.no_grad():
        if config.start == "ridge":
            head.linear.weight.copy_(_ridge((vectors - head.mean) / head.deviation, pairs, rows * _gain(norm, width), config))
            _give_unit_size(head, vectors)
        else:
            nn.init.normal_(head.linear.weight, std=1 / math.sqrt(head.inputs))
        _calibrate(head, norm, rows, pairs, config.target_nnz)
    return head.to(backbone.device)


def _gain(norm: nn.Module, width: int) -> Tensor:
    """Return the factor of each dimension in a norm of any kind, [width]."""
    signs = torch.ones(1, width)
    signs[:, 1::2] = -1
    return ((norm(signs) - norm(-signs)) / 2 * signs)[0]


def _ridge(inputs: Tensor, pairs: Pairs, rows: Tensor, config: ImagesConfig) -> Tensor:
    """Return A transposed, [width, inputs]."""
    targets = torch.from_numpy(pairs.documents.astype(np.float32) @ rows.numpy())
    targets = (targets - targets.mean(dim=0)).double()
    x = inputs.double()
    squares = x.T @ x + config.ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(squares, x.T @ targets)
    return torch.linalg.solve(_square(rows), solved.T).float()


def _square(rows: Tensor) -> Tensor:
    """Return E'E in float64, with a small addition to its diagonal that makes it invertible."""
    square = (rows.T @ rows).double()
    return square + 1e-6 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)


def _give_unit_size(head: ImageHead, vectors: Tensor) -> None:
    """Scale the linear part so that the hidden state of the median picture has a root mean square of 1.

    The last norm makes logits independent of this size, but training is not: a step of AdamW moves each number by about the
    learning rate. The regression for csplade-tiny has a size of 0.002, and the first steps of 0.001 replaced it by noise.
    """
    sizes = head.hidden_states(vectors).square().mean(dim=1).sqrt()
    head.linear.weight.div_(sizes.median().clamp(min=1e-12))


def _calibrate(head: ImageHead, norm: nn.Module, rows: Tensor, pairs: Pairs, target: float | None) -> None:
    """Set offset and scale so that the median picture has twice the target's terms, and the largest weight of a caption.

    The offset is opposite to the direction in the hidden space in which all logits grow equally.
    """
    wanted = _ROOM * (target or max(1.0, pairs.documents.nnz / len(pairs)))
    wanted = min(wanted, len(rows) / 2)
    up = torch.linalg.solve(_square(rows), rows.sum(dim=0).double()).float()
    some = torch.from_numpy(pairs.vectors[:: max(1, len(pairs) // _CALIBRATED)])
    logits, lift = norm(head.hidden_states(some)) @ rows.T, rows @ up
    low, high = -float(logits.abs().max()) * 4, float(logits.abs().max()) * 4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        active = ((logits - middle * lift) > 0).sum(dim=1).float().median()
        low, high = (middle, high) if active > wanted else (low, middle)
    largest = (logits - high * lift).amax(dim=1).median().clamp(min=1e-3)
    weights = pairs.documents.max(axis=1).toarray().ravel()
    scale = math.expm1(min(10.0, float(np.median(weights)))) / float(largest)
    head.scale.fill_(max(scale, 1e-3))
    head.offset.copy_(-head.scale * high * up)
