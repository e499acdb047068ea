"""The grader.

Usage: SUBMISSION=path/to/submission.py python -m pytest examples/course/assignment

``GRADER_SEED`` (a whole number; default 1) changes the hidden data.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import checks  # noqa: E402

SEED = int(os.environ.get("GRADER_SEED", "1"))


@pytest.fixture(scope="session")
def student() -> ModuleType:
    """The student's file."""
    path = Path(os.environ.get("SUBMISSION", HERE / "submission.py")).resolve()
    specification = importlib.util.spec_from_file_location("submission_of_student", path)
    if specification is None or specification.loader is None or not path.is_file():
        pytest.fail(f"{path} is not a Python file", pytrace=False)
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        pytest.fail(f"{path.name} cannot be loaded: {described(error, path)}", pytrace=False)
    return module


def described(error: Exception, path: Path) -> str:
    """Return an exception with the line of the student's file that raised it."""
    name = f"{type(error).__name__}: {error}"
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{name} (line {lines[-1].lineno}: {lines[-1].line})" if lines else name


@pytest.mark.parametrize("task", checks.POINTS)
def test_task(task: str, student: ModuleType) -> None:
    """Check a task on hidden data."""
    try:
        getattr(checks, f"check_{task}")(student, SEED)
    except NotImplementedError:
        pytest.fail(f"{task}: not implemented yet", pytrace=False)
    except AssertionError as error:
        pytest.fail(f"{task}: {error}", pytrace=False)
    except Exception as error:
        found = described(error, Path(str(student.__file__)))
        hint = "" if "(line " in found else "; does the function return what its docstring states?"
        pytest.fail(f"{task}: {found}{hint}", pytrace=False)
