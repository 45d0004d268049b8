"""What `python -m benchmarks.gpu` measured: gpu.json in a device's folder of benchmarks/results/, one device each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.data_sheets import Device, device_named

Record = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """header: of the results. parts: part -> its records."""

    header: dict[str, Any]
    parts: dict[str, list[Record]]

    @property
    def sheet(self) -> Device | None:
        """The data sheet of the GPU with the driver's name, if data_sheets.py has it."""
        return device_named(self.header["device"])

    def records(self, part: str, *keys: str) -> list[Record]:
        """The records of a part that have all of these fields, without compiled layers, which launch other kernels."""
        found = [record for record in self.parts.get(part, []) if all(key in record for key in keys)]
        return [record for record in found if record.get("layers", "eager") == "eager"]


def measurements(results: Path) -> list[Measurement]:
    """The newest of every device, by its name. A rehearsal is no measurement."""
    newest: dict[str, Measurement] = {}
    for path in sorted(results.glob("*/gpu.json")):
        content = json.loads(path.read_text())
        header = content["header"]
        before = newest.get(header["device"])
        if not header.get("rehearse") and (before is None or before.header["date"] < header["date"]):
            parts = {name: part["records"] for name, part in content["parts"].items()}
            newest[header["device"]] = Measurement(header, parts)
    return [newest[name] for name in sorted(newest)]
