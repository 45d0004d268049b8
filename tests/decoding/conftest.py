"""Fixtures of the tests of decoders."""

from __future__ import annotations

from typing import Any

import pytest

from tests.decoding.unsure_models import dream, tiny


@pytest.fixture(params=[tiny, dream], ids=["llada", "dream"])
def make(request: pytest.FixtureRequest) -> Any:
    return request.param
