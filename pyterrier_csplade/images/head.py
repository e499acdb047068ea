"""The image head, which maps an image vector to a state in the language model's final hidden space; its files and contract."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pyterrier_csplade._errors import ContractError
from pyterrier_csplade.model.backbone import Backbone, without_wrapper
from pyterrier_csplade.model.identity import digests
from pyterrier_csplade.storage.files import read_json, write_atomically
from pyterrier_csplade.vectors.checks import check_positive
from pyterrier_csplade.vectors.contract import WHOLE, Contract

from .features import check_described
from .pictures import LOADING

#: The files of a saved head.
WEIGHTS_FILE, SETTINGS_FILE = "image_head.safetensors", "csplade_image.json"

# Names of the last norm of a decoder in transformers.
_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm", "norm_f")
# Smallest standard deviation by which an input is divided; our choice (not measured).
_LEAST_DEVIATION = 1e-4


class ImageHead(nn.Module):
    """A linear map with a residual MLP from a frozen image vector to the language model's final hidden space.

    With x the standardised image vector, N the last norm and E the LM head of the language model, which stay frozen::

        h = A x + W2 GELU(W1 LayerNorm(x))
        logits = E (scale * N(h) + offset)

    The offset is the hidden state of a picture without content, and determines how many logits are above 0. The design follows
    Nguyen et al. (2024, arXiv 2402.17535), which trains a linear map in front of the frozen vocabulary head of an encoder.
    """

    def __init__(self, inputs: int, width: int, hidden: int = 512) -> None:
        """Create a head that returns only the offset, because A and W2 are 0.

        Args:
            inputs: Length of an image vector.
            width: Hidden size of the language model.
            hidden: Hidden size of the MLP; 512 is our choice (not measured).
        """
        super().__init__()
        self.inputs, self.width, self.hidden = inputs, width, hidden
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.linear = nn.Linear(inputs, width)
        self.norm = nn.LayerNorm(inputs)
        self.inner = nn.Linear(inputs, hidden)
        self.outer = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(width))
        for layer in (self.linear, self.outer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def standardise_by(self, vectors: Tensor) -> None:
        """Set the mean and the standard deviation of the inputs from image vectors [pictures, inputs]."""
        self.mean.copy_(vectors.mean(dim=0))
        self.deviation.copy_(vectors.std(dim=0, correction=0).clamp(min=_LEAST_DEVIATION))

    def hidden_states(self, vectors: Tensor) -> Tensor:
        """Return h, the states before the last norm, [pictures, width], of image vectors [pictures, inputs]."""
        inputs = (vectors - self.mean) / self.deviation
        return self.linear(inputs) + self.outer(nn.functional.gelu(self.inner(self.norm(inputs))))

    def forward(self, vectors: Tensor, norm: nn.Module) -> Tensor:
        """Return the states that the LM head multiplies, [pictures, width].

        Args:
            vectors: Image vectors, float32 [pictures, inputs].
            norm: The language model's last norm; see ``last_norm``.
        """
        return self.scale * norm(self.hidden_states(vectors)) + self.offset


def last_norm(backbone: Backbone) -> nn.Module:
    """Return a frozen copy, in float32, of a language model's last norm; the identity if it has none."""
    lm = without_wrapper(backbone.model)
    places = [lm.base_model, getattr(lm.base_model, "decoder", None)]
    found = [norm for place in places for name in _NORMS if isinstance(norm := getattr(place, name, None), nn.Module)]
    width = backbone.head.weight.shape[1]
    fitting = [norm for norm in found if all(len(parameter) == width for parameter in norm.parameters())]
    norm = copy.deepcopy(fitting[0]).float() if fitting else nn.Identity()
    return norm.requires_grad_(False).to(backbone.device)


def picture_logits(states: Tensor, backbone: Backbone) -> Tensor:
    """Compute the logits of states [pictures, width] through the frozen LM head, float32 [pictures, index terms].

    Gradients flow to the states only, if the weights of the model are frozen.
    """
    mask = torch.ones(len(states), 1, dtype=torch.bool, device=states.device)
    return backbone.pool(states[:, None], mask)


