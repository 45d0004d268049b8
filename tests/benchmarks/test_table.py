"""If these fail, a table shows other figures than the result files, or shows a missed target as met."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import FILES, PARTS
from benchmarks.counted.comparison import compare_with_peers
from benchmarks.harness.provenance import RESULTS
from benchmarks.measured import kernels as bench_kernels
from benchmarks.measured import sft_step, table

MARKDOWN = {
    FILES.get(name, name): importlib.import_module(f"benchmarks.{module}").markdown for name, module in PARTS.items()
}
HEADER: dict[str, Any] = {
    "device": "CPU, 2 threads",
    "kind": "cpu",
    "processor": "Some CPU",
    "cores": 2,
    "threads": 2,
    "load_average": [0.5, 1.0],
    "versions": {"torch": "2.0", "triton": "3.0", "liger-kernel": "0.8", "cut-cross-entropy": "not installed"},
    "commit": "0123456789abcdef",
    "dirty": False,
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m benchmarks",
    "quick": False,
}


def run(ratio: float, target: float, same: float | None = None) -> dict[str, Any]:
    sides = {"ours": {"seconds_best": 2.0}, "published": {"seconds_best": 2.0 * ratio}}
    facts = {"temperature": 0.2 if same is None else 0.0, "same_tokens": same}
    return {"decoder": "topk", "ratio": ratio, "target_ratio": target, **facts, **sides}


def write(folder: Path, name: str, **results: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"header": HEADER} | results))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results in which every figure is another."""
    device = tmp_path / "cpu-2-threads"
    write(
        device,
        "decoders",
        shape={"batch": 4, "gen_length": 128},
        runs=[run(31.0, 30.0), run(29.9, 30.0), run(6.0, 5.5, 0.75)],
    )
    variants = {"ours": {"seconds_best": 0.5, "bytes": 1e8}, "published": {"seconds_best": 4.5, "bytes": 1.5e9}}
    ratios = {"times_faster": 9.0, "memory_share": 1 / 15, "targets": {"times_faster": 4.5, "memory_share": 0.05}}
    write(device, "step", shape={"rows": 16, "length": 192}, variants=variants, **ratios)
    return tmp_path


def test_a_line_says_what_the_file_says(folder: Path) -> None:
    lines = table.of_device(folder / "cpu-2-threads").splitlines()
    assert lines[0] == (
        "**CPU, 2 threads** (Some CPU), torch 2.0, 2026-01-02, commit 012345678; load average 0.5 to 1.0 on 2 cores."
    )
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert rows == [
        "| rollout of 4 × 128 tokens, topk, T = 0.2 | 2 s | 62 s | 31.0 | ≥ 30: met |",
        "| rollout of 4 × 128 tokens, topk, T = 0.2 | 2 s | 59.8 s | 29.9 | ≥ 30: MISSED |",
        "| rollout of 4 × 128 tokens, topk, T = 0, 75.0% of tokens the same | 2 s | 12 s | 6.0 | ≥ 5.5: met |",
        "| training step, 16 × 192 positions: time | 0.5 s | 4.5 s | 9.0 | ≥ 4.5: met |",
        "| training step, 16 × 192 positions: memory | 100 MB | 1500 MB | 15.0 | ≥ 20: MISSED |",
        "| rl_step | not measured: `python -m benchmarks --only rl` |  |  |  |",
        "| remask | not measured: `python -m benchmarks --only remask` |  |  |  |",
    ]


def test_uncommitted_code_and_a_busy_machine_are_reported(folder: Path) -> None:
    path = folder / "cpu-2-threads" / "step.json"
    found = json.loads(path.read_text())
    found["header"] |= {"dirty": True, "load_average": [0.9, 3.7]}
    path.write_text(json.dumps(found))
    first, second, *_ = table.of_device(folder / "cpu-2-threads").splitlines()
    assert "commit 012345678, 012345678 with changes; load average 0.5 to 3.7" in first
    assert "Other work ran beside this" in second


