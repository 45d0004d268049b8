"""The memory of one rank at the peak of a rollout, of scoring and of an update, by category."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config.checks import largest_mask_rate, masks_whole_completions
from ..config.run import RunConfig
from .memory import NF4_BYTES, Architecture, BlockMemory, Device, HeadMemory

CATEGORIES = (
    *("weights", "adapters", "merged weights", "reference", "gradients", "optimizer"),
    *("activations", "caches", "logits", "other"),
)
CONTEXT = {"cuda": 1 << 30, "cpu": 0}  # bytes of the CUDA context and libraries
DEEPSPEED_BUCKET = 500_000_000  # elements that DeepSpeed reduces at a time by default


class Ledger:
    """Adds up the memory at the peak of each phase on the rank with the most rows, in bytes by category (`CATEGORIES`).

    The result of a phase is the moment with the largest sum.
    """

    def __init__(
        self,
        config: RunConfig,
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
        self.view_length, self.view_block = self.length, self.block  # of a view in scoring and in an update
        if arch.block_size:  # a view has the completion twice: `models.block_causal.two_copies`
            self.view_length += config.gen_length + min(arch.block_size - 1, config.max_prompt_length)
            self.view_block = BlockMemory(arch, config, device, self.view_length)
        self.completions = -(-config.rows_of_step // gpus)
        self.views = self._replicates * self.completions
        whole_weights = sharding not in ("zero3", "fsdp")
        self.weight_share = 1 if whole_weights else gpus
        self.gradient_share = 1 if sharding == "ddp" else gpus
        e, rank = self.block.e, config.lora_r
        self.w = w = 4 if rank and not self.deepspeed else e  # bytes of a trained weight: peft's adapters are float32
        linear_bytes = NF4_BYTES if config.load_in_4bit else e
        self.block_bytes = int(arch.block_linear * linear_bytes) + arch.block_other * e
        self.fp8_block = arch.block_linear + 4 * sum(outputs for _, outputs in arch.linears)  # bytes, and a scale a row
        if config.fp8_training:  # the bytes in two orders
            self.block_bytes = self.fp8_block + arch.block_linear + arch.block_other * e
        self.base = arch.layers * self.block_bytes + arch.outer * e
        # LoRA's layers; activations are counted as if all linear layers had adapters, so a plan is never too small.
        self.adapted = arch.adapted(config.lora_target_modules)
        self.adapters = arch.layers * arch.adapter(rank, config.lora_target_modules) * w
        self.trained = self.adapters if rank else self.base  # bytes of the trained weights, as many as of the gradients
        self.moments = 2 * self.trained
        if config.optim == "adamw_8bit":
            self.moments = arch.adamw_8bit(rank, config.lora_target_modules)
        if self.deepspeed:  # moments and master weights are float32
            self.moments = 3 * 4 * self.trained // w
        self.largest_trained = w * (rank * max(sum(x) for x in self.adapted) if rank else arch.head)

    def micro_batch(self, views: int) -> int:
        """The number of views of a micro-batch: `views`, but at most all views of the rank; 0 means all."""
        return min(views or self.views, self.views)

    def largest(self, limit: int) -> int:
        """The most views whose update fits in `limit` bytes, by bisection: memory grows with the number of views."""
        fits, too_many = 0, self.views + 1
        while too_many - fits > 1:
            views = (fits + too_many) // 2
            if sum(self.update(views).values()) <= limit:
                fits = views
            else:
                too_many = views
        return fits

    def rollout(self) -> dict[str, int]:
        """The peak of a rollout: in the pass over the whole canvas, in the draw that follows it, or before both, when
        weights are merged and quantised."""
        config, arch, block, merged = self.config, self.arch, self.block, self.config.merge_adapters
        if merged:  # passes are passes of a model without adapters
            none: dict[str, Any] = {"merge_adapters": False, "load_in_4bit": False, "lora_target_modules": "all-linear"}
            plain = replace(config, **none, lora_r=0)
            block = replace(block, config=plain)
        rows = min(config.rollout_batch_size, self._decoded)
        passes = rows * (2 if config.cfg_scale else 1)
        shadow = config.block_length + 1 if config.decoder == "wino" else 0
        of_blocks = arch.block_size is not None and config.cache != "none"  # the first pass is the widest
        width = config.max_prompt_length + config.block_length if of_blocks else self.length + shadow
        tokens, has_cache = passes * width, of_blocks or config.cached != "none"
        caches = 2 * arch.layers * arch.keys * block.e * passes * self.length if has_cache else 0
        running = (block.forward + block.masks) * tokens
        if shadow:
            running += tokens * (self.length + shadow)
        head = self.head(arch, config, self.device, rows * config.block_length)
        quantised = config.fp8_rollouts and not config.fp8_training
        copies: dict[str, bool] = {"merged": merged, "quantised": quantised}
        hidden_states = arch.hidden * block.e * tokens
        return max(
            self._resident(whole=True, **copies, activations=running, caches=caches),
            self._resident(whole=True, **copies, activations=hidden_states, caches=caches, logits=head.sampling),
            self._resident(whole=True, **copies, other=self._preparing if merged or quantised else 0),
            key=lambda by_category: sum(by_category.values()),
        )

    @property
    def _preparing(self) -> int:
        """The temporary tensors while one weight is merged and quantised.

        Merging: the sum before it is rounded, and the unpacked base; on a CPU the peak is earlier, when a float32 copy
        of the base is there in place of the rounded weight. Quantising: the merged weight, and the weight divided by
        its scales; in float16 both in float32.
        """
        largest, e = max(inputs * outputs for inputs, outputs in self.arch.linears), self.block.e
        merging = quantising = 0
        if self.config.merge_adapters:
            sums = 0 if e == 4 else 4 if self.device == "cuda" else 8 - e
            merging = sums + (e if self.config.load_in_4bit else 0)
        if self.config.fp8_rollouts:
            merging += e if merging else 0  # the rounded sum is no part of the copy that stays
            quantising = (8 if self.config.dtype == "float16" else e) + (e if self.config.merge_adapters else 0)
        return largest * max(merging, quantising)

    def score(self) -> dict[str, int]:
        """The peak of scoring: in the pass over views, or in the head after it."""
        config, arch, block = self.config, self.arch, self.view_block
        views, whole = self._scored
        rows = min(config.rollout_batch_size, views)
        masked = self.head(arch, config, self.device, self._masked(rows, whole=whole))
        return self._larger(
            self._resident(whole=True, activations=(block.forward + block.masks) * rows * self.view_length),
            self._resident(whole=True, logits=max(masked.scoring, masked.entropy)),
        )

    def update(self, views: int) -> dict[str, int]:
        """The peak of an update: in forward and backward of `views` views, or in the optimizer's step.

        Gradients of earlier micro-batches are in memory.
        """
        config, arch, block = self.config, self.arch, self.view_block
        tokens, queries, e = views * self.view_length, views * config.gen_length, block.e
        rows = self._masked(views, whole=self._whole_views)
        head = self.head(arch, config, self.device, rows)
        last = block.last_saved(tokens, queries, rows)
        rounded = self._rounded_adapters // (arch.layers if config.gradient_checkpointing else 1)
        in_last = block.last_training(tokens, queries, rows)
        if config.gradient_checkpointing:
            inputs = e * arch.hidden * tokens  # of a block
            at_loss = arch.layers * inputs
            # `training` counts three hidden states of the end of the pass, too. Before the last block they are gone.
            before_last = block.saved * tokens + block.training * tokens - 4 * inputs
            running = at_loss + max(last + in_last, before_last if arch.layers > 1 else 0)
        else:
            earlier = ((arch.layers - 1) * block.saved - block.first_block_unsaved) * tokens if arch.layers > 1 else 0
            at_loss = earlier + last
            running = max(at_loss + in_last, earlier + block.training * tokens)
        masks = block.masks * tokens
        # The input of the final norm, its output, and the output spread over the completions.
        normed = (4 if config.lora_r else 4 + e) * arch.hidden + 4 + e * arch.hidden
        at_loss += normed * rows + e * arch.hidden * queries + masks
        running += masks
        peak = self._resident(
            activations=at_loss + (0 if config.gradient_checkpointing else rounded), logits=head.loss, updating=True
        )
        peak = self._larger(
            peak, self._resident(activations=running + rounded, other=self.largest_gradient, updating=True)
        )
        if not config.lora_r:  # the head's gradient in float32 and rounded; at the end the embeddings' gradient
            head_gradients = (4 + e) * arch.head
            peak = self._larger(peak, self._resident(activations=at_loss, logits=head_gradients, updating=True))
            peak = self._larger(peak, self._resident(other=e * arch.head, updating=True))
        # AdamW's roots of second moments: of all tensors at once on a GPU (foreach), of one tensor at a time on a CPU.
        share = self.trained // self.gradient_share if config.optim == "adamw" else 0
        roots = share if self.device == "cuda" else 2 * min(self.largest_trained, share)
        return self._larger(peak, self._resident(other=roots, updating=True))

    @property
    def largest_gradient(self) -> int:
        """The largest gradient of one weight of a block, before it is added to the earlier ones."""
        rank, shapes = self.config.lora_r, self.adapted if self.config.lora_r else self.arch.linears
        return self.w * max(rank * max(x) if rank else x[0] * x[1] for x in shapes)

    @property
    def _rounded_adapters(self) -> int:
        """The rounded copies of float32 adapters that the backward of a half-precision model needs."""
        rounds = self.config.lora_r and self.block.e < self.w
        adapter = self.arch.adapter(self.config.lora_r, self.config.lora_target_modules)
        return self.arch.layers * adapter * self.block.e if rounds else 0

    @property
    def _keys(self) -> Any:
        """The config with the keys of its own kind of run."""
        return self.config

    @property
    def _replicates(self) -> int:
        """The views of a row in an update."""
        replicates: int = self._keys.replicates
        return replicates

    @property
    def _decoded(self) -> int:
        """The rows that a rank decodes."""
        return self.completions

    @property
    def _scored(self) -> tuple[int, bool]:
        """The views that a rank scores, and whether they mask whole completions."""
        config = self._keys
        whole = masks_whole_completions(config.loss, scoring=True)
        return (max(config.score_views, config.replicates) if whole else config.score_views) * self.completions, whole

    @property
    def _whole_views(self) -> bool:
        """Whether the views of an update mask whole completions."""
        return masks_whole_completions(self._keys.loss)

    @property
    def _has_reference(self) -> bool:
        """Whether a copy of the trained weights is kept."""
        return not self.config.lora_r or self._keys.reference_refresh_steps > 0

    @property
    def _mask_rate(self) -> float:
        """The largest share of positions that a view masks."""
        return largest_mask_rate(self._keys)

    def _masked(self, rows: int, *, whole: bool) -> int:
        """The hidden rows of masked tokens at the highest mask rate, or with `whole` of whole completions."""
        return max(1, round(rows * self.config.gen_length * (1.0 if whole else self._mask_rate)))

    def _resident(
        self,
        *,
        activations: int = 0,
        caches: int = 0,
        logits: int = 0,
        other: int = 0,
        updating: bool = False,
        whole: bool = False,
        merged: bool = False,
        quantised: bool = False,
    ) -> dict[str, int]:
        """Bytes by category at one moment: the given bytes, and the tensors that exist at all times.

        whole: all weights are gathered beside this rank's share (`sharding.whole_parameters`); else two blocks of them.
        merged: the adapted weights exist a second time, whole and unpacked (`models.merged_adapters`).
        quantised: the adapted weights exist a second time, whole and in FP8 (`models.fp8.fp8_base`), merged or not.
        """
        config, arch = self.config, self.arch
        share, weight_share = self.gradient_share, self.weight_share
        gradients = self.trained // share if updating else 0
        if self.gpus > 1 and self.sharding == "ddp":
            gradients += self.trained  # DDP's buckets
        elif updating and self.deepspeed:
            gradients += min(self.trained, self.block.e * DEEPSPEED_BUCKET)
        elif updating and share > 1:
            gradients += self.trained // arch.layers  # the gradient of one block, before it is sharded
        if config.load_in_4bit and not merged:
            other += self.block.e * max(inputs * outputs for inputs, outputs in arch.linears)  # one dequantised weight
        if weight_share > 1:
            all_weights = self.base + self.adapters
            two_blocks = 2 * (self.block_bytes + self.adapters // arch.layers) + arch.outer * self.block.e
            other += all_weights if whole else min(two_blocks, all_weights)
        unmerged = self.fp8_block - (self._merged_block(quantised) if merged else 0)
        by_category = {
            "weights": self.base // weight_share + (arch.layers * unmerged if quantised else 0),
            "adapters": self.adapters // weight_share,
            "merged weights": arch.layers * self._merged_block(quantised) if merged else 0,
            "reference": self.trained // self.weight_share if self._has_reference else 0,
            "gradients": gradients,
            "optimizer": self.moments // share,
            "activations": int(activations),
            "caches": int(caches),
            "logits": int(logits),
            "other": int(other) + CONTEXT[self.device],
        }
        assert tuple(by_category) == CATEGORIES
        return by_category

    def _merged_block(self, quantised: bool) -> int:
        """The bytes of the merged weights of a block."""
        weights = sum(inputs * outputs for inputs, outputs in self.adapted)
        return weights + 4 * sum(outputs for _, outputs in self.adapted) if quantised else weights * self.block.e

    @staticmethod
    def _larger(one: dict[str, int], two: dict[str, int]) -> dict[str, int]:
        return max(one, two, key=lambda by_category: sum(by_category.values()))
