"""Importance weights of a group of completions, their baselines, effective sample size and adaptive coefficient.

Pure functions of tensors whose last dimension is the group G: all completions of one prompt (docs/maths.md, sections
2 and 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .baselines import BASELINES

COEFF_RANGE = (0.01, 0.99)  # where the adaptive coefficient is searched


@dataclass(frozen=True)
class ImportanceWeights:
    """positive: w [..., G], sums to 1; negative: the `negative` baseline b [..., G]; ess: [...] in [1/G, 1].

    In raw-reward mode w is the reward itself, negative is None and ess may be 0.
    """

    positive: Tensor
    negative: Tensor | None
    ess: Tensor


def effective_sample_size(weights: Tensor) -> Tensor:
    """ESS = 1 / (G * sum w^2) of normalised weights; [..., G] -> [...] in [1/G, 1]."""
    return 1 / (weights.shape[-1] * weights.square().sum(-1))


def importance_weights(
    rewards: Tensor,
    log_prob_ref: Tensor,
    log_prob_cur: Tensor,
    *,
    alpha: float,
    coeff: float | Tensor = 1.0,
) -> ImportanceWeights:
    """Self-normalised weights of p* ∝ p_ref · exp(r/alpha) against the policy that drew the completions.

    w = softmax(c·(d + r/alpha)) and b = softmax(c·(d − r/alpha)) with d = log_prob_ref − log_prob_cur; for alpha = 0,
    softmax(±c·r) (docs/maths.md, section 2; arXiv 2510.08233).

    Args:
        rewards, log_prob_ref, log_prob_cur: floating [..., G].
        alpha: temperature of the target, ≥ 0, in units of reward.
        coeff: proximal coefficient c in (0, 1], a number or a tensor [...].

    Raises:
        ValueError: shapes differ, a value is not finite, alpha < 0 or coeff outside (0, 1].
        TypeError: a tensor is not floating point.
    """
    _check_group(rewards, log_prob_ref, log_prob_cur, alpha)
    c = torch.as_tensor(coeff, dtype=rewards.dtype, device=rewards.device).unsqueeze(-1)
    if not bool(((c > 0) & (c <= 1)).all()):
        raise ValueError(f"coeff must be in (0, 1], got {coeff}")
    positive = (c * _exponent(rewards, log_prob_ref, log_prob_cur, alpha)).softmax(-1)
    negative = (c * _exponent(-rewards, log_prob_ref, log_prob_cur, alpha)).softmax(-1)
    return ImportanceWeights(positive, negative, effective_sample_size(positive))


def raw_weights(rewards: Tensor) -> ImportanceWeights:
    """Raw-reward mode: w = r, and no `negative` baseline; rewards floating [..., G], finite.

    ESS is the ESS of |r| as a share of its sum; 0 where all rewards are 0.
    """
    _check_group(rewards, rewards, rewards, 0.0)
    size = rewards.abs()
    share = size / size.sum(-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    ess = torch.where(share.sum(-1) > 0, effective_sample_size(share), 0.0)
    return ImportanceWeights(rewards, None, ess)


def adaptive_coeff(
    rewards: Tensor, log_prob_ref: Tensor, log_prob_cur: Tensor, *, alpha: float, ess_target: float
) -> Tensor:
    """The coefficient c in [0.01, 0.99] at which each group's ESS equals `ess_target`; [..., G] -> float64 [...].

    ESS falls as c grows, so bisection converges to c. Where the ESS is above the target even at c = 0.99, c is 0.99;
    where the ESS is below the target even at c = 0.01, c is 0.01.

    Raises:
        ValueError: shapes differ, a value is not finite, alpha < 0 or ess_target outside (0, 1].
    """
    _check_group(rewards, log_prob_ref, log_prob_cur, alpha)
    if not 0 < ess_target <= 1:
        raise ValueError(f"ess_target must be in (0, 1], got {ess_target}")
    exponent = _exponent(rewards.double(), log_prob_ref.double(), log_prob_cur.double(), alpha)
    low = torch.full(exponent.shape[:-1], COEFF_RANGE[0], dtype=torch.float64, device=exponent.device)
    high = torch.full_like(low, COEFF_RANGE[1])

    def ess(c: Tensor) -> Tensor:
        return effective_sample_size((c.unsqueeze(-1) * exponent).softmax(-1))

    at_low, at_high = ess(low) <= ess_target, ess(high) >= ess_target
    for _ in range(60):  # 0.98 / 2^60 is below float64 resolution
        middle = (low + high) / 2
        above = ess(middle) > ess_target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    coeff = torch.where(at_high, COEFF_RANGE[1], (low + high) / 2)
    return torch.where(at_low & ~at_high, COEFF_RANGE[0], coeff)


def baseline_weights(
    baseline: str,
    weights: Tensor,
    negative_weights: Tensor | None = None,
    log_prob_theta: Tensor | None = None,
    log_prob_cur: Tensor | None = None,
) -> Tensor | None:
    """The baseline b [..., G] of the coefficient a = w − s·b, or None for `none` (docs/maths.md, section 3).

    Raises:
        ValueError: an unknown baseline, or a tensor that it needs is missing.
    """
    if baseline == "none":
        return None
    if baseline == "mean":
        return weights.mean(-1, keepdim=True).expand_as(weights)
    if baseline == "negative":
        if negative_weights is None:
            raise ValueError("baseline 'negative' needs negative_weights, e.g. importance_weights(...).negative")
        return negative_weights
    if baseline == "theta":
        if log_prob_theta is None or log_prob_cur is None:
            raise ValueError(
                "baseline 'theta' needs log_prob_cur, the log-probability of each completion at rollout time"
            )
        if not bool(log_prob_cur.isfinite().all()):
            raise ValueError("log_prob_cur must be finite")
        return (log_prob_theta.detach() - log_prob_cur.to(log_prob_theta.dtype)).softmax(-1)
    raise ValueError(f"unknown baseline {baseline!r}, choose one of {', '.join(BASELINES)}")


def _exponent(rewards: Tensor, log_prob_ref: Tensor, log_prob_cur: Tensor, alpha: float) -> Tensor:
    return rewards if alpha == 0 else (log_prob_ref - log_prob_cur) + rewards / alpha


def _check_group(rewards: Tensor, log_prob_ref: Tensor, log_prob_cur: Tensor, alpha: float) -> None:
    if rewards.dim() == 0 or rewards.shape[-1] == 0:
        raise ValueError(f"rewards must be [..., G] with G ≥ 1, got shape {tuple(rewards.shape)}")
    for name, value in (("rewards", rewards), ("log_prob_ref", log_prob_ref), ("log_prob_cur", log_prob_cur)):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {value.dtype}")
        if value.shape != rewards.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, rewards has {tuple(rewards.shape)}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} must be finite, got {value[~value.isfinite()][0].item()}")
    if not alpha >= 0:
        raise ValueError(f"alpha must be ≥ 0, got {alpha}")
