"""Every public op of dmpo.kernels on the pretend device: values beside the float64 reference, launches, syncs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmpo import kernels
from dmpo.kernels import reference
from tests.pretend_cuda.counts import counting
from tests.pretend_cuda.device import pretend_cuda
from tests.pretend_cuda.tensor import on_device, on_host

N, L, H, V = 2, 4, 16, 301
FORBID = (3,)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True)
class Case:
    """op: a key of OPS. trained: the head takes a gradient. limit: bytes of a piece of logits, None for the default."""

    op: str
    dtype: str = "fp32"
    trained: bool = False
    bias: bool = False
    limit: int | None = None
    temperature: float = 0.0
    rule: str = ""
    vocab: int = V


Tensors = dict[str, Tensor]
Function = Callable[[Case, Any, Tensors], dict[str, Tensor]]


def problem(case: Case) -> Tensors:
    """Inputs on the CPU, every floating one in the case's dtype."""
    vocab, generator = case.vocab, torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(DTYPES[case.dtype])

    mask = torch.rand(N, L, generator=generator) < 0.6
    mask[:, 0], mask[:, 1] = True, False
    targets, upstream = torch.randint(vocab, (N, L), generator=generator), torch.randn(N, L, generator=generator)
    return {
        "hidden": normal(N, L, H),
        "weight": normal(vocab, H, scale=0.3),
        "bias": normal(vocab),
        "logits": normal(N, L, vocab, scale=3.0),
        "targets": targets,
        "mask": mask,
        "weights": torch.randn(N, generator=generator),
        "baseline": torch.randn(N, generator=generator),
        "upstream": upstream,
        "tokens": targets.masked_fill(mask, vocab),
        "confidence": upstream.sigmoid(),
        "counts": torch.arange(N, dtype=torch.int32) + 1,
        "row_ids": torch.arange(N * L) + 5,
    }


def linear_weighted_ce(case: Case, ops: Any, x: Tensors) -> dict[str, Tensor]:
    hidden, weight, bias = _leaves(case, x)
    loss, nll = ops.linear_weighted_ce(
        hidden, weight, x["targets"], x["mask"], x["weights"], x["baseline"], 0.7, bias=bias, **_limit(case, ops)
    )
    loss.backward()
    return {"loss": loss, "nll": nll, **_gradients(hidden=hidden, weight=weight, bias=bias)}


def linear_token_logprobs(case: Case, ops: Any, x: Tensors) -> dict[str, Tensor]:
    hidden, weight, bias = _leaves(case, x)
    found = ops.linear_token_logprobs(
        hidden.flatten(0, 1), weight, x["targets"].flatten(), bias=bias, **_limit(case, ops)
    )
    found.backward(x["upstream"].flatten().to(found.dtype))
    return {"log_probs": found, **_gradients(hidden=hidden, weight=weight, bias=bias)}


def weighted_masked_ce(case: Case, ops: Any, x: Tensors) -> dict[str, Tensor]:
    logits = x["logits"].detach().requires_grad_()
    loss, nll = ops.weighted_masked_ce(logits, x["targets"], x["mask"], x["weights"], x["baseline"], 0.7)
    loss.backward()
    return {"loss": loss, "nll": nll, **_gradients(logits=logits)}


def masked_token_logprobs(case: Case, ops: Any, x: Tensors) -> dict[str, Tensor]:
    logits = x["logits"].detach().clone().requires_grad_()
    in_place = {"inplace_backward": case.rule == "in place"} if ops is kernels else {}
    # An operator on the logits comes first, so that the backward may overwrite them.
    found = ops.masked_token_logprobs(logits * 1.0, x["targets"], x["mask"], **in_place)
    found.backward(x["upstream"].to(found.dtype))
    return {"log_probs": found, **_gradients(logits=logits)}


def sample_tokens(case: Case, ops: Any, x: Tensors) -> dict[str, Tensor]:
    ids, confidence = ops.sample_tokens(
        x["logits"].flatten(0, 1), case.temperature, seed=5, row_ids=x["row_ids"], forbid=FORBID
    )
    return {"ids": ids, "confidence": confidence}


def linear_sample_tokens(case: Case, ops: Any, x: Tensors) -> dict[str, Tensor]:
    bias = x["bias"] if case.bias else None
    draw: dict[str, Any] = {"seed": 5, "row_ids": x["row_ids"], "forbid": FORBID, "bias": bias, **_limit(case, ops)}
    ids, confidence = ops.linear_sample_tokens(x["hidden"].flatten(0, 1), x["weight"], case.temperature, **draw)
    return {"ids": ids, "confidence": confidence}


