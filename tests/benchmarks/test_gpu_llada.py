"""If these fail, figures of LLaDA-8B on a GPU are not of what they say, or one fault takes the other figures away."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from benchmarks.baselines.kernels import LINEAR, Peer
from benchmarks.gpu import decoding_8b, linear_ce, llada_8b, published, update_8b
from benchmarks.gpu.attempts import attempt
from benchmarks.gpu.decoding_8b import CACHED, DECODERS, place, tokens_per_s
from benchmarks.gpu.model_8b import LLADA_8B, REHEARSED, random_ids, random_model, with_adapters
from benchmarks.gpu.records import GpuSetting
from benchmarks.gpu.steps import Step, measure_steps, typical
from benchmarks.gpu.timing import Timing
from benchmarks.gpu.update_8b import planned_gb
from benchmarks.memory.simulated_step import llada_8b as llada_8b_config
from dmpo import generate
from dmpo.decoding.loop import BlockLoop
from tests.benchmarks.kept_records import Records

CPU = torch.device("cpu")


def setting(seconds: float = 600.0, rehearse: bool = True) -> GpuSetting:
    return GpuSetting(CPU, rehearse, time.monotonic() + seconds)


def run(part: Any) -> Records:
    records = Records()
    part.run(setting(), records)
    return records


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(REHEARSED, CPU, 0)


# ---------------------------------------------------------------------------------------------- the parts


@pytest.fixture(scope="module")
def llada() -> Records:
    return run(llada_8b)


def test_the_rehearsal_measures_what_a_gpu_would(llada: Records) -> None:
    assert [record for record in llada if record["ok"] is False] == []
    left_out = [record["name"] for record in llada if record["name"].startswith("left out")]
    assert left_out == ["left out: CUDA graph of a block pass"]
    steps = llada.of("decoder", "width", "live", "device_ms", "host_ms")
    for decoder in DECODERS:
        found = [x for x in steps if (x["decoder"], x["rows"], x["adapters"]) == (decoder, REHEARSED.rows, "none")]
        assert len(found) == 2, decoder
    assert {x["rows"] for x in steps} == {1, REHEARSED.rows, REHEARSED.many_rows}
    passes = {(x["adapters"], x["rows"], x["width"]) for x in llada.of("attended", "layers")}
    wanted = {(REHEARSED.rows, REHEARSED.canvas), (REHEARSED.rows, REHEARSED.block), (1, REHEARSED.block)}
    assert passes == {(adapters, *shape) for adapters in ("none", "lora", "merged") for shape in wanted}
    assert [x["layers"] for x in llada.of("views")] == ["eager", "compiled"]
    assert [x["name"] for x in llada.of("planned_gb")] == [
        "memory of update, beside the plan",
        "memory of rollout, beside the plan",
    ]


def test_cached_decoders_run_on_less_than_the_canvas(llada: Records) -> None:
    canvas, block = REHEARSED.canvas, REHEARSED.block
    widths = {"prefix_cache": 16, "dual_cache": block, "wino": canvas + block}
    for record in llada.of("decoder", "width"):
        later = record["name"].startswith("later")
        full = canvas + block if record["decoder"] == "wino" else canvas
        assert record["width"] == (widths.get(record["decoder"], canvas) if later else full), record["name"]
        assert record["attended"] == (canvas if later and record["decoder"] in CACHED else 0)


def test_linear_ce_measures_every_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(inputs: Any) -> Callable[[], Any]:
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(linear_ce, "TARGET_ROWS", max(linear_ce.REHEARSED_ROWS))
    monkeypatch.setattr(linear_ce, "LINEAR", [LINEAR[0], Peer("broken", broken), LINEAR[3]])
    records = run(linear_ce)
    timed = records.of("package", "head", "rows", "tflops", "peak_gb")
    assert [(x["name"].split(",")[0], x["head"], x["rows"]) for x in timed] == [
        (name, head, rows)
        for head in ("frozen", "trainable")
        for rows in linear_ce.REHEARSED_ROWS
        for name in (LINEAR[0].name, LINEAR[3].name)
    ]
    assert all(x["peak_gb"] > 0 for x in timed)
    faults = [x for x in records if x["ok"] is False]
    assert len(faults) == 4
    assert faults[0]["reason"] == "RuntimeError: no such kernel"
    (target,) = records.of("target_ms")
    assert target["target"] == ("met" if target["device_ms"] <= 29 else "missed")
    first = timed[0]
    flops = 4 * first["rows"] * linear_ce.REHEARSED_HIDDEN * linear_ce.REHEARSED_VOCAB
    assert first["tflops"] == pytest.approx(flops / (first["device_ms"] * 1e-3) / 1e12)


def test_both_sides_of_the_published_algorithm_are_measured_and_their_losses_agree() -> None:
    records = run(published)
    assert [record for record in records if record["ok"] is False] == []
    (loss,) = (record for record in records if record["name"].startswith("loss"))
    assert loss["ok"]
    assert [x["side"] for x in records.of("side", "device_ms")] == ["ours", "published"] * 3
    for ratio in records.of("times_faster"):
        name = ratio["name"].split(", ours beside")[0]
        ours, theirs = (x["device_ms"] for x in records.of("side") if x["name"].startswith(f"{name}, "))
        assert ratio["times_faster"] == pytest.approx(theirs / ours)


def test_another_loss_on_one_side_is_reported(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    losses = published.token_losses
    monkeypatch.setattr(published, "token_losses", lambda *args: 1.1 * losses(*args))
    records = Records()
    policy = with_adapters(random_model(REHEARSED, CPU, 0), REHEARSED, CPU)
    published.update(setting(), records, REHEARSED, policy, "update")
    assert records[0]["ok"] is False


# ---------------------------------------------------------------------------------------------- the model


def test_weights_are_made_on_the_device_in_bfloat16() -> None:
    model = random_model(REHEARSED, torch.device("meta"), 0)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    assert torch.get_default_dtype() == torch.float32
    model = random_model(REHEARSED, CPU, 0)
    assert {b.dtype for name, b in model.named_buffers() if "inv_freq" in name} == {torch.float32}
    policy = with_adapters(model, REHEARSED, CPU)
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert not policy.training


def test_the_sizes_are_those_of_llada_8b() -> None:
    config = llada_8b_config()
    for name, wanted in (
        ("num_hidden_layers", LLADA_8B.layers),
        ("hidden_size", LLADA_8B.hidden),
        ("intermediate_size", LLADA_8B.mlp),
        ("vocab_size", LLADA_8B.vocab),
        ("mask_token_id", LLADA_8B.mask_id),
    ):
        assert getattr(config, name) == wanted
    for phase, low, high in (("update", 35, 40), ("rollout", 20, 30)):  # both hold 16 GB of weights and 4 of adapters
        assert low < planned_gb(LLADA_8B, config, phase) < high


@pytest.mark.parametrize(("peak", "close"), [(1.05, True), (0.95, True), (1.2, False), (0.8, False)])
def test_memory_is_held_to_a_tenth_of_the_plan(
    peak: float, close: bool, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = planned_gb(REHEARSED, model.config, "rollout")
    monkeypatch.setattr(update_8b, "peak_gb", lambda device, job: peak * planned)
    records = Records()
    update_8b.rollout_memory(setting(), records, REHEARSED, model)
    assert [record["ok"] for record in records] == [close]


# ---------------------------------------------------------------------------------------------- steps


def options(decoder: str) -> dict[str, Any]:
    return {
        "decoder": decoder,
        "gen_length": REHEARSED.completion,
        "block_length": REHEARSED.block,
        "steps": REHEARSED.completion // 2,
        "mask_id": REHEARSED.mask_id,
        **DECODERS[decoder],
    }


@pytest.mark.parametrize("decoder", DECODERS)
def test_timed_steps_are_those_of_a_completion(decoder: str, model: Any) -> None:
    """To the end of the first block, not further, and the decoder is left as it was."""
    prompts, step = random_ids(REHEARSED, 2, REHEARSED.prompt, CPU), BlockLoop._step
    steps = measure_steps(model, prompts, 100, **options(decoder))
    assert BlockLoop._step is step
    assert not model._forward_pre_hooks
    assert steps[0].live == 2 * REHEARSED.block
    assert sum(x.unmasked for x in steps) == 2 * REHEARSED.block
    assert all(x.live - x.unmasked == y.live for x, y in pairwise(steps))
    assert all(x.timing.device_seconds > 0 for x in steps)
    whole = generate(model, prompts, **options(decoder))
    assert len(steps) <= whole.forwards <= 2 * len(steps) + 2
    assert len(measure_steps(model, prompts, 1, **options(decoder))) == 2


def test_a_block_in_the_middle_stands_for_all_with_prefix_cache() -> None:
    assert place(LLADA_8B, "topk") == (200, 256)
    prompt, completion = place(LLADA_8B, "prefix_cache")
    assert (prompt, completion) == (296, 160)
    widths = [256 - start for start in range(0, 256, 32)]
    assert abs(completion - sum(widths) / len(widths)) <= LLADA_8B.block / 2


def test_tokens_a_second_are_those_of_whole_completions() -> None:
    """8 blocks of 32: a first step of 2 s, then 31, 15 or 7 of half a second."""

    def step(device: float, host: float) -> Step:
        return Step(Timing(device, host), 32, 456, 512, 32)

    rates = tokens_per_s(LLADA_8B, 16, step(2.0, 1.0), step(0.1, 0.5))
    for pace, later in ((1, 31), (2, 15), (4, 7)):
        assert rates[pace] == pytest.approx(16 * 256 / (8 * (2.0 + later * 0.5)))
    middle = typical([step(1.0, 4.0), step(9.0, 5.0), step(2.0, 9.0)])
    assert middle.timing == Timing(2.0, 5.0)


# ---------------------------------------------------------------------------------------------- time and memory


def test_measurements_that_do_not_fit_are_skipped_and_a_fault_is_reported() -> None:
    records, short = Records(), setting(seconds=3.0, rehearse=False)

    def fail(error: Exception) -> Any:
        raise error

    assert attempt(short, records, "long", lambda: 1, seconds=10.0) is None
    assert attempt(short, records, "quick", lambda: 1, seconds=1.0) == 1
    assert attempt(short, records, "large", lambda: fail(torch.OutOfMemoryError("CUDA out of memory.\nMore"))) is None
    assert attempt(short, records, "wrong", lambda: fail(ValueError("no such thing"))) is None
    assert attempt(setting(seconds=0.0), records, "rehearsed", lambda: 1, seconds=10.0) == 1
    assert [(record["name"], record["ok"]) for record in records] == [
        ("left out: long", None),
        ("left out: large", None),
        ("fault: wrong", False),
    ]
    assert "about 10 s are needed" in records[0]["reason"]
    assert records[1]["reason"] == "CUDA out of memory."


def test_a_decoder_that_fails_takes_no_other_away(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    take = decoding_8b.measure_steps

    def measured(policy: Any, prompts: Any, later: int, **options: Any) -> Any:
        if options["decoder"] == "topk":
            raise RuntimeError("a kernel is wrong")
        return take(policy, prompts, later, **options)

    monkeypatch.setattr(decoding_8b, "measure_steps", measured)
    records = Records()
    decoders = {name: DECODERS[name] for name in ("topk", "dual_cache")}
    decoding_8b.decoding(setting(), records, REHEARSED, model, "none", 2, decoders, 0.1)
    assert [record["name"] for record in records if record["ok"] is False] == ["fault: topk, 2 rows, no adapters"]
    assert len(records.of("decoder", "width")) == 2
