"""One part in this process, as the command starts it: `python -m benchmarks.gpu.one_part` with a JSON object on stdin.

    {"part", "module", "device", "rehearse", "seed", "records": FILE, "deadline": seconds of time.monotonic()}

To run one part: `python -m benchmarks.gpu PART`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path

REHEARSAL_THREADS = 1  # two parts share two cores


def main() -> int:
    order = json.load(sys.stdin)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    import torch

    from benchmarks.gpu.records import END, FileNote, GpuSetting

    begun = time.monotonic()
    if order["rehearse"]:
        torch.set_num_threads(REHEARSAL_THREADS)
    device = torch.device(order["device"])
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the measured code prints goes to the log
    note = FileNote(Path(order["records"]), order["part"], lines)
    module = importlib.import_module(order["module"])
    setting = GpuSetting(device, order["rehearse"], order["deadline"], order["seed"])
    module.run(setting, note)
    seconds = round(time.monotonic() - begun, 1)
    note.write({"name": END, "ok": not note.failed, "failed": note.failed, "seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(main())
