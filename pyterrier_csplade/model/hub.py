"""Models and tokenizers by name, from the hub, its cache, or a directory."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, but not in its __all__
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from pyterrier_csplade._errors import ContractError, CspladeError, is_failure
from pyterrier_csplade.storage.files import locked
from pyterrier_csplade.storage.files import read_json as read_any_json
from pyterrier_csplade.vectors.checks import check_revision
from pyterrier_csplade.vectors.contract import CONTRACT_FILE, QUERY_TABLE

from .transformers_internals import show_version_of_gguf

#: transformers replaces functions of torch in all threads while it loads a model, so models are loaded one at a time.
LOADING_LOCK = threading.RLock()

# Prefix of the names of a lock and of a directory of files that are being written.
_UNFINISHED = ".csplade-save"
# Suffixes of the files of a checkpoint or an adapter.
_READ = frozenset({".json", ".safetensors", ".model", ".txt", ".jinja", ".npz"})
# Characters of another library's message that an error quotes.
_LONGEST = 240
#: Arguments that have an effect only while a model is loaded.
LOADING_ARGUMENTS = ("adapter", "revision", "layers", "quantization", "dtype", "device", "attn_implementation")
_TOKENIZER_CONFIG = "tokenizer_config.json"
# Entries with which transformers records how it loaded the tokenizer. A copy with them would be loaded in the same way.
_TRACES = ("is_local", "local_files_only")


def check_published(name: str, file: str, revision: str | None = None) -> None:
    """Refuse a name if the hub (or its cache, if the hub cannot be reached) does not have a file.

    Args:
        name: Hub id. Existing directories and GGUF files are not checked.
        file: File that a model or an adapter must have.
        revision: Branch, tag or commit; the default branch by default.

    Raises:
        FileNotFoundError: The repository, revision or file does not exist, is gated, or is neither reachable nor cached; or a
            GGUF file does not exist.
    """
    if is_gguf(name) and not Path(name).is_file():
        raise FileNotFoundError(f"there is no file {name}")
    if Path(name).is_dir() or is_gguf(name):
        return
    try:
        cached_file(name, file, revision=revision)
    except OSError as error:
        at = f" at revision {revision!r}" if revision else ""
        raise FileNotFoundError(
            f"{name!r} is not a directory, and the hub has no {file} under this name{at}. Check the name. A gated "
            f"model needs `hf auth login`; a machine without a network needs the model in its cache. "
            f"The hub's client reports: {_short(error)}"
        ) from error


def optional_file(name: str, file: str, revision: str | None = None) -> str | None:
    """Find a file of a hub model or a directory; None if there is no such file, and for a GGUF file.

    Raises:
        OSError: The hub has no such repository or revision, or the repository is gated.
    """
    if is_gguf(name):
        return None
    try:
        return cached_file(name, file, revision=revision)
    except OSError as error:
        is_missing = error.__cause__ is None or isinstance(error.__cause__, LocalEntryNotFoundError)
        if type(error) is OSError and error.errno is None and is_missing:
            return None
        raise


def query_table_of(model: Any, revision: str | None = None) -> Path:
    """Return the directory of a model's query table.

    Raises:
        ContractError: The model has none: its files are not whole, or only the weights are in memory.
    """
    names = ("csplade_table.json", "table.npz", "tokenizer.json")
    found = [optional_file(model, f"{QUERY_TABLE}/{name}", revision) for name in names] if isinstance(model, str) else [None]
    if found[0] is None or None in found:
        raise ContractError(
            f"{model if isinstance(model, str) else 'the model'} was trained for queries of a query table, but its folder "
            f"{QUERY_TABLE} is missing: copy the checkpoint again, with its folders"
        )
    return Path(found[0]).parent


def is_gguf(name: str) -> bool:
    """Return whether a name is the name of a GGUF file."""
    return Path(name).suffix.lower() == ".gguf"


def source(name: str) -> tuple[str, dict[str, str]]:
    """Return the positional and keyword arguments with which ``from_pretrained`` finds a model or a GGUF file."""
    if not is_gguf(name):
        return name, {}
    show_version_of_gguf()
    return str(Path(name).parent), {"gguf_file": Path(name).name}


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """Load the tokenizer of a model.

    Raises:
        ContractError: The model has no tokenizer, or the tokenizer needs a package that is not installed; the message names it.
    """
    try:
        with own_errors(f"{name}: its tokenizer cannot be loaded: check config.json, tokenizer.json and tokenizer_config.json"):
            place, settings = source(name)
            tokenizer = AutoTokenizer.from_pretrained(place, **settings, revision=revision, trust_remote_code=False)
            tokenizer.get_vocab(), tokenizer.added_tokens_decoder, tokenizer("a", add_special_tokens=False)
            return _of_file(tokenizer) if settings else tokenizer
    except ImportError as error:
        raise ContractError(f"{name}: its tokenizer needs a package that is not installed ({_short(error)})") from error


def _of_file(tokenizer: Any) -> Any:
    """Remove tokens that a GGUF file does not have, such as GPT-2's end-of-text token, which transformers always adds."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = [token for token in state["added_tokens"] if token["id"] < len(state["model"]["vocab"])]
    if len(added) == len(state["added_tokens"]):
        return tokenizer
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    known = {token["content"] for token in added}
    backend = Tokenizer.from_str(json.dumps(state | {"added_tokens": added}))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{name: token for name, token in special.items() if token in known}
    )


