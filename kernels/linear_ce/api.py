"""Masked-token cross-entropy from hidden states and lm_head. Logits exist for masked rows only, one tile at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from .token_operators import logprobs_op
from .weighted_operator import weighted_op


def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> Tensor:
    """log softmax(hidden @ weight.T + bias)[target] of every row. Any upstream gradient; no second derivative.

    hidden [M, H] and weight [V, H] of one dtype (float32, bfloat16, float16, float64), targets int64 [M], bias [V]
    floating -> float32 [M] in nats (float64 for float64 inputs, which take the plain PyTorch path everywhere).

    With a frozen head (the LoRA case) forward and backward together cost 4·H·V FLOPs a row: the forward takes the
    vocabulary tile by tile with an online softmax and returns Σ p·weight, float32 [M, H]; the backward scales its
    rows. With a trainable head the backward computes the logits again, 8·H·V; autograd adds the gradient to `weight`,
    so tied heads add up. Without gradients: 2·H·V. Logits exist only in a tile of at most `max_logits_bytes` (default:
    16 MiB on a CPU, 256 MiB on a GPU).

    On a GPU with half-precision inputs p (with a trainable head, upstream · (onehot - p)) is rounded to their dtype
    before the second product.

    Under autocast hidden, weight and bias are cast to its dtype, as for a linear layer. Raises TypeError for
    arguments that are not tensors (of an lm_head module pass the weight; merge LoRA into it first), ValueError for
    wrong shapes, dtypes or devices, and RuntimeError under create_graph=True. A target outside [0, V) raises
    ValueError on the CPU; on a GPU its row becomes NaN.
    """
    hidden, weight, bias = checks.check_linear(hidden, weight, bias, max_logits_bytes, dims="MH")
    checks.check_like("targets", targets, hidden, hidden.shape[:1], torch.int64)
    head_trains = weight.requires_grad or (bias is not None and bias.requires_grad)
    keep_gradient = torch.is_grad_enabled() and hidden.requires_grad and not head_trains
    targets = targets.contiguous()  # the kernels read them with a stride of 1
    return logprobs_op(hidden, weight, bias, targets, max_logits_bytes, keep_gradient)[0]


def linear_weighted_ce(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    mask: Tensor,
    weights: Tensor,
    baseline: Tensor | None = None,
    strength: float = 1.0,
    *,
    bias: Tensor | None = None,
    max_logits_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Σ_n (w_n - strength · b_n) · mean NLL_n over masked tokens, from hidden states, and the mean NLLs.

    The loss of DMPO (WDCE, arXiv 2510.08233). hidden [N, L, H] and weight [V, H] of one dtype, targets int64 [N, L],
    mask bool [N, L], weights and baseline [N] floating constants, bias [V] -> scalar and [N], float32 (float64 for
    float64 inputs). The loss is differentiable in hidden, weight and bias; the mean NLLs are detached.

    Masked rows are gathered first: no logit of any other row is computed. A row whose coefficient w - strength · b is
    exactly 0 is left out, too. Its mean NLL is 0, and so is the mean NLL of a row without masks. The coefficients are
    known before the forward, so the forward computes the gradient: 4·H·V FLOPs a row with a frozen head, 6·H·V with a
    trainable head (8·H·V if fewer than 32 rows of logits fit in `max_logits_bytes`, whose default is then 64 MiB on a
    CPU and 1 GiB on a GPU). The backward multiplies by the upstream scalar.

    On a GPU with half-precision inputs p (with a trainable head, coefficient / m · (onehot - p)) is rounded to their
    dtype before the second product.

    `max_logits_bytes`, autocast and errors: see `linear_token_logprobs`.
    """
    checks.check_tensor("mask", mask)
    hidden, weight, bias = checks.check_linear(hidden, weight, bias, max_logits_bytes, dims="NLH")
    checks.check_like("targets", targets, hidden, hidden.shape[:2], torch.int64)
    checks.check_like("mask", mask, hidden, hidden.shape[:2], torch.bool)
    checks.check_row_weights("weights", weights, hidden, hidden.shape[0])
    if baseline is not None:
        checks.check_row_weights("baseline", baseline, hidden, hidden.shape[0])
    checks.check_number("strength", strength)
    needs = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden, weight, bias)]
    loss, nll, *_ = weighted_op(
        hidden,
        weight,
        bias,
        targets,
        mask,
        weights,
        baseline,
        float(strength),
        max_logits_bytes,
        needs,
    )
    return loss, nll
