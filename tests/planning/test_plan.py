"""If these fail, `dmpo plan` promises memory that a run does not have, or sends away one that would fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from benchmarks.memory import simulated_step as simulated
from dmpo import cli
from dmpo.config import DMPOConfig
from dmpo.decoding import generate
from dmpo.models import load_model
from dmpo.models.published import read_model_config
from dmpo.objectives.gradient import accumulate_gradient
from dmpo.planning.ledger import CATEGORIES
from dmpo.planning.memory import Architecture
from dmpo.planning.plan import largest_micro_batch, plan
from dmpo.rollouts.likelihood import sequence_log_prob, token_entropy
from dmpo.rollouts.policy import make_policy, rollout_model
from tests.planning.measured_memory import batch_of, beside_weights, check, measured, policy_of, small
from tests.tiny_models import DATA, plain_checkpoint


@pytest.mark.parametrize(
    ("changes", "widths"),
    [
        ({}, {}),
        ({"gradient_checkpointing": True}, {}),
        ({"lora_r": 0}, {}),
        ({"lora_r": 0, "gradient_checkpointing": True}, {}),
        ({"dtype": "bfloat16"}, {}),
        ({"lora_dropout": 0.0}, {"hidden_size": 128, "mlp_hidden_size": 256}),
        ({"micro_batch_size": 2}, {"num_kv_heads": 2, "num_layers": 4}),
        ({"micro_batch_size": 8, "replicates": 8}, {"vocab_size": 4000}),
        ({"attn_implementation": "eager"}, {}),
    ],
)
def test_update_is_as_measured(changes: dict[str, Any], widths: dict[str, int]) -> None:
    """All passes of one gradient step: forward, backward, and the gradient that earlier micro-batches left.

    The plan is for views of the highest mask rate: their rows pass through the last layer and the head.
    """
    config = small(mask_rate_min=0.9, antithetic=False, **changes)
    policy, model_config = policy_of(config, **widths)
    batch, accelerator = batch_of(config), Accelerator(cpu=True)
    got = measured(lambda: accumulate_gradient(accelerator, policy, policy, batch, config, 0))
    check(plan(config, model_config, device="cpu"), "update", got)


@pytest.mark.parametrize("lora_r", [0, 8])
def test_a_block_causal_model_is_as_measured(lora_r: int) -> None:
    """Its views have the completion twice."""
    config = small(mask_rate_min=0.9, antithetic=False, lora_r=lora_r)
    policy, model_config = policy_of(config)
    model_config.block_size = 4
    batch, accelerator = batch_of(config), Accelerator(cpu=True)
    planned = plan(config, model_config, device="cpu")
    check(planned, "update", measured(lambda: accumulate_gradient(accelerator, policy, policy, batch, config, 0)))
    views = torch.ones(2 * len(batch.completions.tokens), config.gen_length).bool()

    def score() -> None:
        sequence_log_prob(policy, batch.completions, views, mask_id=3, batch_size=config.rollout_batch_size)

    measured_score = measured(score)
    policy_alone, model_config.block_size = beside_weights(planned, "score"), None
    assert policy_alone > beside_weights(plan(config, model_config, device="cpu"), "score")
    assert measured_score < 1.08 * policy_alone


@pytest.mark.parametrize(("lora_r", "vocab"), [(8, 512), (8, 40), (0, 40)])
def test_score_is_as_measured(lora_r: int, vocab: int) -> None:
    """The logits of the entropy, or the pass, have the peak. It is in a block between the first and the last."""
    config = small(lora_r=lora_r)
    policy, model_config = policy_of(config, vocab_size=vocab, num_layers=3)
    rows = batch_of(config).completions.repeat(4)
    for ids in (rows.tokens, rows.prompt_ids):
        ids.clamp_(max=vocab - 1)
    views = torch.rand(rows.tokens.shape, generator=torch.Generator().manual_seed(0)) < config.mask_rate_max

    def run() -> None:
        sequence_log_prob(policy, rows, views, mask_id=3, batch_size=config.rollout_batch_size)
        token_entropy(policy, rows, views, mask_id=3)

    check(plan(config, model_config, device="cpu"), "score", measured(run))


@pytest.mark.parametrize(
    ("changes", "widths"),
    [
        ({}, {}),
        ({"decoder": "dual_cache"}, {"num_layers": 8, "num_kv_heads": 2}),
        ({"decoder": "wino", "wino_threshold": 0.0, "gen_length": 16}, {}),
        ({"merge_adapters": True}, {}),
        (
            {
                "merge_adapters": True,
                "dtype": "bfloat16",
                "num_generations": 2,
                "gen_length": 8,
                "max_prompt_length": 4,
            },
            {"mlp_hidden_size": 8192, "num_layers": 1},
        ),
    ],
)
def test_rollout_is_as_measured(changes: dict[str, Any], widths: dict[str, int]) -> None:
    """Among others: the keys and values of one block are gone before those of the next are made; one weight at a time
    is merged, and in the last case that is the peak."""
    config = small(**({"num_generations": 8, "early_stop": False} | changes))
    policy, model_config = policy_of(config, **widths)
    rows = batch_of(config).completions

    def run() -> None:
        with rollout_model(policy, config) as whole:
            generate(whole, rows.prompt_ids, config, attention_mask=rows.prompt_mask)

    check(plan(config, model_config, device="cpu"), "rollout", measured(run))


def test_merged_weights_are_planned_for_rollouts_alone() -> None:
    """They are a second copy of the blocks' linear layers, unpacked where the base has 4 bits, whole where it is
    sharded."""
    model = simulated.llada_8b()
    for changes in ({}, {"load_in_4bit": True}):
        apart, merged = (plan(paper(merge_adapters=merge, **changes), model) for merge in (False, True))
        linear = 2 * model.num_hidden_layers * Architecture.of(model).block_linear
        assert merged.phases["rollout"]["merged weights"] == linear
        beside = merged.peak("rollout") - linear - apart.peak("rollout")
        assert abs(beside) <= 6 * 4096 * 12288, "what one weight takes while it is merged"
        for phase in ("score", "update"):
            assert merged.phases[phase] == apart.phases[phase]
    shared = plan(paper(merge_adapters=True), model, gpus=4, sharding="fsdp").phases["rollout"]
    assert shared["merged weights"] == linear
    with pytest.raises(ValueError, match=r"merge_adapters must be false under DeepSpeed ZeRO-3, .* use FSDP2"):
        plan(paper(merge_adapters=True), model, gpus=4, sharding="zero3")


@pytest.mark.parametrize("lora_r", [0, 8])
@pytest.mark.parametrize("kind", ["llada", "llama", "qwen2", "qwen3"])
def test_weights_and_moments_are_exact(kind: str, lora_r: int, tmp_path: Path) -> None:
    folder, config = DATA / "llada-tiny", small(lora_r=lora_r)
    if kind != "llada":
        folder = tmp_path
        plain_checkpoint(folder, kind, tie_word_embeddings=kind == "llama", mask_token_id=3)
    policy = make_policy(config, "cpu", load_model(folder, dtype="float32"))
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad])
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    moments = [x for state in optimizer.state.values() for x in state.values() if x.dim()]
    found = plan(config, read_model_config(str(folder))).phases["update"]
    assert found["weights"] + found["adapters"] == sum(p.nbytes for p in policy.parameters())
    assert found["optimizer"] == sum(x.nbytes for x in moments)
    trained = sum(p.nbytes for p in policy.parameters() if p.requires_grad)
    assert (found["gradients"], found["reference"]) == (trained, 0 if lora_r else trained)


@pytest.mark.parametrize("changes", [{}, {"merge_adapters": True}, {"merge_adapters": True, "fp8_rollouts": True}])
def test_adapters_on_chosen_layers_are_counted_exactly_and_their_activations_at_most(changes: dict[str, Any]) -> None:
    config = small(lora_target_modules=["q_proj", "down_proj"], **changes)
    policy, model = policy_of(config)
    planned = plan(config, model, device="cpu")
    assert planned.phases["update"]["adapters"] == sum(p.nbytes for p in policy.parameters() if p.requires_grad)
    before = {id(parameter) for parameter in policy.parameters()}
    with rollout_model(policy, config) as whole:
        copies = sum(p.nbytes for p in whole.parameters() if id(p) not in before)
    rollout, score = planned.phases["rollout"], planned.phases["score"]
    assert rollout["weights"] + rollout["merged weights"] - score["weights"] == copies
    batch, accelerator = batch_of(config), Accelerator(cpu=True)
    got = measured(lambda: accumulate_gradient(accelerator, policy, policy, batch, config, 0))
    every = plan(small(**changes), model, device="cpu")
    assert got <= beside_weights(planned, "update") <= beside_weights(every, "update")


def test_a_plan_knows_the_names_of_layers() -> None:
    with pytest.raises(
        ValueError, match="lora_target_modules: no linear layer q_prj in the blocks; choose from q_proj, "
    ):
        plan(small(lora_target_modules=["q_prj"]), simulated.llada_8b(layers=1))


def paper(**changes: Any) -> DMPOConfig:
    """LLaDA-8B with LoRA r=128, bfloat16, prompts of 200 and completions of 256 tokens, 4 views at a time."""
    return DMPOConfig(model="", task="", output_dir="", num_prompts=1, num_generations=2, **changes)


@pytest.mark.parametrize(
    ("changes", "kv_heads"),
    [
        ({}, 16),
        ({"lora_r": 0}, 16),
        ({"attn_implementation": "eager", "lora_dropout": 0.0}, 4),
    ],
)
def test_what_a_block_keeps_is_as_simulated(changes: dict[str, Any], kv_heads: int) -> None:
    """Closer than the tests above: from 2 blocks to 3, the peak of one pass grows by what one keeps."""
    config = paper(replicates=2, **changes)

    def grown(peak: Callable[[Any], int]) -> int:
        sizes: dict[str, Any] = {"hidden": 1024, "mlp": 3072, "heads": 16, "kv_heads": kv_heads, "vocab": 500}
        models = [
            simulated.llama_config(layers=layers, attention=config.attn_implementation, **sizes) for layers in (2, 3)
        ]
        return peak(models[1]) - peak(models[0])

    planned = grown(lambda model: plan(config, model).phases["update"]["activations"])
    assert planned == pytest.approx(grown(lambda model: simulated.passes_peak(config, model)), rel=0.01)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"gradient_checkpointing": True}, 40e9),
        ({"gradient_checkpointing": True, "load_in_4bit": True}, 24e9),
    ],
)
def test_llada_8b_is_as_simulated_and_fits(changes: dict[str, Any], limit: float) -> None:
    """The trainer's own code on fake tensors, at few blocks of the real widths: every further block adds the same.

    The simulation does not see inside the kernels; their piece of logits is the plan's.
    """
    config, model = paper(**changes), simulated.llada_8b()

    def whole(peak: Callable[..., int]) -> int:
        two, three = (peak(config, simulated.llada_8b(layers)) for layers in (2, 3))  # the last block is another
        return two + 30 * (three - two)

    peak = max(whole(simulated.passes_peak), whole(simulated.optimizer_peak))
    found = plan(config, model, memory=limit / 1e9)
    assert beside_weights(found, "update") - (1 << 30) == pytest.approx(peak, rel=0.06)
    assert simulated.resident(config, model) + peak + 1.5e9 < limit, "1.5 GB: CUDA context, a piece of logits"
    assert found.fits


def test_largest_micro_batch_is_the_last_that_fits() -> None:
    config, model = paper(gradient_checkpointing=True), simulated.llada_8b()
    config.num_generations = 64
    for budget in (24e9, 30e9, 40e9):
        size = largest_micro_batch(config, model, int(budget), 1)
        peaks = [plan(dataclasses.replace(config, micro_batch_size=n), model).peak("update") for n in (size, size + 1)]
        assert peaks[0] <= budget < peaks[1]
    assert largest_micro_batch(config, model, 10**12, 1) == 4 * 64, "all the views of the rank"
    assert largest_micro_batch(config, model, 10**12, 8) == 4 * 8
    chosen = plan(dataclasses.replace(config, memory_budget=30.0), model, memory=30.0)
    assert chosen.micro_batch_size == largest_micro_batch(config, model, int(30e9), 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("merged", [False, True])
def test_fp8_weights_are_counted_exactly(dtype: str, merged: bool) -> None:
    config = small(dtype=dtype, fp8_rollouts=True, merge_adapters=merged)
    policy, model = policy_of(config)
    planned = plan(config, model).phases
    before = {id(parameter) for parameter in policy.parameters()}
    with rollout_model(policy, config) as narrow:
        copies = sum(p.nbytes for p in narrow.parameters() if id(p) not in before)
    kept = sum(p.nbytes for p in policy.parameters())
    assert planned["update"]["weights"] + planned["update"]["adapters"] == kept
    assert planned["rollout"]["merged weights"] == (copies if merged else 0)
    assert planned["rollout"]["weights"] + planned["rollout"]["merged weights"] - planned["score"]["weights"] == copies
    trained = small(dtype=dtype, fp8_rollouts=True, fp8_training=True)
    policy, model = policy_of(trained)
    found = plan(trained, model).phases
    assert found["rollout"]["weights"] == found["update"]["weights"], "the base is in FP8 anyway"
    assert found["update"]["weights"] + found["update"]["adapters"] == sum(p.nbytes for p in policy.parameters())


@pytest.mark.parametrize(
    ("changes", "sharding", "message"),
    [
        ({}, "zero3", "fp8_rollouts must be false with zero3"),
        *(({"fp8_training": True}, kind, "must be false with " + kind) for kind in ("zero2", "zero3", "fsdp")),
        ({}, "fsdp", None),
        ({}, "zero2", None),
    ],
)
def test_shardings_that_do_not_go_with_fp8(changes: dict[str, Any], sharding: str, message: str | None) -> None:
    config, model = small(fp8_rollouts=True, **changes), simulated.llada_8b(layers=1)
    if message is None:
        plan(config, model, gpus=2, sharding=sharding)
        return
    with pytest.raises(ValueError, match=message):
        plan(config, model, gpus=2, sharding=sharding)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one view needs 27 GB, got 20 GB"):
        largest_micro_batch(paper(), simulated.llada_8b(), int(20e9), 1)
    greedy = paper(rollout_batch_size=512, gradient_checkpointing=True)
    greedy.num_generations = 512
    with pytest.raises(ValueError, match=r"rollout needs .* smaller rollout_batch_size than 512"):
        largest_micro_batch(greedy, simulated.llada_8b(), int(40e9), 1)


def test_sharding_splits_what_it_says() -> None:
    config, model = paper(lora_r=0), simulated.llada_8b(layers=4)
    parts = {
        kind: plan(config, model, gpus=4, sharding=kind).phases["update"] for kind in ("ddp", "zero2", "zero3", "fsdp")
    }
    alone = plan(config, model).phases["update"]
    assert tuple(alone) == CATEGORIES
    assert parts["ddp"]["gradients"] == 2 * alone["gradients"], "and a copy in buckets"
    for kind, weights, masters in (("zero2", 1, 3), ("zero3", 4, 3), ("fsdp", 4, 1)):
        assert parts[kind]["weights"] == alone["weights"] // weights
        # DeepSpeed: two moments and the weights themselves in float32, twice as wide
        assert parts[kind]["optimizer"] == alone["optimizer"] * masters // 4
    rollout = plan(config, model, gpus=4, sharding="fsdp").phases["rollout"]
    assert rollout["weights"] + rollout["other"] > alone["weights"], "decoding takes whole weights"


def test_parameters_of_llada_8b() -> None:
    assert Architecture.of(simulated.llada_8b()).parameters == 8_015_581_184  # of the published checkpoint


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = f"model={DATA / 'llada-tiny'}"
    assert cli.main(["plan", "llada-8b-sudoku", model, "--gpus", "8", "--memory", "80"]) == 0
    out = capsys.readouterr().out
    assert "activations" in out
    assert "fits 80 GB; largest micro_batch_size 128" in out
    assert cli.main(["plan", "sudoku-tiny", "--memory", "0.001"]) == 1, "a script can ask whether a run fits"
    out = capsys.readouterr().out
    assert "does not fit 0.001 GB: rollout, score, update; not even micro_batch_size 1 fits" in out
    advice = "gradient_checkpointing, load_in_4bit or more sharding need less; a smaller rollout_batch_size than 512"
    assert advice in " ".join(out.split()), "the advice of memory_budget"
    for arguments, message in (
        ([model, "--gpus", "0"], "gpus must be ≥ 1, got 0"),
        ([model, "--memory", "0"], "memory must be > 0 GB, got 0.0"),
        ([model, "--memory", "nan"], "memory must be > 0 GB, got nan"),
        ([model, "--sharding", "zero9"], "sharding must be one of ddp, zero2, zero3, fsdp, got 'zero9'"),
        ([f"model={tmp_path}"], f"{tmp_path / 'config.json'} does not exist"),
        (["model=nowhere"], "path 'nowhere' does not exist"),
    ):
        assert cli.main(["plan", "llada-8b-sudoku", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("dmpo plan: ")
        assert message in error
        assert error.count("\n") == 1
