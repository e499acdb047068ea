"""A first experiment: BM25, CSPLADE and their sum over fifty documents.

Usage: python first_experiment.py OUTPUT [DOCUMENTS]

The documents are docstrings of Python's standard library, and the queries are their summary lines. The script writes two
indexes and ``results.csv`` to OUTPUT. More documents (up to 2,697 with Python 3.11) make the task harder. To use another model,
replace ``CSPLADE.tiny()``; to use another collection, replace the dataset.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import pyterrier as pt
from ir_measures import RR, nDCG

from pyterrier_csplade import CSPLADE, ImpactIndex


def main(output: Path, documents: int) -> None:
    output = output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    dataset = pt.get_dataset("csplade:python-docs")
    corpus = list(islice(dataset.get_corpus_iter(verbose=False), documents))
    qrels = dataset.get_qrels()
    qrels = qrels[qrels["docno"].isin({document["docno"] for document in corpus})]
    topics = dataset.get_topics()
    topics = topics[topics["qid"].isin(set(qrels["qid"]))]

    words = pt.IterDictIndexer(str(output / "bm25"), meta={"docno": 100}, overwrite=True).index(iter(corpus))
    bm25 = pt.terrier.Retriever(words, wmodel="BM25")
    csplade = CSPLADE.tiny()
    impacts = ImpactIndex(output / "csplade")
    (csplade.doc_encoder() >> impacts.toks_indexer(overwrite=True)).index(iter(corpus))
    learned = csplade.query_encoder() >> impacts.retriever()

    # Impacts are weights times 100; the factor brings their scores to the scale of BM25's.
    systems = {"BM25": bm25, "CSPLADE": learned, "BM25 + CSPLADE": bm25 + 0.02 * learned}
    table = pt.Experiment(systems, topics, qrels, [nDCG @ 10, RR @ 10])
    table.to_csv(output / "results.csv", index=False)
    print(table.to_string(index=False))

    query = topics["query"].iloc[0]
    expansion = csplade.decode(csplade.encode_queries([query]), pretty=True)
    print(f"\n{query}\n  " + ", ".join(f"{term} {weight:.2f}" for term, weight in list(expansion.items())[:12]))
    text = corpus[0]["text"]
    contributions = csplade.explain(query, text, pretty=True)
    print(f"{text[:80]!r}\n  " + ", ".join(f"{term} {part:.2f}" for term, part in contributions.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50)
