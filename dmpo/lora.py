"""LoRA on the blocks: float32 weights for the optimiser, products in the dtype of what comes in."""

from __future__ import annotations

import warnings

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from .masked_lm import lora_target_modules


def add_lora(model: nn.Module, *, rank: int, alpha: int, dropout: float) -> PeftModel:
    """LoRA adapters on all linear layers of the blocks; lm_head and embeddings stay frozen."""
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=lora_target_modules(model))
    return adapt(model, config)


def adapt(model: nn.Module, config: LoraConfig) -> PeftModel:
    """`peft.get_peft_model`, with `narrow_products`."""
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 by a name that the latter deprecates
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing. is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", ".lora_bias=True. was passed")  # dmpo.merge refuses it
        return narrow_products(get_peft_model(model, config))


def narrow_products(model: PeftModel) -> PeftModel:
    """Let adapters multiply in the dtype of their inputs, in place.

    peft keeps the adapters of a half-precision model in float32, and widens their inputs to it: twice the activations,
    and products many times slower than the base's. As in mixed precision, the float32 weights are rounded where they
    are used instead; gradients and optimiser stay float32. In a float32 model nothing changes. Layers of DoRA and other
    variants stay as peft has them: they compute with the adapters in ways of their own, which need all their digits.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and not layer.lora_variant:
            layer.cast_input_dtype_enabled = False
            for parts in (layer.lora_A, layer.lora_B):
                for name, part in parts.items():
                    if type(part) is nn.Linear:
                        parts[name] = _NarrowLinear(part)
    return model


class _NarrowLinear(nn.Linear):
    """The parameters of a linear layer, under their names, multiplied in the dtype of the input."""

    def __init__(self, wide: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = wide.in_features, wide.out_features
        self.weight, self.bias = wide.weight, wide.bias

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)
