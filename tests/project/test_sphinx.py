"""Sphinx builds the documentation without warnings, and everything public is documented."""

from __future__ import annotations

import contextlib
import io
import re
import typing
import warnings
from pathlib import Path
from typing import Any

import pytest

import pyterrier_csplade
from pyterrier_csplade import collection, engines, training
from pyterrier_csplade.engines import opensearch
from pyterrier_csplade.index import search
from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig
from support.paths import ROOT

build_main = pytest.importorskip("sphinx.cmd.build").build_main

#: Names for the package itself and its tests.
INTERNAL = set(search.__all__) - {"POSTINGS_FILE", "Postings", "write_postings"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as HTML. Sphinx undoes its changes of docutils; a separate process would import everything again."""
    source, out = ROOT / "pyterrier_csplade" / "pt_docs", tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-D", "html_theme=basic", "-d", str(tmp_path_factory.mktemp("doctrees"))]
    with contextlib.redirect_stderr(io.StringIO()) as errors, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's; Sphinx counts its own
        status = build_main([*options, "-c", str(ROOT / "docs"), str(source), str(out)])
    assert status == 0, errors.getvalue()
    return out


def test_every_page_is_built(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "pyterrier_csplade" / "pt_docs").glob("*.rst")}
    assert pages <= {page.stem for page in site.glob("*.html")}
    assert 'class="problematic"' not in "".join(page.read_text(encoding="utf-8") for page in site.glob("*.html"))


def test_notes_on_code_have_numbers(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "tutorial.html").read_text(encoding="utf-8"))
    assert [re.search(rf"(\w+)\W+# \({n}\)$", text, re.MULTILINE) is not None for n in (1, 2, 3)] == [True, True, False]
    assert ":footnote:" not in text and re.search(r"^qid, tab, query\.\n+qid, 0, docno", text, re.MULTILINE)


def test_tables_of_contents_are_allowed_by_the_theme() -> None:
    """Furo prints an error in red above a table of contents without this class."""
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "pyterrier_csplade" / "pt_docs").glob("*.rst")]
    found = re.findall(r"^\.\. contents::.*\n((?: +:.*\n)*)", "".join(pages), re.MULTILINE)
    assert found and all(":class: this-will-duplicate-information-and-it-is-still-useful-here" in options for options in found)


@pytest.mark.parametrize("module", [pyterrier_csplade, collection, engines, opensearch, search, training])
def test_every_public_name_is_documented(site: Path, module: Any) -> None:
    text = "".join((site / f"{page}.html").read_text(encoding="utf-8") for page in ("api", "engines"))
    documented = set(re.findall(r'<dt class="sig sig-object py" id="([.\w]+)"', text))
    at_the_top = {name for name in module.__all__ if getattr(pyterrier_csplade, name, None) is getattr(module, name)}
    places = {name: pyterrier_csplade if name in at_the_top else module for name in set(module.__all__) - INTERNAL}
    assert places and {f"{place.__name__}.{name}" for name, place in places.items()} <= documented


def test_arguments_are_described_with_their_types(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    entry = text.split('id="pyterrier_csplade.ImpactIndex.retriever"')[1].split('<dt class="sig')[0]
    plain = " ".join(re.sub(r"<[^>]+>", "", entry).split())
    assert re.search(r"num_results \(int\) – \w+ \w+", plain)
    assert re.search(r"\*\*options \(Any\) – \w+ \w+", plain)


@pytest.mark.parametrize("config", [AdaptationConfig, ContrastiveConfig])
def test_types_of_inherited_settings_resolve(config: Any) -> None:
    """PyTerrier's documentation resolves the annotations of a constructor in the module of its class."""
    assert set(typing.get_type_hints(config.__init__)) == {*typing.get_type_hints(config), "return"}
