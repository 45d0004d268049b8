"""Which candidates of a block to unmask at each step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TopK:
    """LLaDA's schedule: a fixed number of the most confident candidates a step, known before the block starts."""

    block_length: int
    steps_per_block: int

    def count(self, step: int) -> int:
        """k_t = ⌊n/S⌋, plus 1 for the first n mod S steps; n masks, S steps."""
        whole, rest = divmod(self.block_length, self.steps_per_block)
        return whole + (step < rest)

    def left(self, step: int) -> int:
        """Masks left in the block before a step."""
        return self.block_length - sum(self.count(t) for t in range(step))


DECODERS = {"topk": TopK}
