"""The training of an image head, from a configuration to a directory that ``CSPLADE.image_encoder`` reads."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyterrier_csplade._errors import ConfigError, CspladeError, TrainingError
from pyterrier_csplade.images.encoder import probe
from pyterrier_csplade.images.features import Features, make_features
from pyterrier_csplade.images.head import SavedHead
from pyterrier_csplade.model.csplade import CSPLADE
from pyterrier_csplade.storage.files import sha256, write_atomically
from pyterrier_csplade.training.checkpoints import CHECKPOINTS, writing
from pyterrier_csplade.training.contrastive import best_weights
from pyterrier_csplade.training.distributed import world_size
from pyterrier_csplade.training.planning.cost import find_gpu
from pyterrier_csplade.training.planning.plan import Plan
from pyterrier_csplade.training.run import alone_in_its_output, open_output, training_arguments

from .config import ImagesConfig
from .pairs import Pairs, encode_pairs, read_pairs
from .start import make_head
from .trainer import HeadModel, HeadValidation, ImageTrainer, head_figures

#: The measures of the saved head, in a run's directory.
REPORT_FILE = "image_report.json"
# Number of pairs with which a dry run measures the time.
_TIMED = 16


@alone_in_its_output
def train_images(config: ImagesConfig, *, resume: bool = False) -> Path:
    """Train an image head.

    Args:
        config: The run's settings.
        resume: Resume from the last checkpoint in ``config.output``, if there is one.

    Returns:
        The directory of the head, ``config.output``, which ``CSPLADE.image_encoder`` reads; it also contains
        ``image_report.json``.

    Raises:
        ConfigError: ``config.output`` contains checkpoints of another run, or several processes were started.
        DataError: A pair cannot be used.
        TrainingError: The loss is not finite, or the co-activation or the semantic deviation of the head is above its limit.
    """
    output = open_output(config, resume)
    arguments = training_arguments(config, pieces=1)
    if world_size() > 1:
        raise ConfigError("an image head is small: train-images runs in one process, without a launcher")
    model = CSPLADE(config.model, revision=config.revision)
    features = make_features(config.features)
    pairs = _encoded(config, config.data, model, features)
    held_out = _encoded(config, config.validation.data, model, features) if config.validation else None
    network = HeadModel(make_head(config, pairs, model.backbone), model.backbone)
    scale = model.contract.impact_scale
    temperature = config.temperature or model.contract.temperature
    trainer = ImageTrainer(config, pairs, temperature, model=network, args=arguments, train_dataset=list(range(len(pairs))))
    for source in [config.data, *([config.validation.data] if config.validation else [])]:
        trainer.sources[f"the pairs of {Path(source).name}"] = {"sha256": sha256(Path(source))}
    if config.validation and held_out is not None:
        trainer.add_callback(HeadValidation(trainer, held_out, scale, config.validation))
    trainer.run(resume)
    network.load_state_dict(best_weights(trainer, output / CHECKPOINTS) or trainer.trained_weights(), strict=False)
    if not all(parameter.isfinite().all() for parameter in network.head.parameters()):
        raise TrainingError("the head is not saved: a weight is not finite. Lower learning_rate")
    report = head_figures(network.eval(), held_out or pairs, scale)
    with writing(output):
        write_atomically(output / REPORT_FILE, (json.dumps(report, indent=1) + "\n").encode())
    _refuse_failures(config, report)
    training = {"phase": "images", "pairs": len(pairs), "measures": report, **_published(config)}
    identity = None if features is None else features.identity
    SavedHead.made(network.head.cpu(), model.contract, identity, [] if features is None else probe(features), training).save(
        output
    )
    return output


def plan_images(config: ImagesConfig) -> Plan:
    """Check a configuration and its data, and estimate the time on this machine, without training.

    Returns:
        A plan. Its ``problems`` would stop the run.
    """
    plan = Plan(gpu=find_gpu("h100"))
    try:
        model, features = CSPLADE(config.model, revision=config.revision), make_features(config.features)
        files = {"pairs": config.data, **({"validation": config.validation.data} if config.validation else {})}
        found = {name: read_pairs(path, with_teacher=config.teacher == "dense") for name, path in files.items()}
        for name, pairs in found.items():
            plan.facts.append((name, f"{len(pairs):,} in {files[name]}"))
            missing = [pair for pair in pairs if pair.picture is not None and not pair.picture.is_file()]
            plan.problems += (
                [f"{missing[0].where}: there is no file {missing[0].picture} ({len(missing):,} such)"] if missing else []
            )
        if len(found["pairs"]) < config.batch_size:
            plan.problems.append(
                f"{config.data} has {len(found['pairs']):,} pairs, a batch {config.batch_size:,}: lower batch_size"
            )
        if not plan.problems:
            _time(plan, config, model, features, found)
    except CspladeError as error:
        plan.problems.append(str(error))
    return plan


def _time(plan: Plan, config: ImagesConfig, model: CSPLADE, features: Features | None, found: dict[str, Any]) -> None:
    some = found["pairs"][:_TIMED]
    encode_pairs(some[:1], model, features)  # loads the models
    started = time.monotonic()
    pairs = encode_pairs(some, model, features)
    seconds = (time.monotonic() - started) / len(some)
    total = sum(map(len, found.values()))
    head = make_head(config, pairs, model.backbone)
    numbers = sum(parameter.numel() for parameter in head.parameters())
    epochs = config.steps * config.batch_size / len(found["pairs"])
    plan.facts += [
        ("head", f"{numbers:,} parameters: {head.inputs:,} -> {head.hidden} -> {head.width}, {len(model.vocabulary):,} terms"),
        ("captions", f"{pairs.documents.nnz / len(pairs):,.0f} terms in the mean document vector of the first {len(pairs)}"),
        ("encoding", f"about {seconds * total:,.0f} s for {total:,} pairs on this machine, once"),
        ("steps", f"{config.steps:,} of {config.batch_size} pairs, {epochs:,.1f} epochs"),
    ]


def _encoded(config: ImagesConfig, path: str, model: CSPLADE, features: Features | None) -> Pairs:
    pairs = read_pairs(path, with_teacher=config.teacher == "dense")
    return encode_pairs(pairs, model, features, config.cache)


def _refuse_failures(config: ImagesConfig, report: dict[str, float]) -> None:
    """Refuse a head with one of the two failures of Nguyen et al. (2024)."""
    for key, limit, name, cure in (
        (
            "co_activation",
            config.most_co_activation,
            "dimension co-activation",
            "start: ridge, a lower target_nnz or control: gate",
        ),
        ("deviation", config.most_deviation, "semantic deviation", "control: gate or bernoulli, or a larger gate_weight"),
    ):
        if limit is not None and report[key] > limit:
            raise TrainingError(
                f"the head is not saved: its {name} is {report[key]:.3f}, the limit most_{key} is {limit:g}. Try {cure}; see "
                f"{REPORT_FILE} and the curves in {config.output}"
            )


def _published(config: ImagesConfig) -> dict[str, Any]:
    """Return the settings for a contract, without the paths of this machine."""
    settings = asdict(config)
    for name in ("model", "data", "features"):
        if settings[name] and Path(settings[name]).exists():
            settings[name] = Path(settings[name]).name
    if config.validation:
        settings["validation"]["data"] = Path(config.validation.data).name
    del settings["output"], settings["cache"]
    return settings
