"""Names of the weight baselines, for configs and losses. No torch here."""

from __future__ import annotations

from typing import Literal, get_args

Baseline = Literal["none", "mean", "negative", "theta"]
BASELINES: tuple[str, ...] = get_args(Baseline)
