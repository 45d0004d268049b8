"""What a run will need of each GPU's memory, by part and phase, and the largest micro-batch that fits.

Nothing is loaded: sizes come from the model's config.json. Peaks are those of live tensors, from `dmpo.memory`, and on
a GPU 1 GiB for the CUDA context and libraries; what the allocator loses to fragmentation is not known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from rich.table import Table

from .config import DMPOConfig
from .memory import Architecture, Device
from .plan_ledger import PARTS, Ledger

Sharding = Literal["ddp", "zero2", "zero3", "fsdp"]
PHASES = ("rollout", "score", "update")
ROLLOUT_PHASES = PHASES[:2]  # those that rollout_batch_size bounds
_LESS_FOR_UPDATES = "gradient_checkpointing, load_in_4bit or more sharding need less"
GB = 10**9


@dataclass(frozen=True)
class Plan:
    """Expected memory of one rank.

    phases: bytes by part (`PARTS`) at the peak of each phase, with micro-batches of `micro_batch_size` views.
    memory: bytes that a device has. largest: micro_batch_size that fits, 0 if not even 1 does; at most all the views of
    a rank.
    """

    phases: dict[str, dict[str, int]]
    memory: int
    micro_batch_size: int
    largest: int

    def peak(self, phase: str) -> int:
        """Bytes, all parts together."""
        return sum(self.phases[phase].values())

    @property
    def fits(self) -> bool:
        return max(map(self.peak, self.phases)) <= self.memory


def plan(
    config: DMPOConfig,
    model_config: Any,
    *,
    gpus: int = 1,
    memory: float = 80.0,
    sharding: str = "ddp",
    device: Device = "cuda",
) -> Plan:
    """Expected memory of a run.

    Args:
        config: of the run. Its micro_batch_size is what is planned for; with a memory_budget, the largest that fits.
        model_config: of transformers, from `architectures.read_model_config` or a model's `.config`.
        gpus: ranks. memory: GB (10^9 bytes) of each device.
        sharding: ddp (every rank holds all), zero2 (gradients and optimizer split), zero3 or fsdp (weights, too), as
            the configs in `dmpo/configs/accelerate` set them up: DeepSpeed trains in bfloat16 with float32 masters.
            Splits are computed, not measured.
        device: cuda, or cpu, where dropout keeps more and kernels work in smaller pieces.

    Raises:
        ValueError: gpus < 1, memory ≤ 0, an unknown sharding.
    """
    if gpus < 1:
        raise ValueError(f"gpus must be ≥ 1, got {gpus}")
    if not memory > 0:
        raise ValueError(f"memory must be > 0 GB, got {memory}")
    if sharding not in get_args(Sharding):
        raise ValueError(f"sharding must be {', '.join(get_args(Sharding))}, got {sharding!r}")
    ledger = Ledger(config, Architecture.of(model_config), gpus, sharding, device)
    limit = int(memory * GB)
    largest = ledger.largest(limit)
    chosen = max(1, largest) if config.memory_budget else ledger.micro_batch(config.micro_batch_size)
    phases = {"rollout": ledger.rollout(), "score": ledger.score(), "update": ledger.update(chosen)}
    return Plan(phases, limit, chosen, largest)


def largest_micro_batch(
    config: DMPOConfig,
    model_config: Any,
    memory_bytes: int,
    world: int,
    *,
    sharding: str = "ddp",
    device: Device = "cuda",
) -> int:
    """The most views of one forward and backward whose step fits into `memory_bytes` of each of `world` devices.

    Raises:
        ValueError: not even one view, or a rollout does; what would be needed is named.
    """
    one = replace(config, micro_batch_size=1, memory_budget=0.0)
    found = plan(one, model_config, gpus=world, memory=memory_bytes / GB, sharding=sharding, device=device)
    given = f"{memory_bytes / GB:.3g} GB are given"
    if found.largest == 0:
        needed = f"a micro-batch of one view needs {found.peak('update') / GB:.3g} GB"
        raise ValueError(f"memory_budget: {needed}, {given}; {_LESS_FOR_UPDATES}")
    for phase in ROLLOUT_PHASES:
        if found.peak(phase) > memory_bytes:
            needed = f"{phase} needs {found.peak(phase) / GB:.3g} GB"
            raise ValueError(f"memory_budget: {needed}, {given}; {_less_for_rollouts(config)}")
    return found.largest


def table(found: Plan) -> Table:
    """The plan for a terminal, in GB."""
    shown = Table(title=f"GB of each device, micro_batch_size {found.micro_batch_size}")
    shown.add_column("")
    for phase in PHASES:
        shown.add_column(phase, justify="right")
    for part in PARTS:
        row = [found.phases[phase][part] for phase in PHASES]
        if any(row):
            shown.add_row(part, *(f"{size / GB:.3g}" if size else "" for size in row))
    shown.add_section()
    shown.add_row("peak", *(f"{found.peak(phase) / GB:.3g}" for phase in PHASES), style="bold")
    return shown


def verdict(found: Plan, config: DMPOConfig) -> str:
    """Whether the plan fits, and which keys need less memory where it does not, in a line."""
    limit = f"{found.memory / GB:g} GB"
    too_large = [phase for phase in PHASES if found.peak(phase) > found.memory]
    parts = [f"does not fit {limit}: {', '.join(too_large)}" if too_large else f"fits {limit}"]
    parts.append(f"largest micro_batch_size {found.largest}" if found.largest else "not even micro_batch_size 1 would")
    if not found.largest:
        parts.append(_LESS_FOR_UPDATES)
    if set(too_large) & set(ROLLOUT_PHASES):
        parts.append(_less_for_rollouts(config))
    return "; ".join(parts)


def _less_for_rollouts(config: DMPOConfig) -> str:
    return f"a smaller rollout_batch_size than {config.rollout_batch_size} needs less"
