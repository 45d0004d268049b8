"""Argument checks that several ops share.

The public functions check shapes, dtypes and devices. The ops check values, of CPU tensors only: on a GPU such a check
would stall the stream. There a target outside [0, V) gives NaN for its row, and a weight that is not finite reaches
the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

_SMALLEST_TEMPERATURE = 1e-30  # 1 / T stays finite in float32
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_floating(name: str, x: object, dims: str) -> None:
    """`x` must be a floating tensor with one dimension for each letter of `dims`. The last must not be empty."""
    check_tensor(name, x)
    assert isinstance(x, Tensor)
    if x.dtype not in _FLOATS:
        raise ValueError(f"{name}: got dtype {x.dtype}, want float32, bfloat16, float16 or float64")
    if x.dim() != len(dims):
        raise ValueError(f"{name}: got shape {list(x.shape)}, want [{', '.join(dims)}]")
    if x.shape[-1] == 0:
        raise ValueError(f"{name}: got shape {list(x.shape)}, want {dims[-1]} >= 1")


def check_tensor(name: str, x: object) -> None:
    """`x` must be a dense tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, want a torch.Tensor")
    if x.layout != torch.strided:
        raise TypeError(f"{name}: got a tensor of layout {x.layout}, want a dense one")


def check_like(name: str, x: object, like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """`x` must be a tensor of this shape and dtype on the device of `like`."""
    check_tensor(name, x)
    assert isinstance(x, Tensor)
    if x.dtype != dtype:
        raise ValueError(f"{name}: got dtype {x.dtype}, want {dtype}")
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name}: got shape {list(x.shape)}, want {list(shape)}")
    check_device(name, x, like)


def check_device(name: str, x: Tensor, like: Tensor) -> None:
    """`x` must be on the device of `like`."""
    if x.device != like.device:
        raise ValueError(f"{name}: got device {x.device}, want {like.device}")


def check_row_weights(name: str, x: object, like: Tensor, rows: int) -> None:
    """`x` must have one constant floating weight a row: the losses are not differentiable in their weights."""
    check_floating(name, x, "N") if not isinstance(x, Tensor) or rows else check_tensor(name, x)
    assert isinstance(x, Tensor)
    if tuple(x.shape) != (rows,):
        raise ValueError(f"{name}: got shape {list(x.shape)}, want [{rows}], one weight a row")
    check_device(name, x, like)
    if x.requires_grad:
        raise ValueError(f"{name}: got a tensor that requires grad, want a constant tensor; call .detach() on it")


def check_number(name: str, x: object) -> None:
    """`x` must be a finite Python number."""
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        raise TypeError(f"{name}: got {type(x).__name__}, want a number")
    if not (-float("inf") < x < float("inf")):
        raise ValueError(f"{name}: got {x}, want a finite number")


def check_target_values(targets: Tensor, live: Tensor | None, vocab: int) -> None:
    """Every target of a live row must be a token id. Checks CPU tensors only."""
    if targets.device.type != "cpu":
        return
    used = targets if live is None else targets[live]
    if used.numel():
        low, high = (int(v) for v in used.aminmax())
        if low < 0 or high >= vocab:
            raise ValueError(
                f"targets: got values from {low} to {high} where they are used, want 0 <= target < {vocab}"
            )


def check_weight_values(name: str, x: Tensor | None) -> None:
    """Every weight must be finite. Checks CPU tensors only."""
    if x is not None and x.device.type == "cpu" and not bool(torch.isfinite(x).all()):
        raise ValueError(
            f"{name}: got {int((~torch.isfinite(x)).sum())} values that are not finite, want finite weights"
        )


def check_linear(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, max_logits_bytes: int | None, dims: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Validate the arguments; returns the three tensors, under autocast in its dtype."""
    check_floating("hidden", hidden, dims)
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"weight: got {type(weight).__name__}, want the tensor lm_head.weight [V, H]; merge an adapter (LoRA) on "
            "lm_head into it first"
        )
    check_floating("weight", weight, "VH")
    if bias is not None:
        check_floating("bias", bias, "V")
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    check_like("weight", weight, hidden, (weight.shape[0], hidden.shape[-1]), hidden.dtype)
    if weight.shape[0] == 0:
        raise ValueError(f"weight: got shape {list(weight.shape)}, want V >= 1")
    if bias is not None:
        check_like("bias", bias, hidden, (weight.shape[0],), bias.dtype)
    if max_logits_bytes is not None:
        if isinstance(max_logits_bytes, bool) or not isinstance(max_logits_bytes, int):
            kind = type(max_logits_bytes).__name__
            raise TypeError(f"max_logits_bytes: got {max_logits_bytes!r} ({kind}), want an int, bytes")
        if max_logits_bytes < 1:
            raise ValueError(f"max_logits_bytes: got {max_logits_bytes}, want a whole number of bytes >= 1")
    return hidden, weight, bias


def check_draw(
    x: Tensor, vocab: int, temperature: float, seed: int, row_ids: Tensor | None, forbid: Sequence[int]
) -> tuple[list[int], int]:
    """Validate how the rows of `x` [M, ...] are drawn; returns each forbidden id once, and the seed in 64 bits."""
    check_number("temperature", temperature)
    if temperature != 0 and temperature < _SMALLEST_TEMPERATURE:
        raise ValueError(f"temperature: got {temperature}, want 0 or at least {_SMALLEST_TEMPERATURE}")
    if isinstance(seed, bool) or not isinstance(seed, (Integral, torch.SymInt)):
        raise TypeError(f"seed: got {type(seed).__name__}, want an integer")
    if row_ids is not None:
        check_like("row_ids", row_ids, x, (x.shape[0],), torch.int64)
    if not isinstance(forbid, (Sequence, set, frozenset)) or isinstance(forbid, str):
        raise TypeError(f"forbid: got {type(forbid).__name__}, want a sequence of token ids")
    ids = list(dict.fromkeys(forbid))
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, Integral):
            raise TypeError(f"forbid: got {token!r}, want token ids (integers)")
        if not 0 <= token < vocab:
            raise ValueError(f"forbid: got {token}, want token ids in [0, {vocab})")
    if len(ids) == vocab:
        raise ValueError(f"forbid: got all {vocab} tokens, want at least one left to draw")
    if not -(1 << 63) <= seed < 1 << 63:
        seed = (int(seed) + (1 << 63)) % (1 << 64) - (1 << 63)
    return [int(token) for token in ids], int(seed)
