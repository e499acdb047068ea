"""Strict reading of configuration files: errors in keys and types name the file, the line and the setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pyterrier_csplade._errors import ConfigError

from .config import TrainingConfig
from .fields import SettingError, config_from_dict, shown

T = TypeVar("T")

# Maximum size of a configuration file in bytes; our choice (not measured).
_LARGEST = 2**18
# Characters of a parser's message that an error quotes.
_LONGEST = 300

# The line of each setting in a file. A key consists of the names of the enclosing mappings and of the setting.
_Lines = dict[tuple[Any, ...], int]


def load_config(path: str | Path, config_class: type[T]) -> T:
    """Read a configuration file.

    Args:
        path: A YAML or JSON file with the fields of ``config_class``.
        config_class: Class of the settings, such as ``ContrastiveConfig``.

    Raises:
        ConfigError: The file is missing or not a mapping, or contains an unknown key or a value of the wrong type.
    """
    path = Path(path)
    try:
        values, lines = (_read_json if path.suffix == ".json" else _read_yaml)(_read(path))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not valid: it is nested too deeply; settings are nested at most once") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid: {' '.join(str(error).split())[:_LONGEST]}") from error
    try:
        return config_from_dict(values, config_class)
    except SettingError as error:
        known = [lines[error.keys[:end]] for end in range(len(error.keys), 0, -1) if error.keys[:end] in lines]
        raise ConfigError(f"{path}{f', line {known[0]}' if known else ''}: {error}") from error


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes: is it a configuration?")
    return content.decode("utf-8-sig")


def _read_json(text: str) -> tuple[Any, _Lines]:
    values = json.loads(text, object_pairs_hook=_unique, parse_int=_integer_or_text)
    try:  # JSON is YAML, except for tabs
        return values, _check_nodes(yaml.SafeLoader(text.replace("\t", " ")).get_single_node())
    except yaml.YAMLError:
        return values, {}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"a key appears twice in {{{', '.join(key for key, _ in pairs)}}}")
    return values


def _integer_or_text(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:  # thousands of digits
        return text


def _read_yaml(text: str) -> tuple[Any, _Lines]:
    loader = _Loader(text)
    node = loader.get_single_node()
    lines = _check_nodes(node)
    return None if node is None else loader.construct_document(node), lines


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads a scalar with the form of a number or date but no valid value, such as 2024-02-30, as text."""


def _or_text(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def read(loader: Any, node: Any) -> Any:
        try:
            return construct(loader, node)
        except (ValueError, LookupError, AttributeError, OverflowError):
            return node.value

    return read


for _tag in ("int", "float", "bool", "timestamp"):
    _name = f"tag:yaml.org,2002:{_tag}"
    _Loader.add_constructor(_name, _or_text(yaml.SafeLoader.yaml_constructors[_name]))


def _check_nodes(root: yaml.Node | None) -> _Lines:
    """Check that keys are names that appear once, and return their lines. Aliases are followed once only."""
    lines: _Lines = {}
    seen: set[int] = set()
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(root, ())]
    while waiting:
        node, keys = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            waiting += [(child, keys) for child in node.value]
            continue
        names = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: a key is a mapping or a list: write the name of a setting")
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"line {line}: merge keys (<<) are not supported: write the settings out")
            if key.value in names:
                raise yaml.YAMLError(f"the key {shown(key.value)} appears twice, the second time on line {line}")
            names.add(key.value)
            lines.setdefault((*keys, key.value), line)
            waiting.append((value, (*keys, key.value)))
    return lines


_FILE = "settings.json"

# Settings that change no result, and the data, whose content is compared elsewhere.
_WITHOUT_EFFECT = frozenset({"output", "data", "corpus", "logging_steps", "save_steps", "keep_checkpoints", "report_to"})


def save_settings(checkpoint: Path, config: TrainingConfig) -> None:
    """Write the settings of a run into a checkpoint."""
    (checkpoint / _FILE).write_text(json.dumps(asdict(config), indent=1) + "\n", encoding="utf-8")


def changed_settings(checkpoint: Path, config: TrainingConfig) -> str:
    """Describe the settings that have changed since a checkpoint, with both values; empty if none has changed."""
    path = checkpoint / _FILE
    if not path.is_file():
        return ""
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(asdict(config)))
    changed = [key for key in now if key not in _WITHOUT_EFFECT and before.get(key, now[key]) != now[key]]
    return ", ".join(f"{key} {before[key]!r} -> {now[key]!r}" for key in changed)
