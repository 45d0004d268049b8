"""If these fail, the report shows figures of other sources, or counts again for ten minutes without need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.counted import report as kernel_report
from benchmarks.counted.report import compiled_from, counted_from, measure
from benchmarks.harness.setting import Setting


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is measured, in place of measuring it."""
    names: list[str] = []

    def instead(function: Any, setting: Setting, **_: Any) -> str:
        names.append(function.__name__)
        return f"new {function.__name__}"

    monkeypatch.setattr(kernel_report, "in_own_process", instead)
    return names


def digests() -> dict[str, str]:
    counted = {"counted_from": counted_from(), "peers_counted_from": counted_from(peers_alone=True)}
    return counted | {"compiled_from": compiled_from()}


def known(folder: Path, **digests: str) -> Path:
    path = folder / "kernel_report.json"
    path.write_text(json.dumps({"header": {"date": "then"}, "meter": "old", "compiled": ["old"]} | digests))
    return path


def test_results_of_the_same_sources_are_kept_whole(asked: list[str], tmp_path: Path) -> None:
    path = known(tmp_path, **digests())
    assert measure(Setting(), path) == json.loads(path.read_text())
    assert not asked


@pytest.mark.parametrize(
    ("stale", "wanted"),
    [("counted_from", ["meter_all"]), ("compiled_from", ["compile_kernels"])],
)
def test_what_is_of_other_sources_is_made_anew(asked: list[str], tmp_path: Path, stale: str, wanted: list[str]) -> None:
    found = measure(Setting(), known(tmp_path, **(digests() | {stale: "another"})))
    assert asked == wanted
    assert "header" not in found, "the old header does not belong to the new figures"
    assert {name: found[name] for name in digests()} == digests()
    assert (found["meter"], found["compiled"]).count(f"new {wanted[0]}") == 1
    assert measure(Setting(), tmp_path / "none.json")["meter"] == "new meter_all"


def test_digests_change_with_what_they_are_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = counted_from(), compiled_from()
    found = kernel_report.versions()
    monkeypatch.setattr(kernel_report, "versions", lambda: found | {"liger-kernel": "0.0"})
    assert counted_from() != before[0]
    assert compiled_from() == before[1]
    monkeypatch.setattr(kernel_report, "versions", lambda: found | {"triton": "0.0"})
    assert compiled_from() != before[1]
    monkeypatch.setattr(kernel_report, "versions", lambda: found)
    with monkeypatch.context() as patch:
        patch.setattr(kernel_report, "MASKED", 0.5)
        assert counted_from() != before[0]
    for name in ("kernels", "benchmarks"):
        for path in (kernel_report.ROOT / name).rglob("*.*"):
            if path.suffix in (".py", ".json") and "results" not in path.parts:
                copy = tmp_path / path.relative_to(kernel_report.ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(kernel_report, "ROOT", tmp_path)
    assert (counted_from(), compiled_from()) == before
    changes = {
        "kernels/sampling/triton_kernels.py": (True, True),
        "kernels/launch/table.py": (True, True),
        "kernels/linear_ce/token_operators.py": (True, False),
        "benchmarks/counted/meter.py": (True, False),
        "benchmarks/counted/op_traffic.py": (True, False),
        "benchmarks/harness/peak_memory.py": (True, False),
        "benchmarks/baselines/kernels.py": (True, False),
        "benchmarks/counted/cubin.py": (False, True),
        "benchmarks/measured/table.py": (False, False),
    }
    for name, changed in changes.items():
        path = tmp_path / name
        text = path.read_text()
        path.write_text(text + "\n")
        assert (counted_from() != before[0], compiled_from() != before[1]) == changed, name
        path.write_text(text)
