"""Batched low-confidence remasking: the Python side of the C++/CUDA operators in csrc/."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import reference
from .extension import extension_status, run_in_place, usable

__all__ = ["extension_status", "remask_", "revoke_"]


def _check_rows(op: str, tokens: Tensor, mask_id: int, confidence: Tensor, candidates: Tensor | None = None) -> None:
    like = {"confidence": confidence} if candidates is None else {"candidates": candidates, "confidence": confidence}
    for name, tensor in {"tokens": tokens, **like}.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
        if name != "confidence" and tensor.dtype != torch.int64:
            raise TypeError(f"{op}: {name} must be int64, got {tensor.dtype}")
    if not confidence.is_floating_point():
        raise TypeError(f"{op}: confidence must be floating point, got {confidence.dtype}")
    if not isinstance(mask_id, int) or isinstance(mask_id, bool):
        raise TypeError(f"{op}: mask_id must be an int, got {type(mask_id).__name__}")
    if tokens.dim() != 2:
        raise ValueError(f"{op}: tokens must be [B, L], got {list(tokens.shape)}")
    for name, tensor in like.items():
        if tensor.shape != tokens.shape:
            raise ValueError(f"{op}: {name} must be {list(tokens.shape)} like tokens, got {list(tensor.shape)}")
        if tensor.device != tokens.device:
            raise ValueError(f"{op}: {name} must be on {tokens.device} like tokens, got {tensor.device}")


def _check_count(op: str, name: str, count: int | Tensor, tokens: Tensor) -> None:
    if isinstance(count, Tensor):
        if count.is_floating_point() or count.is_complex() or count.dtype == torch.bool:
            raise TypeError(f"{op}: {name} must be an int or an integer tensor, got {count.dtype}")
        if count.shape != tokens.shape[:1]:
            raise ValueError(f"{op}: {name} must be [{tokens.shape[0]}], one a row, got {list(count.shape)}")
        if count.device != tokens.device:
            raise ValueError(f"{op}: {name} must be on {tokens.device} like tokens, got {count.device}")
        return
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{op}: {name} must be an int or an integer tensor, got {type(count).__name__}")
    if count < 0:
        raise ValueError(f"{op}: {name} must not be negative, got {count}")


def _check_bound(op: str, name: str, bound: float) -> None:
    if not isinstance(bound, (int, float)) or isinstance(bound, bool):
        raise TypeError(f"{op}: {name} must be a float, got {type(bound).__name__}")
    if not math.isfinite(bound):
        raise ValueError(f"{op}: {name} must be finite, got {bound}")


def _check_one_rule(
    num_transfer: int | Tensor | None, threshold: float | None, factor: float | None, risk: float | None
) -> None:
    rules = {"num_transfer": num_transfer, "threshold": threshold, "factor": factor, "risk": risk}
    given = [name for name, value in rules.items() if value is not None]
    if len(given) != 1 and given != ["num_transfer", "risk"]:
        got = " and ".join(given) or "none of them"
        raise ValueError(
            f"remask_: give exactly one of num_transfer, threshold, factor and risk, got {got} (num_transfer may stand "
            "beside risk)"
        )


def _refuse_negative(op: str, name: str, counts: int | Tensor | None) -> None:
    """Refuse negative counts, as the compiled operator does on the CPU."""
    if isinstance(counts, Tensor) and bool((counts < 0).any()):
        raise ValueError(f"{op}: {name} must not be negative, got {int(counts.min())}")


def _one_or_each(count: int | Tensor | None) -> tuple[int | None, Tensor | None]:
    """The operator's two arguments for a count: a number for all rows, or a tensor with one a row."""
    return (None, count) if isinstance(count, Tensor) else (count, None)


def _comparable(confidence: Tensor) -> Tensor:
    return (confidence if confidence.dtype == torch.float64 else confidence.float()).detach()


