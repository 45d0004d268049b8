"""Tiny models that are sure of some tokens and not of others, so that rows need unlike numbers of steps."""

from __future__ import annotations

from typing import Any

import pytest

from tests import tiny_models


def tiny(**changes: Any) -> Any:
    """A tiny model that is sure of some tokens and not of others, so that rows need unlike numbers of steps."""
    return tiny_models.tiny(**{"init_std": 0.7, **changes})


def dream(**changes: Any) -> Any:
    """One that predicts each position at its left neighbour."""
    model = tiny(**changes)
    model.prediction_shift = 1
    return model


each_alignment = pytest.mark.parametrize("make", [tiny, dream], ids=["llada", "dream"])
