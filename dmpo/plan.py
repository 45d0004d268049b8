"""What a run will need of each GPU's memory, by part and phase, and the largest micro-batch that fits.

Nothing is loaded: sizes come from the model's config.json. Peaks are those of live tensors, from `dmpo.memory`, and on
a GPU 1 GiB for the CUDA context and libraries; what the allocator loses to fragmentation is not known beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from rich.table import Table

from .architectures import PUBLISHED
from .checkpoint_files import checkpoint_folder, read_json
from .config import DMPOConfig
from .memory import NF4_BYTES, Architecture, BlockMemory, Device, HeadMemory
from .models import _bidirectional_config

Sharding = Literal["ddp", "zero2", "zero3", "fsdp"]
PARTS = ("weights", "adapters", "reference", "gradients", "optimizer", "activations", "caches", "logits", "other")
PHASES = ("rollout", "score", "update")
GB = 10**9
CONTEXT = {"cuda": 1 << 30, "cpu": 0}


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
        model_config: of transformers, from `read_model_config` or a model's `.config`.
        gpus: ranks. memory: GB (10^9 bytes) of each device.
        sharding: ddp (every rank holds all), zero2 (gradients and optimizer split), zero3 or fsdp (weights, too).
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
    ledger = _Ledger(config, Architecture.of(model_config), gpus, sharding, device)
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
    if found.largest == 0:
        raise ValueError(
            f"memory_budget: a micro-batch of one view needs {found.peak('update') / GB:.3g} GB, "
            f"{memory_bytes / GB:.3g} GB are given; gradient_checkpointing, load_in_4bit or more sharding need less"
        )
    for phase in ("rollout", "score"):
        if found.peak(phase) > memory_bytes:
            raise ValueError(
                f"memory_budget: {phase} needs {found.peak(phase) / GB:.3g} GB, {memory_bytes / GB:.3g} GB are given; "
                f"a smaller rollout_batch_size than {config.rollout_batch_size} needs less"
            )
    return found.largest


def read_model_config(path: str) -> Any:
    """The transformers config of a checkpoint folder, embedded model or hub id.

    Of a hub id one file is fetched, and nothing where dmpo knows its shape (`architectures.PUBLISHED`).

    Raises:
        ValueError: no such checkpoint, no config.json in it, or a model that `load_model` would refuse.
    """
    if path in PUBLISHED and not Path(path).exists():
        return _bidirectional_config(dict(PUBLISHED[path]), None)
    if "/" in path and not Path(path).expanduser().exists():
        try:
            file = Path(hf_hub_download(path, "config.json"))
        except Exception as error:  # offline, gated, unknown: whatever the reason, the message carries it
            raise ValueError(f"model {path!r} is no folder here, and the Hub gave no config.json: {error}") from error
    else:
        file = checkpoint_folder(path) / "config.json"
    try:
        return _bidirectional_config(read_json(file), None)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"{file}: {error}") from error


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


def verdict(found: Plan) -> str:
    """Whether the plan fits, and what would, in a line."""
    limit = f"{found.memory / GB:g} GB"
    if too_large := [phase for phase in PHASES if found.peak(phase) > found.memory]:
        first = f"does not fit {limit}: {', '.join(too_large)}"
    else:
        first = f"fits {limit}"
    largest = f"largest micro_batch_size {found.largest}" if found.largest else "not even micro_batch_size 1 would"
    return f"{first}; {largest}"


class _Ledger:
    """Adds up what lives at the peak of each phase on the rank that has most to do."""

    def __init__(self, config: DMPOConfig, arch: Architecture, gpus: int, sharding: str, device: Device) -> None:
        self.config, self.arch, self.gpus, self.sharding, self.device = config, arch, gpus, sharding, device
        self.length = config.max_prompt_length + config.gen_length
        self.block = BlockMemory(arch, config, device, self.length)
        self.completions = -(-config.num_prompts * config.num_generations // gpus)
        self.views = config.replicates * self.completions
        whole_weights = sharding not in ("zero3", "fsdp")
        self.weight_share = 1 if whole_weights else gpus
        self.gradient_share = 1 if sharding == "ddp" else gpus
        e, w, rank = self.block.e, self.block.w, config.lora_r
        each_linear = NF4_BYTES if config.load_in_4bit else e
        self.block_bytes = int(arch.block_linear * each_linear) + arch.block_other * e
        self.base = arch.layers * self.block_bytes + arch.outer * e
        self.adapters = arch.layers * arch.adapter(rank) * w
        self.trained = self.adapters if rank else self.base  # bytes, those of the gradients and of each moment, too
        self.largest_trained = w * (rank * max(sum(x) for x in arch.linears) if rank else arch.head)

    def micro_batch(self, size: int) -> int:
        return min(size or self.views, self.views)

    def largest(self, limit: int) -> int:
        """The most views whose update fits, by bisection: it needs more with every view."""
        fits, too_many = 0, self.views + 1
        while too_many - fits > 1:
            size = (fits + too_many) // 2
            if sum(self.update(size).values()) <= limit:
                fits = size
            else:
                too_many = size
        return fits

    def rollout(self) -> dict[str, int]:
        """The pass over the whole canvas, or the draw that follows it."""
        config, arch, block = self.config, self.arch, self.block
        rows = min(config.rollout_batch_size, self.completions)
        passes = rows * (2 if config.cfg_scale else 1)
        shadow = config.block_length + 1 if config.decoder == "wino" else 0
        tokens = passes * (self.length + shadow)
        cached = config.decoder in ("prefix_cache", "dual_cache")
        caches = 2 * arch.layers * arch.keys * block.e * tokens if cached else 0
        running = (block.forward + block.masks) * tokens
        if shadow:
            running += tokens * (self.length + shadow)
        head = HeadMemory(arch, config, self.device, rows * config.block_length)
        return self._larger(
            self._resident(whole=True, activations=running, caches=caches),
            self._resident(whole=True, activations=arch.hidden * block.e * tokens, caches=caches, logits=head.sampling),
        )

    def score(self) -> dict[str, int]:
        """The pass over views, or the head after it."""
        config, arch, block = self.config, self.arch, self.block
        rows = min(config.rollout_batch_size, config.score_views * self.completions)
        masked = HeadMemory(arch, config, self.device, self._masked(rows))
        kept = arch.hidden * block.e * rows * self.length
        return self._larger(
            self._resident(whole=True, activations=(block.forward + block.masks) * rows * self.length),
            self._resident(whole=True, activations=kept, logits=max(masked.scoring, masked.entropy)),
        )

    def update(self, size: int) -> dict[str, int]:
        """Forward and backward of `size` views after earlier ones left their gradient, or the optimizer's step."""
        config, arch, block = self.config, self.arch, self.block
        tokens, e = size * self.length, block.e
        head = HeadMemory(arch, config, self.device, self._masked(size))
        kept = arch.layers * block.saved - block.first_block_spares
        if config.gradient_checkpointing:
            kept = arch.layers * e * arch.hidden
        last = kept + (4 if config.lora_r else 4 + e) * arch.hidden + 4  # the final norm's
        hidden = 2 * e * arch.hidden
        recomputed = block.saved if config.gradient_checkpointing else 0
        running = (kept + recomputed + block.training + block.masks) * tokens
        loss = (last + hidden + block.masks) * tokens
        found = self._resident(activations=loss, logits=head.loss, updating=True)
        found = self._larger(found, self._resident(activations=running, other=self.largest_block, updating=True))
        if not config.lora_r:  # the head's gradient, wide and rounded; the embeddings' at the end
            twice = (4 + e) * arch.head
            found = self._larger(found, self._resident(activations=loss, logits=twice, updating=True))
            found = self._larger(found, self._resident(other=e * arch.head, updating=True))
        # AdamW's roots of second moments: all together on a GPU (foreach), tensor by tensor on a CPU.
        shared = self.trained // self.gradient_share
        roots = shared if self.device == "cuda" else 2 * min(self.largest_trained, shared)
        return self._larger(found, self._resident(other=roots, updating=True))

    @property
    def largest_block(self) -> int:
        """The gradient of one weight before it is added."""
        rank, shapes = self.config.lora_r, self.arch.linears
        return self.block.w * max(rank * max(x) if rank else x[0] * x[1] for x in shapes)

    def _masked(self, rows: int) -> int:
        """Hidden rows that a mask selects at the highest rate."""
        return max(1, round(rows * self.config.gen_length * self.config.mask_rate_max))

    def _resident(
        self,
        *,
        activations: int = 0,
        caches: int = 0,
        logits: int = 0,
        other: int = 0,
        updating: bool = False,
        whole: bool = False,
    ) -> dict[str, int]:
        """Bytes by part: what always lives, and what a moment adds.

        whole: all weights are gathered beside this rank's share (`sharding.whole_parameters`), else two blocks of them.
        """
        config, arch, share, weight_share = self.config, self.arch, self.gradient_share, self.weight_share
        copied = not config.lora_r or config.reference_refresh_steps > 0
        gradients = self.trained // share if updating else 0
        if self.gpus > 1 and self.sharding == "ddp":
            gradients += self.trained  # DDP's buckets
        if updating and share > 1:
            gradients += self.trained // arch.layers  # of one block, before it is split
        if config.load_in_4bit:
            other += self.block.e * max(inputs * outputs for inputs, outputs in arch.linears)  # one weight unpacked
        if weight_share > 1:
            everything = self.base + self.adapters
            two = 2 * (self.block_bytes + self.adapters // arch.layers) + arch.outer * self.block.e
            other += everything if whole else min(two, everything)
        parts = {
            "weights": self.base // weight_share,
            "adapters": self.adapters // weight_share,
            "reference": self.trained // self.weight_share if copied else 0,
            "gradients": gradients,
            "optimizer": 2 * self.trained // share,
            "activations": int(activations),
            "caches": int(caches),
            "logits": int(logits),
            "other": int(other) + CONTEXT[self.device],
        }
        assert tuple(parts) == PARTS
        return parts

    @staticmethod
    def _larger(one: dict[str, int], two: dict[str, int]) -> dict[str, int]:
        return max(one, two, key=lambda parts: sum(parts.values()))
