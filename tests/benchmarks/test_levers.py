"""If these fail, the prediction says of a lever what its code does not do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.harness.provenance import RESULTS
from benchmarks.predict.fused_layers import ROWS as COUNTED_ROWS
from benchmarks.predict.fused_layers import WIDTH, fused_kernels, quantising_kernels
from benchmarks.predict.levers import ALL_BUT_FP8, ALL_BUT_MERGED, LINES
from benchmarks.predict.llada_passes import Simulation
from benchmarks.predict.op_counts import Ops, one_graph, together, total
from benchmarks.predict.rl_round import NONE, OURS, Levers, Round, rollout, round_of
from dmpo.planning.memory import Architecture

ROWS, MICRO, BLOCK, COMPLETION, LIVE = 16, 4, 32, 256, 512


def run_of(counts: Simulation) -> Round:
    return round_of(counts.config, gpus=8, prompt=200, decoder="dual_cache")


def products(ops: Ops) -> dict[str, float]:
    tensor = total(ops)["tensor"]
    return {"flops": tensor, "bytes": sum(work.bytes * times for work, times in ops.items() if work.tensor)}


def test_the_last_layer_spares_its_products_outside_of_the_rows_that_the_head_reads(counts: Simulation) -> None:
    """Queries of what is not read, and the output projection, the MLP and their adapters of what is not live."""
    arch, rank = Architecture.of(counts.model), counts.config.lora_r
    linears = arch.linears  # q, k, v, o, gate, up, down
    sizes = [inputs * outputs + rank * (inputs + outputs) for inputs, outputs in linears]
    tokens, read = ROWS * WIDTH, ROWS * COMPLETION
    spared = 2 * (sizes[0] * (tokens - read) + sum(sizes[3:]) * (tokens - LIVE))
    spared += 4 * arch.queries * WIDTH * (tokens - read)  # scores of queries with all keys
    whole = total(counts.forward(ROWS, WIDTH))["tensor"]
    assert whole - total(counts.forward(ROWS, WIDTH, read=COMPLETION, live=LIVE))["tensor"] == spared


def test_a_prompt_is_passed_once(counts: Simulation) -> None:
    run = run_of(counts)
    alone, shared = (
        total(together(rollout(counts, run, replace(OURS, levers=levers))["trunk"]))["tensor"]
        for levers in (NONE, Levers(shared_prompt=True))
    )
    whole, once = (total(counts.forward(rows, WIDTH))["tensor"] for rows in (ROWS, 1))
    assert alone - shared == run.batches * (whole - once), "completions of a prompt fill a batch of this config"


def test_a_compiled_layer_changes_what_stands_between_its_products(counts: Simulation) -> None:
    for eager, compiled in (
        (counts.forward(ROWS, WIDTH), counts.forward(ROWS, WIDTH, compiled=True)),
        (counts.training(MICRO, WIDTH), counts.training(MICRO, WIDTH, compiled=True)),
    ):
        assert products(eager) == products(compiled)
        assert min(compiled.values()) >= 0
        assert total(compiled)["launches"] < 0.75 * total(eager)["launches"]
        assert total(compiled)["bytes"] < 0.8 * total(eager)["bytes"]


def test_fused_kernels_are_the_counted_ones_and_grow_with_the_tokens() -> None:
    records = json.loads((RESULTS / "fused_layers.json").read_text())
    (record,) = (r for r in records if (r["kind"], r["lora"], r["training"]) == ("compiled", True, False))
    kernels = fused_kernels(COUNTED_ROWS * WIDTH, lora=True, training=False)
    assert len(kernels) == record["kernels"]
    assert sum(work.bytes for work in kernels) == pytest.approx(record["bytes"])
    twice = fused_kernels(2 * COUNTED_ROWS * WIDTH, lora=True, training=False)
    assert sum(work.bytes for work in twice) == pytest.approx(2 * record["bytes"])
    assert len(quantising_kernels(1, training=True)) == 14, "seven products, forward and backward"


def test_a_graph_is_launched_once_and_moves_the_same(counts: Simulation) -> None:
    ops = counts.forward(ROWS, BLOCK, WIDTH)
    graph = total(one_graph(ops))
    assert graph.pop("launches") == 1
    assert graph == {key: value for key, value in total(ops).items() if key != "launches"}


def test_products_in_fp8_take_half_the_time(counts: Simulation) -> None:
    """Besides attention, and the products of the adapters where they are not merged."""
    arch = Architecture.of(counts.model)
    wide, narrow = (products(counts.forward(ROWS, BLOCK, WIDTH, adapters=False, fp8=fp8)) for fp8 in (False, True))
    base = 2 * ROWS * BLOCK * arch.layers * arch.block_linear
    assert wide["flops"] - narrow["flops"] == base / 2
    assert narrow["bytes"] < 0.7 * wide["bytes"]


def test_the_page_has_every_line_and_the_levers_together_are_worth_more_than_each() -> None:
    results = json.loads((RESULTS / "prediction.json").read_text())
    assert [row["name"] for row in results["levers"]] == [line.name for line in LINES]
    spent = {row["name"]: sum(row["seconds"]["likely"]["H100"].values()) for row in results["levers"]}
    alone = [line.name for line in LINES if sum(vars(line.levers).values()) == 1 and "fp8" not in line.name]
    assert len(alone) == 5
    assert spent[ALL_BUT_MERGED] < spent[ALL_BUT_FP8] < min(spent[name] for name in alone)


def test_the_page_on_speed_has_the_counted_and_the_measured_figures() -> None:
    page = " ".join((RESULTS.parents[1] / "docs" / "speed.md").read_text(encoding="utf-8").split())
    passes = json.loads((RESULTS / "launches.json").read_text())["passes"]
    apart, merged = (passes[name]["launches"] for name in ("canvas pass, LoRA", "canvas pass"))
    assert f"launches {merged} kernels in place of {apart}" in page
    measured = (RESULTS / "cpu-1-thread" / "fp8.md").read_text(encoding="utf-8")
    row = page[page.index("error of a token's log-probability, nats | ") :].split("|")
    for cell in row[1:3]:
        assert cell.split("[")[0].strip() in measured
