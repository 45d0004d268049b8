"""The peaks of GPUs that vendors' data sheets name, for one GPU and dense (without structured sparsity)."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Device:
    """A GPU's peaks: bytes/s of its memory, FLOP/s by kind of unit, bytes of memory.

    tensor: bfloat16 operands, float32 sums. fp32, fp64: the ordinary units, which compute float32 products unless TF32
    is enabled. Data sheets count 10^9 bytes a GB of memory. reported: a pattern of the driver's name for the GPU.
    """

    name: str
    bandwidth: float
    tensor: float
    fp32: float
    fp64: float
    memory: float
    reported: str
    source: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str) and not value > 0:
                raise ValueError(f"{field.name} of {self.name} must be > 0, got {value}")


GB, TB = 10**9, 10**12
T = 10**12

DEVICES = (
    Device(
        name="A100",
        bandwidth=2.039 * TB,
        tensor=312 * T,
        fp32=19.5 * T,
        fp64=9.7 * T,
        memory=80 * GB,
        reported=r"A100-SXM4-80GB",
        source="A100 80GB SXM: NVIDIA A100 Tensor Core GPU data sheet (2022)",
    ),
    Device(
        name="H100",
        bandwidth=3.35 * TB,
        tensor=989.4 * T,
        fp32=66.9 * T,
        fp64=33.5 * T,
        memory=80 * GB,
        reported=r"H100 80GB HBM3|H100 SXM5",
        source="H100 SXM5 80GB: NVIDIA H100 data sheet; dense figures: Hopper architecture white paper",
    ),
    Device(
        name="H200",
        bandwidth=4.8 * TB,
        tensor=989.4 * T,
        fp32=66.9 * T,
        fp64=33.5 * T,
        memory=141 * GB,
        reported=r"(?<!G)H200(?! NVL)",
        source="H200 SXM: NVIDIA H200 data sheet; it computes as H100 SXM5 does",
    ),
    Device(
        name="B200",
        bandwidth=8.0 * TB,
        tensor=2250 * T,
        fp32=80 * T,
        fp64=40 * T,
        memory=180 * GB,
        reported=r"(?<!G)B200",
        source="B200 in HGX and DGX B200, 1000 W: NVIDIA Blackwell architecture technical brief, DGX B200 data sheet",
    ),
)


def device_named(name: str) -> Device | None:
    """The device that a short name ("H100") or the driver's name ("NVIDIA H100 80GB HBM3") means.

    None for any other, also for slower kinds of the same chip (PCIe, NVL, 40 GB): their peaks are not known here.
    """
    for device in DEVICES:
        if name.strip() == device.name or re.search(rf"\b(?:{device.reported})\b", name):
            return device
    return None
