"""Mining of hard negatives and a teacher's scores with PyTerrier pipelines."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import ConfigError, DataError, TrainingError
from pyterrier_csplade._warnings import warn
from pyterrier_csplade.data.outputs import check_output
from pyterrier_csplade.data.runs import read_run
from pyterrier_csplade.storage.files import LockedError, locked, sha256, write_atomically
from pyterrier_csplade.vectors.checks import check_texts

from .checkpoints import without_links
from .rows import checked_row, passage_text

#: Results: a pipeline that retrieves them, a frame with qid, docno and score, or the path of a TREC run.
Results: TypeAlias = "pt.Transformer | pd.DataFrame | str | Path"
#: Source of texts: documents with docno and text, or a transformer that adds ``text`` to rows with a docno.
Corpus: TypeAlias = "pt.Transformer | Iterable[Mapping[str, Any]]"


def mine_negatives(
    pipeline: Results,
    topics: pd.DataFrame,
    qrels: pd.DataFrame,
    depth: int = 200,
    *,
    output: str | Path,
    corpus: Corpus | None = None,
    teacher: Results | None = None,
    negatives: int = 30,
    min_label: int = 1,
    batch_size: int = 32,
    seed: int = 42,
    verbose: bool = True,
) -> Path:
    """Write training rows with retrieved negatives, optionally scored by a teacher.

    A row contains all relevant passages of a query, and negatives drawn from the first ``depth`` results that are not judged
    relevant. The output is in Tevatron's format, which ``ContrastiveConfig.data`` reads. The file appears when it is complete,
    and replaces a file of rows. After an interruption, the same call resumes after the last written query.

    Args:
        pipeline: A PyTerrier pipeline, a frame with qid, docno and score, or the path of a TREC run.
        topics: Frame with qid and query.
        qrels: Frame with qid, docno and label.
        depth: Number of results from which negatives are drawn; 200 as in Tevatron's msmarco-passage-aug.
        output: Path of the file, ``.jsonl`` or ``.jsonl.gz``.
        corpus: Documents with docno, text and optionally title, or a transformer that adds ``text``, such as
            ``pt.text.get_text(dataset)``. Not needed if the pipeline returns ``text`` and retrieves all relevant passages.
        teacher: Source of a score for every passage of a row: a PyTerrier re-ranker of qid, query, docno and text, a frame or a
            TREC run.
        negatives: Maximum number of negatives in a row.
        min_label: Smallest label of a relevant passage.
        batch_size: Number of queries in a batch. An interruption loses at most one batch.
        seed: Seed of the draws. The draw of a query depends only on the seed and its qid.
        verbose: Whether to show progress.

    Returns:
        ``output``.

    Raises:
        DataError: A column, a text or a teacher's score is missing, a qid appears twice, no query has a relevant passage, the
            pipeline's index was replaced during mining, or the output is a directory or a file without training rows.
        ConfigError: A number is not valid, or the unfinished output was mined with other settings.
        TrainingError: Another process is writing the same output.
    """
    _check_arguments(Path(output), depth, negatives, batch_size)
    asked, relevant = _asked(topics, qrels, min_label)
    miner = _Miner(_as_source(pipeline), _as_source(teacher), relevant, _as_texts(corpus), depth, negatives, seed)
    settings = {
        "pipeline": _name(pipeline), "teacher": _name(teacher), "depth": depth, "negatives": negatives, "min_label": min_label,
        "seed": seed, "queries": len(asked), "first": asked["qid"].iloc[0], "digest of topics": _digest(asked.values.tolist()),
        "digest of qrels": _digest([relevant[qid] for qid in asked["qid"]]), "digest of the corpus": _digest(miner.known_texts),
        "digest of results": _digest([_content(pipeline), _content(teacher)]),
        "results of the first query": miner.first_results(asked.iloc[:1]),
    }  # fmt: skip
    _write(miner, asked, Path(output), settings, batch_size, verbose)
    if miner.without:
        warn(f"{miner.without} of {len(asked)} queries have no negatives among their first {depth} results")
    return Path(output)


def _check_arguments(output: Path, depth: int, negatives: int, batch_size: int) -> None:
    for name, value, least in (("depth", depth, 1), ("negatives", negatives, 0), ("batch_size", batch_size, 1)):
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}, found {value!r:.60}")
    check_output(output, "a file of training rows", lambda line: line.startswith(b'{"query_id": '))


def _write(
    miner: _Miner, asked: pd.DataFrame, output: Path, settings: Mapping[str, Any], batch_size: int, verbose: bool
) -> None:
    unfinished = output.with_name(f"{output.name}.partial")
    with _alone(unfinished):
        done = _resume(unfinished, settings, list(asked["qid"]))
        if done:
            warn(f"resuming after {done:,} of {len(asked):,} queries, which {unfinished} contains")
        _append(miner, asked, unfinished, done, batch_size, verbose)
        if miner.first_results(asked.iloc[:1]) != settings["results of the first query"]:
            raise DataError(
                "the pipeline finds other documents for the first query than at the beginning: was its index replaced? "
                f"{unfinished} contains rows of both indexes: remove it, and mine again"
            )
        _publish(unfinished, output)


@contextmanager
def _alone(unfinished: Path) -> Iterator[None]:
    """Keep other processes from writing the same file.

    Raises:
        TrainingError: Another process is writing the file.
    """
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as lock:
        try:
            lock.enter_context(locked(unfinished.with_name(f".{unfinished.name}.lock"), wait=False))
        except LockedError as error:
            raise TrainingError(f"the process {error} is writing {unfinished}: wait until it has ended") from error
        yield


def _append(miner: _Miner, asked: pd.DataFrame, unfinished: Path, done: int, batch_size: int, verbose: bool) -> None:
    bar = pt.tqdm(total=len(asked), initial=done, desc="mining", unit="query", disable=not verbose)
    with open(unfinished, "a", encoding="utf-8", opener=without_links) as out, bar:
        for start in range(done, len(asked), batch_size):
            batch = asked.iloc[start : start + batch_size]
            for row in miner.rows(batch):
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            bar.update(len(batch))


@dataclass
class _Miner:
    """Makes the rows of a batch of queries.

    Attributes:
        pipeline: A transformer or a frame of results.
        teacher: A transformer, a frame of results, or None.
        relevant: Docnos of the relevant passages of each query.
        texts: A transformer that adds ``text``, or texts by docno. If empty, the results contain the texts.
        depth: Number of results from which negatives are drawn.
        negatives: Maximum number of negatives in a row.
        seed: Seed of the draws.
        without: Number of queries without negatives so far.
    """

    pipeline: Any
    teacher: Any
    relevant: dict[str, list[str]]
    texts: pt.Transformer | dict[str, str]
    depth: int
    negatives: int
    seed: int
    without: int = 0

    @property
    def known_texts(self) -> Any:
        """The texts by docno; None with a transformer."""
        return None if isinstance(self.texts, pt.Transformer) else self.texts

    def first_results(self, topics: pd.DataFrame) -> str:
        """Return a digest of the docnos that the pipeline retrieves, which shows whether its index was replaced."""
        return _digest(_results(self.pipeline, topics, "the pipeline")["docno"].tolist()[: self.depth])

    def rows(self, topics: pd.DataFrame) -> Iterator[dict[str, Any]]:
        """Yield a row for each query, in the order of the topics."""
        results = _results(self.pipeline, topics, "the pipeline")
        ranked = results.groupby("qid", sort=False)["docno"].agg(list)
        passages = []
        for qid, query in zip(topics["qid"], topics["query"]):
            drawn = self._draw(qid, ranked.get(qid, []))
            self.without += not drawn
            passages += [(qid, query, docno, True) for docno in self.relevant[qid]]
            passages += [(qid, query, docno, False) for docno in drawn]
        frame = pd.DataFrame(passages, columns=["qid", "query", "docno", "positive"])
        frame["text"] = self._find_texts(frame, results)
        if self.teacher is not None:
            frame["score"] = self._teach(frame)
        for qid, rows in frame.groupby("qid", sort=False):
            yield _row(qid, rows)

    def _draw(self, qid: str, found: list[str]) -> list[str]:
        relevant = set(self.relevant[qid])
        candidates = [docno for docno in dict.fromkeys(found[: self.depth]) if docno not in relevant]
        rng = random.Random(f"{self.seed} {qid}")
        places = sorted(rng.sample(range(len(candidates)), min(self.negatives, len(candidates))))
        return [candidates[place] for place in places]

    def _find_texts(self, passages: pd.DataFrame, results: pd.DataFrame) -> list[str]:
        if isinstance(self.texts, pt.Transformer):
            found = self.texts.transform(passages[["qid", "query", "docno"]].drop_duplicates("docno"))
            texts = dict(zip(found["docno"].astype(str), found["text"]))
        elif not self.texts and "text" in results.columns:
            texts = dict(zip(results["docno"], results["text"]))
        else:
            texts = self.texts
        for qid, docno in zip(passages["qid"], passages["docno"]):
            if docno not in texts:
                raise DataError(
                    f"query {qid}, document {docno}: no text was found: pass documents, or a transformer such as "
                    "pt.text.get_text(dataset), as corpus"
                )
        return [texts[docno] for docno in passages["docno"]]

    def _teach(self, frame: pd.DataFrame) -> list[float]:
        scored = _results(self.teacher, frame[["qid", "query", "docno", "text"]], "the teacher")
        scored = scored[scored["score"].notna()]
        scores = dict(zip(zip(scored["qid"], scored["docno"]), scored["score"].astype(float)))
        pairs = list(zip(frame["qid"], frame["docno"]))
        missing = [pair for pair in pairs if pair not in scores]
        if missing:
            raise DataError(
                f"query {missing[0][0]}, document {missing[0][1]}: the teacher has no score for this pair, nor for "
                f"{len(missing) - 1} more. A run has scores for retrieved documents only: use a re-ranker as teacher"
            )
        return [scores[pair] for pair in pairs]


def _row(qid: str, rows: pd.DataFrame) -> dict[str, Any]:
    passages: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for row in rows.to_dict("records"):
        score = {"score": row["score"]} if "score" in row else {}
        passages[row["positive"]].append({"docid": row["docno"], "text": row["text"], **score})
    texts = [[passage["text"] for passage in passages[side]] for side in (True, False)]
    query = rows["query"].iloc[0]
    checked_row(query, texts[0], texts[1], f"query {qid}")
    return {"query_id": qid, "query": query, "positive_passages": passages[True], "negative_passages": passages[False]}


def _as_source(results: Results | None) -> Any:
    return read_run(results) if isinstance(results, (str, Path)) else results


def _as_texts(corpus: Corpus | None) -> pt.Transformer | dict[str, str]:
    if isinstance(corpus, pt.Transformer):
        return corpus
    texts: dict[str, str] = {}
    for document in corpus or ():
        docno = str(document["docno"])
        texts[docno] = check_texts([passage_text(dict(document))], [f"document {docno}"])[0]
    return texts


def _results(source: Any, topics: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the results of queries, best first."""
    if isinstance(source, pd.DataFrame):
        found = source[source["qid"].astype(str).isin(set(topics["qid"]))]
    else:
        found = source.transform(topics)
    for column in ("qid", "docno", "score"):
        if column not in found.columns:
            raise DataError(f"{name} must return a column {column!r}, found {', '.join(found.columns)}")
    found = found.assign(qid=found["qid"].astype(str), docno=found["docno"].astype(str))
    return found.sort_values(["qid", "score"], ascending=[True, False], kind="stable")


