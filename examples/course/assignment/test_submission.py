"""The grader.

Usage: SUBMISSION=path/to/submission.py python -m pytest -q -p no:cacheprovider examples/course/assignment

``GRADER_SEED`` (a whole number; default 1) changes the hidden data.
"""

from __future__ import annotations

import importlib.util
import os
import sys
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
    assert specification is not None and specification.loader is not None, f"{path} is not a Python file"
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("task", checks.POINTS)
def test_task(task: str, student: ModuleType) -> None:
    """Check a task on hidden data."""
    try:
        getattr(checks, f"check_{task}")(student, SEED)
    except NotImplementedError:
        pytest.fail(f"{task}: not implemented yet", pytrace=False)
    except AssertionError as error:
        pytest.fail(f"{task}: {error}", pytrace=False)
