"""Store the trained model for the package, without the tensors of its base model.

Usage: python ship.py TRAINED DESTINATION LAYERS [ADAPTER]

TRAINED is the directory of the trained model; with ADAPTER, a PEFT adapter with a contract, it is the model that the adapter
was trained on. LAYERS are the layers of SmolLM2-135M-Instruct in TRAINED: the number of first layers, or indices joined by
commas. DESTINATION is a new directory, such as ``pyterrier_csplade/small``. The script prints the sizes of its files. Tensors
are rounded to 8 bits: measure DESTINATION, not TRAINED.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyterrier_csplade.model.assembly import BASE_OF_SMALL
from pyterrier_csplade.model.shipping import store_without_base


def main(trained: Path, destination: Path, layers: str, adapter: Path | None = None) -> None:
    kept = [int(index) for index in layers.split(",")] if "," in layers else int(layers)
    contract = store_without_base(trained, destination, base=BASE_OF_SMALL, layers=kept, adapter=adapter)
    for path in sorted(destination.iterdir()):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.name}")
    print(contract.summary)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]) if len(sys.argv) > 4 else None)