@dataclass
class SavedHead:
    """A head, and the data that its correct use requires.

    Attributes:
        head: The head.
        contract: Contract of the vectors; ``documents_for`` is the fingerprint of the text model.
        features: Settings of the features; None for a user's own image vectors.
        probe: The features of a test picture, which are compared when a head is opened.
        training: Description of the training.
    """

    head: ImageHead
    contract: Contract
    features: dict[str, Any] | None = None
    probe: list[float] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def made(
        cls,
        head: ImageHead,
        texts: Contract,
        features: dict[str, Any] | None,
        probe: list[float],
        training: dict[str, Any],
    ) -> SavedHead:
        """Combine a trained head with its contract."""
        digest = _identity(head, features)
        made_for = texts.replace(fold=None).fingerprint
        contract = texts.replace(documents_for=made_for, weights=digest, other_weights="", training={}, probes=())
        return cls(head, contract, features, probe, training)

    def save(self, directory: Path) -> None:
        """Write the head's two files into a directory, which is created if necessary."""
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / WEIGHTS_FILE, save(_tensors(self.head)))
        values = {
            "format": 1,
            "kind": "image",
            "inputs": self.head.inputs,
            "hidden": self.head.hidden,
            "width": self.head.width,
            "contract": self.contract.to_dict(),
            "features": self.features,
            "pictures": LOADING if self.features else None,
            "probe": self.probe,
            "training": self.training,
        }
        write_atomically(directory / SETTINGS_FILE, (json.dumps(values, indent=1) + "\n").encode())

    @classmethod
    def load(cls, directory: Path) -> SavedHead:
        """Read a head.

        Raises:
            ContractError: The directory contains no head, its files are damaged, or pictures were read differently in training.
        """
        path = directory / SETTINGS_FILE
        try:
            values = read_json(path)
            if values["format"] != 1 or values["kind"] != "image":
                raise ContractError(f"{path} has a newer format: update pyterrier_csplade")
            if values["pictures"] not in (None, LOADING):
                raise ContractError(
                    f"{path}: pictures were read differently in training ({values['pictures']}): train the head again"
                )
            head = _head_of(load_file(directory / WEIGHTS_FILE), values)
            contract = Contract.from_dict(values["contract"], source=str(path))
            features, training = values["features"], values["training"]
            check_described(features)
            probe = np.asarray(values["probe"], dtype=np.float64).reshape(-1).tolist()
            if len(probe) != (0 if features is None else head.inputs) or not np.isfinite(probe).all():
                raise ValueError(f"probe must be {head.inputs} finite numbers, or [] without features")
        except FileNotFoundError as error:
            raise ContractError(
                f"{directory} contains no image head ({error.filename or path} is missing): pyterrier-csplade "
                "train-images makes one"
            ) from error
        except ContractError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            raise ContractError(f"the image head in {directory} is damaged ({error}): copy it again") from error
        if contract.weights != _identity(head, features) or not contract.documents_for:
            raise ContractError(f"the image head in {directory} is damaged: its weights are not those of its contract")
        return cls(head.eval(), contract, features, probe, training)


def _head_of(tensors: dict[str, Tensor], values: dict[str, Any]) -> ImageHead:
    """Make a head from the tensors of a file. No memory is allocated for a size in the settings before the tensors confirm it.

    Raises:
        ValueError: A size is not a positive integer, or a tensor is not float32.
        RuntimeError: The tensors have other names or shapes.
    """
    sizes = {name: values[name] for name in ("inputs", "width", "hidden")}
    check_positive(**sizes)
    if wrong := next((name for name, tensor in tensors.items() if tensor.dtype != torch.float32), None):
        raise ValueError(f"the tensor {wrong} is not float32")
    with torch.device("meta"):
        head = ImageHead(**sizes)
    head.load_state_dict(tensors, assign=True)
    return head


def _tensors(head: ImageHead) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}


def _identity(head: ImageHead, features: dict[str, Any] | None) -> str:
    """Return a digest of what determines the vectors besides the text model: the head's tensors and the features' settings."""
    described = None if features is None else {key: value for key, value in features.items() if key != "source"}
    parts = [sorted(digests(sorted(_tensors(head).items()), "the image head").items()), described, described and LOADING]
    return WHOLE + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
