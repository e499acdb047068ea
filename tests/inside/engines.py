"""Names and modules inside pyterrier_csplade.engines that its tests use."""

from pyterrier_csplade.engines import anserini, seismic
from pyterrier_csplade.engines.opensearch import bulk, connection, remote
from pyterrier_csplade.engines.opensearch.bulk import BulkLoader
from pyterrier_csplade.engines.opensearch.connection import Backoff
from pyterrier_csplade.engines.opensearch.mapping import escape
from pyterrier_csplade.engines.opensearch.retrievers import impact_query

__all__ = ["Backoff", "BulkLoader", "anserini", "bulk", "connection", "escape", "impact_query", "remote", "seismic"]
