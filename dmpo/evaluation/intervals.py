"""Estimates of accuracies, of mean rewards and of pass@k, and 95 % intervals around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

Z95 = 1.959963984540054  # 97.5 % point of the standard normal


@dataclass(frozen=True)
class Accuracy:
    """Solved rows out of a total."""

    NAME: ClassVar[str] = "accuracy"

    solved: int
    total: int

    @classmethod
    def from_sums(cls, solved: float, total: float) -> Accuracy:
        """From sums over ranks."""
        return cls(round(solved), round(total))

    @property
    def share(self) -> float:
        return self.solved / self.total

    @property
    def mean(self) -> float:
        """The share, as the mean of 1 for each solved row and 0 for the others."""
        return self.share

    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval of the share."""
        return wilson(self.share, self.total)

    @staticmethod
    def text(value: float) -> str:
        """A share as per cent."""
        return f"{value:.1%}"


@dataclass(frozen=True)
class MeanReward:
    """The sum of the rewards of all rows, the sum of their squares, and the number of rows."""

    NAME: ClassVar[str] = "reward"

    rewards: float
    squares: float
    total: int

    @classmethod
    def of(cls, rewards: Sequence[float]) -> MeanReward:
        return cls(math.fsum(rewards), math.fsum(reward * reward for reward in rewards), len(rewards))

    @classmethod
    def from_sums(cls, rewards: float, squares: float, total: float) -> MeanReward:
        """From sums over ranks."""
        return cls(rewards, squares, round(total))

    @property
    def mean(self) -> float:
        """The mean reward of a row."""
        return self.rewards / self.total

    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean by the normal approximation, mean ± 1.96·s/√n, s² being the unbiased variance; of
        one row it is the mean alone, because the variance is unknown."""
        n, mean = self.total, self.mean
        variance = max(0.0, self.squares / n - mean * mean) * n / (n - 1) if n > 1 else 0.0
        half = Z95 * math.sqrt(variance / n)
        return mean - half, mean + half

    @staticmethod
    def text(value: float) -> str:
        """A reward with three decimals."""
        return f"{value:.3f}"


@dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval; `method` is wilson or effective_wilson."""

    value: float
    low: float
    high: float
    method: str


def wilson(share: float, total: float) -> tuple[float, float]:
    """95 % score interval of a share out of `total` independent trials (Wilson 1927, JASA 22, 209-212)."""
    n, p = total, share
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    # The interval holds the share. Rounding alone would put 0 and 1 outside of it.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def pass_at_k(samples: int, solved: int, k: int) -> float:
    """Unbiased probability that one of k samples is right, from `samples` of which `solved` are.

    1 − C(n − c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Raises:
        ValueError: not 0 ≤ solved ≤ samples, or not 1 ≤ k ≤ samples.
    """
    if not 0 <= solved <= samples or not 1 <= k <= samples:
        raise ValueError(f"need 0 ≤ solved ≤ samples and 1 ≤ k ≤ samples, got {solved=}, {samples=}, {k=}")
    return 1.0 - math.comb(samples - solved, k) / math.comb(samples, k)


def estimate_pass(solved: Sequence[int], samples: int, k: int) -> Estimate:
    """pass@k over examples, each with `samples` completions of which `solved[i]` are right.

    With one completion each it is Wilson's interval. With more, completions of one example are no independent trials.
    Then it is Wilson's interval at the effective number of trials p(1 − p) / (s²/N), at least N and at most
    samples · N / k, where s² is the unbiased variance of pass@k between examples (Franco et al. 2019, J. Survey
    Statistics and Methodology 7, 334-364). If s² is 0, or unknown because there is one example, the number of trials is
    N. With fewer than 10 examples s² itself is uncertain, and the interval may contain the truth less often than 95 %.

    Raises:
        ValueError: no example, or as `pass_at_k` does.
    """
    if not solved:
        raise ValueError("pass@k needs at least one example")
    values = [pass_at_k(samples, count, k) for count in solved]
    N = len(values)
    share = math.fsum(values) / N
    if samples == 1:
        return _estimate(share, N, "wilson")
    if len(set(values)) == 1:
        return _estimate(share, N, "effective_wilson")
    variance = math.fsum((value - share) ** 2 for value in values) / (N - 1)
    trials = min(samples * N / k, max(N, share * (1 - share) * N / variance))
    return _estimate(share, trials, "effective_wilson")


def _estimate(share: float, trials: float, method: str) -> Estimate:
    low, high = wilson(share, trials)
    return Estimate(share, min(low, share), max(high, share), method)  # at 0 and 1 they may differ by a rounding
