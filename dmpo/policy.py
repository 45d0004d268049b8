"""The trained policy and its reference: LoRA with the adapter switched off, or a frozen copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from .masked_lm import lora_target_modules


def add_lora(model: nn.Module, *, rank: int, alpha: int, dropout: float) -> PeftModel:
    """LoRA adapters on all linear layers of the blocks; lm_head and embeddings stay frozen."""
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=lora_target_modules(model))
    return get_peft_model(model, config)


class ReferencePolicy:
    """p_ref: what the policy was when this object was made.

    A LoRA model lends its own base weights, so nothing is copied; a fully trained one is copied and frozen.
    """

    def __init__(self, model: nn.Module) -> None:
        self._adapter = model if isinstance(model, PeftModel) else None
        self._copy = None if self._adapter is not None else copy.deepcopy(model).requires_grad_(False).eval()

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The reference model, for the length of the context."""
        if self._adapter is not None:
            with self._adapter.disable_adapter():
                yield self._adapter
        else:
            assert self._copy is not None
            yield self._copy
