"""FP8 products (e4m3) of the frozen base: a scale for each row of the activations and each row of the weight.

torch alone does it (`torch.nn.functional.scaled_mm`); torchao 0.18 quantises weights for inference on GPUs only and
without a gradient, and its training layer quantises a frozen weight at every pass.

A scale is a power of two, so scaling rounds nothing, and a product has no error but the rounding of its two operands to
3 bits of mantissa. A row has at most 2⁻⁴·|x| + 2⁻¹⁷·max|row| of error an element.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .masked_lm import unwrap

log = logging.getLogger("dmpo")

E4M3 = torch.float8_e4m3fn
CAPABILITY = (8, 9)  # the first NVIDIA GPUs with FP8 products
MULTIPLE = 16  # of widths that the products of a GPU need

_EXPONENT = 0x7F800000  # the bits of a float32
_ONE_EXPONENT = 1 << 23


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in e4m3 and their scales: `values * scales` is `rows`, rounded to 3 bits of mantissa.

    The largest scaled value of a row is in [128, 256), so none overflows. A row of zeros stays zero. A row with a value
    that is not finite gets NaN for its scale.

    Args:
        rows: float [N, K].

    Returns:
        values: float8_e4m3fn [N, K].
        scales: float32 [N, 1], powers of two.
    """
    largest = torch.linalg.vector_norm(rows, float("inf"), -1, keepdim=True).float()
    exponent = (largest.view(torch.int32) & _EXPONENT).clamp(min=8 * _ONE_EXPONENT)  # of tiny rows: no subnormal scale
    # With alpha=0 nothing is added, except for NaN where the largest is not finite.
    scales = torch.add((exponent - 7 * _ONE_EXPONENT).view(torch.float32), largest, alpha=0)
    wide = rows if rows.dtype == torch.bfloat16 else rows.float()  # a power of two divides bfloat16 exactly
    return (wide / scales.to(wide.dtype)).to(E4M3), scales


