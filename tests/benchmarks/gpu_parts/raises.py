"""Is the error of a part that raises in the report?"""

from benchmarks.gpu.records import GpuSetting, Note


def run(setting: GpuSetting, note: Note) -> None:
    note("a check that fails", ok=False, error=2.0, allowed=1.0)
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
