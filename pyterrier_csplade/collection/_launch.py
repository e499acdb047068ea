"""The part of the work of a process that torchrun, accelerate or a user started."""

from __future__ import annotations

from collections.abc import Mapping

from pyterrier_csplade._errors import CollectionError

from ._part import Part


def launched_part(shard: str | None, processes: int | None, environment: Mapping[str, str]) -> Part:
    """Find out which shards a process encodes.

    Args:
        shard: "i/n" if the user named a part.
        processes: How many processes the user meant to start; None if that was not said.
        environment: Of the process; torchrun and ``accelerate launch`` set RANK and WORLD_SIZE.

    Raises:
        CollectionError: The processes are not as many as meant, or a part was named on top.
    """
    rank, count = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    if processes is not None and processes != count:
        raise CollectionError(
            f"{count} process(es) were started, not {processes}: start them with "
            f"torchrun --standalone --nproc-per-node {processes} -m pyterrier_csplade encode ..."
        )
    if shard is None:
        return Part(rank, count)
    if count > 1:
        raise CollectionError(f"--shard {shard} contradicts the {count} processes of this launch: leave it out")
    return Part.parse(shard)


def launched_device(environment: Mapping[str, str]) -> str | None:
    """Return the GPU of a process among several on a machine; None where there is one process, or no GPU."""
    if int(environment.get("LOCAL_WORLD_SIZE", environment.get("WORLD_SIZE", 1))) == 1:
        return None
    import torch

    return f"cuda:{environment['LOCAL_RANK']}" if torch.cuda.is_available() else None
