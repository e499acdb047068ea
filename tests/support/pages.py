"""Pages of the documentation."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from support.paths import ROOT

PAGES = sorted((ROOT / "pyterrier_csplade" / "pt_docs").glob("*.rst"), key=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page, without options and footnotes."""
    pattern = rf"^( *)\.\. code-block:: {language}\n((?:\1 +.*\n|\n)+)"
    found = [textwrap.dedent(match.group(2)) for match in re.finditer(pattern, page.read_text(encoding="utf-8"), re.MULTILINE)]
    return [re.sub(r"^:\w+:.*\n|#? ?:footnote:.*", "", block, flags=re.MULTILINE) for block in found]
