"""The command ``search``, which writes a TREC run for a file of queries, or explains the results of one query."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyterrier_csplade._errors import CspladeError, DataError

from .arguments import Say, count, examples, given_path, new_path
from .given import encoded_topics
from .models import add_model_options, named_query_side, query_encoder

if TYPE_CHECKING:
    import pandas as pd

    from pyterrier_csplade.index.index import ImpactIndex


# Default number of results in a table and in a run; our choice (not measured). PyTerrier uses 1,000 for runs.
_SHOWN, _RUN = 10, 1000
# Compressions that pandas would choose by the name of a run, but that PyTerrier does not read, and PyTerrier's lz4, which needs
# another package.
_UNREADABLE = (".zst", ".xz", ".zip", ".tar", ".lz4")


def add_command(commands: Any, say: Say) -> None:
    """Add ``search`` to the command line."""
    search = commands.add_parser(
        "search",
        help="search an index, and write a TREC run or explain the results of one query",
        description="Search an index without Java. For a file of queries, write a TREC run. For one query, print a table that "
        "explains each score.",
        **examples("search docs.csplade 'inverted index'", "search docs.csplade --topics topics.tsv --output csplade.run"),
    )
    search.add_argument("index", type=given_path, metavar="INDEX", help="directory of the index")
    search.add_argument("query", nargs="?", metavar="QUERY", help="one query")
    search.add_argument(
        "--topics",
        metavar="T",
        help=".jsonl, .tsv, .csv, .parquet or TREC topics, ir_datasets id or PyTerrier dataset; queries with a vector in the "
        "field query_toks or vector need no model",
    )
    search.add_argument("--split", metavar="S", help="split of a directory, or variant of a dataset's topics")
    search.add_argument("--field", metavar="F", help="field of the query text; default: query, text or title")
    search.add_argument("--output", type=new_path, metavar="RUN", help="file of the run, for --topics")
    search.add_argument("--tag", default="csplade", help="name of the system in the run; default: %(default)s")
    search.add_argument(
        "--num-results", type=count, metavar="N", help=f"documents per query; default: {_RUN:,} in a run, {_SHOWN} in a table"
    )
    search.add_argument(
        "--algorithm",
        default="exhaustive",
        choices=["exhaustive", "maxscore", "bmp", "terrier"],
        help="default: %(default)s; maxscore and bmp need numba, terrier needs Java; the results are the same",
    )
    search.add_argument(
        "--show", nargs="+", default=[], metavar="F", help="stored fields to show in a table; reading them needs Java"
    )
    add_model_options(search)
    search.set_defaults(run=lambda arguments: _search(arguments, say), again="nothing was written: run the same command again")


def _search(arguments: argparse.Namespace, say: Say) -> None:
    from pyterrier_csplade.index.index import ImpactIndex

    if (arguments.query is None) == (arguments.topics is None):
        raise CspladeError("search needs either one QUERY, or --topics T --output RUN")
    if (arguments.topics is None) != (arguments.output is None):
        raise CspladeError("--topics and --output must be used together, to write a run for a file of queries")
    index = ImpactIndex(arguments.index)
    index.open()
    if arguments.topics is None:
        say(_table(index, arguments))
    else:
        say(_write_run(index, arguments))


def _write_run(index: ImpactIndex, arguments: argparse.Namespace) -> str:
    from pyterrier_csplade.data.outputs import check_output

    _check_tag(arguments.tag)
    _check_compression(arguments.output)
    if not arguments.output.parent.is_dir():
        directory, name = arguments.output.parent, arguments.output.name
        raise DataError(f"there is no directory {directory} for the output {name}: create it, or name another file")
    check_output(arguments.output, "a run", lambda line: len(line.split()) == 6)
    topics = encoded_topics(arguments)
    retriever = index.retriever(algorithm=arguments.algorithm, num_results=arguments.num_results or _RUN, verbose=True)
    results = retriever(topics)
    _write(results, arguments.output, arguments.tag)
    found = results["qid"].nunique()
    nothing = f"; {len(topics) - found:,} of the queries have no results" if found < len(topics) else ""
    return f"{len(results):,} results of {len(topics):,} queries: {arguments.output}{nothing}"


def _check_tag(tag: str) -> None:
    if not tag or len(tag.split()) != 1:
        raise DataError(f"--tag must be one word, found {tag!r}")


def _check_compression(path: Path) -> None:
    suffix = ".tar" if ".tar" in path.suffixes[-2:] else path.suffix
    if suffix in _UNREADABLE:
        raise DataError(f"a run can be compressed as .gz or .bz2, not as {suffix}: name another file")


def _write(results: pd.DataFrame, path: Path, tag: str) -> None:
    import pyterrier as pt

    from pyterrier_csplade.storage.files import replacing

    for column in ("qid", "docno"):
        if (bad := results[column].str.contains(r"\s|^$")).any():
            raise DataError(
                f"{column} {results.loc[bad, column].iloc[0]!r} is empty or has white space, which a TREC run cannot represent"
            )
    # A random name, so that no link that somebody else has created is followed. It keeps the extension, by which PyTerrier
    # chooses a compression.
    temporary = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    with replacing(path, temporary):
        pt.io.write_results(results, str(temporary), run_name=tag)


def _table(index: ImpactIndex, arguments: argparse.Namespace) -> str:
    """Describe the expansion of a query, and its best documents with the contributions of terms to their scores."""
    import pandas as pd

    from pyterrier_csplade.vectors.checks import check_texts

    from .terms import readable_terms

    query = check_texts([arguments.query], ["QUERY"])[0]  # refuses bytes from a terminal that are not UTF-8
    side = named_query_side(arguments)
    topics = query_encoder(side)(pd.DataFrame({"qid": ["1"], "query": [query]}))
    toks = topics["query_toks"].iloc[0]
    settings: dict[str, Any] = {"include_fields": arguments.show} if arguments.show else {}
    retriever = index.retriever(algorithm=arguments.algorithm, num_results=arguments.num_results or _SHOWN, **settings)
    results = retriever(topics)
    heaviest = dict(sorted(toks.items(), key=lambda item: -item[1]))
    lines = [f"query: {readable_terms(side, heaviest, query, '.2f')}"]
    if results.empty:
        lines.append("no document contains a term of the query")
    for row in results.to_dict("records"):
        parts = index.explain(toks, row["docno"])
        shares = {term: part / sum(parts.values()) for term, part in parts.items()}
        lines.append(
            f"{row['rank'] + 1:>3}  {row['score']:>9.1f}  {row['docno']}: {readable_terms(side, shares, query, '.0%')}"
        )
        lines += [f"{'':16}{name}: {' '.join(row[name].split())[:100]}" for name in arguments.show]
    return "\n".join(lines)