def row(total: float, flops: float) -> dict[str, Any]:
    return {"bytes_per_live_row": total, "flops_per_live_row": flops}


def test_kernels_stand_beside_the_leanest_peer_of_their_own_problem() -> None:
    tables = {
        "loss": {
            "dmpo linear_weighted_ce": row(1005.0, 4e6),
            "dmpo linear_token_logprobs": row(900.0, 4e6),
            "torch logits of all positions": row(5000.0, 14e6),
            "cut-cross-entropy, none": row(1000.0, 6e6),
            "Liger fused linear CE, none": {"error": "no"},
            "Liger fused linear CE, mean": row(800.0, 4e6),
        }
    }
    weighted, plain = compare_with_peers(tables)
    assert (weighted.ours, weighted.least_bytes_peer) == ("dmpo linear_weighted_ce", "cut-cross-entropy, none")
    assert weighted.holds == {"bytes": True, "FLOPs": True}, "half a percent more is equal"
    assert (plain.ours, plain.least_bytes_peer) == ("dmpo linear_token_logprobs", "Liger fused linear CE, mean")
    assert plain.holds == {"bytes": False, "FLOPs": True}
    text = table.of_traffic({"header": HEADER, "meter": tables})
    assert (
        "| loss | 1.005 kB | 1 kB (cut-cross-entropy, none) | met | 4 M | 6 M (cut-cross-entropy, none) | met |" in text
    )
    assert "| 0.9 kB | 0.8 kB (Liger fused linear CE, mean) | MISSED | 4 M |" in text
    assert "cut-cross-entropy not installed" in text


def test_every_device_has_a_table(folder: Path) -> None:
    write(folder / "nvidia-x", "remask", shape={"rows": 1, "length": 2}, target=10.0, rules=[
        {"ratio": 12.5, "microseconds": 4.0, "loop_microseconds": 50.0}, {"ratio": 11.5, "microseconds": 2.0,
        "loop_microseconds": 23.0},
    ])  # fmt: skip
    (folder / "prediction.json").write_text("{}")
    text = table.markdown(folder)
    assert text.count("| | ours | published | times better | target |\n|---|---|---|---|---|\n") == 2
    assert "| remasking 1 × 2, the least favourable rule | 2 µs | 23 µs | 11.5 | ≥ 10: met |" in text
    assert text.endswith("Traffic: not counted, `python -m benchmarks --only report`.\n")


def test_committed_results_are_no_trial() -> None:
    devices = [path for path in RESULTS.iterdir() if (path / "table.md").is_file()]
    assert devices
    for folder in devices:
        assert (folder / "table.md").read_text() == table.of_device(folder), "run: python -m benchmarks"
        for path in folder.glob("*.json"):
            made = json.loads(path.read_text())
            written = sft_step.markdown if path.stem.startswith("sft_step-") else MARKDOWN[path.stem]
            assert path.with_suffix(".md").read_text() == written(made), "run: python -m benchmarks"
            found = made["header"]
            assert found["quick"] is False
            assert found["device"]
            assert found["date"]


def test_the_fastest_is_the_fastest_of_the_same_problem() -> None:
    def timing(peer: str, seconds: float | None, rows: int = 8, share: float = 0.5) -> dict[str, Any]:
        return {"job": "loss", "rows": rows, "peer": peer, "seconds": seconds, "share": share}

    plain, weighted = "dmpo linear_token_logprobs", "dmpo linear_weighted_ce"
    slow, torch_peer = "Liger fused linear CE, mean", "torch logits of masked positions"
    found = bench_kernels.answer(
        {
            "timings": [
                timing(plain, 1.0, share=0.25),
                timing(slow, 2.0, share=0.9),
                timing(torch_peer, 3.0),
                timing(weighted, 4.0, share=0.75),
                timing(torch_peer, None, rows=16),
                timing(weighted, 5.0, rows=16),
            ]
        }
    )
    assert found.startswith(
        "Of 2 jobs and sizes that a peer of the same problem was timed at, dmpo is the fastest in 1;"
    )
    assert "25% to 75%" in found
