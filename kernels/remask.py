"""Batched low-confidence remasking: the Python side of the C++/CUDA operator in csrc/."""

from __future__ import annotations

import importlib
import logging
import math
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from . import reference

logger = logging.getLogger("dmpo")

_BUILD_HINT = "build it with `python setup.py build_ext --inplace`"


def _load_extension() -> tuple[ModuleType | None, str]:
    """dmpo._C and what it was built with, or None and why it cannot be used."""
    try:
        extension = importlib.import_module("dmpo._C")
    except ImportError as error:
        return None, f"dmpo._C is not usable ({error}); {_BUILD_HINT}"
    built, running = extension.build_info()["torch"], torch.__version__
    if built.split(".")[:2] != running.split(".")[:2]:
        return None, f"dmpo._C was built against torch {built}, but torch {running} is running; {_BUILD_HINT}"
    cuda = "with" if extension.build_info()["cuda"] else "without"
    return extension, f"built against torch {built}, {cuda} CUDA sources ({extension.build_info()['reason']})"


_extension, _status = _load_extension()

if _extension is not None:

    @torch.library.register_fake("dmpo::remask_")
    def _(
        tokens: Tensor,
        candidates: Tensor,
        confidence: Tensor,
        mask_id: int,
        *,
        count: int | None = None,
        counts: Tensor | None = None,
        threshold: float | None = None,
        factor: float | None = None,
    ) -> Tensor:
        return tokens.new_empty((tokens.shape[0],), dtype=torch.int32)


def extension_status() -> tuple[bool, str]:
    """Whether the compiled extension is in use, and how it was built or why it is not."""
    return _extension is not None, _status


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _check(
    tokens: Tensor,
    candidates: Tensor,
    confidence: Tensor,
    mask_id: int,
    num_transfer: int | Tensor | None,
    threshold: float | None,
    factor: float | None,
) -> None:
    for name, tensor in (("tokens", tokens), ("candidates", candidates), ("confidence", confidence)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"remask_: {name} must be a tensor, got {type(tensor).__name__}")
    for name, tensor in (("tokens", tokens), ("candidates", candidates)):
        if tensor.dtype != torch.int64:
            raise TypeError(f"remask_: {name} must be int64, got {tensor.dtype}")
    if not confidence.is_floating_point():
        raise TypeError(f"remask_: confidence must be floating point, got {confidence.dtype}")
    if not isinstance(mask_id, int) or isinstance(mask_id, bool):
        raise TypeError(f"remask_: mask_id must be an int, got {type(mask_id).__name__}")
    if tokens.dim() != 2:
        raise ValueError(f"remask_: tokens must be [B, L], got {list(tokens.shape)}")
    for name, tensor in (("candidates", candidates), ("confidence", confidence)):
        if tensor.shape != tokens.shape:
            raise ValueError(f"remask_: {name} must be {list(tokens.shape)} like tokens, got {list(tensor.shape)}")
        if tensor.device != tokens.device:
            raise ValueError(f"remask_: {name} must be on {tokens.device} like tokens, got {tensor.device}")
    given = [
        name
        for name, value in (("num_transfer", num_transfer), ("threshold", threshold), ("factor", factor))
        if value is not None
    ]
    if len(given) != 1:
        got = " and ".join(given) or "none of them"
        raise ValueError(f"remask_: give exactly one of num_transfer, threshold and factor, got {got}")
    if isinstance(num_transfer, Tensor):
        _check_counts(num_transfer, tokens)
    elif num_transfer is not None:
        if not isinstance(num_transfer, int) or isinstance(num_transfer, bool):
            raise TypeError(
                f"remask_: num_transfer must be an int or an integer tensor, got {type(num_transfer).__name__}"
            )
        if num_transfer < 0:
            raise ValueError(f"remask_: num_transfer must not be negative, got {num_transfer}")
    for name, bound in (("threshold", threshold), ("factor", factor)):
        if bound is None:
            continue
        if not isinstance(bound, (int, float)) or isinstance(bound, bool):
            raise TypeError(f"remask_: {name} must be a float, got {type(bound).__name__}")
        if not math.isfinite(bound):
            raise ValueError(f"remask_: {name} must be finite, got {bound}")
        if name == "factor" and bound < 0:
            raise ValueError(f"remask_: factor must not be negative, got {bound}")


