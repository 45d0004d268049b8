"""Which parts does a run have, in which order, and how much time and memory may each of them take?

A part is a module. Its docstring opens with the question that the part answers, and its function
`run(setting: GpuSetting, note: Note) -> None` answers it. A part runs in a process of its own (processes.py).
"""

from __future__ import annotations

from dataclasses import dataclass

TOTAL_SECONDS = 480


@dataclass(frozen=True)
class Part:
    """name: on the command line, and the stem of the file of records; module: holds `run`.

    seconds: the limit on a GPU, start of the process included. At the limit the process is ended.
    memory_gb: free device memory (1e9 bytes) without which the part is skipped.
    capability: the oldest GPU that can run the part, as CUDA counts (8.0 is an A100).
    """

    name: str
    module: str
    seconds: int
    memory_gb: float
    capability: tuple[int, int] = (8, 0)


# The most important first: a run that is cut short has answered the important questions.
PARTS: tuple[Part, ...] = (
    Part("ceilings", "benchmarks.gpu.ceilings", 30, 6),
    Part("parity", "benchmarks.gpu.parity", 100, 6),
    Part("decoders", "benchmarks.gpu.decoders", 40, 2, (7, 5)),
    Part("llada_8b", "benchmarks.gpu.llada_8b", 130, 60),
    Part("linear_ce", "benchmarks.gpu.linear_ce", 45, 24),
    Part("published", "benchmarks.gpu.published", 50, 60),
    Part("trainer", "benchmarks.gpu.trainer", 40, 2, (7, 5)),
    Part("tuning", "benchmarks.gpu.tuning", 45, 8),
)


def part_named(name: str) -> Part:
    """The part of that name; ValueError if there is none."""
    for part in PARTS:
        if part.name == name:
            return part
    raise ValueError(f"part: got {name!r}, want one of {', '.join(part.name for part in PARTS)}")
