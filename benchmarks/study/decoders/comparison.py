"""Which points are as accurate as topk with one token a forward, and which are on the frontier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dmpo.evaluation.intervals import Z95, Accuracy

from .measure import Record


@dataclass(frozen=True)
class Paired:
    """Accuracy of one decoder minus another's on the same rows, with a 95 % interval (normal, of the differences)."""

    mean: float
    low: float
    high: float


def accuracy(record: Record) -> Accuracy:
    """Solved rows of a record."""
    return Accuracy(record["solved"].count("1"), len(record["solved"]))


def tokens_a_forward(record: Record) -> float:
    """Tokens of one row that a forward unmasks, on average."""
    return float(record["tokens"] / record["row_forwards"])


def positions_a_token(record: Record) -> float:
    """Positions that go through the model for each token."""
    return float(record["positions"] / record["tokens"])


def paired(record: Record, yardstick: Record) -> Paired:
    """Raises ValueError where the records are of other rows."""
    ones = [int(a) - int(b) for a, b in zip(record["solved"], yardstick["solved"], strict=True)]
    mean = math.fsum(ones) / len(ones)
    spread = math.sqrt(math.fsum((one - mean) ** 2 for one in ones) / max(1, len(ones) - 1))
    half = Z95 * spread / math.sqrt(len(ones))
    return Paired(mean, mean - half, mean + half)


def reaches(record: Record, yardstick: Record) -> bool:
    """Whether a point is as accurate as the yardstick.

    Its accuracy is at least the lower end of the yardstick's own 95 % interval, and the interval of the paired
    difference is not below 0 as a whole.
    """
    return accuracy(record).share >= accuracy(yardstick).interval()[0] and paired(record, yardstick).high >= 0


def frontier(places: Sequence[tuple[float, float]]) -> list[int]:
    """The numbers of the points that no other point beats: (cost, gain) pairs, less cost and more gain are better.

    A point is beaten by one that is as good in both and better in one. Of equal points all are kept.
    """
    return [
        number
        for number, (cost, gain) in enumerate(places)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in places)
    ]