def _check_columns(frame: pd.DataFrame, what: str, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in frame.columns]:
        raise DataError(f"the {what} must have a column {missing[0]!r}, found {', '.join(map(str, frame.columns))}")


def _asked(topics: pd.DataFrame, qrels: pd.DataFrame, min_label: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Return the queries that have a relevant passage, and their docnos by qid; warn about other queries."""
    _check_columns(topics, "topics", ("qid", "query"))
    _check_columns(qrels, "qrels", ("qid", "docno", "label"))
    topics = topics.assign(qid=topics["qid"].astype(str))[["qid", "query"]]
    twice = topics["qid"][topics["qid"].duplicated()]
    if len(twice):
        raise DataError(f"the query {twice.iloc[0]!r} appears twice in the topics")
    judged = qrels[qrels["label"] >= min_label].astype({"qid": str, "docno": str}).drop_duplicates(["qid", "docno"])
    relevant = judged.groupby("qid", sort=False)["docno"].agg(list).to_dict()
    has_relevant = topics["qid"].isin(set(relevant))
    asked, left = topics[has_relevant].reset_index(drop=True), topics["qid"][~has_relevant]
    if not len(asked):
        raise DataError(f"none of {len(topics)} queries has a relevant document: check that topics and qrels belong together")
    if len(left):
        warn(f"{len(left)} of {len(topics)} queries have no relevant document and are left out, such as {left.iloc[0]!r}")
    if unknown := [qid for qid in relevant if qid not in set(topics["qid"])]:
        warn(f"{len(unknown)} judged queries are not among the topics, such as {unknown[0]!r}")
    return asked, relevant


def _name(results: Results | None) -> str:
    """Name results in the record of an unfinished output, by path or by representation without memory addresses."""
    if isinstance(results, pd.DataFrame):
        return f"frame of {len(results)} results"
    return re.sub(r" at 0x[0-9a-f]+", "", str(results) if isinstance(results, Path) else repr(results))


def _content(results: Results | None) -> Any:
    """Return the content of a frame or a run; None for a transformer."""
    if isinstance(results, pd.DataFrame):
        return results[[name for name in ("qid", "docno", "score") if name in results.columns]].to_csv(index=False)
    return sha256(Path(results)) if isinstance(results, (str, Path)) else None


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _resume(unfinished: Path, settings: Mapping[str, Any], qids: list[str]) -> int:
    """Return the number of completed queries, and truncate an incomplete last line."""
    record = unfinished.with_name(f"{unfinished.name}.json")
    if not (unfinished.exists() and record.exists()):
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        write_atomically(record, json.dumps(settings, indent=2).encode())
        unfinished.touch(exist_ok=False)  # last, so that the record is complete if this file exists
        return 0
    try:
        earlier = dict(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{record} is damaged ({error}): remove it and {unfinished}") from error
    for name, value in settings.items():
        if earlier.get(name, value) != value:  # earlier versions recorded fewer settings
            raise ConfigError(
                f"{unfinished} was begun with {name}={earlier.get(name)!r}, not {value!r}: resume with the earlier setting, "
                "or remove the file"
            )
    size = done = 0
    with open(unfinished, "r+b", opener=without_links) as file:
        for line in file:
            if not line.endswith(b"\n") or done == len(qids) or not line.startswith(_begin(qids[done])):
                break
            size, done = size + len(line), done + 1
        file.truncate(size)
    return done


def _begin(qid: str) -> bytes:
    """Return the beginning of the row of a query."""
    return json.dumps({"query_id": qid}, ensure_ascii=False)[:-1].encode()


def _publish(unfinished: Path, output: Path) -> None:
    if output.suffix == ".gz":
        packed = unfinished.with_name(f"{unfinished.name}.gz")
        packed.unlink(missing_ok=True)
        with unfinished.open("rb") as source, packed.open("xb") as raw, gzip.open(raw, "wb") as target:
            shutil.copyfileobj(source, target)
        packed.replace(output)
        unfinished.unlink()
    else:
        unfinished.replace(output)
    unfinished.with_name(f"{unfinished.name}.json").unlink()
