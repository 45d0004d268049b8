"""Is a part that never ends ended, with the processes that it started?"""

import subprocess
import sys
import time

from benchmarks.gpu.records import GpuSetting, Note


def run(setting: GpuSetting, note: Note) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    note("before it hangs", child=child.pid)
    time.sleep(600)
