"""What a run reads from others: the base model, its tokenizer, checkpoints, a full disk, planted links."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inside.training import CurvesTrainer, last_checkpoint, publish, unfinished
from pyterrier_csplade import CSPLADE, ConfigError, TrainingError
from pyterrier_csplade.model import Backbone
from pyterrier_csplade.training import ContrastiveConfig, LoraSettings, adapt, train
from support import models
from support.training_runs import LORA, adaptation_config, contrastive_config, log_of, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, one of them with tokens that were added, and training data."""
    folder = make_base(tmp_path_factory.mktemp("base"))
    for name in ("llama", "llama-tied"):
        model, tokenizer = models.language_model(name), models.tokenizer().__class__.from_pretrained(folder / name)
        tokenizer.add_tokens(["remdesivir"])
        model.resize_token_embeddings(len(tokenizer))
        model.save_pretrained(folder / f"{name}-added")
        tokenizer.save_pretrained(folder / f"{name}-added")
    return folder


@pytest.fixture
def own(base: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may change."""
    return Path(shutil.copytree(base, tmp_path / "own"))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---------------------------------------------------------------------- a run and the files that it began with


def change_tensor(path: Path) -> None:
    weights = load_file(path)
    next(iter(weights.values())).flatten()[7] *= 1.001
    save_file(weights, path, metadata={"format": "pt"})


def first_and_slow(cases: Iterable[Any]) -> list[Any]:
    """The first case as it is, and the others, which take seconds each, in the slow suite."""
    first, *others = cases
    marked = [pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.slow) for case in others]
    return [first, *marked]


CHANGES: dict[str, Callable[[Path], object]] = {
    "config.json of the model": lambda folder: rewrite(folder / "llama/config.json", rms_norm_eps=1e-3),
    "tokenizer.json of the model": lambda folder: rewrite(folder / "llama/tokenizer.json", normalizer={"type": "Lowercase"}),
    "model.safetensors of the model": lambda folder: change_tensor(folder / "llama/model.safetensors"),
    "the validation data": lambda folder: (folder / "valid/topics.dev.tsv").write_text("9\tcats and dogs\n"),
}


@pytest.mark.parametrize("name", first_and_slow(CHANGES))
def test_a_resumed_run_reads_what_it_began_with(own: Path, name: str) -> None:
    make_valid(own / "valid")
    settings = {"steps": 2, "save_steps": 1, "lora": LORA, "validation": {"collection": str(own / "valid"), "steps": 1}}
    config = contrastive_config(own, own / "run", **settings)
    train(config)
    shutil.rmtree(own / "run/checkpoints/checkpoint-2")
    for path in (own / "llama").iterdir():
        path.touch()
    train(config, resume=True)
    shutil.rmtree(own / "run/checkpoints/checkpoint-2")
    CHANGES[name](own)
    with pytest.raises(TrainingError, match=f"{name} changed after .*checkpoint-1 was written: restore the earlier state"):
        train(config, resume=True)
    (own / "run/checkpoints/checkpoint-1/sources.json").unlink()  # as in the version before
    publish(own / "run/checkpoints/checkpoint-1", processes=1)
    train(config, resume=True)


def make_valid(folder: Path) -> None:
    folder.mkdir()
    (folder / "docs.jsonl").write_text(
        "".join(json.dumps({"docno": f"d{i}", "text": t}) + "\n" for i, t in enumerate(models.TEXTS))
    )
    (folder / "topics.dev.tsv").write_text("9\tdogs and cats\n")
    (folder / "qrels.dev.txt").write_text("9 0 d3 1\n")


def test_a_checkpoint_of_other_weights_is_refused(base: Path, tmp_path: Path) -> None:
    settings = {"steps": 2, "save_steps": 1}
    train(contrastive_config(base, tmp_path / "run", lora=LORA, **settings))
    shutil.rmtree(tmp_path / "run/checkpoints/checkpoint-2")
    for other in (LoraSettings(rank=3, dropout=0.0), LoraSettings(rank=2, dropout=0.0, target_modules=["q_proj"]), None):
        with (
            pytest.warns(UserWarning, match="other settings: lora"),
            pytest.raises(TrainingError, match="trains other weights"),
        ):
            train(contrastive_config(base, tmp_path / "run", lora=other, **settings), resume=True)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ContrastiveConfig:
    """Settings of a run of two steps, whose checkpoints are kept beside it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    config = contrastive_config(base, run, save_steps=1, target_nnz={"query": 9})
    train(config)
    shutil.copytree(run / "checkpoints", run / "as trained")
    return config


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainer_state.json", "[1]"),
        ("trainer_state.json", '{"global_step": 7}'),
        ("settings.json", "[" * 10**5),
        ("sources.json", "[]"),
        ("figures.json", '{"loss": "x"}'),
        ("loss.json", "{}"),
        ("schedule.json", '{"query": 3}'),
        ("objective.safetensors", "x"),
        ("model.safetensors", "x"),
    ],
)
def test_a_crafted_checkpoint_is_refused_by_name(trained: ContrastiveConfig, name: str, content: str) -> None:
    config, checkpoints = trained, Path(trained.output) / "checkpoints"
    shutil.rmtree(checkpoints)
    shutil.copytree(checkpoints.with_name("as trained") / "checkpoint-1", checkpoints / "checkpoint-1")
    (checkpoints / "checkpoint-1" / name).write_text(content)
    publish(checkpoints / "checkpoint-1", processes=1)
    with pytest.raises(TrainingError, match="checkpoint-1 cannot be resumed from .*: remove it to resume from an earlier one"):
        train(config, resume=True)


