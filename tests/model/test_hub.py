"""Names of the hub: model, revision and adapter come from its cache, as a machine without network has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inside.model import CONTRACT_FILE
from pyterrier_csplade import CSPLADE
from support.models import TEXTS, language_model, tokenizer
from support.paths import ROOT
from support.texts import dense

# One process for all of them: the hub's client reads its settings once, when it is imported.
CODE = """
import json, sys
from pyterrier_csplade import CSPLADE
for arguments in json.loads(sys.argv[1]):
    try:
        model = CSPLADE(arguments.pop("model"), **arguments)
        print(json.dumps([model.contract.variant, model.encode_docs(json.loads(sys.argv[2])).toarray().tolist()]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""
FOUND: dict[str, tuple[dict[str, str], int, str]] = {
    "default": ({"model": "acme/model"}, 1, "echo"),
    "branch": ({"model": "acme/model", "revision": "next"}, 2, "bidirectional"),
    "commit": ({"model": "acme/model", "revision": "b" * 40}, 2, "bidirectional"),
}
ADAPTED = {"model": "acme/base", "adapter": "acme/adapter"}
REFUSED: list[tuple[dict[str, str], str, list[str]]] = [
    ({"model": "acme/model", "variant": "causal"}, "ContractError", ["causal", "acme/model", "echo"]),
    ({"model": "acme/model", "revision": "other"}, "FileNotFoundError", ["'acme/model'", "revision 'other'", "config.json"]),
    ({"model": "acme/adapter", "revision": "main"}, "ContractError", ["acme/adapter is an adapter", "revision=..."]),
    ({"model": "acme/unknown"}, "FileNotFoundError", ["'acme/unknown'", "is not a directory", "hf auth login"]),
    ({"model": "acme/base", "adapter": "acme/nothing"}, "FileNotFoundError", ["'acme/nothing'", "adapter_config.json"]),
    ({"model": "acme/mute"}, "ContractError", ["acme/mute: its tokenizer cannot be loaded"]),
]


def publish(cache: Path, name: str, revision: str, source: Path, branch: str = "main") -> None:
    """Lay a directory into a cache of the hub, as one commit of a repository and the head of a branch."""
    repository = cache / "hub" / f"models--{name.replace('/', '--')}"
    commit = revision * 40
    (repository / "snapshots").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    source.rename(repository / "snapshots" / commit)


def save(path: Path, seed: int, variant: str) -> Path:
    CSPLADE((language_model(seed=seed), tokenizer()), variant=variant).save(path)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two revisions, a model without a contract, and an adapter for it."""
    from peft import LoraConfig, get_peft_model

    home = tmp_path_factory.mktemp("hub")
    publish(home, "acme/model", "a", save(home / "first", 1, "echo"))
    publish(home, "acme/model", "b", save(home / "second", 2, "bidirectional"), branch="next")
    (save(home / "base", 0, "causal") / CONTRACT_FILE).unlink()
    publish(home, "acme/base", "c", home / "base")
    language_model().save_pretrained(home / "mute")
    publish(home, "acme/mute", "e", home / "mute")
    torch.manual_seed(5)
    adapted = get_peft_model(language_model(), LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    adapted.save_pretrained(home / "adapter")
    settings = json.loads((home / "adapter" / "adapter_config.json").read_text())
    (home / "adapter" / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "acme/base"}))
    publish(home, "acme/adapter", "d", home / "adapter")
    return home


@pytest.fixture(scope="module")
def results(cache: Path) -> list[list[Any]]:
    """What a process without network gets of all cases, in their order."""
    cases = [*(arguments for arguments, _, _ in FOUND.values()), ADAPTED, *(arguments for arguments, _, _ in REFUSED)]
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-c", CODE, json.dumps(cases), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("case", FOUND)
def test_a_revision_is_loaded_with_its_contract(results: list[list[Any]], case: str) -> None:
    _, seed, variant = FOUND[case]
    found = results[list(FOUND).index(case)]
    expected = CSPLADE((language_model(seed=seed), tokenizer()), variant=variant)  # type: ignore[arg-type]
    assert found[0] == variant
    np.testing.assert_allclose(found[1], dense(expected.encode_docs(TEXTS)), rtol=1e-5, atol=1e-6)


def test_a_base_and_an_adapter_by_name(results: list[list[Any]], cache: Path) -> None:
    from peft import PeftModel

    variant, vectors = results[len(FOUND)]
    weights = cache / "hub" / "models--acme--adapter" / "snapshots" / ("d" * 40)
    expected = CSPLADE((PeftModel.from_pretrained(language_model(), weights), tokenizer()))
    assert variant == "causal"  # neither has a contract
    np.testing.assert_allclose(vectors, dense(expected.encode_docs(TEXTS)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_is_not_there_or_contradicts_is_named(results: list[list[Any]], case: int) -> None:
    _, error, words = REFUSED[case]
    found, message = results[len(FOUND) + 1 + case]
    assert found == error and "\n" not in message
    assert all(word in message for word in words), message
