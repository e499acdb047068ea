"""Configuration files, read strictly: unknown keys and wrong types are errors."""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from pyterrier_csplade._errors import ConfigError

from .config import TrainingConfig

T = TypeVar("T")

# Similarity of an unknown key to a suggested one, such as that between "doc" and "document"; our choice (not measured).
_ALIKE = 0.5

# Settings that identify a file for the other command.
_PHASES = {
    "corpus": "the adaptation phase: pyterrier-csplade adapt",
    "data": "the contrastive phase: pyterrier-csplade train",
}


def load_config(path: str | Path, config_class: type[T]) -> T:
    """Read a configuration file.

    Args:
        path: A YAML or JSON file with the fields of ``config_class``.
        config_class: ``AdaptationConfig`` or ``ContrastiveConfig``.

    Raises:
        ConfigError: The file is missing or not a mapping, or holds an unknown key or a value of a wrong type.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_json = path.suffix == ".json"
        values = json.loads(text, object_pairs_hook=_unique) if is_json else yaml.load(text, Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid: {' '.join(str(error).split())}") from error
    return config_from_dict(values, config_class, source=str(path))


def config_from_dict(values: Any, config_class: type[T], *, source: str = "configuration") -> T:
    """Make a configuration from a mapping.

    Raises:
        ConfigError: A key is unknown or missing, or a value is of a wrong type.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected a mapping of settings, found {type(values).__name__}")
    hints = typing.get_type_hints(config_class)
    known = [f.name for f in fields(config_class)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{source}: unknown setting {key!r}{_hint(key, known)}")
    converted = {key: _convert(value, hints[key], f"{source}: {key}") for key, value in values.items()}
    try:
        return config_class(**converted)
    except TypeError as error:
        missing = str(error).partition("argument")[2].lstrip("s: ")
        raise ConfigError(f"{source}: missing setting {missing}") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _hint(key: Any, known: list[str]) -> str:
    if key in _PHASES:
        return f", which is one of {_PHASES[key]}"
    nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=_ALIKE)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key appears twice in {{{', '.join(key for key, _ in pairs)}}}")
    return values


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that appears twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} appears twice, the second time on line {key_node.start_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Convert a YAML value to the type of its field. YAML 1.1 reads ``1e-4`` as a string: numbers are parsed here."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        hints = [a for a in arguments if a is not type(None)]
        return _convert(value, next((a for a in hints if _looks_like(value, a)), hints[0]), where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: expected one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        return [_convert(v, arguments[0], where) for v in value]
    if isinstance(hint, type) and is_dataclass(hint):
        return config_from_dict(value, hint, source=where)
    return _convert_scalar(value, hint, where)


def _looks_like(value: Any, hint: Any) -> bool:
    """Whether a value is meant for one type of several."""
    origin = typing.get_origin(hint)
    return value in typing.get_args(hint) if origin is Literal else isinstance(value, origin or hint)


def _convert_scalar(value: Any, hint: type, where: str) -> Any:
    number = not isinstance(value, bool)  # Python's booleans are integers
    if hint is float and number:
        try:
            if math.isfinite(float(value)):
                return float(value)
        except (TypeError, ValueError):
            pass
    elif hint is int and number and isinstance(value, (int, float)) and math.isfinite(value) and value == int(value):
        return int(value)
    elif isinstance(value, hint) and hint is not int:
        return value
    raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")


_FILE = "settings.json"

# Settings that change no result, and the data, which is compared by its content.
_WITHOUT_EFFECT = frozenset({"output", "data", "corpus", "logging_steps", "save_steps", "keep_checkpoints", "report_to"})


def save_settings(checkpoint: Path, config: TrainingConfig) -> None:
    """Write the settings of a run into its checkpoint."""
    (checkpoint / _FILE).write_text(json.dumps(asdict(config), indent=1) + "\n", encoding="utf-8")


def changed_settings(checkpoint: Path, config: TrainingConfig) -> str:
    """Describe the settings that have changed since a checkpoint, with both values; empty if there are none."""
    path = checkpoint / _FILE
    if not path.is_file():
        return ""
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(asdict(config)))
    changed = [key for key in now if key not in _WITHOUT_EFFECT and before.get(key, now[key]) != now[key]]
    return ", ".join(f"{key} {before[key]!r} -> {now[key]!r}" for key in changed)
