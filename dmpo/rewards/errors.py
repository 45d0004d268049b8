"""The error of a reward that breaks its form."""

from __future__ import annotations


class RewardError(ValueError):
    """A reward did not return one finite number for each completion, or it cannot be called with the rows' columns."""
