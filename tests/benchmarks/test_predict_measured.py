"""If these fail, what a GPU gave stands beside the wrong prediction, or the README hides that it was measured."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme
from benchmarks.gpu.measurements import Measurement, measurements
from benchmarks.gpu.summary import summary
from benchmarks.harness.data_sheets import DEVICES
from benchmarks.harness.provenance import RESULTS
from benchmarks.predict import __main__ as predict
from benchmarks.predict.beside_measured import compared, measured_reach
from benchmarks.predict.kernels import HIDDEN, VOCAB, job_seconds, walked
from benchmarks.predict.llada_passes import Simulation
from benchmarks.predict.op_counts import device_time, host_time, time_of, together, total
from benchmarks.predict.report import markdown
from benchmarks.predict.roofline import BOUND, HOST, LIKELY, Attainable, Work
from dmpo.config import DMPOConfig
from dmpo.config.files import load_config
from tests.benchmarks.gpu_results import HEADER, write_results

H100 = DEVICES[1]
REACH = Attainable("measured", bandwidth=0.9, arithmetic=0.7, host=HOST, overlap=False)


@pytest.fixture(scope="module")
def counts() -> Simulation:
    return Simulation(load_config(DMPOConfig, predict.CONFIG), wide_adapters=True)


@pytest.fixture
def seen(tmp_path: Path) -> Measurement:
    write_results(tmp_path)
    (found,) = measurements(tmp_path)
    return found


@pytest.fixture(scope="module")
def figures(counts: Simulation, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("results")
    write_results(folder)
    (found,) = measurements(folder)
    return {figure["name"]: figure for figure in compared(found, H100, counts, (LIKELY, REACH))}


# ---------------------------------------------------------------------------------------------- reading


def test_the_newest_of_a_device_counts_and_a_rehearsal_does_not(tmp_path: Path) -> None:
    write_results(tmp_path, "a", date="2026-12-03")
    write_results(tmp_path, "b", date="2026-12-02")
    write_results(tmp_path, "c", device="NVIDIA H100 PCIe")
    write_results(tmp_path, "d", device="NVIDIA H200", rehearse=True)
    (tmp_path / "e").mkdir()
    found = measurements(tmp_path)
    assert [(each.header["device"], each.header["date"]) for each in found] == [
        (HEADER["device"], "2026-12-03"),
        ("NVIDIA H100 PCIe", HEADER["date"]),
    ]
    assert [each.sheet for each in found] == [H100, None]


def test_the_ceilings_are_what_the_device_was_seen_to_do(seen: Measurement, counts: Simulation) -> None:
    reach = measured_reach(seen, H100, counts)
    launches = total(counts.forward(1, 32, 456))["launches"]
    assert reach.bandwidth == pytest.approx(3.0e12 / H100.bandwidth)
    assert reach.arithmetic == pytest.approx(700e12 / H100.tensor)
    assert reach.host == pytest.approx(29e-3 / launches)  # of the short pass, whose host waits for nothing
    assert not reach.overlap


def test_what_was_not_measured_is_taken_as_likely(counts: Simulation) -> None:
    reach = measured_reach(Measurement(HEADER, {}), H100, counts)
    assert (reach.bandwidth, reach.arithmetic, reach.host) == (LIKELY.bandwidth, LIKELY.arithmetic, HOST)


# ---------------------------------------------------------------------------------------------- beside the prediction


def test_every_figure_that_has_a_prediction_stands_beside_it(figures: dict[str, dict[str, Any]]) -> None:
    assert list(figures) == [
        "copy",
        "product, square",
        "product, thin",
        "pass over 16 x 456, LoRA",
        "pass over 1 x 32, LoRA",
        "later step of dual_cache",
        "micro-batch of 4 x 456, forward and backward",
        "block of 16 rows by topk, published",
        "micro-batch of 4 x 456, published",
        "dmpo, frozen head, 8192 rows",
        "memory of update, beside the plan",
    ]


def test_a_pass_that_is_long_is_the_devices_and_a_short_one_the_hosts(
    figures: dict[str, dict[str, Any]], counts: Simulation
) -> None:
    canvas, block = counts.forward(16, 456), counts.forward(1, 32, 456)
    long, short = figures["pass over 16 x 456, LoRA"], figures["pass over 1 x 32, LoRA"]
    assert long["measured"] == 250.0
    assert long["predicted"]["measured"] == pytest.approx(1e3 * device_time(canvas, H100, REACH))
    assert short["predicted"]["measured"] == pytest.approx(1e3 * HOST * total(block)["launches"])
    assert short["predicted"]["measured"] == short["predicted"]["likely"] > 1e3 * device_time(block, H100, LIKELY)
    assert long["predicted"]["measured"] < long["predicted"]["likely"]


def test_other_figures_are_those_of_what_was_measured(figures: dict[str, dict[str, Any]], counts: Simulation) -> None:
    def milliseconds(name: str) -> float:
        found: float = figures[name]["predicted"]["measured"]
        return found

    step = [(counts.forward(16, 32, 456, adapters=False), 1), (counts.tail("ours", "rollout", 16, 32, 480), 1)]
    assert milliseconds("later step of dual_cache") == pytest.approx(1e3 * time_of(step, H100, REACH))
    update = [(counts.training(4, 456), 1), (counts.tail("ours", "update", 4, 456, 512), 1)]
    ours = milliseconds("micro-batch of 4 x 456, forward and backward")
    assert ours == pytest.approx(1e3 * time_of(update, H100, REACH))
    assert milliseconds("micro-batch of 4 x 456, published") > ours
    block = milliseconds("block of 16 rows by topk, published")
    assert block > 16 * 1e3 * device_time(counts.forward(16, 456), H100, REACH)
    loss = Work(walked(8192, trainable=False, weighted=True), tensor=4 * HIDDEN * VOCAB * 8192)
    assert milliseconds("dmpo, frozen head, 8192 rows") == pytest.approx(1e3 * job_seconds("dmpo", loss, H100, REACH))
    assert figures["memory of update, beside the plan"]["predicted"] == {"likely": 40.0, "measured": 40.0}
    assert figures["copy"]["predicted"]["likely"] == pytest.approx(0.8 * 3.35)
    assert figures["product, thin"]["predicted"]["measured"] == pytest.approx(0.7 * 989.4)


def test_the_host_is_waited_for_pass_by_pass(counts: Simulation) -> None:
    """A host that is late in short passes does not catch up in long ones."""
    long, short = counts.forward(16, 456), counts.forward(16, 32, 456)
    slow = Attainable("slow", bandwidth=1.0, arithmetic=1.0, host=15e-6, overlap=False)
    passes = [(long, 2), (short, 3)]
    expected = 2 * device_time(long, H100, slow) + 3 * host_time(short, slow)
    assert time_of(passes, H100, slow) == pytest.approx(expected)
    everything = together(passes)
    assert time_of(passes, H100, slow) > max(device_time(everything, H100, slow), host_time(everything, slow))
    assert time_of(passes, H100, BOUND) == pytest.approx(device_time(everything, H100, BOUND))


# ---------------------------------------------------------------------------------------------- what is said of it


@pytest.fixture
def committed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "prediction.json").read_text())
    return found


def with_measurement(committed: dict[str, Any], figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The committed prediction as it would be with the made results."""
    results = copy.deepcopy(committed)
    reach = {name: getattr(REACH, name) for name in REACH.__dataclass_fields__}
    results["measured"] = [{"device": "H100", "header": HEADER, "reach": reach, "figures": list(figures.values())}]
    for part in results["parts"]:
        for stage in part["stages"].values():
            stage["seconds"]["measured"] = {"H100": stage["seconds"]["likely"]["H100"] / 2}
    for row in results["levers"]:
        row["seconds"]["measured"] = {"H100": row["seconds"]["likely"]["H100"]}
    return results


