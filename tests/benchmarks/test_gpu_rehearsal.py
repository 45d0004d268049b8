"""If this fails, `python -m benchmarks.gpu` would fail on a GPU for a reason that a CPU can show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.parts import PARTS
from benchmarks.harness.provenance import RESULTS, ROOT


def test_the_rehearsal_runs_every_part(tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "c")}
    command = [sys.executable, "-m", "benchmarks.gpu", "--rehearse", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["failed"] == []
    for part in PARTS:
        records = results["parts"][part.name]["records"]
        assert results["parts"][part.name]["state"] == "complete", part
        assert records, part
        left_out = [record for record in records if "skipped" in record or record["name"].startswith("left out")]
        for record in left_out:
            assert record.get("reason") == "a CPU has none", "what is left out is not rehearsed"
    assert {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")} == before, "a rehearsal is no result"
    assert not (tmp_path / "c" / "dmpo" / "launch.json").exists(), "nor does it tune this machine"
