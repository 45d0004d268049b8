"""Runs here plot nothing, and wait for nothing."""

from __future__ import annotations

import pytest

from dmpo.run import saving


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)
    monkeypatch.setattr("dmpo.storage.lock.PATIENCE", 0.0)
    monkeypatch.setattr(saving, "PATIENCE", 0.0)
    monkeypatch.setattr(saving, "PAUSE", 0.0)
