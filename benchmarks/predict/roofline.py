"""How fast could a device do given work at best? The roofline: the slower of moving the bytes and doing the arithmetic.

Peaks are of data sheets (`harness.data_sheets`), and no kernel reaches them. `Attainable` says which share of each is
assumed; `LIKELY` is a guess from what tuned kernels commonly get.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.data_sheets import Device


@dataclass(frozen=True)
class Attainable:
    """Shares of a device's peaks, in (0, 1], assumed or measured; seconds of the host for each launch; whether a job
    made of several kernels is taken to compute and to move bytes at the same time."""

    name: str
    bandwidth: float
    arithmetic: float
    host: float
    overlap: bool


# Seconds of the host a launch. 7.5 µs of PyTorch, peft and transformers were measured on a quiet CPU core
# (`python -m benchmarks.predict.host_time`; a busy core takes twice as long); a CUDA launch adds 2.5 µs, a guess.
HOST = 10e-6

BOUND = Attainable("roofline", bandwidth=1.0, arithmetic=1.0, host=0.0, overlap=True)
LIKELY = Attainable("likely", bandwidth=0.8, arithmetic=0.6, host=HOST, overlap=False)


@dataclass(frozen=True)
class Work:
    """What one kernel does.

    bytes: moved from and to the device's memory. tensor, fp32, fp64: FLOPs by kind of unit. launches: kernels.
    """

    bytes: float = 0.0
    tensor: float = 0.0
    fp32: float = 0.0
    fp64: float = 0.0
    launches: float = 0.0


UNITS = ("tensor", "fp32", "fp64")


def seconds(work: Work, device: Device, reach: Attainable = BOUND) -> float:
    """Time of the work on the device, whose launches wait ready: the slowest of memory and units, which overlap.

    Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.
    """
    moving = work.bytes / (device.bandwidth * reach.bandwidth)
    computing = max(getattr(work, unit) / getattr(device, unit) for unit in UNITS) / reach.arithmetic
    return max(moving, computing)
