"""Parts that go well or badly, and devices that are not here, in the place of the real ones of benchmarks.gpu."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.parts import Part


def fake(name: str, seconds: int = 60, **needs: Any) -> Part:
    return Part(name, f"tests.benchmarks.gpu_parts.{name}", seconds, needs.get("memory_gb", 1), (8, 0))


CPU = {"kind": "cpu", "device": "CPU, 1 thread", "slug": "cpu-1-thread", "driver": None, "problem": None}
GPU = {**CPU, "kind": "cuda", "device": "NVIDIA A", "slug": "nvidia-a", "driver": "580.1", "capability": [9, 0]}