# ---------------------------------------------------------------------- a full disk, planted links


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let writing fail beyond a size of a file, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("phase", "share"), first_and_slow([(train, 0.5), (train, 1.5), (adapt, 0.5)]))
def test_a_full_disk_leaves_the_checkpoint_before_whole(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Any, share: float
) -> None:
    """The disk fills in the weights, or in the state of the optimizer."""
    make: Any = contrastive_config if phase is train else adaptation_config
    config = make(base, tmp_path / "run", steps=3, save_steps=1)
    whole = phase(make(base, tmp_path / "whole", steps=3, save_steps=1))
    limit = int(share * (whole / "model.safetensors").stat().st_size)
    end_step = CurvesTrainer.end_step
    with monkeypatch.context() as patch, pytest.raises(OSError, match="cannot be written|no space|File too large") as caught:
        stack: Any = files_up_to(limit)

        def full(self: CurvesTrainer) -> None:
            if self.state.global_step == 2:
                stack.__enter__()
            end_step(self)

        patch.setattr(CurvesTrainer, "end_step", full)
        try:
            phase(config)
        finally:
            stack.__exit__(None, None, None)
    assert str(tmp_path / "run") in str(caught.value.filename)
    newest = last_checkpoint(tmp_path / "run/checkpoints")
    assert newest is not None and newest.name == "checkpoint-1" and not any(unfinished(newest.parent).glob("*/*"))
    phase(config, resume=True)
    assert log_of(tmp_path / "run") == log_of(whole)


