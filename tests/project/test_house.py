"""The layers of the package: a folder imports only folders below it, and no files import each other in a circle.

Annotations and imports inside functions count.
"""

from __future__ import annotations

import ast
import contextlib
import runpy
import subprocess
import sys
from collections.abc import Sequence
from configparser import ConfigParser
from functools import cache
from graphlib import TopologicalSorter
from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.paths import ROOT, TESTS

PACKAGE = ROOT / "pyterrier_csplade"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

#: From the top down. Folders of one layer do not import each other.
LAYERS = [
    {"cli"},
    {"training", "collection", "engines", "evaluation", "fusion"},
    {"images"},
    {"index", "model", "queries"},
    {"vectors", "storage", "data"},
    {"_errors", "_lazy", "_settings", "_version", "_warnings"},
]
LIGHT = ["data", "engines", "engines.opensearch", "index", "index.search", "index.terrier", "queries", "storage", "vectors"]
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "ray"}


def module(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")


MODULES = {module(file): file for file in FILES}


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


@cache
def imports(file: str) -> frozenset[str]:
    """Return the modules that a file imports, those of this package without its name."""
    parents = module(file).split(".")[: None if file.endswith("__init__.py") else -1]
    found = imported_names(tree(file), parents)
    own = {name.removeprefix("pyterrier_csplade.") for name in found if name.startswith("pyterrier_csplade.")}
    return frozenset((own & MODULES.keys()) - {module(file)}) | {name for name in found if not name.startswith("pyterrier_c")}


def imported_names(code: ast.Module, parents: Sequence[str] = ()) -> set[str]:
    """Return the dotted names that a module imports; ``parents`` are the folders of the module inside the package."""
    found = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            start = ".".join([*(["pyterrier_csplade"] if node.level else []), *base, *([node.module] if node.module else [])])
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    return found


def layer(name: str) -> int:
    return next(number for number, folders in enumerate(LAYERS) if name.split(".")[0] in folders)


@pytest.mark.parametrize("file", [file for file in FILES if file not in ("__init__.py", "__main__.py")])
def test_a_folder_imports_only_folders_below_it(file: str) -> None:
    name = module(file)
    others = {other for other in imports(file) & MODULES.keys() if other and other.split(".")[0] != name.split(".")[0]}
    assert [other for other in others if layer(other) <= layer(name)] == []


def test_no_circles() -> None:
    # The face of a folder only re-exports names, so its imports do not count.
    faces = {module(file) for file in FILES if file.endswith("__init__.py")}
    graph = {name: imports(file) & (MODULES.keys() - faces) for name, file in MODULES.items() if name not in faces}
    assert "index.stored" in graph["index.index"]
    TopologicalSorter(graph).prepare()


def test_few_files_at_the_root_and_none_long() -> None:
    assert sum("/" not in file and file != "__init__.py" for file in FILES) <= 8
    lengths = {file: len((PACKAGE / file).read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: length for file, length in lengths.items() if length > 600} == {}


@pytest.mark.parametrize("file", FILES)
def test_functions_are_short_files_say_what_they_are_for_and_nothing_prints(file: str) -> None:
    assert ast.get_docstring(tree(file))
    for node in ast.walk(tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"
        assert not (isinstance(node, ast.Name) and node.id == "print")
    assert not [name for name in imports(file) if name.startswith("pyterrier_alpha")]


def test_index_and_retrieval_load_no_language_model() -> None:
    """Import all modules of the folders, not only their faces."""
    faces = tuple(f"{face}." for face in LIGHT)
    names = [f"pyterrier_csplade.{name}" for name in MODULES if f"{name}.".startswith(faces) and ".kernels." not in name]
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        f"    if loaded := {HEAVY} & sys.modules.keys(): sys.exit(f'{{name}} loads {{loaded}}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_exist() -> None:
    import pyterrier_csplade

    assert {"CSPLADE", "ImpactIndex"} <= set(pyterrier_csplade.__all__) <= set(dir(pyterrier_csplade))
    for name in pyterrier_csplade.__all__:
        assert getattr(pyterrier_csplade, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_such"):
        pyterrier_csplade.nothing_such  # noqa: B018


def private_importers() -> list[str]:
    """Return the test files that import files of the package's folders instead of the faces."""
    files = {f"pyterrier_csplade.{name}" for name, file in MODULES.items() if "." in name and not file.endswith("__init__.py")}
    found = ((path, imported_names(ast.parse(path.read_text(encoding="utf-8")))) for path in TESTS.rglob("*.py"))
    return sorted(path.relative_to(TESTS).as_posix() for path, names in found if names & files)


def test_few_test_files_import_private_modules() -> None:
    assert len(private_importers()) <= 25, private_importers()


@pytest.mark.parametrize("file", FILES)
def test_no_code_of_a_checkpoint_is_run(file: str) -> None:
    """Without the argument, transformers asks on a terminal whether it may run a stranger's code."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            if node.func.value.id.startswith("Auto") and node.func.attr in ("from_pretrained", "from_config"):
                given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert given.get("trust_remote_code") is False, f"{file}, line {node.lineno}"


def required(names: Sequence[str]) -> set[str]:
    """Return distributions and all that they need, as far as they are installed."""
    found: set[str] = set()
    waiting = [(requirement.name, requirement.extras) for requirement in map(Requirement, names)]
    while waiting:
        name, extras = canonicalize_name(waiting[-1][0]), waiting.pop()[1]
        if name in found and not extras:
            continue
        found.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            for inner in map(Requirement, metadata.requires(name) or ()):
                if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                    waiting.append((inner.name, inner.extras))
    return found


def test_imports_are_of_packages_that_a_development_environment_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """mypy refuses others in a fresh environment, but not in one that has more packages."""
    settings: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **given: settings.update(given))
    runpy.run_path(str(ROOT / "setup.py"))
    installed = required([*settings["install_requires"], *settings["extras_require"]["dev"]])
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    sections = (name.removeprefix("mypy-") for name in config if config.has_option(name, "ignore_missing_imports"))
    known = {name.strip().removesuffix(".*") for section in sections for name in section.split(",")}
    known |= {*sys.stdlib_module_names, "pyterrier_csplade", *(path.stem for path in TESTS.iterdir())}
    providers = metadata.packages_distributions()
    for path in [*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")]:
        for name in imported_names(ast.parse(path.read_text(encoding="utf-8"))):
            top = name.partition(".")[0]
            distributions = {canonicalize_name(distribution) for distribution in providers.get(top, [top])}
            assert top in known or distributions & installed, f"{path} imports {name}: add its package to the extra dev"


def test_lower_bounds_that_were_found_by_trying_are_kept() -> None:
    """Earlier versions of filelock let two processes hold a lock, of peft fail to import; others lack functions or packages."""
    setup = (ROOT / "setup.py").read_text()
    bounds = (
        "filelock>=3.32.7", "accelerate>=1.10", "transformers>=5.20", "torch>=2.8", "peft>=0.18", "gguf>=0.11",
        "bitsandbytes>=0.47", "sentence-transformers>=6", "pillow>=11",
    )  # fmt: skip
    for bound in bounds:
        assert f'"{bound}"' in setup
    assert "--resolution lowest-direct" in (ROOT / "pyterrier_csplade" / "pt_docs" / "contributing.rst").read_text()
