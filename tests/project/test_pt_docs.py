"""The pages for PyTerrier's documentation are valid, and their code runs."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from pyterrier_csplade import CSPLADE
from pyterrier_csplade.training import AdaptationConfig, ContrastiveConfig, DistilQueryConfig, TableConfig, load_config
from pyterrier_csplade.training.images import ImagesConfig
from support.pages import PAGES, blocks
from support.paths import ROOT

WITHOUT_PYTHON = {
    "api",
    "benchmarks",
    "command-line",
    "contributing",
    "engines",
    "images",
    "lexical-warm-start",
    "opensearch",
    "overview",
    "scale-out",
    "training",
    "concepts",
    "glossary",
    "models",
    "other-tools",
}


def test_there_are_pages() -> None:
    assert {"api", "engines", "how-to", "index", "overview"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run(page: Path, csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(CSPLADE, "tiny", lambda: csplade)
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page, "python"))
    assert code or page.stem in WITHOUT_PYTHON
    names: dict[str, Any] = {}
    exec(compile(code, str(page), "exec"), names)
    for name in {"pipeline", "retriever", "reranker", "maxp", "fused", "tuned", "weighted", "beside"} & set(names):
        assert len(names[name].search("inverted index")) > 0
    if page.stem == "how-to":
        check_recipes(names, tmp_path)


def check_recipes(names: dict[str, Any], directory: Path) -> None:
    """Compare what the recipes of the page made with references."""
    csplade, corpus, topics = names["csplade"], names["corpus"], names["topics"].head(1)
    sides = [names["terms"].bm25(num_results=100), names["retriever"]]
    ranks: defaultdict[str, float] = defaultdict(float)
    scores: defaultdict[str, float] = defaultdict(float)
    for side, share in zip(sides, (0.3, 0.7)):
        found = side(topics)
        low, high = found["score"].min(), found["score"].max()
        for docno, rank, score in zip(found["docno"], found["rank"], found["score"]):
            ranks[docno] += 1 / (61 + rank)
            scores[docno] += share * ((score - low) / (high - low) if high > low else 1.0)
    for name, expected in (("fused", ranks), ("weighted", scores)):
        fused = names[name](topics)
        assert dict(zip(fused["docno"], fused["score"])) == pytest.approx(dict(expected)), name
    toks = {document["docno"]: document["toks"] for document in csplade.doc_encoder().transform_iter(corpus)}
    lines = [json.loads(line) for line in (directory / "vectors.jsonl").read_text().splitlines()]
    assert {line["id"]: line["vector"] for line in lines} == toks
    assert (directory / "lsr" / "query" / "query-ids.txt").read_text() == "q1\nq2\n"


def test_ciff_holds_the_impacts(csplade: CSPLADE, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ciff: Any = pytest.importorskip("pyterrier_ciff")
    monkeypatch.chdir(tmp_path)
    corpus = [{"docno": "d1", "text": "An inverted index."}, {"docno": "d2", "text": "Cats sleep, dogs do not."}]
    exec(blocks(next(page for page in PAGES if page.stem == "how-to"), "python3")[0], {"csplade": csplade, "corpus": corpus})
    found: list[dict[str, int]] = [{}, {}]
    for record in (record for record in ciff.CiffIndex("my.ciff") if hasattr(record, "postings")):
        for posting, docid in zip(record.postings, accumulate(posting.docid for posting in record.postings)):
            found[docid][record.term] = posting.tf
    assert found == [document["toks"] for document in csplade.doc_encoder().transform_iter(corpus)]


def test_configurations_are_valid(tmp_path: Path) -> None:
    adaptation, contrastive = blocks(next(page for page in PAGES if page.stem == "how-to"), "yaml")
    for text, config in ((adaptation, AdaptationConfig), (contrastive, ContrastiveConfig)):
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        assert load_config(path, config).steps > 0
    for text in blocks(next(page for page in PAGES if page.stem == "lexical-warm-start"), "yaml"):
        path.write_text(text, encoding="utf-8")
        kind: Any = AdaptationConfig if "corpus:" in text else ContrastiveConfig
        assert load_config(path, kind).steps > 0
    for name in ("training", "training-practice"):
        for text in blocks(next(page for page in PAGES if page.stem == name), "yaml"):
            path.write_text(text, encoding="utf-8")
            assert load_config(path, ContrastiveConfig).steps > 0
    (text,) = blocks(next(page for page in PAGES if page.stem == "images"), "yaml")
    path.write_text(text, encoding="utf-8")
    assert load_config(path, ImagesConfig).validation is not None
    table, part, shallow = blocks(next(page for page in PAGES if page.stem == "query-tables"), "yaml")
    path.write_text(table, encoding="utf-8")
    assert load_config(path, TableConfig).entries == 4
    path.write_text(contrastive + part, encoding="utf-8")
    assert load_config(path, ContrastiveConfig).learns_table
    path.write_text(shallow, encoding="utf-8")
    assert load_config(path, DistilQueryConfig).layers == [0, 2]


def test_documented_names_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?:auto\w+::|related::|:\w+:`~?) ?(pyterrier_csplade[.\w]*)", text):
            assert pkgutil.resolve_name(name)


def test_unpublished_values_are_marked_in_one_form() -> None:
    """The overview page defines the form."""
    files = [*PAGES, ROOT / "README.md", *(ROOT / "examples").rglob("*.yaml")]
    for file in files:
        assert not re.search(r"\bours\b", file.read_text(encoding="utf-8")), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_valid_rst(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses stand-ins for the directives of Sphinx and of PyTerrier's documentation."""
    docutils: Any = pytest.importorskip("docutils.core")
    nodes: Any = importlib.import_module("docutils.nodes")
    rst: Any = importlib.import_module("docutils.parsers.rst")

    class Nested(rst.Directive):  # type: ignore[misc,name-defined]
        has_content, optional_arguments, final_argument_whitespace = True, 1, True
        option_spec = dict.fromkeys(("maxdepth", "members", "caption"), rst.directives.unchanged)

        def run(self) -> list[Any]:
            container = nodes.container()
            if self.name == "how-to":
                self.state.nested_parse(self.content, self.content_offset, container)
            return [container]

    # Sphinx, which a test starts in this process, must not find the stand-ins.
    monkeypatch.setattr(rst.directives, "_directives", dict(rst.directives._directives))
    monkeypatch.setattr(rst.roles, "_roles", dict(rst.roles._roles))
    for name in ("toctree", "how-to", "related", "autoclass", "autofunction", "autoexception", "autodata", "code-block"):
        rst.directives.register_directive(name, Nested)
    for name in ("class", "doc", "func", "meth", "ref"):
        rst.roles.register_local_role(name, lambda role, raw, text, line, inliner, **rest: ([nodes.literal(raw, text)], []))
    settings = {"halt_level": 2, "report_level": 2, "warning_stream": False}
    docutils.publish_doctree(page.read_text(encoding="utf-8"), settings_overrides=settings)
