"""One part in this process, as the command starts it: `python -m benchmarks.gpu.one_part` with a JSON object on stdin.

    {"part": NAME, "device": "cuda", "rehearse": false, "deadline": SECONDS OF time.monotonic(), "records": FILE}

To try one part by hand: `python -m benchmarks.gpu NAME`.
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

    from benchmarks.gpu.parts import part_named
    from benchmarks.gpu.records import END, FileNote, GpuSetting

    part, begun = part_named(order["part"]), time.monotonic()
    if order["rehearse"]:
        torch.set_num_threads(REHEARSAL_THREADS)
    device = torch.device(order["device"])
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    note = FileNote(Path(order["records"]), part.name)
    module = importlib.import_module(part.module)
    module.run(GpuSetting(device, order["rehearse"], order["deadline"]), note)
    seconds = round(time.monotonic() - begun, 1)
    note.write({"name": END, "ok": not note.failed, "failed": note.failed, "seconds": seconds})
    return 0


if __name__ == "__main__":
    sys.exit(main())
