"""Does a part that goes well leave its records?

A second paragraph.
"""

import os

from benchmarks.gpu.records import GpuSetting, Note


def run(setting: GpuSetting, note: Note) -> None:
    print("this line belongs in the log")
    note("a figure", device_ms=1.5, offline=os.environ["HF_HUB_OFFLINE"])
    note("a check", ok=True, remaining_s=round(setting.remaining(), 3), seed=setting.seed)
