"""If these fail, the prediction for GPUs turns counts into wrong times, or says what its numbers do not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.harness.data_sheets import DEVICES, device_named
from benchmarks.harness.provenance import RESULTS
from benchmarks.predict import __main__ as predict
from benchmarks.predict.kernels import FUSED, predicted, works
from benchmarks.predict.op_counts import host_time
from benchmarks.predict.report import lines, markdown
from benchmarks.predict.report import seconds as part_seconds
from benchmarks.predict.rl_round import OURS, OURS_DDP, PUBLISHED
from benchmarks.predict.roofline import BOUND, LIKELY, UNITS, Work, seconds

H100 = DEVICES[1]


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "prediction.json").read_text())
    return found


# ---------------------------------------------------------------------------------------------- the roofline


@pytest.mark.parametrize("unit", UNITS)
def test_the_slowest_of_memory_and_units_decides(unit: str) -> None:
    peak_flops = getattr(H100, unit)
    assert seconds(Work(bytes=H100.bandwidth, **{unit: peak_flops / 2}), H100) == pytest.approx(1.0)
    assert seconds(Work(bytes=H100.bandwidth / 2, **{unit: 3 * peak_flops}), H100) == pytest.approx(3.0)
    assert seconds(Work(**{unit: peak_flops}), H100, LIKELY) == pytest.approx(1 / LIKELY.arithmetic)
    assert seconds(Work(launches=5), H100, LIKELY) == 0.0  # they are the host's
    assert host_time(Counter({Work(launches=5): 3, Work(launches=1): 2}), LIKELY) == pytest.approx(17 * LIKELY.host)


def test_time_falls_with_bandwidth_until_arithmetic_binds() -> None:
    work = Work(bytes=3e9, tensor=5e11, launches=2)
    devices = [replace(H100, bandwidth=H100.bandwidth * factor) for factor in (0.5, 1, 2, 4, 1e6)]
    times = [seconds(work, device, LIKELY) for device in devices]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[1] > times[-1] == pytest.approx(5e11 / H100.tensor / 0.6)
    assert all(seconds(work, device, LIKELY) > seconds(work, device, BOUND) for device in DEVICES)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", None),
        ("H100", "H100"),
        ("cpu", None),
    ],
)
def test_a_device_is_known_by_its_drivers_name_and_no_slower_kind_is_taken_for_it(name: str, found: str | None) -> None:
    device = device_named(name)
    assert (device and device.name) == found


def test_peaks_must_be_positive() -> None:
    with pytest.raises(ValueError, match="bandwidth of H100 must be > 0, got 0"):
        replace(H100, bandwidth=0)


# ---------------------------------------------------------------------------------------------- what is claimed


def test_the_committed_markdown_is_made_of_the_committed_numbers(committed: dict[str, Any]) -> None:
    text = (RESULTS / "prediction.md").read_text()
    assert markdown(committed) == text
    tables = text.split("## Devices")[0].splitlines()
    rows = [line for line in tables if line.startswith("|") and not line.startswith(("| |", "|---"))]
    assert len(rows) > 60
    assert all(line.startswith(("| prediction |", "| measured |")) for line in rows)
    assert ("Nothing here was measured on a GPU" in text) == (not committed["measured"])


def test_the_committed_kernels_are_those_of_the_kernel_report(committed: dict[str, Any]) -> None:
    meter = json.loads((RESULTS / "kernel_report.json").read_text())["meter"]
    assert committed["kernels"] == predicted(meter, predict.REACHES)


def test_ours_is_no_slower_than_published_where_that_is_said(committed: dict[str, Any]) -> None:
    for name, parts in lines(committed):
        for reach in (BOUND.name, LIKELY.name):
            for device in DEVICES:
                pair = {
                    side: [
                        sum(part_seconds(committed, reach, device.name, side, stage, **part) for part in parts)
                        for stage in (None, "head")
                    ]
                    for side in (PUBLISHED.name, OURS.name)
                }
                assert pair[OURS.name][1] < pair[PUBLISHED.name][1], name
                if name != "score":  # which makes one pass more
                    assert pair[OURS.name][0] < pair[PUBLISHED.name][0], name


def test_kernels_scale_from_where_they_were_counted_to_llada() -> None:
    row = {"reads": 3.0, "writes": 1.0, "flops": 4.0, "bytes_read": 300, "bytes_written": 100}
    tables = {
        "From logits, forward and backward, 16 positions, all masked, V 126464, bf16": {"a": row, "b": {"error": "x"}},
        "From logits, forward and backward, 16 positions, 1 in 4 masked, V 126464, bf16": {"a": row},
        "From hidden states, forward and backward, frozen head, H 128, V 3968, 914 positions, 28 % masked, fp16": {
            "a": row,
            FUSED[0]: row,
        },
        "Sampling, T = 0.2, 8 rows, V 126464, bf16": {"a": row},
    }
    found = works(tables)
    assert list(found) == [
        "From logits: 8192 masked positions, forward and backward",
        "From hidden states, frozen head: 8192 of 29248 positions masked, forward and backward",
        "Sampling at T = 0.2: 512 rows of logits",
    ]
    logits, linear, draw = found.values()
    assert list(logits) == ["a"]
    assert logits["a"] == Work(400 / 16 * 8192)
    assert draw["a"] == Work(400 / 8 * 512)
    assert linear["a"] == Work(4 * 126464 * 4096 * 2, tensor=4 * 126464 * 4096 * 8192)
    times = predicted(tables, (LIKELY,))[list(found)[1]]
    moving, computing = (seconds(w, H100, LIKELY) for w in (Work(linear["a"].bytes), Work(tensor=linear["a"].tensor)))
    assert times["a"]["ms"]["likely"]["H100"] == pytest.approx(1000 * (moving + computing))
    assert times[FUSED[0]]["ms"]["likely"]["H100"] == pytest.approx(1000 * max(moving, computing))
    with pytest.raises(ValueError, match="title says no"):
        works({"From hidden states, frozen head": {"a": row}})


def test_float32_adapters_cost_a_cast_and_no_wide_activations(committed: dict[str, Any]) -> None:
    """Else what the answer says of runs without DeepSpeed is something to look into."""

    def seconds(**which: Any) -> tuple[float, float]:
        narrow, wide = (
            part_seconds(committed, LIKELY.name, "H100", x.name, "trunk", **which) for x in (OURS, OURS_DDP)
        )
        return narrow, wide

    for phase in ("score", "update"):
        narrow, wide = seconds(phase=phase)
        assert narrow < wide < 1.1 * narrow
    narrow, wide = seconds(phase="rollout", decoder="topk", tokens_a_step=2)
    assert narrow == wide, "the shipped config merges adapters in rollouts"