def test_planted_links_are_not_followed(base: Path, tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    (run / "checkpoints").mkdir(parents=True)
    victim.mkdir()
    (victim / "file").write_text("mine")
    (run / "checkpoints/.unfinished").symlink_to(victim)
    for name in ("rows.jsonl.0.partial", "training_log.json", "preflight.json", "training_config.json"):
        (run / name).symlink_to(victim / "file")
    train(contrastive_config(base, run, save_steps=1, keep_checkpoints=1))
    assert [path.name for path in victim.iterdir()] == ["file"] and (victim / "file").read_text() == "mine"
    (run / "top_terms.jsonl").unlink()
    shutil.rmtree(run / "checkpoints")
    (run / "top_terms.jsonl").symlink_to(victim / "new")
    with pytest.warns(UserWarning, match="without a checkpoint"), pytest.raises(OSError, match="symbolic link"):
        train(contrastive_config(base, run))
    assert not (victim / "new").exists()


# ---------------------------------------------------------------------- the base model and its tokenizer


def run_both(base: Path, output: Path, model: str, message: str) -> None:
    """Both phases refuse a model before they prepare data."""
    phases: Any = ((train, contrastive_config), (adapt, adaptation_config))
    for go, make in phases:
        with pytest.raises(ConfigError, match=message):
            go(make(base, output, model))
        assert not any(path.is_file() for path in output.iterdir())


def test_code_that_comes_with_a_model_is_never_run(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    trace = tmp_path / "executed"
    code = f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nclass C: pass\n"
    (own / "llama/strange.py").write_text(code)
    names = {"AutoConfig": "strange.C", "AutoModelForCausalLM": "strange.C"}
    rewrite(own / "llama/config.json", model_type="strange", auto_map=names)
    run_both(own, tmp_path / "run", "llama", "model .*llama cannot be used: .*custom code")
    assert not trace.exists()


def test_models_that_cannot_be_trained(own: Path, tmp_path: Path) -> None:
    (own / "llama/adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "elsewhere"}')
    run_both(own, tmp_path / "run", "llama", "it is an adapter: merge it into its base model")
    weights = load_file(own / "llama-tied/model.safetensors")
    lost = next(name for name in weights if "q_proj" in name)
    save_file({name: w for name, w in weights.items() if name != lost}, own / "llama-tied/model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=f"1 of its weights are missing, such as {lost}"):
        adapt(adaptation_config(own, tmp_path / "run", "llama-tied"))
    (own / "llama-tied/model.safetensors").write_bytes(b"torn")
    with pytest.raises(ConfigError, match="model .*llama-tied cannot be used"):
        adapt(adaptation_config(own, tmp_path / "run", "llama-tied"))
    rewrite(own / "llama-tied/config.json", hidden_size="32")
    run_both(own, tmp_path / "two", "llama-tied", "model .*llama-tied cannot be used")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"query_prefix": "a long prefix " * 9}, "query_length is 32, but prefix, BOS and EOS take "),
        ({"query_length": 2, "add_bos": True, "add_eos": True}, "query_length is 2, but prefix, BOS and EOS take 2 tokens"),
        (
            {"encoding_document_length": 1, "add_bos": True},
            "encoding_document_length is 1, but prefix, BOS and EOS take 1 tokens",
        ),
    ],
)
def test_lengths_leave_room_for_texts(base: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(contrastive_config(base, tmp_path / "run", **settings))


def test_a_tokenizer_that_does_not_fit(own: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(own / "llama-added" / name, own / "llama" / name)
    run_both(own, tmp_path / "run", "llama", "its ids go up to 400, the LM head has 400 rows: resize the model")
    tokenizer = models.tokenizer().__class__.from_pretrained(own / "llama-tied")
    tokenizer.bos_token = None
    tokenizer.save_pretrained(own / "llama-tied")
    with pytest.raises(ConfigError, match="add_bos is set, but the tokenizer has no bos_token"):
        train(contrastive_config(own, tmp_path / "two", "llama-tied", add_bos=True))


@pytest.mark.parametrize(
    ("model", "lora"),
    first_and_slow([("llama-tied-added", LORA), ("llama-tied-added", None), ("llama-added", LORA), ("llama-added", None)]),
)
def test_a_trained_model_loads_as_it_was(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, lora: LoraSettings | None
) -> None:
    """Tied weights, adapters and added tokens: the vectors are those of the model in memory at the end of training."""
    texts = [*models.TEXTS, "dogs and remdesivir"]
    held: list[torch.Tensor] = []
    trained_weights = CurvesTrainer.trained_weights

    def encode(self: CurvesTrainer) -> Any:
        backbone = self.model
        assert isinstance(backbone, Backbone)
        with torch.no_grad():
            held.append(backbone.eval()(**backbone.collate(backbone.tokenize(texts, "document")[0])))
        return trained_weights(self)

    monkeypatch.setattr(CurvesTrainer, "trained_weights", encode)
    output = train(contrastive_config(base, tmp_path / "run", model, lora=lora, steps=4, learning_rate=1e-2, bf16=False))
    loaded = CSPLADE(str(output)).encode_docs(texts).toarray()
    torch.testing.assert_close(torch.from_numpy(loaded), held[0], rtol=1e-4, atol=1e-4)


def test_the_head_is_not_adapted(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model has no 'lm_head'; its linear layers"):
        train(contrastive_config(base, tmp_path / "run", "llama-tied", lora=LoraSettings(target_modules=["q_proj", "lm_head"])))