class Float8Linear(nn.Module):
    """A frozen linear layer whose products are in FP8.

    The weight is quantised once, here, and a layer for training keeps it in a second order for the backward: tensor
    cores read both operands along the axis that they sum over. The gradient with respect to the input is the product of
    the output's gradient, in FP8, and the same FP8 weight. The weight and the bias have no gradient.

    Args:
        linear: the layer to replace; it is not changed.
        for_training: whether the input will need a gradient.

    Raises:
        ValueError: the layer is on a GPU, and one of its widths is no multiple of 16.
    """

    def __init__(self, linear: nn.Linear, *, for_training: bool) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        if weight.is_cuda and (self.in_features % MULTIPLE or self.out_features % MULTIPLE):
            raise ValueError(
                f"FP8 products on a GPU need layer widths that are multiples of {MULTIPLE}, got {self.in_features} to "
                f"{self.out_features}; set fp8_rollouts=false"
            )
        values, scales = quantise_rows(weight)
        # As bytes, because not every collective takes FP8; as parameters, because DDP sends buffers at every forward.
        self.weight = _frozen(values.view(torch.uint8))  # [out, in]
        self.transposed = _frozen(values.view(torch.uint8).t().contiguous()) if for_training else None  # [in, out]
        self.scales = _frozen(scales)  # [out, 1]
        self.bias = None if linear.bias is None else _frozen(linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out] in the dtype of x. Raises RuntimeError where x needs a gradient but not
        `for_training`."""
        if self.transposed is None and x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("this Float8Linear has no backward: make it with for_training=True")
        rows = x.reshape(-1, self.in_features)
        out: Tensor = _Product.apply(rows, self.weight, self.transposed, self.scales)
        out = out if self.bias is None else out + self.bias.to(out.dtype)
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _Product(torch.autograd.Function):
    """rows [N, in] · weightᵀ [in, out]; the backward leaves weight and scales out."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, transposed: Tensor | None, scales: Tensor) -> Tensor:
        ctx.save_for_backward(transposed, scales)
        values, row_scales = quantise_rows(rows)
        # Fast accumulation as in torchao's row-wise recipe; the backward adds in float32.
        return _multiply(values, row_scales, weight, scales.float().t(), rows.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        transposed, scales = ctx.saved_tensors
        (grad,) = grads
        wide = grad if grad.dtype == torch.bfloat16 else grad.float()
        values, row_scales = quantise_rows(wide * scales.t().to(wide.dtype))  # their scales lie along the summed axis
        ones = torch.ones(1, len(transposed), device=grad.device)
        return _multiply(values, row_scales, transposed, ones, grad.dtype, fast=False), None, None, None


def _multiply(
    rows: Tensor, row_scales: Tensor, weight: Tensor, weight_scales: Tensor, dtype: torch.dtype, *, fast: bool
) -> Tensor:
    """rows [N, K] · weightᵀ [K, M], scaled, in `dtype`."""
    multiply = tensor_core_product if rows.is_cuda else emulated_product
    return multiply(rows, row_scales, weight.view(E4M3), weight_scales, fast=fast).to(dtype)


def tensor_core_product(
    rows: Tensor, row_scales: Tensor, weight: Tensor, weight_scales: Tensor, *, fast: bool
) -> Tensor:
    """bfloat16 [N, M], the one dtype that all kernels of a GPU write. Shapes as of `emulated_product`."""
    recipe = F.ScalingType.RowWise
    product: Tensor = F.scaled_mm(
        *(rows, weight.t(), row_scales, recipe, weight_scales.contiguous(), recipe),
        output_dtype=torch.bfloat16,
        use_fast_accum=fast,
    )
    return product


def emulated_product(rows: Tensor, row_scales: Tensor, weight: Tensor, weight_scales: Tensor, *, fast: bool) -> Tensor:
    """The same product in float32. `scaled_mm` has no kernel for CPUs in torch 2.11.

    rows: float8_e4m3fn [N, K]. row_scales: float32 [N, 1]. weight: float8_e4m3fn [M, K]. weight_scales: float32 [1, M].
    """
    return (rows.float() @ weight.float().t()) * row_scales * weight_scales


def float8_linear(linear: nn.Linear) -> nn.Module:
    """The layer in FP8, for passes without gradient."""
    return Float8Linear(linear, for_training=False).train(linear.training)


@contextmanager
def fp8_base(model: nn.Module) -> Iterator[None]:
    """For the length of the context the linear layers of the blocks multiply in FP8, without gradients.

    The weights are quantised at the start, as they are then: trained and merged weights are new at every phase. The
    layers themselves come back at the end, so their weights are bit for bit what they were. Adapters that are not
    merged, embeddings, norms and lm_head stay as they are. A layer that is in FP8 already stays as it is.

    Args:
        model: from `load_model`, wrapped or not, whose parameters are whole.

    Raises:
        ValueError: as `Float8Linear`.
    """
    replaced: list[tuple[nn.Module, str, nn.Linear]] = []
    try:
        for parent, name, linear in _base_linears(model):
            setattr(parent, name, float8_linear(linear))
            replaced.append((parent, name, linear))
        yield
    finally:
        for parent, name, linear in replaced:
            linear.train(getattr(parent, name).training)
            setattr(parent, name, linear)


def convert_base(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Replace, for good, the frozen linear layers of the blocks by `Float8Linear` on `device`, one after the other.

    Adapters, embeddings, norms and lm_head stay as and where they are. The unquantised weights are dropped.

    Raises:
        ValueError: as `Float8Linear`; or a layer is to be trained.
    """
    for parent, name, linear in _base_linears(model):
        if linear.weight.requires_grad:
            raise ValueError(f"fp8_training: the weight of {name} is trained, but FP8 weights are frozen; use LoRA")
        setattr(parent, name, Float8Linear(linear.to(device), for_training=True).train(linear.training))
    return model


def check_fp8_device(device: torch.device | str, *, speaks: bool) -> None:
    """Raise ValueError for a GPU without FP8 products. A CPU emulates them: a log line says so if the rank `speaks`."""
    device = torch.device(device)
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < CAPABILITY:
        name, (major, minor) = torch.cuda.get_device_name(device), capability
        raise ValueError(
            f"fp8_rollouts and fp8_training need a GPU of compute capability 8.9 or more, got {name} "
            f"({major}.{minor}); set both to false"
        )
    if device.type == "cpu" and speaks:
        log.warning("a CPU has no FP8 products: they are emulated, which is slower than products in float32")


def _base_linears(model: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name in the parent, layer) of each linear layer of the blocks, without adapters."""
    backbone = unwrap(model).model
    found = []
    for path, module in backbone.named_modules():
        if type(module) is nn.Linear and "lora_" not in path:
            parent, _, name = path.rpartition(".")
            found.append((backbone.get_submodule(parent), name, module))
    return found


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
