"""The plan of a training run, with its estimated cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .cost import Gpu, Load, Method, human_bytes, memory_parts, step_flops, utilisation
from .shape import ModelShape


@dataclass
class Plan:
    """The result of a dry run.

    Attributes:
        facts: Facts about the run, as pairs (name, text).
        problems: Problems that would stop the run.
        warnings: Problems that would not stop the run.
        gpu: The accelerator of the estimate.
        gpus: Number of accelerators.
        memory: Estimated bytes on one accelerator at the peak of a step, by part; empty if the model is unknown.
        memory_checkpointed: ``memory`` with ``gradient_checkpointing``, for any setting of the run.
        tokens: Tokens in the backbone during the whole run.
        flops: FLOP of the whole run.
        utilisation: Share of the accelerators' attainable FLOP/s that the run is expected to reach.
    """

    gpu: Gpu
    gpus: int = 1
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    memory_checkpointed: dict[str, float] = field(default_factory=dict)
    tokens: float = 0
    flops: float = 0
    utilisation: float = 1

    @property
    def hours(self) -> float:
        """Hours on the accelerators at ``utilisation``."""
        return self.hours_at_the_bound / self.utilisation

    @property
    def hours_at_the_bound(self) -> float:
        """Hours on the accelerators if every step reached the attainable FLOP/s."""
        return self.flops / (self.gpu.flops * self.gpus * 3600)

    def add_cost(self, shape: ModelShape, method: Method, load: Load, steps: int) -> None:
        """Compute memory, tokens and FLOP, and warn if there is not enough memory."""
        without, checkpointed = (memory_parts(shape, replace(method, checkpointing=on), load) for on in (False, True))
        self.utilisation = utilisation(load)
        self.memory = checkpointed if method.checkpointing else without
        self.memory_checkpointed = checkpointed
        self.tokens = steps * load.tokens * self.gpus
        self.flops = steps * step_flops(shape, method, load) * self.gpus
        plain, less = (human_bytes(parts["activations"]) for parts in (without, checkpointed))
        self.facts.append(("activations", f"{plain} without gradient checkpointing, {less} with it"))
        total = sum(self.memory.values())
        if total > self.gpu.memory:
            cures = [] if method.checkpointing else ["gradient_checkpointing: true"]
            cures += ["more gradient_accumulation_steps", "LoRA" if method.rank is None else "FSDP over more accelerators"]
            self.warnings.append(
                f"about {human_bytes(total)} do not fit into the {human_bytes(self.gpu.memory)} of one {self.gpu.name}: "
                f"{', '.join(cures)}"
            )

    def __str__(self) -> str:
        lines = [f"{name:<16} {text}" for name, text in self.facts]
        if self.memory:
            parts = ", ".join(f"{name} {human_bytes(size)}" for name, size in self.memory.items() if size)
            lines += [
                f"{'memory':<16} {human_bytes(sum(self.memory.values()))} of {human_bytes(self.gpu.memory)} on each "
                f"{self.gpu.name}: {parts}",
                f"{'work':<16} {self.tokens / 1e6:,.1f} million tokens, {self.flops / 1e15:,.3g} PFLOP",
                f"{'time':<16} {_duration(self.hours)} on {self.gpus} x {self.gpu.name} at {self.utilisation:.0%} of its "
                f"attainable speed ({_duration(self.hours_at_the_bound)} at the bound), without encoding for validation",
            ]
        lines += [f"{'warning':<16} {text}" for text in self.warnings]
        lines += [f"{'PROBLEM':<16} {text}" for text in self.problems]
        return "\n".join([*lines, "the run can start" if not self.problems else "the run cannot start"])


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min" if hours >= 1 / 60 else f"{hours * 3600:,.1f} s"
