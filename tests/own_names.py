"""A loss and decoders that a config names as `tests.own_names:NAME`, as a user would name their own."""

from __future__ import annotations

from torch import Tensor

from dmpo.config.decoding import DecodingOptions
from dmpo.decoding.policies import Confident, Policy, Row, Schedule, Step
from dmpo.kernels import remask_, revoke_
from dmpo.objectives.wdce import WDCE

LOSS = WDCE


def topk(options: DecodingOptions) -> Policy:
    return Schedule(options.block_length, options.steps // options.blocks)


def parallel(options: DecodingOptions) -> Policy:
    return Confident(options.threshold, options.factor)


class Fickle:
    """Two tokens a step, of which the less confident becomes a mask again in each even step."""

    revokes = True

    def __init__(self, options: DecodingOptions) -> None:
        pass

    def count(self, row: Row) -> None:
        return None

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        unmasked = remask_(step.window, step.candidates, step.confidence, mask_id=step.mask_id, num_transfer=2)
        own = step.confidence.where(step.window == step.candidates, float("inf"))
        limit = (unmasked > 1).int() * (step.rows[0].step % 2 == 0)
        return unmasked, revoke_(step.window, own, mask_id=step.mask_id, threshold=2.0, limit=limit)


class Stuck(Fickle):
    """Unmasks nothing."""

    def __call__(self, step: Step) -> tuple[Tensor, Tensor]:
        return step.previous * 0, step.previous * 0


class Liar:
    """Unmasks one token a step and says three."""

    revokes = False

    def __init__(self, options: DecodingOptions) -> None:
        pass

    def count(self, row: Row) -> int:
        return 3

    def __call__(self, step: Step) -> tuple[Tensor, None]:
        return remask_(step.window, step.candidates, step.confidence, mask_id=step.mask_id, num_transfer=1), None


def broken(options: DecodingOptions) -> Policy:
    raise KeyError("policy")


def nothing(options: DecodingOptions) -> None:
    return None
