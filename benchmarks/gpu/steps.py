"""How long do the single steps of a decoder take? The first of a block, which cached decoders run on the whole canvas,
and a few of those that follow; a whole completion takes minutes with some."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any
from unittest import mock

from torch import Tensor, nn

from benchmarks.gpu.timing import Timing, measure
from dmpo import generate
from dmpo.decoding.loop import BlockLoop


@dataclass(frozen=True)
class Step:
    """One model call and its draw. width: positions that the model ran on; attended: those whose keys it had kept.

    live: masked positions that were drawn; unmasked: how many of them, in all rows, are no longer masks.
    """

    timing: Timing
    width: int
    attended: int
    live: int
    unmasked: int


class _Enough(Exception):  # noqa: N818 - not an error: ends a completion early
    pass


def measure_steps(policy: nn.Module, prompts: Tensor, later: int, **options: Any) -> list[Step]:
    """The first step of a completion's first block and up to `later` steps of that block after it.

    policy: from `load_model`, or what `model_8b` makes. prompts: int64 [B, P]. options: of `dmpo.generate`.
    """
    steps: list[Step] = []
    calls: list[tuple[int, bool]] = []
    take = BlockLoop._step

    def watch(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append((kwargs["input_ids"].shape[1], kwargs.get("past_key_values") is not None))

    def timed(self: BlockLoop, group: list[Any]) -> set[int]:
        if len(steps) > later or any(row.block for row in group):
            raise _Enough
        live, ended = sum(row.left for row in group), []
        timing = measure(prompts.device, lambda: ended.append(take(self, group)), repeats=1, warm=0)
        left = sum(row.left for row in group if row.block == 0)
        width, cached = calls[-1]
        kept = prompts.shape[1] + options["gen_length"] if cached and steps else 0
        steps.append(Step(timing, width, kept, live, live - left))
        return ended[0]

    hook = policy.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        with mock.patch.object(BlockLoop, "_step", timed):
            generate(policy, prompts, **options)
    except _Enough:
        pass
    finally:
        hook.remove()
    return steps


def typical(steps: list[Step]) -> Step:
    """Medians of equal steps, as one; of how many tokens, the means."""
    device = statistics.median(step.timing.device_seconds for step in steps)
    host = statistics.median(step.timing.host_seconds for step in steps)
    live, unmasked = (round(statistics.fmean(getattr(step, name) for step in steps)) for name in ("live", "unmasked"))
    return Step(Timing(device, host), steps[-1].width, steps[-1].attended, live, unmasked)


def completion_seconds(first: float, later: float, *, blocks: int, block: int, tokens_a_step: int) -> float:
    """Seconds of a whole completion in which every step unmasks a given number of tokens, from seconds of its steps."""
    return blocks * (first + (block // tokens_a_step - 1) * later)
