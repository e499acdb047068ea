"""Mining of hard negatives and teacher scores with PyTerrier pipelines."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import pyterrier as pt

from pyterrier_csplade._errors import ConfigError, DataError

from .rows import checked_row, passage_text

#: Results for each query: a pipeline that makes them, a frame with qid, docno and score, or a TREC run file.
Results: TypeAlias = "pt.Transformer | pd.DataFrame | str | Path"


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
    """Write training rows whose negatives were retrieved, and perhaps scored by a teacher.

    A row holds all relevant passages of a query, and ``negatives`` that are drawn from the first ``depth`` results that are not
    judged relevant. The output is in Tevatron's form, which ``ContrastiveConfig.data`` takes. It appears when it is whole; if
    mining was interrupted, the same call goes on after the last query that was written.

    Args:
        pipeline: Retrieves: a PyTerrier pipeline, a frame with qid, docno and score, or the path of a TREC run.
        topics: With qid and query.
        qrels: With qid, docno and label.
        depth: Results from which negatives are drawn (ours: 200, as the negatives of Tevatron's msmarco-passage-aug).
        output: The file, ``.jsonl`` or ``.jsonl.gz``.
        corpus: Gives texts: documents with docno, text and perhaps title, or a transformer that adds ``text``, such as
            ``pt.text.get_text(dataset)``. Not needed if the pipeline returns ``text`` and retrieves all relevant passages.
        teacher: Scores every passage of a row: a PyTerrier re-ranker of qid, query, docno and text, a frame or a TREC run.
        negatives: Negatives of a row at most.
        min_label: Passages with at least this label are relevant.
        batch_size: Queries that go through the pipeline together; so many are lost when mining is interrupted.
        seed: Of the draws, which also depend on the qid, but on no other query.
        verbose: Whether to show progress: queries/s and the remaining time.

    Returns:
        ``output``.

    Raises:
        DataError: A text or a teacher's score is missing, a qid stands twice, or no query has a relevant passage.
        ConfigError: The unfinished output was mined with other settings.
    """
    if depth < 1 or negatives < 0 or batch_size < 1:
        raise ConfigError(f"depth and batch_size must be positive, found {depth} and {batch_size}")
    relevant = _relevant(qrels, min_label)
    asked = _asked(topics, relevant)
    miner = _Miner(_as_source(pipeline), relevant, PassageTexts(corpus), _as_source(teacher), (depth, negatives, seed))
    settings = {
        "pipeline": _name(pipeline), "teacher": _name(teacher), "depth": depth, "negatives": negatives, "min_label": min_label,
        "seed": seed, "queries": len(asked), "first": asked["qid"].iloc[0],
    }  # fmt: skip
    _mine(miner, asked, Path(output), settings, batch_size, verbose)
    if miner.without:
        warnings.warn(f"{miner.without} of {len(asked)} queries have no negative among {depth} results", stacklevel=2)
    return Path(output)


def _mine(
    miner: _Miner, asked: pd.DataFrame, output: Path, settings: Mapping[str, Any], batch_size: int, verbose: bool
) -> None:
    unfinished = output.with_name(f"{output.name}.partial")
    done = _resume(unfinished, settings, list(asked["qid"]))
    bar = pt.tqdm(total=len(asked), initial=done, desc="mining", unit="query", disable=not verbose)
    with unfinished.open("a", encoding="utf-8") as out, bar:
        for start in range(done, len(asked), batch_size):
            batch = asked.iloc[start : start + batch_size]
            for row in miner.rows(batch):
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            bar.update(len(batch))
    _publish(unfinished, output)


class _Miner:
    """Makes the rows of a batch of queries."""

    def __init__(
        self, pipeline: Any, relevant: dict[str, list[str]], texts: PassageTexts, teacher: Any, draw: tuple[int, int, int]
    ) -> None:
        self.pipeline, self.relevant, self.texts, self.teacher = pipeline, relevant, texts, teacher
        self.depth, self.negatives, self.seed = draw
        self.without = 0

    def rows(self, topics: pd.DataFrame) -> Iterator[dict[str, Any]]:
        """Yield a row for each query, in the order of the topics."""
        results = _results(self.pipeline, topics, "the pipeline")
        ranked = {qid: rows for qid, rows in results.groupby("qid", sort=False)}
        passages = []
        for qid, query in zip(topics["qid"], topics["query"]):
            found = ranked[qid]["docno"].tolist() if qid in ranked else []
            drawn = self._draw(qid, found)
            self.without += not drawn
            passages += [(qid, query, docno, True) for docno in self.relevant[qid]]
            passages += [(qid, query, docno, False) for docno in drawn]
        frame = pd.DataFrame(passages, columns=["qid", "query", "docno", "positive"])
        frame["text"] = self.texts.of(frame, results)
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

    def _teach(self, frame: pd.DataFrame) -> list[float]:
        scored = _results(self.teacher, frame[["qid", "query", "docno", "text"]], "the teacher")
        scored = scored[scored["score"].notna()]
        scores = dict(zip(zip(scored["qid"], scored["docno"]), scored["score"].astype(float)))
        missing = [(q, d) for q, d in zip(frame["qid"], frame["docno"]) if (q, d) not in scores]
        if missing:
            raise DataError(
                f"query {missing[0][0]}, document {missing[0][1]}: the teacher gives no score, nor for {len(missing) - 1} more "
                "pairs; a re-ranker scores every pair, a run only what it retrieved"
            )
        return [scores[pair] for pair in zip(frame["qid"], frame["docno"])]


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
    return pt.io.read_results(str(results)) if isinstance(results, (str, Path)) else results


def _results(source: Any, topics: pd.DataFrame, name: str) -> pd.DataFrame:
    """Results of some queries, best first; of a frame those with their qids."""
    if isinstance(source, pd.DataFrame):
        found = source[source["qid"].astype(str).isin(set(topics["qid"]))]
    else:
        found = source.transform(topics)
    for column in ("qid", "docno", "score"):
        if column not in found.columns:
            raise DataError(f"{name} returns no {column!r}; it returns {', '.join(found.columns)}")
    found = found.assign(qid=found["qid"].astype(str), docno=found["docno"].astype(str))
    return found.sort_values(["qid", "score"], ascending=[True, False], kind="stable")


def _relevant(qrels: pd.DataFrame, min_label: int) -> dict[str, list[str]]:
    kept = qrels[qrels["label"] >= min_label]
    relevant: dict[str, dict[str, None]] = {}
    for qid, docno in zip(kept["qid"].astype(str), kept["docno"].astype(str)):
        relevant.setdefault(qid, {})[docno] = None
    return {qid: list(docnos) for qid, docnos in relevant.items()}


def _asked(topics: pd.DataFrame, relevant: dict[str, list[str]]) -> pd.DataFrame:
    topics = topics.assign(qid=topics["qid"].astype(str))[["qid", "query"]]
    twice = topics["qid"][topics["qid"].duplicated()]
    if len(twice):
        raise DataError(f"the query {twice.iloc[0]!r} stands twice in the topics")
    asked = topics[topics["qid"].isin(set(relevant))].reset_index(drop=True)
    if not len(asked):
        raise DataError(f"none of {len(topics)} queries has a relevant document: nothing can be mined")
    if len(asked) < len(topics):
        left = topics["qid"][~topics["qid"].isin(set(relevant))]
        warnings.warn(
            f"{len(left)} of {len(topics)} queries have no relevant document, the first {left.iloc[0]!r}", stacklevel=3
        )
    return asked


def _name(results: Results | None) -> str:
    """What a resumed call must be given again: a path, or the representation without addresses in memory."""
    if isinstance(results, pd.DataFrame):
        return f"frame of {len(results)} results"
    return re.sub(r" at 0x[0-9a-f]+", "", str(results) if isinstance(results, Path) else repr(results))


def _resume(unfinished: Path, settings: Mapping[str, Any], qids: list[str]) -> int:
    """Queries that are done already; a line that was torn is cut off."""
    record = unfinished.with_name(f"{unfinished.name}.json")
    if not (unfinished.exists() and record.exists()):
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        record.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        unfinished.write_bytes(b"")  # last: where it is, the record is whole
        return 0
    earlier = json.loads(record.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if earlier.get(name) != value:
            raise ConfigError(
                f"{unfinished} was begun with {name}={earlier.get(name)!r}, not {value!r}: go on with those settings, "
                "or remove the file"
            )
    whole = 0
    done = 0
    with unfinished.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n") or json.loads(line)["query_id"] != qids[done]:
                break
            whole, done = whole + len(line), done + 1
    with unfinished.open("r+b") as file:
        file.truncate(whole)
    return done


def _publish(unfinished: Path, output: Path) -> None:
    if output.suffix == ".gz":
        packed = unfinished.with_name(f"{unfinished.name}.gz")
        with unfinished.open("rb") as source, gzip.open(packed, "wb") as target:
            shutil.copyfileobj(source, target)
        packed.replace(output)
        unfinished.unlink()
    else:
        unfinished.replace(output)
    unfinished.with_name(f"{unfinished.name}.json").unlink()


#: Documents with docno and text, or a transformer that adds ``text`` to rows with a docno.
Corpus: TypeAlias = "pt.Transformer | Iterable[Mapping[str, Any]]"


class PassageTexts:
    """Finds the text of passages."""

    def __init__(self, corpus: Corpus | None) -> None:
        """Say where texts come from.

        Args:
            corpus: Documents, all of whose texts are kept in memory, or a transformer; None: the results have them.
        """
        self._lookup = corpus if isinstance(corpus, pt.Transformer) else None
        self._texts: dict[str, str] = {}
        if corpus is not None and self._lookup is None:
            self._texts = {str(document["docno"]): passage_text(dict(document)) for document in corpus}

    def of(self, passages: pd.DataFrame, results: pd.DataFrame) -> list[str]:
        """Return the text of every row of ``passages``.

        Args:
            passages: With qid, query and docno.
            results: Perhaps with ``text``, which is used where there is no corpus.

        Raises:
            DataError: A text is missing; names the query and the document.
        """
        texts = self._texts
        if self._lookup is not None:
            needed = passages[["qid", "query", "docno"]].drop_duplicates("docno")
            found = self._lookup.transform(needed)
            texts = dict(zip(found["docno"].astype(str), found["text"]))
        elif not texts and "text" in results.columns:
            texts = dict(zip(results["docno"], results["text"]))
        for qid, docno in zip(passages["qid"], passages["docno"]):
            if docno not in texts:
                raise DataError(
                    f"query {qid}, document {docno}: no text was found; give corpus= documents, or a transformer such as "
                    "pt.text.get_text(dataset)"
                )
        return [texts[docno] for docno in passages["docno"]]
