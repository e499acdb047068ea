"""Prints the points after the grader's tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the points of each task, and their sum."""
    import checks

    passed = {
        match[1]
        for report in terminalreporter.getreports("passed")
        if report.when == "call" and (match := re.search(r"test_submission\.py::test_task\[(\w+)\]", report.nodeid))
    }
    terminalreporter.section("points")
    for task, points in checks.POINTS.items():
        terminalreporter.write_line(f"{task:<14}{points if task in passed else 0:>4} of {points}")
    terminalreporter.write_line(f"{'sum':<14}{sum(checks.POINTS[task] for task in passed):>4} of {sum(checks.POINTS.values())}")