def remask(case: Case, ops: Any, x: Tensors) -> dict[str, Tensor]:
    rules: dict[str, dict[str, Any]] = {
        "count": {"num_transfer": 1},
        "counts": {"num_transfer": x["counts"]},
        "threshold": {"threshold": 0.5},
        "factor": {"factor": 1.0},
        "risk": {"risk": 0.5, "num_transfer": x["counts"]},
    }
    rule = rules[case.rule]
    unmasked = ops.remask_(x["tokens"], x["targets"], x["confidence"], mask_id=case.vocab, **rule)
    return {"tokens": x["tokens"], "unmasked": unmasked}


def revoke(case: Case, ops: Any, x: Tensors) -> dict[str, Tensor]:
    limit = 1 if case.rule == "count" else x["counts"]
    revoked = ops.revoke_(x["tokens"], x["confidence"], mask_id=case.vocab, threshold=0.6, limit=limit)
    return {"tokens": x["tokens"], "revoked": revoked}


OPS: dict[str, Function] = {
    "linear_weighted_ce": linear_weighted_ce,
    "linear_token_logprobs": linear_token_logprobs,
    "weighted_masked_ce": weighted_masked_ce,
    "masked_token_logprobs": masked_token_logprobs,
    "sample_tokens": sample_tokens,
    "linear_sample_tokens": linear_sample_tokens,
    "remask_": remask,
    "revoke_": revoke,
}
SMALL = 4 * V * 3  # bytes of a piece: three rows of float32 logits


def _cases() -> dict[str, Case]:
    linear = [
        Case(op, dtype, trained, bias, limit)
        for op in ("linear_weighted_ce", "linear_token_logprobs")
        for dtype in DTYPES
        for trained in (False, True)
        for bias, limit in ((False, None), (True, SMALL))
    ]
    logits = [Case(op, dtype) for op in ("weighted_masked_ce", "masked_token_logprobs") for dtype in DTYPES]
    logits += [replace(logits[-1], rule="in place")]
    draws = [Case("sample_tokens", dtype, temperature=t) for dtype in DTYPES for t in (0.0, 0.3, 1.0)]
    draws += [
        Case("linear_sample_tokens", "fp32", False, bias, limit, t)
        for t in (0.0, 0.3)
        for bias, limit in ((False, None), (True, SMALL))
    ]
    rules = [Case("remask_", rule=rule) for rule in ("count", "counts", "threshold", "factor", "risk")]
    rules += [Case("revoke_", rule=rule) for rule in ("count", "counts")]
    return {name_of(case): case for case in [*linear, *logits, *draws, *rules]}


def name_of(case: Case) -> str:
    words = [case.op, case.dtype]
    if case.op.startswith("linear") and "sample" not in case.op:
        words.append("trained" if case.trained else "frozen")
    if "sample" in case.op:
        words.append(f"T={case.temperature:g}")
    words += ["bias"] * case.bias + ["pieces"] * (case.limit is not None) + [case.rule] * bool(case.rule)
    return " ".join(words)


CASES = _cases()


def measure(case: Case) -> dict[str, Any]:
    """errors: the largest of each result, over the largest of its reference. syncs and launches of one call."""
    x = problem(case)
    device = on_device({name: value.clone() for name, value in x.items()})
    wanted = OPS[case.op](case, reference, {k: v.double() if v.is_floating_point() else v for k, v in x.items()})
    with pretend_cuda():
        if "sample" in case.op:
            OPS[case.op](case, kernels, device)  # copies the forbidden tokens to the device, once a process
        with counting() as counted:
            found = OPS[case.op](case, kernels, device)
    found = on_host(found)
    exact = {name: bool((found[name] == wanted[name]).all()) for name in wanted if not wanted[name].is_floating_point()}
    errors = {name: _error(found[name], wanted[name]) for name in wanted if wanted[name].is_floating_point()}
    return {"exact": exact, "errors": errors, **counted.record()}


def _leaves(case: Case, x: Tensors) -> tuple[Tensor, Tensor, Tensor | None]:
    hidden, weight = x["hidden"].detach().requires_grad_(), x["weight"].detach().requires_grad_(case.trained)
    return hidden, weight, x["bias"].detach().requires_grad_(case.trained) if case.bias else None


def _limit(case: Case, ops: Any) -> dict[str, Any]:
    return {"max_logits_bytes": case.limit} if ops is kernels else {}


def _gradients(**leaves: Tensor | None) -> dict[str, Tensor]:
    return {f"d {name}": leaf.grad for name, leaf in leaves.items() if leaf is not None and leaf.grad is not None}


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max().clamp(min=1e-9))
