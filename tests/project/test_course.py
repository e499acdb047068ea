"""The course kit: the notebook runs, and the grader accepts the solution and names each mistake."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.paths import ROOT

COURSE = ROOT / "examples" / "course"
LAB = json.loads((COURSE / "lab.ipynb").read_text(encoding="utf-8"))


def load(name: str, source: str | None = None) -> ModuleType:
    """Load a file of the assignment, or a changed copy of its source."""
    path = COURSE / "assignment" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(f"assignment_{name}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    exec(compile(source or path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    return module


CHECKS = load("checks")
SOLUTION = (COURSE / "assignment" / "solution.py").read_text(encoding="utf-8")
QUICK = [task for task in CHECKS.POINTS if task != "systems"]


def code_cells() -> list[str]:
    return ["".join(cell["source"]) for cell in LAB["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_no_outputs_and_its_code_parses() -> None:
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in LAB["cells"])
    assert LAB["metadata"]["kernelspec"]["name"] == "python3" and (LAB["nbformat"], len(code_cells()) > 20) == (4, True)
    assert len({cell["id"] for cell in LAB["cells"]}) == len(LAB["cells"])
    for code in code_cells():
        ast.parse(code)


def test_everything_that_the_notebook_imports_exists() -> None:
    imports = [node for code in code_cells() for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert len(imports) >= 4
    for node in imports:
        exec(compile(ast.Module([node], []), "lab.ipynb", "exec"), {})


def test_arguments_of_the_package_exist() -> None:
    """The keyword arguments of the training configurations, which no import checks."""
    from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig

    calls = [node for code in code_cells() for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    for kind in (AdaptationConfig, ContrastiveConfig):
        named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == kind.__name__]
        found = {keyword.arg for call in named for keyword in call.keywords}
        assert found and found <= set(inspect.signature(kind).parameters)


#: What makes the notebook small: fewer documents, queries and steps.
SMALL = {
    "corpus = everything[::4]": "everything = everything[::12]\ncorpus = everything[::4]",
    "topics.sample(100": "topics.sample(20",
    "steps = 24": "steps = 2",
    "steps=20": "steps=2",
}


@pytest.mark.slow  # a minute, and minutes
@pytest.mark.parametrize("replaced", [SMALL, {}], ids=["small", "whole"])
def test_the_notebook_runs(replaced: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(COURSE / "lab.ipynb", 4)
    for before, after in replaced.items():
        (cell,) = (cell for cell in notebook.cells if before in cell.source)
        cell.source = cell.source.replace(before, after)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8


@pytest.mark.parametrize("seed", [1, 2, 31])
@pytest.mark.parametrize("task", QUICK)
def test_the_grader_accepts_the_solution(task: str, seed: int) -> None:
    getattr(CHECKS, f"check_{task}")(load("solution"), seed)


@pytest.mark.parametrize("task", CHECKS.POINTS)
def test_stubs_are_not_implemented(task: str) -> None:
    if task != "systems":
        with pytest.raises(NotImplementedError):
            getattr(CHECKS, f"check_{task}")(load("submission"), 1)


#: Task, what a student writes in place of the solution's code, and what the grader says.
MISTAKES: list[tuple[str, str, str, str]] = [
    ("encode", "np.log1p(np.maximum(highest, 0))", "np.maximum(highest, 0)", "the logarithm is missing: the weight is"),
    (
        "encode",
        "np.where(mask[:, :, None], logits, -np.inf).max(axis=1)",
        "logits.max(axis=1)",
        "padding is part of the maximum: exclude",
    ),
    (
        "encode",
        "np.where(mask[:, :, None], logits, -np.inf).max(axis=1)",
        "np.ma.array(logits, mask=~np.repeat(mask[:, :, None], logits.shape[2], 2)).mean(axis=1).filled()",
        "the mean over positions is used",
    ),
    (
        "encode",
        "np.where(mask[:, :, None], logits, -np.inf).max(axis=1)",
        "logits.mean(axis=1)",
        "the mean over all positions is used",
    ),
    ("encode", "np.log1p(np.maximum(highest, 0))", "np.log1p(highest)", "the ReLU is missing"),
    (
        "encode",
        "np.log1p(np.maximum(highest, 0))",
        "np.log(np.maximum(highest, 0))",
        "the logarithm of x is used instead of 1",
    ),
    ("encode", "np.log1p(np.maximum(highest, 0))", "np.log1p(np.maximum(highest, 0)) * 2", r"the value at \(\d, \d+\) is"),
    ("quantise", "np.floor(weights * scale + 0.5)", "(weights * scale)", "impacts are truncated instead of rounded"),
    ("quantise", "np.floor(weights * scale + 0.5)", "np.round(weights * scale)", "halves are rounded to even numbers"),
    ("quantise", "np.floor(weights * scale + 0.5)", "np.floor(weights / scale + 0.5)", "divided by the scale: multiply"),
    ("quantise", ".astype(int)", "", "impacts must be integers, found the type float64"),
    (
        "choose_scale",
        "for scale in sorted(scales):",
        "for scale in sorted(scales)[:1]:\n        return scale",
        "is too coarse: it keeps only",
    ),
    ("choose_scale", "for scale in sorted(scales):", "for scale in sorted(scales)[::-1]:", "is finer than needed"),
    ("prune", "(-item[1], item[0])", "(item[1], item[0])", "pruned from the wrong side: the . lightest of 30 terms"),
    ("prune", "(-item[1], item[0])", "-item[1]", "among terms with equal impacts, keep the first"),
    ("build_index", "enumerate(documents)", "enumerate(documents, start=1)", "documents are numbered from 1"),
    ("build_index", "enumerate(documents)", "reversed(list(enumerate(documents)))", "are not in the order of the documents"),
    ("search", "+ weight * impact", "+ impact", "the weights of the query are not used"),
    ("search", "(-item[1], item[0]))[:k]", "item[1])[:k]", "the best document must come first"),
    (
        "search",
        "query.items():",
        "[(t, query.get(t, 0.0)) for t, _ in index.items()]:",
        "search reads postings of terms",
    ),
    ("search", "scores: dict[int, float] = {}", "scores = dict.fromkeys(range(40), 0.0)", "documents without a term of the"),
    ("fusion", "-scores[docno], docno", "scores[docno], docno", "the fused ranking begins with"),
    ("fusion", "(60 + rank)", "rank", "the fused ranking begins with"),
]


@pytest.mark.parametrize(("task", "right", "wrong", "message"), MISTAKES)
def test_the_grader_names_the_mistake(task: str, right: str, wrong: str, message: str) -> None:
    function = {"fusion": "reciprocal_rank_fusion"}.get(task, task)
    before, start, rest = SOLUTION.partition(f"def {function}(")
    assert right in rest
    student = load("solution", before + start + rest.replace(right, wrong, 1))
    with pytest.raises(AssertionError, match=message):
        getattr(CHECKS, f"check_{task}")(student, 1)


@pytest.mark.slow  # encodes 60 documents
def test_the_grader_notices_a_hybrid_that_adds_up_scores() -> None:
    wrong = load("solution", SOLUTION.replace("hybrid(bm25, learned, num_results=20)", "(bm25 + learned) % 20"))
    with pytest.raises(AssertionError, match="the hybrid ranks like CSPLADE alone, as if scores of different scales"):
        CHECKS.check_systems(wrong, 1)


def grade(path: Path) -> tuple[int, str]:
    """Run the grader as students do, over a file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SUBMISSION": str(path)}
    command = [sys.executable, "-m", "pytest", str(COURSE / "assignment")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path.parent, check=False)
    return done.returncode, done.stdout


