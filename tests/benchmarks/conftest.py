"""What several tests of benchmarks.gpu need."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import processes, report
from benchmarks.gpu.parts import Part


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
