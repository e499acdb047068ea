"""A text model and two image heads for it, for the tests of pictures."""

from __future__ import annotations

from typing import Any

import pytest

from inside.images import encoder, features
from support.pictures import colours, random_head, saved_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model, a head for given vectors, and a directory with both and with a head (``seeing``) for pictures."""
    path = tmp_path_factory.mktemp("pictures")
    csplade = saved_model(path / "model")
    given = features.GivenFeatures(colours)
    random_head(csplade, path / "seeing", features=(given.identity, encoder.probe(given)))
    return csplade, random_head(csplade, path / "head"), path
