"""Pages of the documentation."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from support.paths import ROOT

PAGES = sorted((ROOT / "pyterrier_csplade" / "pt_docs").glob("*.rst"), key=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page, without options and footnotes."""
    return [code for _, code in ordered_blocks(page, language)]


def ordered_blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """Return the language and the code of the blocks of a page in these languages, in their order."""
    pattern = rf"^( *)\.\. code-block:: ({'|'.join(languages)})\n((?:\1 +.*\n|\n)+)"
    found = re.finditer(pattern, page.read_text(encoding="utf-8"), re.MULTILINE)
    blocks = [(match.group(2), textwrap.dedent(match.group(3))) for match in found]
    return [(language, re.sub(r"^:\w+:.*\n|#? ?:footnote:.*", "", code, flags=re.MULTILINE)) for language, code in blocks]
