"""Means over seeds and their 95 % t intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """Mean of n values with its 95 % interval, mean ± t(0.975, n − 1) · s / √n; without an interval where n = 1.

    The interval takes the seeds' values as independent and normal. With few seeds it is wide, and it is not corrected
    for the number of comparisons that a report makes.
    """

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Raises ValueError where there are none."""
        if not values:
            raise ValueError("values must not be empty")
        mean, n = statistics.fmean(values), len(values)
        if n == 1:
            return cls(mean, None, None, 1)
        from scipy import stats  # of the extra bench

        half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)

    @property
    def verdict(self) -> str:
        """Of a difference: higher or lower where the interval leaves out 0."""
        if self.low is None or self.high is None:
            return "one seed, no interval"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "not resolved"


def contrast(
    values: Mapping[str, Mapping[int, float]], plus: Sequence[str], minus: Sequence[str], over: int = 1
) -> Mean | None:
    """Mean over seeds of (sum(plus) − sum(minus)) / over.

    Of the seeds that all of the conditions have; None where there is no such seed.

    Args:
        values: condition → seed → value.
    """
    seeds = set.intersection(*(set(values.get(name, {})) for name in (*plus, *minus)))
    if not seeds:
        return None
    return Mean.of([(sum(values[n][s] for n in plus) - sum(values[n][s] for n in minus)) / over for s in sorted(seeds)])
