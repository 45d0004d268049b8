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
    """

    index: int
    left: int
    block: int = 0
    step: int = 0


@dataclass(frozen=True)
class Step:
    """The input of a policy, for R rows and B positions of a block.

    window int64 [R, B], the block's tokens, written in place; candidates int64 and confidence float32 [R, B], read
    where window is masked; shadow float32 [R, B], the verifier's probability of each token that was unmasked before
    the step and +inf elsewhere (None: no verifier); previous int [R], how many tokens the row's last step unmasked;
    count int [R], how many tokens a schedule unmasks, where the host does not say it by `rows` (a compiled step).
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
    """LLaDA's schedule: a fixed number of the most confident candidates a step."""

    block_length: int
    steps: int
    revokes = False

    def count(self, row: Row) -> int:
        """k_t = ⌊n/S⌋, plus 1 for the first n mod S steps; n masks at the block's start, S steps."""
        whole, rest = divmod(self.block_length, self.steps)
        return whole + (row.step < rest)

    def __call__(self, step: Step) -> tuple[Tensor, Tensor | None]:
        count = self.count(step.rows[0]) if step.count is None else step.count
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
