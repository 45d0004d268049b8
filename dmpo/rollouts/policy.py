"""The trained policy and its reference: LoRA with the adapter switched off, or what the trained weights once were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import Tensor, nn

from ..config.run import RunConfig
from ..distributed.sharding import whole_parameters
from ..distributed.zero import zero_stage
from ..models.fp8 import convert_base, float8_linear, fp8_base
from ..models.loading import load_model
from ..models.lora import add_lora
from ..models.masked_lm import unwrap
from ..models.merged_adapters import merged_adapters
from ..models.model_config import make_bidirectional


def make_policy(config: RunConfig, device: torch.device | str, model: nn.Module | None = None) -> nn.Module:
    """The model to train, on `device`: what the config names (or `model`), with LoRA and checkpointing as it asks."""
    ids: Any = {"mask_id": config.mask_id, "eos_id": config.eos_id}
    options: Any = {"dtype": config.dtype, "attn_implementation": config.attn_implementation} | ids
    load_on = device if config.load_in_4bit else "cpu"  # weights are packed into 4 bits where they are used
    policy: Any = model or load_model(config.model, device=load_on, load_in_4bit=config.load_in_4bit, **options)
    if model is not None and (config.mask_id is not None or config.eos_id is not None):
        make_bidirectional(unwrap(policy).config, **ids)
    if config.gradient_checkpointing:
        # transformers 5.23 deprecates the second name, which is the only one of earlier versions.
        enable = getattr(policy, "activation_checkpointing_enable", None) or policy.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    torch.manual_seed(config.seed)  # LoRA's initial weights
    if config.lora_r:
        sizes: Any = {"rank": config.lora_r, "alpha": config.lora_alpha, "dropout": config.lora_dropout}
        policy = add_lora(policy, **sizes, targets=config.lora_target_modules)
    if config.fp8_training:
        policy = convert_base(policy, device)
    return policy.to(device)


@contextmanager
def rollout_model(model: nn.Module, config: RunConfig) -> Iterator[Any]:
    """The policy as it decodes: its parameters whole, its adapters merged if `merge_adapters` says so, and its products
    in FP8 if `fp8_rollouts` does.

    All ranks enter and leave together. Afterwards the policy is bit for bit what it was.

    Args:
        model: the policy as accelerate prepared it.

    Yields:
        The model to decode with.
    """
    with whole_parameters(model) as whole, ExitStack() as changes:
        if config.merge_adapters:
            changes.enter_context(merged_adapters(whole, convert=float8_linear if config.fp8_rollouts else None))
        if config.fp8_rollouts:
            changes.enter_context(fp8_base(whole))
        yield whole


class ReferencePolicy:
    """p_ref: what the policy was when this object was created, or last refreshed.

    With LoRA the base weights are the reference, and nothing is copied. Where every weight is trained, or the reference
    is to be refreshed, a copy of the trained weights is kept, and swapped in while the reference is used.

    Args:
        model: the policy as accelerate prepared it, with its trainable parameters marked.
        refreshable: whether `refresh` will be called.

    Raises:
        ValueError: refreshing under DeepSpeed, whose float32 masters cannot be swapped; or the trained weights must be
            kept, and DeepSpeed ZeRO-3 splits them over ranks.
    """

    def __init__(self, model: nn.Module, *, refreshable: bool = False) -> None:
        self._model, self._policy = model, extract_model_from_parallel(model)
        self._kept: dict[str, Tensor] = {}
        if refreshable and zero_stage(model):
            raise ValueError("reference_refresh_steps must be 0 under DeepSpeed, which keeps masters apart; use FSDP2")
        if not refreshable and isinstance(self._policy, PeftModel):
            return
        if zero_stage(model) == 3:
            raise ValueError("ZeRO-3 cannot keep a reference of trained weights; use FSDP2, or LoRA without refreshing")
        self._kept = {name: p.detach().clone() for name, p in self._trained()}

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The reference model, whole, for the length of the context, in which the policy must not be used.

        All ranks enter and leave together. None may be inside `sharding.whole_parameters`.
        """
        if not self._kept:
            with whole_parameters(self._model) as whole, whole.disable_adapter():
                yield whole
            return
        with self.swapped_in(), whole_parameters(self._model) as whole:
            yield whole

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """For the length of the context the policy has the kept weights, and the policy's weights are kept."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def refresh(self) -> None:
        """Make the policy, as it is now, the reference."""
        for name, parameter in self._trained():
            self._kept[name].copy_(parameter)

    def state(self) -> dict[str, Tensor]:
        """The kept weights by parameter name; empty where the base weights are the reference."""
        return self._kept

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`.

        Raises:
            ValueError: the names are not the names of the trained weights.
        """
        if odd := state.keys() ^ self._kept.keys():
            raise ValueError(f"reference weights of another model: {', '.join(sorted(odd)[:4])} missing or unknown")
        for name, kept in self._kept.items():
            kept.copy_(state[name])

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._policy.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._trained():
            own = parameter.detach().clone()
            parameter.copy_(self._kept[name])
            self._kept[name].copy_(own)