def _check_counts(counts: Tensor, tokens: Tensor) -> None:
    if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
        raise TypeError(f"remask_: num_transfer must be an int or an integer tensor, got {counts.dtype}")
    if counts.shape != tokens.shape[:1]:
        raise ValueError(f"remask_: num_transfer must be [{tokens.shape[0]}], one a row, got {list(counts.shape)}")
    if counts.device != tokens.device:
        raise ValueError(f"remask_: num_transfer must be on {tokens.device} like tokens, got {counts.device}")


def remask_(
    tokens: Tensor,
    candidates: Tensor,
    confidence: Tensor,
    *,
    mask_id: int,
    num_transfer: int | Tensor | None = None,
    threshold: float | None = None,
    factor: float | None = None,
) -> Tensor:
    """Unmask the most confident masked positions of each row, in place; returns how many, int32 [B].

    Only positions where `tokens == mask_id` take part; a chosen one receives its candidate. They are ranked by
    confidence, equal confidences by position (lowest first), NaN together with -inf last. Exactly one rule chooses how
    many of a row:

    - `num_transfer`, an int or an integer tensor [B]: that many, all masks where it exceeds them, none at 0;
    - `threshold`: every position with confidence >= threshold, and always the best one;
    - `factor` f: the longest prefix c_(1) >= c_(2) >= ... with c_(n) >= 1 - f / (n + 1), and always the best one
      (Fast-dLLM, Wu et al. 2025, arXiv 2505.22618).

    A row without masks is left alone and returns 0. A candidate equal to `mask_id` is written and counted like any
    other: forbid the mask token when sampling.

    Args:
        tokens: int64 [B, L], any strides, without internal overlap; written in place.
        candidates: int64 [B, L], the token drawn for each position; read where chosen.
        confidence: floating [B, L]. Compared in float64 if that is its dtype, otherwise in float32 (which is exact for
            bfloat16 and float16). No gradient flows.
        mask_id: the mask token.

    On CUDA, L is at most 4096 and a negative entry of a `num_transfer` tensor counts as 0, since looking would wait for
    the device; on the CPU it is refused.

    Raises:
        TypeError: a dtype or a Python type other than the above.
        ValueError: a shape, device, count or bound other than the above, or not exactly one rule.
    """
    _check(tokens, candidates, confidence, mask_id, num_transfer, threshold, factor)
    if confidence.dtype != torch.float64:
        confidence = confidence.float()
    confidence = confidence.detach()
    if _extension is None:
        return _remask_by_reference(tokens, candidates, confidence, mask_id, num_transfer, threshold, factor)
    counts = num_transfer if isinstance(num_transfer, Tensor) else None
    count = None if isinstance(num_transfer, Tensor) else num_transfer
    if tokens.device.type == "cpu" or (tokens.device.type == "cuda" and _extension.build_info()["cuda"]):
        return torch.ops.dmpo.remask_(
            tokens, candidates, confidence, mask_id, count=count, counts=counts, threshold=threshold, factor=factor
        )
    _warn_once(f"remask_ copies {tokens.device.type} tensors to the CPU and back: dmpo._C is {_status}")
    host = tokens.cpu()
    moved = torch.ops.dmpo.remask_(
        host,
        candidates.cpu(),
        confidence.cpu(),
        mask_id,
        count=count,
        counts=None if counts is None else counts.cpu(),
        threshold=threshold,
        factor=factor,
    )
    tokens.copy_(host)
    return moved.to(tokens.device)


def _remask_by_reference(
    tokens: Tensor,
    candidates: Tensor,
    confidence: Tensor,
    mask_id: int,
    num_transfer: int | Tensor | None,
    threshold: float | None,
    factor: float | None,
) -> Tensor:
    _warn_once(f"remask_ runs its slow Python reference: {_status}")
    if isinstance(num_transfer, Tensor) and bool((num_transfer < 0).any()):
        raise ValueError(f"remask_: num_transfer must not be negative, got {int(num_transfer.min())}")
    return reference.remask_(
        tokens,
        candidates,
        confidence,
        mask_id=mask_id,
        num_transfer=num_transfer,
        threshold=threshold,
        factor=factor,
    )