@pytest.mark.slow  # starts pytest twice, and loads the model
def test_the_grader_adds_up_points(tmp_path: Path) -> None:
    status, said = grade(COURSE / "assignment" / "solution.py")
    assert status == 0 and "sum            100 of 100" in said, said
    (tmp_path / "mine.py").write_text("def encode(:\n")
    status, said = grade(tmp_path / "mine.py")
    assert status == 1 and re.search(r"mine\.py cannot be loaded: SyntaxError: .*line 1", said), said


def test_the_grader_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    """Stubs, a wrong result, an exception in a student's code, and a result that cannot be used."""
    stubs = (COURSE / "assignment" / "submission.py").read_text(encoding="utf-8")
    for body in (
        "return np.maximum(logits.max(axis=1), 0)",
        "return weights[1000]",
        "raise NotImplementedError",
        "return None",
    ):
        stubs = stubs.replace("raise NotImplementedError\n", f"{body}  # changed\n", 1)
    path = tmp_path / "mine.py"
    path.write_text(stubs)
    status, said = grade(path)
    assert status == 1 and "sum              0 of 100" in said, said
    assert "encode: the logarithm is missing, and padding is part of the maximum" in said
    assert re.search(r"quantise: IndexError: .*\(line \d+: return weights\[1000\]  # changed\)", said)
    assert "choose_scale: not implemented yet" in said
    assert re.search(r"prune: .*Error: .*; does the function return what its docstring states\?", said)


def test_points_are_those_of_the_task_list() -> None:
    for name in ("README.md", "RUBRIC.md"):
        text = (COURSE / "assignment" / name).read_text(encoding="utf-8")
        for task, points in CHECKS.POINTS.items():
            function = {"fusion": "reciprocal_rank_fusion"}.get(task, task)
            assert any(f"`{function}`" in line and f"| {points} |" in line for line in text.splitlines()), (name, task)
    assert sum(CHECKS.POINTS.values()) == 100
