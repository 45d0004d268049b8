"""Does a crash in the middle of a line leave the records before it?"""

import os

from benchmarks.gpu.records import FileNote, GpuSetting


def run(setting: GpuSetting, note: FileNote) -> None:
    note("before the crash", ok=True)
    note.file.write('{"name": "half a rec')
    note.file.flush()
    os.abort()
