"""What several tests of benchmarks.gpu, or of benchmarks.predict, need."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import processes, report
from benchmarks.gpu.parts import Part
from benchmarks.predict.__main__ import CONFIG
from benchmarks.predict.llada_passes import Simulation
from dmpo.config import DMPOConfig
from dmpo.config.files import load_config


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put parts and a device in the place of the real ones: offered(device, part, ...)."""

    def put(device: dict[str, Any], *parts: Part) -> None:
        for module in (command, report):
            monkeypatch.setattr(module, "PARTS", parts)
        monkeypatch.setattr(command, "part_named", {part.name: part for part in parts}.__getitem__)
        monkeypatch.setattr(command, "probe_device", lambda _: {"versions": {"torch": "2"}, "total_gb": 80.0, **device})
        monkeypatch.setattr(processes, "MARGIN", 0.5)

    return put


@pytest.fixture(scope="session")
def counts() -> Simulation:
    """LLaDA-8B's passes, counted for the config of the prediction."""
    return Simulation(load_config(DMPOConfig, CONFIG), wide_adapters=False)
