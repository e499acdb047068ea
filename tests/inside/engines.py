"""Names and modules inside pyterrier_csplade.engines that its tests use."""

from pyterrier_csplade.engines import anserini, seismic
from pyterrier_csplade.engines.opensearch import bulk, connection, remote
from pyterrier_csplade.engines.opensearch.bulk import BulkLoader
from pyterrier_csplade.engines.opensearch.connection import Backoff
from pyterrier_csplade.engines.opensearch.mapping import TermNames, escape
from pyterrier_csplade.engines.opensearch.query_tables import pipeline
from pyterrier_csplade.engines.opensearch.retrievers import impact_query
from pyterrier_csplade.engines.opensearch.tokenizers import reading

__all__ = [
    "Backoff",
    "BulkLoader",
    "anserini",
    "bulk",
    "connection",
    "escape",
    "impact_query",
    "pipeline",
    "reading",
    "remote",
    "seismic",
    "TermNames",
]
