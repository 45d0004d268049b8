"""The same three jobs done by dmpo, by plain PyTorch and by other packages, ready to be measured or timed.

A peer has a name and a function that takes the inputs and returns a job. A job is a callable without arguments that
does the whole work once: forward and backward of a loss, or one draw. Packages are optional: `load` says which ones are
missing, and the versions of the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dmpo import kernels

try:
    import triton
    import triton.language as tl
except ImportError:  # then no peer needs it
    triton = None

IGNORE = -100
Job = Callable[[], Any]


@dataclass
class LossInputs:
    """logits [N, L, V] or hidden [N, L, H] and weight [V, H]; targets, mask [N, L]; weights, baseline [N]."""

    targets: Tensor
    mask: Tensor
    weights: Tensor
    baseline: Tensor
    logits: Tensor | None = None
    hidden: Tensor | None = None
    head: Tensor | None = None

    @property
    def ignored(self) -> Tensor:
        """Flat targets with -100 at unmasked positions, as the peers take them."""
        return self.targets.masked_fill(~self.mask, IGNORE).flatten()

    def run(self, loss: Callable[[], Tensor]) -> Job:
        """Forward and backward of `loss`; gradients are dropped at the end."""
        leaves = [x for x in (self.logits, self.hidden, self.head) if x is not None and x.requires_grad]

        def job() -> None:
            loss().backward()
            for leaf in leaves:
                leaf.grad = None

        return job


@dataclass(frozen=True)
class Peer:
    """name; build(inputs) -> job; package that it needs, or None; weighted: whether it solves the problem with a weight
    for each sample, or an easier one without weights; in_torch: whether the installed torch has its function."""

    name: str
    build: Callable[..., Job]
    package: str | None = None
    weighted: bool = True
    in_torch: bool = True


def make_loss_inputs(
    rows: int, length: int, vocab: int, dtype: torch.dtype, device: str, *, masked: float, hidden: int | None = None,
    trainable_head: bool = False,
) -> LossInputs:  # fmt: skip
    """Random inputs; in every row the first `masked` share of the positions is masked."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32)

    mask = torch.zeros(rows, length, dtype=torch.bool, device=device)
    mask[:, : max(1, round(masked * length))] = True
    inputs = LossInputs(
        targets=torch.randint(0, vocab, (rows, length), generator=generator, device=device),
        mask=mask,
        weights=normal(rows).softmax(0),
        baseline=normal(rows).softmax(0),
    )
    if hidden is None:
        inputs.logits = (normal(rows, length, vocab) * 3).to(dtype).requires_grad_()
    else:
        inputs.hidden = normal(rows, length, hidden).to(dtype).requires_grad_()
        inputs.head = (normal(vocab, hidden) / hidden**0.5).to(dtype).requires_grad_(trainable_head)
    return inputs


def _mean_nll(nll: Tensor, i: LossInputs) -> Tensor:
    """sum_n a_n mean NLL_n from the NLLs of every position, as published code computes it."""
    mean = (nll.view_as(i.targets) * i.mask).sum(-1) / i.mask.sum(-1).clamp(min=1)
    return ((i.weights - i.baseline) * mean).sum()


# ---------------------------------------------------------------------------------------------- from logits


def _torch_all(i: LossInputs) -> Job:
    return i.run(
        lambda: _mean_nll(F.cross_entropy(i.logits.float().flatten(0, 1), i.targets.flatten(), reduction="none"), i)
    )


def _torch_masked(i: LossInputs) -> Job:
    def loss() -> Tensor:
        nll = F.cross_entropy(i.logits[i.mask].float(), i.targets[i.mask], reduction="none")
        return _mean_nll(torch.zeros_like(i.targets, dtype=nll.dtype).masked_scatter(i.mask, nll), i)

    return i.run(loss)


def _liger_ce(reduction: str) -> Callable[[LossInputs], Job]:
    def build(i: LossInputs) -> Job:
        op = importlib.import_module("liger_kernel.ops.cross_entropy").LigerCrossEntropyFunction.apply
        weights = ((i.weights - i.baseline) / i.mask.sum(-1)).unsqueeze(-1).expand_as(i.mask).flatten()

        def loss() -> Tensor:
            rows = i.logits.flatten(0, 1)
            nll = op(rows, i.ignored, None, IGNORE, 0.0, 0.0, reduction, None, False)[0]
            return nll if reduction == "mean" else (nll * weights).sum()

        return i.run(loss)

    return build


LOGITS = [
    Peer("dmpo weighted_masked_ce", lambda i: i.run(
        lambda: kernels.weighted_masked_ce(i.logits, i.targets, i.mask, i.weights, i.baseline)[0])),
    Peer("dmpo masked_token_logprobs", lambda i: i.run(
        lambda: kernels.masked_token_logprobs(i.logits, i.targets, i.mask).sum()), weighted=False),
    Peer("dmpo masked_token_logprobs (overwrites its logits)", lambda i: i.run(
        lambda: kernels.masked_token_logprobs(i.logits, i.targets, i.mask, inplace_backward=True).sum()),
        weighted=False),
    Peer("torch cross_entropy in fp32, all positions", _torch_all),
    Peer("torch cross_entropy in fp32, masked positions", _torch_masked),
    Peer("Liger CE, mean (overwrites its logits)", _liger_ce("mean"), "liger-kernel", weighted=False),
    Peer("Liger CE, none (overwrites its logits)", _liger_ce("none"), "liger-kernel"),
]  # fmt: skip


# ---------------------------------------------------------------------------------------------- from hidden states