def remask_(
    tokens: Tensor,
    candidates: Tensor,
    confidence: Tensor,
    *,
    mask_id: int,
    num_transfer: int | Tensor | None = None,
    threshold: float | None = None,
    factor: float | None = None,
    risk: float | None = None,
) -> Tensor:
    """Unmask the most confident masked positions of each row, in place; returns how many, int32 [B].

    Only positions where `tokens == mask_id` take part. They are ranked by confidence, equal confidences by position
    (lowest first), NaN and -inf last. A chosen position receives its candidate. Exactly one rule says how many
    positions of a row are chosen:

    - `num_transfer`, an int or an integer tensor [B]: that many, or all masks if there are fewer;
    - `threshold`: every position with confidence >= threshold, and always the best one;
    - `factor` f: the longest prefix c_(1) >= c_(2) >= ... with c_(n) >= 1 - f / (n + 1), and always the best one
      (Fast-dLLM, Wu et al. 2025, arXiv 2505.22618);
    - `risk` τ: the longest prefix with c_(n) > τ and Σ_{i≤n} (1 - c_(i)) <= 1 - τ, and always the best one (SLIM-RL,
      arXiv 2607.00208: the sum bounds the chance of a wrong token in the step). `num_transfer` beside it says how many
      are chosen at least. The sum is a float64 sum, best first.

    A row without masks stays the same and returns 0. A candidate equal to `mask_id` is written and counted like any
    other candidate: forbid the mask token when sampling.

    Args:
        tokens: int64 [B, L], any strides, without internal overlap; written in place.
        candidates: int64 [B, L], the token drawn for each position; read where chosen.
        confidence: floating [B, L]. Float64 is compared in float64, every other dtype in float32 (which is exact for
            bfloat16 and float16). No gradient flows.
        mask_id: the mask token.

    On CUDA, L is at most 4096. There a negative entry of a `num_transfer` tensor counts as 0, because a check would
    wait for the device; on the CPU it is refused.

    Raises:
        TypeError: a wrong dtype or Python type.
        ValueError: a wrong shape, device, count or bound, or not exactly one rule.
    """
    _check_rows("remask_", tokens, mask_id, confidence, candidates)
    _check_one_rule(num_transfer, threshold, factor, risk)
    if num_transfer is not None:
        _check_count("remask_", "num_transfer", num_transfer, tokens)
    for name, bound in (("threshold", threshold), ("factor", factor), ("risk", risk)):
        if bound is not None:
            _check_bound("remask_", name, bound)
    if factor is not None and factor < 0:
        raise ValueError(f"remask_: factor must not be negative, got {factor}")
    if risk is not None and not 0 <= risk <= 1:
        raise ValueError(f"remask_: risk must be in [0, 1], got {risk}")
    confidence = _comparable(confidence)
    if usable("remask_"):
        count, counts = _one_or_each(num_transfer)
        rule = {"count": count, "counts": counts, "threshold": threshold, "factor": factor, "risk": risk}
        return run_in_place("remask_", tokens, candidates, confidence, mask_id, **rule)
    _refuse_negative("remask_", "num_transfer", num_transfer)
    return reference.remask_(
        tokens,
        candidates,
        confidence,
        mask_id=mask_id,
        num_transfer=num_transfer,
        threshold=threshold,
        factor=factor,
        risk=risk,
    )


def revoke_(tokens: Tensor, confidence: Tensor, *, mask_id: int, threshold: float, limit: int | Tensor) -> Tensor:
    """Turn the least confident tokens of each row back into masks, in place; returns how many, int32 [B].

    Positions where `tokens != mask_id` and `confidence < threshold` take part. They are ranked by confidence, lowest
    first, equal confidences by position (lowest first), and at most `limit` of a row become `mask_id`. NaN is not below
    any threshold, so its position keeps its token. A confidence of +inf excludes a position, too.

    Args:
        tokens: int64 [B, L], any strides, without internal overlap; written in place.
        confidence: floating [B, L]. Float64 is compared in float64, every other dtype in float32 (which is exact for
            bfloat16 and float16), with the threshold in float64. No gradient flows.
        mask_id: the mask token.
        threshold: finite.
        limit: how many positions of a row at most, an int or an integer tensor [B]; none at 0.

    On CUDA, L is at most 4096. There a negative entry of a `limit` tensor counts as 0, because a check would wait for
    the device; on the CPU it is refused.

    Raises:
        TypeError: a wrong dtype or Python type.
        ValueError: a wrong shape, device, limit or threshold.
    """
    _check_rows("revoke_", tokens, mask_id, confidence)
    _check_bound("revoke_", "threshold", threshold)
    _check_count("revoke_", "limit", limit, tokens)
    confidence = _comparable(confidence)
    if usable("revoke_"):
        shared, each = _one_or_each(limit)
        return run_in_place("revoke_", tokens, confidence, mask_id, float(threshold), limit=shared, limits=each)
    _refuse_negative("revoke_", "limit", limit)
    return reference.revoke_(tokens, confidence, mask_id=mask_id, threshold=threshold, limit=limit)
