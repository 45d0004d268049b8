"""What lives on one rank at the peak of a rollout, of scoring and of an update, part by part."""

from __future__ import annotations

from dataclasses import replace

from .config import ONE_STEP, SCORED_ONE_STEP, DMPOConfig
from .memory import NF4_BYTES, Architecture, BlockMemory, Device, HeadMemory

PARTS = ("weights", "adapters", "reference", "gradients", "optimizer", "activations", "caches", "logits", "other")
CONTEXT = {"cuda": 1 << 30, "cpu": 0}
DEEPSPEED_BUCKET = 500_000_000  # elements reduced at a time, its default


class Ledger:
    """Adds up what lives at the peak of each phase on the rank that has most to do; bytes by part (`PARTS`)."""

    def __init__(
        self,
        config: DMPOConfig,
        arch: Architecture,
        gpus: int,
        sharding: str,
        device: Device,
        head: type[HeadMemory] = HeadMemory,
    ) -> None:
        self.head = head
        self.deepspeed = sharding in ("zero2", "zero3")
        if self.deepspeed:
            config = replace(config, dtype="bfloat16")
        self.config, self.arch, self.gpus, self.sharding, self.device = config, arch, gpus, sharding, device
        self.length = config.max_prompt_length + config.gen_length
        self.block = BlockMemory(arch, config, device, self.length)
        self.completions = -(-config.num_prompts * config.num_generations // gpus)
        self.views = config.replicates * self.completions
        whole_weights = sharding not in ("zero3", "fsdp")
        self.weight_share = 1 if whole_weights else gpus
        self.gradient_share = 1 if sharding == "ddp" else gpus
        e, rank = self.block.e, config.lora_r
        self.w = w = 4 if rank and not self.deepspeed else e  # bytes of a trained weight: peft's adapters are float32
        each_linear = NF4_BYTES if config.load_in_4bit else e
        self.block_bytes = int(arch.block_linear * each_linear) + arch.block_other * e
        self.base = arch.layers * self.block_bytes + arch.outer * e
        self.adapters = arch.layers * arch.adapter(rank) * w
        self.trained = self.adapters if rank else self.base  # bytes, those of the gradients and of each moment, too
        self.moments = 2 * self.trained
        if self.deepspeed:  # in float32, and the weights once more
            self.moments = 3 * 4 * self.trained // w
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
        head = self.head(arch, config, self.device, rows * config.block_length)
        return self._larger(
            self._resident(whole=True, activations=running, caches=caches),
            self._resident(whole=True, activations=arch.hidden * block.e * tokens, caches=caches, logits=head.sampling),
        )

    def score(self) -> dict[str, int]:
        """The pass over views, or the head after it."""
        config, arch, block = self.config, self.arch, self.block
        whole = config.loss in SCORED_ONE_STEP  # one-step views mask whole completions
        views = max(config.score_views, config.replicates) if whole else config.score_views
        rows = min(config.rollout_batch_size, views * self.completions)
        masked = self.head(arch, config, self.device, self._masked(rows, whole=whole))
        kept = arch.hidden * block.e * rows * self.length
        return self._larger(
            self._resident(whole=True, activations=(block.forward + block.masks) * rows * self.length),
            self._resident(whole=True, activations=kept, logits=max(masked.scoring, masked.entropy)),
        )

    def update(self, size: int) -> dict[str, int]:
        """Forward and backward of `size` views after earlier ones left their gradient, or the optimizer's step."""
        config, arch, block = self.config, self.arch, self.block
        tokens, e = size * self.length, block.e
        head = self.head(arch, config, self.device, self._masked(size, whole=config.loss in ONE_STEP))
        kept = arch.layers * block.saved - block.first_block_spares
        rounded = self._rounded_adapters // (arch.layers if config.gradient_checkpointing else 1)
        if config.gradient_checkpointing:
            kept = arch.layers * e * arch.hidden
        last = kept + (4 if config.lora_r else 4 + e) * arch.hidden + 4  # the final norm's
        hidden = 2 * e * arch.hidden
        recomputed = block.saved if config.gradient_checkpointing else 0
        running = (kept + recomputed + block.training + block.masks) * tokens
        loss = (last + hidden + block.masks) * tokens
        found = self._resident(
            activations=loss + (0 if config.gradient_checkpointing else rounded), logits=head.loss, updating=True
        )
        found = self._larger(
            found, self._resident(activations=running + rounded, other=self.largest_block, updating=True)
        )
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
        return self.w * max(rank * max(x) if rank else x[0] * x[1] for x in shapes)

    @property
    def _rounded_adapters(self) -> int:
        """Copies of float32 adapters that the backward of a half-precision model needs."""
        narrow = self.config.lora_r and self.block.e < self.w
        return self.arch.layers * self.arch.adapter(self.config.lora_r) * self.block.e if narrow else 0

    def _masked(self, rows: int, *, whole: bool) -> int:
        """Hidden rows that a mask selects at the highest rate, or of whole completions."""
        return max(1, round(rows * self.config.gen_length * (1.0 if whole else self.config.mask_rate_max)))

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
        elif updating and self.deepspeed:
            gradients += min(self.trained, self.block.e * DEEPSPEED_BUCKET)
        elif updating and share > 1:
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
            "optimizer": self.moments // share,
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
