"""The structure of the package, read from its syntax trees: who may import whom, and how long things are."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pyterrier_csplade"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

# Index and retrieval must work without a language model.
LIGHT = [
    "_contract.py", "_documents.py", "_errors.py", "_impacts.py", "_index.py", "_indexer.py", "_java.py", "_manifest.py",
    "_retriever.py", "_spool.py", "_texts.py", "_transformers.py", "_scorer.py", "_vectors.py", "_vocabulary.py",
    "_workspace.py", "_pipelining.py",
    "_plots.py", "_presets.py", "_pruning.py", "_recall.py", "_retrieval.py", "_token_counts.py",
    "_jsonl.py",
    "_model_transformer.py", "_one_encoder.py", "_source.py",
    "_artifact.py", "_building.py", "_intake.py", "_metadata.py", "_readback.py",
    *(file for file in FILES if file.startswith("terrier/")),
    *(file for file in FILES if file.startswith("collection/") and file not in ("collection/_ray.py", "collection/_launch.py")),
    *(file for file in FILES if file.startswith(("search/", "engines/", "opensearch/"))),
]  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "ray"}
MODEL = {
    "_model",
    "_backbone",
    "_loading",
    "_encoding",
    "_csr",
    "_pooling",
    "_head",
    "_onednn",
    "_screen",
    "_varlen",
    "_selftest",
}


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes(root: ast.AST, *, functions: bool) -> list[ast.AST]:
    """All nodes that run: without ``if TYPE_CHECKING``, and without function bodies unless asked."""
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(root):
        if is_type_checking(child) or (not functions and isinstance(child, (ast.FunctionDef, ast.Lambda))):
            continue
        found += [child, *nodes(child, functions=functions)]
    return found


def imports(file: str, *, functions: bool = True) -> set[str]:
    """Modules that a file imports; those of this package without its name, dots for packages."""
    package = file.split("/")[:-1]
    found = set()
    for node in nodes(tree(file), functions=functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join(["pyterrier_csplade", *base, name]) for name in names}
    return {name.removeprefix("pyterrier_csplade.") for name in found}


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("training/") and file != "_cli.py"])
def test_inference_never_imports_training(file: str) -> None:
    assert not [name for name in imports(file) if name.split(".")[0] == "training"]


@pytest.mark.parametrize("file", LIGHT)
def test_index_and_retrieval_know_nothing_of_language_models(file: str) -> None:
    assert not {name.split(".")[0] for name in imports(file)} & (HEAVY | MODEL)


@pytest.mark.parametrize("file", FILES)
def test_no_staging_area_and_no_print(file: str) -> None:
    assert not [name for name in imports(file) if name.startswith("pyterrier_alpha")]
    assert not [node for node in nodes(tree(file), functions=True) if isinstance(node, ast.Name) and node.id == "print"]


def test_no_cycles() -> None:
    names = {file: file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in FILES}
    graph = {name: imports(file, functions=False) & set(names.values()) for file, name in names.items()}
    assert graph["_index"] >= {"_indexer", "_retriever"}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("file", FILES)
def test_short_files_and_functions(file: str) -> None:
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= 300
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_files_of_tests_are_short_too(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("file", FILES)
def test_every_file_says_what_it_is_for(file: str) -> None:
    assert ast.get_docstring(tree(file))


def test_public_names_exist() -> None:
    import pyterrier_csplade

    assert {"CSPLADE", "ImpactIndex"} <= set(pyterrier_csplade.__all__) <= set(dir(pyterrier_csplade))
    for name in pyterrier_csplade.__all__:
        assert getattr(pyterrier_csplade, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_such"):
        pyterrier_csplade.nothing_such  # noqa: B018
