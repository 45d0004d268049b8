"""The memory plan: how much memory a run needs on each GPU, by phase, and the largest micro-batch that fits.

No weights are loaded: the sizes come from the model's config.json. A peak counts live tensors, by the formulas of
`dmpo.planning.memory`, and on a GPU 1 GiB for the CUDA context and libraries. It does not count memory that the
allocator loses to fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from rich.table import Table

from ..config.keys import DMPOConfig
from ..config.run import RunConfig
from ..config.sft import SFTConfig
from .ledger import CATEGORIES, Ledger
from .memory import Architecture, Device
from .sft_ledger import SFTLedger

Sharding = Literal["ddp", "zero2", "zero3", "fsdp"]
PHASES = ("rollout", "score", "update")
ROLLOUT_PHASES = PHASES[:2]  # a smaller rollout_batch_size lowers the peaks of these phases
WITH_ZERO3 = "under DeepSpeed ZeRO-3, which splits the weights that adapters are merged into; use FSDP2"
_WHOLE_BASE = {"fp8_rollouts": ("zero3",), "fp8_training": ("zero2", "zero3", "fsdp")}  # and what splits or owns it
_LESS_FOR_UPDATES = "gradient_checkpointing, load_in_4bit or more sharding need less"
GB = 10**9


@dataclass(frozen=True)
class Plan:
    """The expected memory of one rank.

    phases: bytes by category (`CATEGORIES`) at the peak of each phase, with micro-batches of `micro_batch_size` views.
    memory: the bytes of a device. largest: the largest micro_batch_size that fits, at most all views of a rank; 0 if
    not even 1 fits.
    """

    phases: dict[str, dict[str, int]]
    memory: int
    micro_batch_size: int
    largest: int

    def peak(self, phase: str) -> int:
        """The bytes of a phase, all categories together."""
        return sum(self.phases[phase].values())

    @property
    def fits(self) -> bool:
        return max(map(self.peak, self.phases)) <= self.memory


def plan(
    config: RunConfig,
    model_config: Any,
    *,
    gpus: int = 1,
    memory: float = 80.0,
    sharding: str = "ddp",
    device: Device = "cuda",
) -> Plan:
    """The expected memory of a run.

    Args:
        config: the config of the run. The plan is for its micro_batch_size; with a memory_budget, for the largest
            micro-batch that fits.
        model_config: a transformers config, from `models.published.read_model_config` or a model's `.config`.
        gpus: number of ranks. memory: GB (10^9 bytes) of each device.
        sharding: ddp (every rank has everything), zero2 (gradients and optimizer are sharded), zero3 or fsdp (weights
            are sharded, too), as in the configs in `dmpo/config/shipped/accelerate`. DeepSpeed trains in bfloat16 with
            float32 master weights. Shares are computed, not measured.
        device: cuda or cpu. On a CPU dropout saves more, and kernels use smaller tiles.

    Raises:
        ValueError: gpus < 1, memory ≤ 0, an unknown sharding, merge_adapters with zero3, or as `check_fp8_sharding`
            and `check_optimizer_sharding`.
    """
    if gpus < 1:
        raise ValueError(f"gpus must be ≥ 1, got {gpus}")
    if not memory > 0:
        raise ValueError(f"memory must be > 0 GB, got {memory}")
    if sharding not in get_args(Sharding):
        raise ValueError(f"sharding must be one of {', '.join(get_args(Sharding))}, got {sharding!r}")
    if config.merge_adapters and sharding == "zero3":
        raise ValueError(f"merge_adapters must be false {WITH_ZERO3}")
    check_fp8_sharding(config, sharding)
    check_optimizer_sharding(config, sharding)
    kind = SFTLedger if isinstance(config, SFTConfig) else Ledger
    ledger = kind(config, Architecture.of(model_config), gpus, sharding, device)
    limit = int(memory * GB)
    largest = ledger.largest(limit)
    chosen = max(1, largest) if config.memory_budget else ledger.micro_batch(config.micro_batch_size)
    phases = {"rollout": ledger.rollout(), "score": ledger.score(), "update": ledger.update(chosen)}
    return Plan(phases, limit, chosen, largest)


def check_fp8_sharding(config: RunConfig, sharding: str) -> None:
    """Raise ValueError for an FP8 key that does not go with a sharding."""
    for key, shardings in _WHOLE_BASE.items():
        if getattr(config, key) and sharding in shardings:
            others = "ddp" if key == "fp8_training" else "ddp, zero2 or fsdp"
            raise ValueError(f"{key} must be false with {sharding}, which does not keep FP8 weights; use {others}")


def check_optimizer_sharding(config: RunConfig, sharding: str) -> None:
    """Raise ValueError for an 8-bit optimizer where weights or optimizer are split over ranks."""
    if config.optim == "adamw_8bit" and sharding != "ddp":
        raise ValueError(
            f"optim must be adamw with {sharding}, which splits the optimizer over ranks, got adamw_8bit; use ddp, or "
            "optim=adamw"
        )


def largest_micro_batch(
    config: RunConfig,
    model_config: Any,
    memory_bytes: int,
    world: int,
    *,
    sharding: str = "ddp",
    device: Device = "cuda",
) -> int:
    """The most views of a micro-batch whose step fits into `memory_bytes` on each of `world` devices.

    Raises:
        ValueError: a micro-batch of one view or a rollout does not fit. The message names the memory that it needs.
    """
    smallest = replace(config, micro_batch_size=1, memory_budget=0.0)
    planned = plan(smallest, model_config, gpus=world, memory=memory_bytes / GB, sharding=sharding, device=device)
    budget = f"got {memory_bytes / GB:.3g} GB"
    if planned.largest == 0:
        need = f"a micro-batch of one view needs {planned.peak('update') / GB:.3g} GB"
        raise ValueError(f"memory_budget: {need}, {budget}; {_LESS_FOR_UPDATES}")
    for phase in ROLLOUT_PHASES:
        if planned.peak(phase) > memory_bytes:
            need = f"{phase} needs {planned.peak(phase) / GB:.3g} GB"
            raise ValueError(f"memory_budget: {need}, {budget}; {_less_for_rollouts(config)}")
    return planned.largest


def table(planned: Plan) -> Table:
    """The plan as a table for the terminal, in GB."""
    lines = Table(title=f"GB of each device, micro_batch_size {planned.micro_batch_size}")
    lines.add_column("", overflow="fold")
    for phase in PHASES:
        lines.add_column(phase, justify="right", overflow="fold")
    for category in CATEGORIES:
        row = [planned.phases[phase][category] for phase in PHASES]
        if any(row):
            lines.add_row(category, *(f"{count / GB:.3g}" if count else "" for count in row))
    lines.add_section()
    lines.add_row("peak", *(f"{planned.peak(phase) / GB:.3g}" for phase in PHASES), style="bold")
    return lines


def verdict(planned: Plan, config: RunConfig) -> str:
    """One line: whether the plan fits, and if not, which keys lower the memory; what `resample_prompts` may cost."""
    limit = f"{planned.memory / GB:g} GB"
    too_large = [phase for phase in PHASES if planned.peak(phase) > planned.memory]
    clauses = [f"does not fit {limit}: {', '.join(too_large)}" if too_large else f"fits {limit}"]
    if planned.largest:
        clauses.append(f"largest micro_batch_size {planned.largest}")
    else:
        clauses += ["not even micro_batch_size 1 fits", _LESS_FOR_UPDATES]
    if set(too_large) & set(ROLLOUT_PHASES):
        clauses.append(_less_for_rollouts(config))
    if isinstance(config, DMPOConfig) and config.draws_of_round > 1:
        clauses.append(f"with resample_prompts a round decodes up to {config.draws_of_round} times its completions")
    return "; ".join(clauses)


def _less_for_rollouts(config: RunConfig) -> str:
    less = f"a smaller rollout_batch_size than {config.rollout_batch_size}"
    return f"{less} or merge_adapters=false needs less" if config.merge_adapters else f"{less} needs less"
