"""If these fail, the prediction for GPUs counts kernels that do not run, or misses some that do."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baselines.training_step import published as published_loss
from benchmarks.counted.meter import as_on_a_gpu, measure
from benchmarks.harness.provenance import RESULTS
from benchmarks.memory.simulated_step import fill, llama_config
from benchmarks.predict import __main__ as predict
from benchmarks.predict.kernels import walk
from benchmarks.predict.llada_passes import Simulation
from benchmarks.predict.op_counts import (
    Ops,
    count,
    extended,
    fake_gpu,
    finish_work,
    sampling_work,
    tile_softmax_work,
    together,
    total,
)
from benchmarks.predict.rl_round import ALWAYS, OURS, PUBLISHED, memory, round_of, update
from dmpo import kernels
from dmpo.config import DMPOConfig
from dmpo.config.files import load_config
from dmpo.kernels.linear_ce import tiles as linear_ce_tiles
from dmpo.kernels.linear_ce import triton_kernels as linear_ce_triton
from dmpo.models.masked_lm import MaskedLlama, hidden_states
from dmpo.planning.memory import Architecture
from dmpo.rollouts.policy import make_policy, rollout_model

ROWS, MICRO, WIDTH = 16, 4, 456  # as in the committed rounds: their passes are counted once for all tests


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "prediction.json").read_text())
    return found


# ---------------------------------------------------------------------------------------------- counting


def test_flops_of_the_models_passes_agree_with_torchs_counter_and_with_the_closed_form(counts: Simulation) -> None:
    rows, width, rank = ROWS, WIDTH, counts.config.lora_r
    arch = Architecture.of(counts.model)
    attention = 4 * rows * width**2 * arch.queries
    forward = 2 * rows * width * (arch.block_linear + arch.adapter(rank)) + attention
    found = total(counts.forward(rows, width))
    assert found["tensor"] == arch.layers * forward
    with torch.no_grad(), fake_gpu(counts.mode), FlopCounterMode(display=False) as counter:
        hidden_states(counts.policies[1].eval(), torch.zeros(rows, width, dtype=torch.int64))
    rotary = counter.get_total_flops() - 3 * forward  # float32: positions times frequencies, once
    assert 0 <= rotary < 1e-5 * forward
    without = total(counts.forward(rows, width, adapters=False))
    assert without["tensor"] == arch.layers * (2 * rows * width * arch.block_linear + attention)


def test_a_backward_makes_no_gradient_of_frozen_weights(counts: Simulation) -> None:
    """Two products a frozen weight (of which the first block's three readers of the embeddings need one), three an
    adapter's; attention's backward is 2.5 times its forward."""
    rows, width, rank = MICRO, WIDTH, counts.config.lora_r
    arch = Architecture.of(counts.model)
    queries_keys_values = sum(inputs * outputs for inputs, outputs in arch.linears[:3])
    adapters_in = 3 * rank * arch.hidden
    products = arch.layers * (2 * arch.block_linear + 3 * arch.adapter(rank)) - queries_keys_values - adapters_in
    attention = arch.layers * 3.5 * 4 * rows * width**2 * arch.queries
    assert total(counts.training(rows, width))["tensor"] == 2 * rows * width * products + attention


def test_every_further_block_does_what_the_third_does() -> None:
    with torch.device("meta"):
        model: Any = MaskedLlama(llama_config(layers=4, hidden=32, mlp=48, heads=2, vocab=50))
    found = []
    with fake_gpu(FakeTensorMode()):
        filled: Any = fill(model)
        blocks = filled.model.layers
        ids, slope = torch.zeros(2, 6, dtype=torch.int64), torch.empty(2, 6, 32)
        for layers in (2, 3, 4):
            model.model.layers = blocks[:layers]
            model.zero_grad()
            found.append(count(lambda: hidden_states(model, ids).backward(slope)))
    assert extended(found[0], found[1], 4) == found[2]
    with pytest.raises(ValueError, match="blocks differ"):
        extended(found[1], found[0], 4)


def test_a_merged_pass_does_what_a_pass_without_adapters_does() -> None:
    """Op by op, and so in as many launches, whatever the widths."""
    config = DMPOConfig(model="", task="", output_dir="", lora_r=4, merge_adapters=True)
    found: dict[str, list[Ops]] = {"adapters": [], "base": [], "merged": []}
    for layers in (2, 3):
        with torch.device("meta"):
            model: Any = MaskedLlama(llama_config(layers=layers, hidden=32, mlp=48, heads=2, vocab=50))
            policy = make_policy(config, "meta", model.bfloat16())
        with torch.no_grad(), fake_gpu(FakeTensorMode()):
            filled: Any = fill(policy).eval()
            ids = torch.zeros(2, 6, dtype=torch.int64)
            found["adapters"].append(count(partial(hidden_states, filled, ids)))
            with filled.disable_adapter():
                found["base"].append(count(partial(hidden_states, filled, ids)))
            with rollout_model(filled, config) as merged:
                found["merged"].append(count(partial(hidden_states, merged, ids)))
    assert found["merged"] == found["base"]
    launches = {kind: total(extended(two, three, 32))["launches"] for kind, (two, three) in found.items()}
    assert launches["merged"] <= 1320
    assert launches["adapters"] > 1.9 * launches["merged"]


def test_pytorch_ops_count_as_the_meter_counts_them() -> None:
    hidden = torch.randn(3, 5, 16).bfloat16().requires_grad_()
    head = torch.randn(40, 16).bfloat16()
    targets = torch.randint(0, 40, (3, 5))
    mask, weights = torch.rand(3, 5) < 0.5, torch.rand(3)

    class Model:
        hidden: Tensor
        weight: Tensor

        def __call__(self, _: Tensor) -> Tensor:
            return self.hidden

        def head(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight)

    def job(*inputs: Tensor) -> None:
        model = Model()
        model.hidden, model.weight, *rest = inputs
        published_loss(model, rest[0], *rest).backward()  # type: ignore[arg-type]

    inputs = (hidden, head, targets, mask, weights)
    expected = measure(lambda: job(*inputs))
    with fake_gpu(FakeTensorMode()):
        fakes = [torch.empty(x.shape, dtype=x.dtype, requires_grad=x.requires_grad) for x in inputs]
        found = total(count(lambda: job(*fakes)))
    assert found["bytes"] == expected.bytes_read + expected.bytes_written
    assert found["tensor"] == expected.flops == 2 * 2 * 15 * 16 * 40
    assert found["launches"] == expected.launches


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_a_tile_of_the_loss_moves_what_its_kernel_moves(
    kept: bool, wide: bool, interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wide:
        monkeypatch.setattr(linear_ce_triton, "BLOCK", 64)
    rows, columns = 3, 100
    tile = torch.zeros(rows, 112)[:, :columns]
    probs = torch.zeros(rows, 112, dtype=torch.float16)[:, :columns] if kept else None
    figures = (torch.zeros(rows), torch.zeros(rows), torch.zeros(rows))
    targets = torch.zeros(rows).long()
    found = measure(lambda: linear_ce_triton.tile_softmax(tile, probs, None, targets, *figures, 0))
    moved = sum(found.by_op["_wide_tile_softmax_kernel" if wide else "_tile_softmax_kernel"])
    assert tile_softmax_work(rows, columns, 2 if kept else 0).bytes == moved


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_the_end_of_a_walk_moves_what_its_kernel_moves(kept: bool, scaled: bool, interpreter: None) -> None:
    rows, size, vocab = 3, 40, 7
    weight, gradient = torch.zeros(vocab, size, dtype=torch.float16), torch.zeros(rows, size) if kept else None
    figures = (torch.ones(rows), torch.ones(rows), torch.ones(rows))
    c, targets = torch.ones(rows) if scaled and kept else None, torch.zeros(rows).long()
    found = measure(lambda: linear_ce_triton.finish(weight, gradient, targets, *figures, c, torch.float32))
    moved = sum(found.by_op["_finish_kernel" if kept else "_finish_log_sum_kernel"])
    assert finish_work(rows, size if kept else 0, 2, c is not None).bytes == moved


@pytest.mark.parametrize("grown", [0, 1, 3])
def test_rows_are_rescaled_where_their_maximum_grew(grown: int, interpreter: None) -> None:
    """A row's sums are read and written in those rows alone, and become what the product of all would be."""
    rows, columns, size = 3, 100, 40
    tile = torch.zeros(rows, 112)[:, :columns]
    row_max, sums = torch.zeros(rows), torch.ones(rows, size)
    row_max[:grown] = -1.0
    figures = (torch.zeros(rows), row_max, torch.ones(rows))
    probs, targets = torch.zeros(rows, 112, dtype=torch.float16)[:, :columns], torch.zeros(rows).long()
    found = measure(lambda: linear_ce_triton.tile_softmax(tile, probs, sums, targets, *figures, 100))
    moved = sum(found.by_op["_tile_softmax_kernel"])
    assert moved == tile_softmax_work(rows, columns, 2, tile=1, size=0).bytes + 8 * grown * size
    torch.testing.assert_close(sums[:, 0], torch.where(torch.arange(rows) < grown, torch.tensor(-1.0).exp(), 1.0))


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
def test_a_walk_moves_on_fake_tensors_what_the_op_moves(
    trainable: bool, weighted: bool, interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several tiles and pieces of rows, as LLaDA's sizes take."""
    monkeypatch.setattr(linear_ce_tiles, "TRITON_COLUMNS", 512)
    monkeypatch.setattr(linear_ce_tiles, "TILE_BYTES", {"cuda": 40 * 512 * 6})
    monkeypatch.setattr(linear_ce_tiles, "ROW_CHUNK_BYTES", {"cuda": 40 * 2048 * 6})
    shapes = (100, 32), (2048, 32)
    rows, head = (torch.randn(shape).bfloat16() for shape in shapes)
    rows.requires_grad_(), head.requires_grad_(trainable)
    targets, mask = torch.arange(len(rows)), torch.ones(1, len(rows), dtype=torch.bool)

    def job() -> None:
        if weighted:
            kernels.linear_weighted_ce(rows[None], head, targets[None], mask, torch.ones(1))[0].backward()
        else:
            kernels.linear_token_logprobs(rows, head, targets).sum().backward()

    with as_on_a_gpu():
        expected = measure(job)
    with fake_gpu(FakeTensorMode()):
        fakes = [torch.empty(shape, dtype=torch.bfloat16) for shape in shapes]
        found = total(count(lambda: walk(*fakes, trainable=trainable, weighted=weighted)))
    assert found["bytes"] == pytest.approx(expected.bytes_read + expected.bytes_written, rel=0.01)
    assert found["tensor"] == expected.flops


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_a_draw_moves_what_its_kernels_were_counted_to_move(temperature: float) -> None:
    meter = json.loads((RESULTS / "kernel_report.json").read_text())["meter"]
    (table,) = (t for title, t in meter.items() if title.startswith(f"Sampling, T = {temperature:g},"))
    row = table["dmpo sample_tokens"]
    works_of_draw = sampling_work(8, 126464, temperature, 2)
    assert sum(work.bytes for work in works_of_draw) == row["bytes_read"] + row["bytes_written"]
    assert len(works_of_draw) == row["launches"]


def test_the_peak_of_published_draws_holds_float64_copies_of_all_logits(counts: Simulation) -> None:
    rows, width = 2, 6
    logits = rows * width * counts.model.vocab_size
    assert 3 * 8 * logits <= counts.tail_peak("published", "rollout", rows, width, 0) <= 6 * 8 * logits
    row = counts.model.vocab_size + counts.model.hidden_size
    assert counts.tail_peak("ours", "rollout", rows, width, 4) == pytest.approx(2 * 4 * row, rel=0.01)


# ---------------------------------------------------------------------------------------------- a round


def test_rows_that_are_masked_alone_pass_through_our_head(counts: Simulation) -> None:
    rows, width, live = 2, 12, 7
    product = 2 * counts.head.numel()
    for phase, per_row in (("rollout", 1), ("score", 1), ("update", 2)):
        assert total(counts.tail("ours", phase, rows, width, live))["tensor"] == live * per_row * product
        assert total(counts.tail("published", phase, rows, width, live))["tensor"] == rows * width * per_row * product


def test_a_pass_on_kept_keys_attends_to_all_of_them(counts: Simulation) -> None:
    arch = Architecture.of(counts.model)
    block, tokens = 32, ROWS * 32
    products = 2 * tokens * (arch.block_linear + arch.adapter(counts.config.lora_r))
    attention = 4 * tokens * WIDTH * arch.queries
    assert total(counts.forward(ROWS, block, WIDTH))["tensor"] == arch.layers * (products + attention)


def test_the_committed_parts_are_what_the_code_counts_today(
    counts: Simulation, committed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except for differences between versions of PyTorch and transformers; else run python -m benchmarks.predict."""
    monkeypatch.setattr(predict, "ROLLOUTS", predict.ROLLOUTS[:1])
    monkeypatch.setattr(predict, "OURS_DDP", OURS)  # one prompt
    for part in predict._parts(counts, OURS):
        keys = part.keys() - {"stages"}
        (stored,) = (
            x for x in committed["parts"] if all(x.get(key) == part[key] for key in keys) and not x.get("recomputed")
        )
        for stage, found in part["stages"].items():
            for figure in ("bytes", "tensor", "launches"):
                assert found[figure] == pytest.approx(stored["stages"][stage][figure], rel=0.03), (part["phase"], stage)


def test_more_gradient_steps_take_longer_by_as_much(counts: Simulation) -> None:
    run = round_of(counts.config, gpus=8, prompt=200)
    twice = replace(run, config=replace(run.config, gradient_steps=2 * run.config.gradient_steps))
    for stage, passes in update(counts, run, OURS).items():
        assert total(together(update(counts, twice, OURS)[stage]))["bytes"] == 2 * total(together(passes))["bytes"]


def test_published_memory_differs_in_the_logits_alone(counts: Simulation) -> None:
    run = round_of(counts.config, gpus=8, prompt=200)
    apart = replace(OURS, levers=ALWAYS)  # adapters apart, as published has them
    published, ours = (memory(counts, run, approach) for approach in (PUBLISHED, apart))
    extra = counts.tail_peak("published", "rollout", run.config.rollout_batch_size, run.width, 0)
    assert 0.7 * extra < published["rollout"] - ours["rollout"] < extra
    assert published["update"] > ours["update"]


def test_passes_launch_as_often_as_the_pretend_device_counts() -> None:
    """Its counts are of whole steps, with the head, the draw and the bookkeeping: at most a twentieth more."""
    counted = json.loads((RESULTS / "launches.json").read_text())["passes"]
    wide = Simulation(load_config(DMPOConfig, predict.CONFIG), wide_adapters=True)
    for name, ops in (
        ("canvas pass", wide.forward(ROWS, WIDTH, adapters=False)),
        ("canvas pass, LoRA", wide.forward(ROWS, WIDTH)),
        ("block pass (dual_cache)", wide.forward(ROWS, 32, WIDTH, adapters=False)),
        ("block pass (dual_cache), LoRA", wide.forward(ROWS, 32, WIDTH)),
    ):
        assert 0.95 <= total(ops)["launches"] / counted[name]["launches"] <= 1, name
    update = (
        total(wide.training(MICRO, WIDTH))["launches"] + total(wide.tail("ours", "update", MICRO, WIDTH, 8))["launches"]
    )
    assert update == pytest.approx(counted["micro-batch, LoRA"]["launches"], rel=0.05)
