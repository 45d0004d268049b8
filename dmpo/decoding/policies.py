"""How many candidates of a block to unmask at each step, and which tokens to mask again (docs/maths.md, section 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..kernels import remask_, revoke_


@dataclass
class Row:
    """Progress of one row, on the host.

    index: its number in the batch. block: the block to fill. step: model calls for that block. left: masks in it.
    ahead: tokens of the prompt in its first block; only a block-causal model has some.
    """

    index: int
    left: int
    block: int = 0
    step: int = 0
    ahead: int = 0


@dataclass(frozen=True)
class Step:
    """The input of a policy, for R rows and B positions of a block.

    window int64 [R, B], the block's tokens, written in place; candidates int64 and confidence float32 [R, B] (the rank
    of `Sampler.draw`), read where window is masked; shadow float32 [R, B], the verifier's probability of each token
    that was unmasked before the step and +inf elsewhere (None: no verifier); previous int [R], how many tokens the
    row's last step unmasked; count int [R], how many tokens a schedule unmasks, where the host does not say it by
    `rows` (a compiled step).
    """

    rows: list[Row]
    window: Tensor
    candidates: Tensor
    confidence: Tensor
    shadow: Tensor | None
    previous: Tensor
    mask_id: int
    count: Tensor | None = None


@runtime_checkable
class Policy(Protocol):
    """Unmask in place; returns how many tokens of each row were unmasked and how many masked again, int [R]."""

    revokes: bool  # tokens may become masks again

    def count(self, row: Row) -> int | None:
        """How many tokens of the row the next step unmasks; None: only the device has it, and the loop waits for it."""
        ...

    def __call__(self, step: Step) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class Schedule:
    """LLaDA's schedule: a fixed number of the most confident candidates a step.

    A block with fewer masks, the first or last one of a block-causal model, is done after fewer steps, as in SDAR's
    published code.
    """

    block_length: int
    steps: int
    revokes = False

    def count(self, row: Row) -> int:
        """k_t = ⌊n/S⌋, plus 1 for the first n mod S steps; n tokens of the block, S steps; at most the masks left."""
        whole, rest = divmod(self.block_length, self.steps)
        return min(whole + (row.step < rest), row.left)

    def __call__(self, step: Step) -> tuple[Tensor, Tensor | None]:
        count = _of_rows(self, step) if step.count is None else step.count
        return remask_(step.window, step.candidates, step.confidence, mask_id=step.mask_id, num_transfer=count), None


@dataclass(frozen=True)
class Confident:
    """Fast-dLLM's parallel rules (Wu et al. 2025, arXiv 2505.22618): by threshold or by factor, at least one."""

    threshold: float | None
    factor: float | None
    revokes = False

    def count(self, row: Row) -> int | None:
        return None

    def __call__(self, step: Step) -> tuple[Tensor, Tensor | None]:
        moved = remask_(
            step.window,
            step.candidates,
            step.confidence,
            mask_id=step.mask_id,
            threshold=self.threshold,
            factor=self.factor,
        )
        return moved, None