@contextlib.contextmanager
def own_errors(what: str) -> Iterator[None]:
    """Raise the errors of libraries about a user's files as errors of this package.

    Args:
        what: Beginning of the message: what failed, and what to do.

    Raises:
        ContractError: The body raised an error other than an error of this package, a lack of memory, or a missing package.
    """
    try:
        yield
    except (CspladeError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if is_failure(error):
            if "trust_remote_code" in str(error):
                what = f"{what.partition(':')[0]} needs code of its own (trust_remote_code), which is never run"
            raise ContractError(f"{what} ({type(error).__name__}: {_short(error)})") from error
        raise


def read_json(path: str | Path) -> dict[str, Any]:
    """Read an object from a JSON file.

    Raises:
        ContractError: The file contains something else.
    """
    with own_errors(f"{path} cannot be read as JSON: copy it again"):
        values = read_any_json(Path(path))
    if not isinstance(values, dict):
        raise ContractError(f"{path} must contain an object, found {type(values).__name__}: copy it again")
    return values


def weight_files(name: str, revision: str | None = None) -> list[Path]:
    """Return the safetensors files of a model, from the hub's cache or its directory.

    Raises:
        FileNotFoundError: The model has no such file.
        ContractError: The index of its files is damaged.
    """
    if single := optional_file(name, SAFE_WEIGHTS_NAME, revision):
        return [Path(single)]
    index = optional_file(name, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is None:
        raise FileNotFoundError(
            f"{name} has no {SAFE_WEIGHTS_NAME}, and weights in pickles are never read: save it again with save_pretrained"
        )
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) and Path(file).name == file for file in names.values()):
        raise ContractError(f"{index}: weight_map must be an object of names of files beside it: copy it again")
    files = {file: optional_file(name, file, revision) for file in sorted(set(names.values()))}
    if missing := next((file for file, path in files.items() if path is None), None):
        raise FileNotFoundError(f"{name} has no {missing}, which {SAFE_WEIGHTS_INDEX_NAME} names: copy the checkpoint again")
    return [Path(str(path)) for path in files.values()]