def test_without_a_measurement_the_prediction_says_so(committed: dict[str, Any]) -> None:
    text = markdown(committed | {"measured": [], "without_data_sheet": []})
    assert "A100, H100, H200, B200: nothing measured on this device yet" in text
    assert "Nothing here was measured on a GPU." in text


def test_ratios_are_measured_over_predicted(committed: dict[str, Any], figures: dict[str, dict[str, Any]]) -> None:
    text = markdown(with_measurement(committed, figures))
    likely, reached = (figures["pass over 16 x 456, LoRA"]["predicted"][name] for name in ("likely", "measured"))
    row = f"| 250 ms | {likely:.3g} | {250 / likely:.2f} | {reached:.3g} | {250 / reached:.2f} |"
    assert f"| measured | pass over 16 x 456, LoRA {row}" in text
    assert "| measured | memory of update, beside the plan | 36 GB | 40 | 0.90 | 40 | 0.90 |" in text
    assert "A100, H200, B200: nothing measured on this device yet" in text
    assert "Nothing here was measured" not in text
    assert "Measured on NVIDIA H100 80GB HBM3, 2026-12-01, and set beside the prediction" in text
    assert "### measured: 70% of peak arithmetic, 90% of peak bandwidth, 10 µs of the host a launch (H100)" in text


def test_the_page_of_results_opens_with_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Measurement
) -> None:
    blocks = []
    for folder in (tmp_path / "nothing", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "prediction.md").write_text((RESULTS / "prediction.md").read_text())
        monkeypatch.setattr(readme, "RESULTS", folder)
        blocks.append(readme.TABLES[readme.RESULTS_PAGE]["prediction"]())
    before, after = blocks
    assert after == f"{summary(seen)}\n\n{before}"
    assert after.startswith("**Measured on NVIDIA H100 80GB HBM3** (driver 580.1, torch 2.11.0, triton 3.6.0, ")
    for said in (
        "2026-12-01, commit 012345678).",
        "| decoder | adapters | batch 1 | batch 16 |",
        "| dual_cache | none | – | 1,100 |",
        "| random_order, 1 token a step | none | 30 | – |",
        "8192 rows, head frozen, takes 30.0 ms (liger-kernel 60.0); the target of 29 ms is missed.",
        "A micro-batch of 4 × 456 tokens takes 160 ms.",
        "Memory of update is 36.0 GB, 40.0 GB planned.",
        "published algorithm on the same shapes: block of 16 rows by topk 2.2 times faster, peak memory 33%.",
    ):
        assert said in after


def test_a_summary_of_few_parts_says_nothing_of_the_others() -> None:
    text = summary(Measurement(HEADER | {"driver": None, "commit": None}, {"ceilings": []}))
    assert text == "**Measured on NVIDIA H100 80GB HBM3** (torch 2.11.0, triton 3.6.0, 2026-12-01)."