def _torch_linear_all(i: LossInputs) -> Job:
    def loss() -> Tensor:
        logits = F.linear(i.hidden, i.head).float().flatten(0, 1)
        return _mean_nll(F.cross_entropy(logits, i.targets.flatten(), reduction="none"), i)

    return i.run(loss)


def _torch_linear_masked(i: LossInputs) -> Job:
    def loss() -> Tensor:
        nll = F.cross_entropy(F.linear(i.hidden[i.mask], i.head).float(), i.targets[i.mask], reduction="none")
        return _mean_nll(torch.zeros_like(i.targets, dtype=nll.dtype).masked_scatter(i.mask, nll), i)

    return i.run(loss)


def _torch_fused(i: LossInputs) -> Job:
    options = torch.nn.LinearCrossEntropyOptions()
    return i.run(lambda: F.linear_cross_entropy(
        i.hidden[i.mask], i.head, i.targets[i.mask], ignore_index=IGNORE, options=options))  # fmt: skip


def _liger_linear(reduction: str) -> Callable[[LossInputs], Job]:
    def build(i: LossInputs) -> Job:
        module = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
        op = module.LigerFusedLinearCrossEntropyFunction.apply
        weights = ((i.weights - i.baseline) / i.mask.sum(-1)).unsqueeze(-1).expand_as(i.mask).flatten()

        def loss() -> Tensor:
            nll = op(i.hidden.flatten(0, 1), i.head, i.ignored, None, None, IGNORE, 0.0, 0.0, reduction)[0]
            return nll if reduction == "mean" else (nll * weights).sum()

        return i.run(loss)

    return build


def _cut(i: LossInputs) -> Job:
    package = importlib.import_module("cut_cross_entropy")
    weights = ((i.weights - i.baseline) / i.mask.sum(-1)).unsqueeze(-1).expand_as(i.mask).flatten()
    return i.run(lambda: (
        package.linear_cross_entropy(i.hidden.flatten(0, 1), i.head, i.ignored, reduction="none") * weights
    ).sum())  # fmt: skip


def interpretable_cut_cross_entropy() -> None:
    """Give cut-cross-entropy a log(1 + x) that calls tl.log: Triton's interpreter has no libdevice. Same traffic."""

    @triton.jit
    def logaddexp(a, b):  # type: ignore[no-untyped-def]
        low = tl.minimum(a, b)
        high = tl.maximum(a, b)
        return tl.log(1.0 + tl.exp(low - high)) + high

    importlib.import_module("cut_cross_entropy.cce_lse_forward").tl_logaddexp = logaddexp


LINEAR = [
    Peer("dmpo linear_weighted_ce", lambda i: i.run(
        lambda: kernels.linear_weighted_ce(i.hidden, i.head, i.targets, i.mask, i.weights, i.baseline)[0])),
    Peer("dmpo linear_token_logprobs", lambda i: i.run(
        lambda: kernels.linear_token_logprobs(i.hidden[i.mask], i.head, i.targets[i.mask]).sum()), weighted=False),
    Peer("torch logits of all positions", _torch_linear_all),
    Peer("torch logits of masked positions", _torch_linear_masked),
    Peer("torch F.linear_cross_entropy, masked positions", _torch_fused, weighted=False,
         in_torch=hasattr(torch.nn, "LinearCrossEntropyOptions")),  # from torch 2.13 on
    Peer("Liger fused linear CE, mean", _liger_linear("mean"), "liger-kernel", weighted=False),
    Peer("Liger fused linear CE, none", _liger_linear("none"), "liger-kernel"),
    Peer("cut-cross-entropy, none", _cut, "cut-cross-entropy"),
]  # fmt: skip


# ---------------------------------------------------------------------------------------------- sampling


def _torch_multinomial(logits: Tensor, temperature: float) -> Job:
    def job() -> tuple[Tensor, Tensor]:
        wide = logits.float()
        if temperature == 1:
            probs = wide.softmax(-1)
            ids = probs.multinomial(1)
        else:
            ids = (wide / temperature).softmax(-1).multinomial(1) if temperature else wide.argmax(-1, keepdim=True)
            probs = wide.softmax(-1)
        return ids, probs.gather(-1, ids)

    return job


def _published_gumbel(logits: Tensor, temperature: float) -> Job:
    """Gumbel noise and softmax in float64 over the vocabulary, as in the published decoders of this family."""

    def job() -> tuple[Tensor, Tensor]:
        wide = logits.to(torch.float64)
        noisy = wide
        if temperature != 0:
            noise = torch.rand_like(wide)
            noisy = wide.exp() / (-torch.log(noise)) ** temperature
        ids = noisy.argmax(-1, keepdim=True)
        return ids, F.softmax(wide, dim=-1).gather(-1, ids)

    return job


SAMPLING = [
    Peer("dmpo sample_tokens", lambda x, t: lambda: kernels.sample_tokens(x, t, seed=0, forbid=[5])),
    Peer("torch softmax and multinomial, fp32", _torch_multinomial),
    Peer("published: Gumbel noise and softmax, float64", _published_gumbel),
]


def easier(peers: list[Peer]) -> str:
    """A sentence for reports that names the peers that solve an easier problem; "" if there are none."""
    names = "; ".join(peer.name for peer in peers if not peer.weighted)
    return f"Easier problem, no weight for each sample: {names}." if names else ""


def load(peers: list[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """The peers whose package is installed and whose function torch has, and the version of every package (or "not
    installed")."""
    versions = {name: version(name) for name in ("torch", "triton") if _installed(name)}
    for name in sorted({peer.package for peer in peers if peer.package}):
        versions[name] = version(name) if _installed(name) else "not installed"
    usable = [peer for peer in peers if peer.in_torch and (peer.package is None or _installed(peer.package))]
    return usable, versions


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