def check_source(model: Any, changed: Mapping[str, Any]) -> None:
    """Refuse arguments that name no model, before a hub is asked.

    Args:
        model: Hub id, directory, GGUF file, or a pair (language model, tokenizer).
        changed: The other arguments that differ from their defaults. ``adapter`` is a hub id or directory.

    Raises:
        FileNotFoundError: A directory or file is missing, or a directory contains no checkpoint.
        ContractError: There is a revision, and ``model`` is a directory or a file.
        TypeError: ``model`` is neither a name nor a pair of a model and a tokenizer.
        ValueError: A pair was given, together with an argument for loading a model.
    """
    if not isinstance(model, str):
        parts = model if isinstance(model, tuple) else (model,)
        if not (len(parts) == 2 and hasattr(parts[0], "config") and hasattr(parts[1], "get_vocab")):
            found = ", ".join(type(part).__name__ for part in parts)
            raise TypeError(
                f"model must be a hub id, a directory, a GGUF file or a pair (language model, tokenizer), found {found}"
            )
        for name in LOADING_ARGUMENTS:
            if name in changed:
                raise ValueError(f"{name}={changed[name]!r} is for loading, but this model is loaded already: leave it out")
        return
    check_revision(model, changed.get("revision"))
    adapters = [(changed["adapter"], "adapter_config.json")] if "adapter" in changed else []
    for name, _ in ((model, ""), *adapters):
        _check_name(name)
    if is_gguf(model) and not Path(model).is_file():
        raise FileNotFoundError(f"there is no file {model}")
    for name, file in ((model, "config.json"), *adapters):
        path = Path(name)
        _check_files(path)
        if path.is_dir() and not (path / file).is_file():
            is_adapter = file == "config.json" and (path / "adapter_config.json").is_file()
            if is_adapter and not adapters:
                continue  # an adapter that names its base model
            remedy = ": it is an adapter: load it with CSPLADE(base model, adapter=...)" if is_adapter else ""
            raise FileNotFoundError(f"{name} contains no {file}{remedy}")
        if not path.exists() and (path.is_absolute() or name.startswith(("./", "../", "~"))):
            raise FileNotFoundError(f"there is no directory {name}")


def _check_files(directory: Path) -> None:
    """Refuse broken links and directories in the place of files: a contract or a tokenizer would be read as missing."""
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if path.suffix in _READ and not path.name.startswith(".") and not path.is_file():  # a kept digest may be unusable
                kind = "a link to a file that does not exist" if path.is_symlink() else "not a file"
                raise FileNotFoundError(f"{path} is {kind}: copy the model again, with the files to which its links point")


def _check_name(name: str) -> None:
    """Refuse a name of a model or an adapter that can be neither a directory or GGUF file nor a hub id."""
    path = Path(name)
    if not name.strip():
        raise ContractError("the name of the model or adapter is empty: give a directory or a hub id")
    if path.is_file() and not is_gguf(name):
        raise FileNotFoundError(f"{name} is a file: name the directory of the model or adapter")
    if path.exists() or is_gguf(name):
        return
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise FileNotFoundError(f"there is no directory {name}") from error


@contextlib.contextmanager
def replacing_files(directory: Path) -> Iterator[Path]:
    """Yield an empty directory for the files of a model, and move them into ``directory`` when all are written.

    Files are replaced and not overwritten, because a loaded model may read its weights from them. Other files stay, except
    weights of an earlier model. One process writes at a time while others wait.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / f"{_UNFINISHED}.lock"):
        for leftover in directory.glob(f"{_UNFINISHED}-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"{_UNFINISHED}-", dir=directory) as temporary:
            yield Path(temporary)
            written = [path.relative_to(temporary) for path in sorted(Path(temporary).rglob("*")) if path.is_file()]
            for stale in {path.name for path in directory.glob("model*.safetensors*")} - {str(path) for path in written}:
                (directory / stale).unlink()
            for path in sorted(written, key=lambda path: path.name == CONTRACT_FILE):
                (directory / path.parent).mkdir(exist_ok=True)
                (Path(temporary) / path).replace(directory / path)


def save_tokenizer(tokenizer: Any, directory: str | Path) -> None:
    """Write a tokenizer's files into a directory, without the entries that record how it was loaded."""
    tokenizer.save_pretrained(directory)
    remove_traces(directory)


def remove_traces(directory: str | Path) -> None:
    """Remove the entries that record how a tokenizer was loaded from all tokenizer files below a directory."""
    for path in Path(directory).rglob(_TOKENIZER_CONFIG):
        settings = read_json(path)
        kept = {key: value for key, value in settings.items() if key not in _TRACES}
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
