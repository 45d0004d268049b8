"""LoRA on the blocks: the weights are float32 for the optimiser, the products are in the dtype of the input."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from .masked_lm import unwrap


def lora_target_modules(model: nn.Module) -> list[str]:
    """Names of the linear layers of attention and MLP, never lm_head, for peft's `target_modules`."""
    names = [name for name, module in unwrap(model).model.named_modules() if isinstance(module, nn.Linear)]
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def add_lora(
    model: nn.Module, *, rank: int, alpha: int, dropout: float, targets: Sequence[str] | str = "all-linear"
) -> PeftModel:
    """Add LoRA adapters to linear layers of the blocks. lm_head and embeddings stay frozen.

    Args:
        targets: names of linear layers, such as q_proj, in every block; "all-linear" for all of them.

    Raises:
        ValueError: the blocks have no linear layer of one of the names.
    """
    names = lora_target_modules(model)
    chosen = names if targets == "all-linear" else list(targets)
    if unknown := [name for name in chosen if name not in names]:
        raise ValueError(
            f"lora_target_modules: the blocks of this model have no linear layer {', '.join(unknown)}; choose from "
            f"{', '.join(names)}, or give all-linear"
        )
    return adapt(model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen))


def adapt(model: nn.Module, config: LoraConfig) -> PeftModel:
    """`peft.get_peft_model`, then `use_input_dtype`."""
    with warnings.catch_warnings():  # peft 0.21 uses a name that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing. is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", ".lora_bias=True. was passed")  # dmpo.models.merge refuses such adapters
        return use_input_dtype(get_peft_model(model, config))


def use_input_dtype(model: PeftModel) -> PeftModel:
    """Make the adapters multiply in the dtype of their inputs, in place.

    peft keeps the adapters of a half-precision model in float32 and casts their inputs to float32. This doubles the
    activations, and the products are many times slower than the products of the base. Here the float32 weights are
    rounded when they are used, as in mixed precision. Gradients and the optimiser stay float32. A float32 model does
    not change. Layers of DoRA and of other variants do not change either, because their formulas need the adapters in
    full precision.
    """
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and not layer.lora_variant:
            layer.cast_input_dtype_enabled = False
            for factors in (layer.lora_A, layer.lora_B):
                for name, factor in factors.items():
                    if type(factor) is nn.Linear:
                        factors[name] = _InputDtypeLinear(factor)
    return model


class _InputDtypeLinear(nn.Linear):
    """A linear layer that multiplies in the dtype of its input. It shares the parameters of `linear`."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)