@dataclass(frozen=True)
class WideInNarrowOut:
    """WINO (Hong et al. 2025, arXiv 2507.18578): unmask many tokens, mask again those that the shadow does not confirm.

    A step unmasks at most max(5, min(20, 7/10 of the masks)) tokens. It masks fewer tokens again than the step before
    unmasked, so a block takes at most as many steps as it has tokens.
    """

    threshold: float
    threshold_back: float
    revokes = True

    def count(self, row: Row) -> int | None:
        return None

    def __call__(self, step: Step) -> tuple[Tensor, Tensor | None]:
        assert step.shadow is not None
        masked = step.window == step.mask_id
        confident = ((step.confidence > self.threshold) & masked).sum(1)  # [R]
        most = (masked.sum(1) * 7 // 10).clamp(5, 20)
        unmasked = remask_(
            step.window,
            step.candidates,
            step.confidence,
            mask_id=step.mask_id,
            num_transfer=torch.minimum(confident, most).clamp(min=1),
        )
        limit = torch.where(
            unmasked > 1, (step.previous - 1).clamp(min=0), 0
        )  # at first there is no token to mask again
        return unmasked, revoke_(
            step.window, step.shadow, mask_id=step.mask_id, threshold=self.threshold_back, limit=limit
        )


@dataclass(frozen=True)
class BoundedRisk:
    """SLIM-RL's bounded risk (arXiv 2607.00208): the most confident candidates whose chances of being wrong sum to at
    most 1 − τ.

    The longest prefix c_(1) ≥ c_(2) ≥ ... with c_(n) > τ and Σ_{i≤n} (1 − c_(i)) ≤ 1 − τ, and never fewer than the
    schedule unmasks. (The published code has a factor m of the budget, 1 by default.)
    """

    threshold: float
    schedule: Schedule
    revokes = False

    def count(self, row: Row) -> int | None:
        return None

    def __call__(self, step: Step) -> tuple[Tensor, Tensor | None]:
        moved = remask_(
            step.window,
            step.candidates,
            step.confidence,
            mask_id=step.mask_id,
            num_transfer=_of_rows(self.schedule, step),
            risk=self.threshold,
        )
        return moved, None


@dataclass(frozen=True)
class EntropyBound:
    """EB-Sampler (Ben-Hamu et al. 2025, arXiv 2505.24857): the longest prefix of ascending entropies with
    Σ_{i≤n} H_(i) − H_(n) ≤ γ, which is always one at least. The sum bounds the mutual information of the tokens.

    `Step.confidence` is −H here.
    """

    bound: float
    revokes = False

    def count(self, row: Row) -> int | None:
        return None

    def __call__(self, step: Step) -> tuple[Tensor, Tensor | None]:
        ranked = step.confidence.masked_fill((step.window != step.mask_id) | step.confidence.isnan(), -torch.inf)
        ascending = -ranked.double().sort(1, descending=True).values
        before = torch.nn.functional.pad(ascending.cumsum(1), (1, 0))[:, :-1]  # the sum without the own entropy
        count = (before <= self.bound).sum(1)
        return remask_(step.window, step.candidates, step.confidence, mask_id=step.mask_id, num_transfer=count), None


@dataclass(frozen=True)
class Hierarchy:
    """dInfer's hierarchical decoding (Ma et al. 2025, arXiv 2510.08666): the masks of a block are split from inside.

    Of each run of neighbouring masks the best candidate, if its c > low; every candidate with c > threshold; and always
    the best candidate of the block. Ties go to the lowest position.
    """

    threshold: float | None
    low: float
    revokes = False

    def count(self, row: Row) -> int | None:
        return None

    def __call__(self, step: Step) -> tuple[Tensor, Tensor | None]:
        masked = step.window == step.mask_id
        known = step.confidence.double()  # as exact as the thresholds
        confidence = known.masked_fill(~masked | known.isnan(), -torch.inf)
        before = torch.nn.functional.pad(masked, (1, 0))[:, :-1]
        runs = (masked & ~before).cumsum(1)  # the number of each position's run; those of other positions are not used
        chosen = masked & _first_best(confidence, runs, masked) & (confidence > self.low)
        if self.threshold is not None:
            chosen |= confidence > self.threshold
        chosen |= _first_best(confidence, torch.zeros_like(runs), masked)
        step.window.copy_(torch.where(chosen, step.candidates, step.window))
        return chosen.sum(1, dtype=torch.int32), None


def _first_best(values: Tensor, group: Tensor, live: Tensor) -> Tensor:
    """Whether each position has the largest value of its group and row, the first of equal ones; bool [R, B].

    values [R, B]; group int64 [R, B], from 0 to B; live: bool [R, B], the positions that count.
    """
    rows, length = values.shape
    best = values.new_full((rows, length + 1), -torch.inf).scatter_reduce(1, group, values, "amax")
    position = torch.arange(length, device=values.device).expand(rows, -1)
    at_best = torch.where(live & (values == best.gather(1, group)), position, length)
    first = torch.full_like(group[:, :1], length).repeat(1, length + 1).scatter_reduce(1, group, at_best, "amin")
    return live & (position == first.gather(1, group))


def _of_rows(schedule: Schedule, step: Step) -> int | Tensor:
    """What the schedule unmasks of each row: one number for all of them, or int32 [R]."""
    counts, device = [schedule.count(row) for row in step.rows], step.window.device
    if len(set(counts)) == 1:
        return counts[0]
    # Pinned, so that the copy does not wait for the device.
    table = torch.tensor(counts, dtype=torch.int32, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)
