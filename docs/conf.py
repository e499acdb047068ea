"""Configuration of Sphinx for ``pt_docs`` alone: PyTerrier's settings, and stand-ins for its own directives.

Usage: python -m sphinx -W -c docs pyterrier_csplade/pt_docs site
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.directives.code import CodeBlock
from sphinx.util.docutils import SphinxDirective

project = "pyterrier_csplade"
html_title = "CSPLADE for PyTerrier"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
autodoc_typehints = "description"
autoclass_content = "both"
autodoc_inherit_docstrings = False


class HowTo(SphinxDirective):
    """A section with a title."""

    has_content, required_arguments, final_argument_whitespace = True, 1, True

    def run(self) -> list[Any]:
        """Return the section."""
        section = nodes.section(ids=[nodes.make_id(self.arguments[0])])
        section += nodes.title("", "", *self.state.inline_text(self.arguments[0], self.lineno)[0])
        self.state.nested_parse(self.content, self.content_offset, section)
        return [section]


class Related(SphinxDirective):
    """A link to what is documented elsewhere; PyTerrier drops it without a word where there is no such thing."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Return the link."""
        paragraph = nodes.paragraph()
        name = self.arguments[0]
        self.state.nested_parse(StringList([f":any:`{name}`"], source=self.env.docname), self.content_offset, paragraph)
        return [paragraph]


class FootnotedCode(CodeBlock):
    """Code whose comments ``:footnote:`` are numbered, with their texts below the code."""

    content: Any

    def run(self) -> list[Any]:
        """Return the code and its notes."""
        notes: list[str] = []

        def number(comment: re.Match[str]) -> str:
            notes.append(f"({len(notes) + 1}) {comment[1]}")
            return f"# ({len(notes)})"

        self.content = StringList(
            [re.sub(r"# *:footnote: *(.+)", number, line) for line in self.content], source=self.env.docname
        )
        container = nodes.container()
        lines = "\n\n".join(notes).splitlines()
        self.state.nested_parse(StringList(lines, source=self.env.docname), self.content_offset, container)
        return [*super().run(), container]


def setup(app: Sphinx) -> None:
    """Register the directives."""
    app.add_directive("how-to", HowTo)
    app.add_directive("related", Related)
    app.add_directive("code-block", FootnotedCode, override=True)
