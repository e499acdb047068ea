"""Throughput and memory of pictures: reading, features, head and indexing, with csplade-tiny and a head of random weights.

Usage: python benchmarks/images.py [--pictures 10000] [--timed 200] [--side 256] [--features-side 224]

The pictures are made up, and are JPEG files in memory. Each part is timed alone, in CPU time on one thread. The last part sends
all pictures through the encoder and an indexer in one stream, and repeatedly prints the peak memory.
"""

from __future__ import annotations

import argparse
import io
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pyterrier_csplade import CSPLADE, ImpactIndex
from pyterrier_csplade.images import EfficientNetLite0, ImageHead, SavedHead, open_picture
from pyterrier_csplade.images.encoder import probe

WIDTH = 1280  # length of a vector of EfficientNet-Lite0
STEPS = 5  # number of times that memory is printed


def picture(number: int, side: int) -> bytes:
    """Make a JPEG file: a smooth gradient of random colours, with noise."""
    rng = np.random.default_rng(number)
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.float32)
    across, down = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    top = corners[0, 0] + across[..., None] * (corners[0, 1] - corners[0, 0])
    bottom = corners[1, 0] + across[..., None] * (corners[1, 1] - corners[1, 0])
    pixels = top + down[..., None] * (bottom - top) + rng.normal(0, 8, (side, side, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG")
    return file.getvalue()


def random_head(csplade: CSPLADE, features: EfficientNetLite0, directory: Path) -> Path:
    """Save a head with random weights, whose vectors have about 100 terms."""
    torch.manual_seed(0)
    weight = csplade.backbone.head.weight.detach().float()
    head = ImageHead(WIDTH, weight.shape[1])
    with torch.no_grad():
        torch.nn.init.normal_(head.linear.weight, std=WIDTH**-0.5)
        up = torch.linalg.lstsq(weight, torch.ones(len(weight), 1)).solution[:, 0]
        vectors = torch.from_numpy(features([open_picture(picture(n, 64), "p") for n in range(32)]))
        head.standardise_by(vectors)
        logits = csplade.backbone.model.model.norm(head.hidden_states(vectors)) @ weight.T
        head.offset.copy_(-up * torch.quantile(logits[:, ::16], 1 - 100 / len(weight)))
    SavedHead.made(head, csplade.contract, features.identity, probe(features), {}).save(directory)
    return directory


def timed(name: str, count: int, work: Callable[[], Any]) -> Any:
    """Call a function, and print its CPU time for each of ``count`` pictures."""
    start = time.process_time()
    result = work()
    seconds = max(time.process_time() - start, 1e-9)
    print(f"{name}: {1000 * seconds / count:.2f} ms of CPU time for a picture, {count / seconds:,.0f} pictures/s", flush=True)
    return result


def peak() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def stream(pictures: int, side: int) -> Iterator[dict[str, Any]]:
    """Yield made-up pictures, and print the peak memory from time to time."""
    for number in range(pictures):
        if number % max(1, pictures // STEPS) == 0:
            print(f"after {number:,} pictures: peak {peak():,.0f} MiB", flush=True)
        yield {"docno": f"p{number}", "image": picture(number, side)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000, help="pictures of the stream; default: %(default)s")
    parser.add_argument("--timed", type=int, default=200, help="pictures for each timed part; default: %(default)s")
    parser.add_argument("--side", type=int, default=256, help="pixels of a side of the files; default: %(default)s")
    parser.add_argument("--features-side", type=int, default=224, help="pixels that features see; default: %(default)s")
    given = parser.parse_args()
    torch.set_num_threads(1)
    csplade, features = CSPLADE.tiny(), EfficientNetLite0(size=given.features_side)
    with tempfile.TemporaryDirectory() as directory:
        path = random_head(csplade, features, Path(directory, "head"))
        encoder = csplade.image_encoder(path, batch_size=32)
        files = [picture(number, given.side) for number in range(given.timed)]
        opened = timed("reading", given.timed, lambda: [open_picture(file, "a picture") for file in files])
        batches = [opened[start : start + 32] for start in range(0, given.timed, 32)]
        vectors = np.concatenate(timed("features", given.timed, lambda: [features(batch) for batch in batches]))
        records = [{"docno": f"v{number}", "image_vec": vector} for number, vector in enumerate(vectors)]
        encoder.impacts(records[:32])  # opens the head
        rows = timed("head", given.timed, lambda: list(encoder.transform_iter(records)))
        terms = sum(len(row["toks"]) for row in rows) / len(rows)
        ImpactIndex(Path(directory, "warm-up")).index(rows[:1])  # starts Java
        vectors_only = [{"docno": row["docno"], "toks": row["toks"]} for row in rows]
        timed(f"indexing ({terms:.0f} terms)", given.timed, lambda: ImpactIndex(Path(directory, "timed")).index(vectors_only))
        index = ImpactIndex(Path(directory, "all"))
        encoded = encoder.transform_iter(stream(given.pictures, given.side))
        everything = ({"docno": row["docno"], "toks": row["toks"]} for row in encoded)
        timed("all of it", given.pictures, lambda: index.index(everything))
        print(f"after {len(index):,} pictures: peak {peak():,.0f} MiB")


if __name__ == "__main__":
    main()
