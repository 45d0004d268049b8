"""LoRA adapters merged into the weights: for the length of a context, or layer by layer for good (`merge.py`).

A pass with adapters multiplies three times in each linear layer. A pass of merged weights multiplies once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from .files import first_names


@contextmanager
def merged_adapters(
    model: nn.Module, *, convert: Callable[[nn.Linear], nn.Module] | None = None
) -> Iterator[nn.Module]:
    """For the length of the context a plain linear layer of the weight W + scale·BA stands in place of each LoRA layer.

    The LoRA layers are put aside as they are, so the model is afterwards bit for bit what it was, also after an error.
    Inside, the model has a second copy of the adapted weights, no adapters (none can be disabled) and no dropout of
    theirs, and its merged weights have no gradients.

    Args:
        model: a peft model whose weights are whole (`sharding.whole_parameters`).
        convert: what stands in place of each merged layer, made as soon as the layer is merged; None for the layer.

    Yields:
        The same model.

    Raises:
        ValueError: as `check_mergeable`; raised before anything is changed.
    """
    check_mergeable(model)
    places = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, LoraLayer)
    ]
    try:
        for parent, name, layer in places:
            merged = _merged_linear(layer)
            setattr(parent, name, convert(merged) if convert else merged)
        yield model
    finally:
        for parent, name, layer in places:
            setattr(parent, name, layer)


def check_mergeable(model: nn.Module) -> None:
    """Raise ValueError for a model without LoRA, or with a LoRA layer that computes more than W + scale·BA."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    if not layers:
        raise ValueError("merge_adapters must be false for a model without LoRA adapters: there is nothing to merge")
    obstacles: dict[str, list[str]] = {}
    for name, layer in layers.items():
        if obstacle := merge_obstacle(layer):
            obstacles.setdefault(obstacle, []).append(name.removeprefix("base_model.model."))
    for obstacle, names in obstacles.items():
        raise ValueError(f"merge_adapters must be false with {obstacle}, which cannot be merged: {first_names(names)}")


def merge_obstacle(layer: Any) -> str | None:
    """What in a layer of peft is more than plain LoRA on a linear layer, in words; None if `merged_weight` holds."""
    if not isinstance(layer, LoraLayer):
        return f"a layer of type {type(layer).__name__}"
    base = layer.get_base_layer()
    if not isinstance(base, nn.Linear) or getattr(layer, "fan_in_fan_out", False):
        return f"LoRA on a layer of type {type(base).__name__}"
    if layer.lora_variant:
        return f"a LoRA variant ({type(next(iter(layer.lora_variant.values()))).__name__})"
    if len(active := layer.active_adapters) != 1:
        return f"LoRA with {len(active)} active adapters instead of one"
    if active[0] not in layer.lora_A:
        return f"LoRA without the active adapter {active[0]!r}"
    if layer.disable_adapters:
        return "a disabled adapter"
    return "an adapter that peft has already merged" if layer.merged else None


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """W + scale·BA of a LoRA layer without `merge_obstacle`, float32 sums rounded once to the dtype of W.

    W of bitsandbytes' 4-bit layers is unpacked. Returns a new tensor [outputs, inputs].
    """
    weight, (adapter,) = unpacked_weight(layer.get_base_layer()), layer.active_adapters
    wide = torch.promote_types(weight.dtype, torch.float32)
    down, up = (factors[adapter].weight.to(wide) for factors in (layer.lora_A, layer.lora_B))
    return (up @ down).mul_(layer.scaling[adapter]).add_(weight).to(weight.dtype)


@torch.no_grad()
def merged_bias(layer: Any) -> Tensor | None:
    """The bias of the merged layer [outputs]: the base's own tensor, or with `lora_bias` a new one, rounded once."""
    bias, (adapter,) = layer.get_base_layer().bias, layer.active_adapters
    own: Tensor | None = layer.lora_B[adapter].bias
    if own is None:
        return bias
    added = own.float() * layer.scaling[adapter]
    if bias is None:
        return added.to(layer.get_base_layer().weight.dtype)
    return (bias + added).to(bias.dtype)


def unpacked_weight(linear: nn.Linear) -> Tensor:
    """The weight [outputs, inputs] of a linear layer; of one of bitsandbytes' 4-bit layers, as its products take it."""
    state = getattr(linear.weight, "quant_state", None)
    if state is None:
        return linear.weight
    from bitsandbytes import functional

    packed, dtype = linear.weight.data, getattr(linear, "compute_dtype", None) or state.dtype
    if getattr(state, "packing_format_for_cpu", False):
        # On CPUs with AVX512-BF16 a forward in eval mode repacks the weight, with scales in bfloat16, in place.
        state = copy.copy(state)
        state.original_nested = False  # quantising the scales again would change them
        packed, state = functional._convert_weight_packed_for_cpu_inverse(packed, state)
        state.absmax = state.absmax.T.reshape(-1).float()
    return functional.dequantize_4bit(packed, state).to(dtype)


def _merged_linear(layer: Any) -> nn.Linear:
    base = layer.get_base_layer()
    linear: Any = nn.Linear(
        base.in_features, base.out_features, bias=False, device="meta"
    )  # no memory, no random numbers
    linear.weight = nn.Parameter(merged_weight(layer), requires_grad=False)
    bias = merged_bias(layer)
    linear.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    merged: nn.Linear = linear.train(layer.training)
    return merged
