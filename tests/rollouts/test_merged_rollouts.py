"""If these fail, rollouts with merged adapters draw other tokens, hide their rounding, or cannot be resumed."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from accelerate.utils import DistributedType
from peft.tuners.lora import LoraLayer

import dmpo.rollouts.rollout
import dmpo.run.preflight
import dmpo.trainer
from dmpo.decoding import generate
from dmpo.models import load_model
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import ordered_log_probs
from dmpo.rollouts.policy import ReferencePolicy, rollout_model
from dmpo.rollouts.rollout import complete
from dmpo.rollouts.scoring import rollout_mismatch
from dmpo.run.preflight import check_model, check_ranks
from tests.rollout_problems import MASK, a_round, config, model
from tests.small_runs import lines, settings, trainer
from tests.tiny_models import tokens, with_random_adapters


@pytest.fixture
def adapters_while_decoding(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the model had LoRA layers, for each call of `generate` in rollouts and evaluations."""
    calls: list[bool] = []

    def recorded(policy: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(any(isinstance(layer, LoraLayer) for layer in policy.modules()))
        return generate(policy, *arguments, **options)

    monkeypatch.setattr(dmpo.rollouts.rollout, "generate", recorded)
    return calls


@pytest.mark.parametrize("decoder", ["topk", "dual_cache"])
def test_an_embedded_model_draws_the_tokens_that_it_draws_with_adapters(decoder: Any) -> None:
    """Float32 at temperature 0: the two sums differ by roundings that decide no token here."""
    base: Any = load_model("sudoku-tiny", dtype="float32")
    policy = with_random_adapters(base).eval()
    prompts = tokens(4, 16, vocab_size=7, seed=2)
    mask, ids = torch.ones_like(prompts).bool(), torch.arange(4)
    sequences = []
    for changes in ({}, {"merge_adapters": True, "lora_r": 4}):
        options = config(decoder, gen_length=16, block_length=8, steps=8, threshold=None, **changes)
        with rollout_model(policy, options) as whole:
            sequences.append(complete(whole, prompts, mask, ids, options, temperature=0.0, steps=8, seed=0).sequences)
    with policy.disable_adapter():
        other = complete(policy, prompts, mask, ids, options, temperature=0.0, steps=8, seed=0).sequences
    assert torch.equal(*sequences)
    assert not torch.equal(sequences[0], other), "the adapters count"


def test_a_round_decodes_merged_and_scores_with_adapters(adapters_while_decoding: list[bool]) -> None:
    rounds = []
    for merge in (False, True):
        policy = with_random_adapters(model()).eval()
        options = config("topk", lora_r=4, merge_adapters=merge)
        rounds.append(a_round(policy, ReferencePolicy(policy), options))
    apart, merged = rounds
    assert torch.equal(apart.completions.tokens, merged.completions.tokens)
    assert torch.equal(apart.log_prob_cur, merged.log_prob_cur), "scores keep the adapters"
    assert torch.equal(apart.log_prob_ref, merged.log_prob_ref)
    assert adapters_while_decoding == [True, True, False, False]


def test_the_rounding_shows_in_rollout_mismatch_within_its_bound() -> None:
    """On the same completions only the recorded log-probabilities differ.

    Their mean difference is, in expectation, a Kullback-Leibler divergence a token: about half the mean square of the
    differences of log-probabilities. Those are as large as the rounding of a bfloat16 pass with adapters.
    """
    policy = with_random_adapters(model().bfloat16()).eval()
    prompts = tokens(96, 4, vocab_size=7)
    mask, ids = torch.ones_like(prompts).bool(), torch.arange(96)
    options = config("random_order", merge_adapters=True, lora_r=4, rollout_batch_size=96, steps=8)
    with rollout_model(policy, options) as whole:
        merged = complete(whole, prompts, mask, ids, options, temperature=1.0, steps=8, seed=9)
    rows = Completions(prompts, mask, merged.sequences[:, 4:], torch.ones(96, 8, dtype=torch.bool))
    with_adapters, exact = (
        ordered_log_probs(scorer, rows, merged.order, mask_id=MASK, batch_size=96)
        for scorer in (policy, copy.deepcopy(policy).float())
    )
    elbo = torch.zeros(96)
    shift = rollout_mismatch(merged, rows.eligible, elbo) - rollout_mismatch(
        dataclasses.replace(merged, log_probs=with_adapters), rows.eligible, elbo
    )
    spread = 3 * float(shift.std()) / len(shift) ** 0.5
    half_square = float((merged.log_probs - with_adapters).square().mean()) / 2
    assert half_square < 1e-4
    assert spread < 2e-3
    assert -spread < float(shift.mean()) < half_square + spread
    rounding = [float((found - exact).square().mean().sqrt()) for found in (merged.log_probs, with_adapters)]
    assert 0 < rounding[0] < 1.5 * rounding[1], rounding


def test_a_run_resumes_with_and_without_merging(
    tmp_path: Path, adapters_while_decoding: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 the run is the same up to rounding, evaluations included."""
    monkeypatch.setattr(dmpo.trainer, "plot_run", lambda *arguments: None)

    def run(name: str, **changes: Any) -> None:
        sizes = {"lora_r": 2, "max_steps": 2, "gradient_steps": 1, "eval_steps": 1, "eval_prompts": 2}
        trainer(settings(tmp_path / name, **(sizes | changes))).train()

    run("apart")
    assert all(adapters_while_decoding)
    adapters_while_decoding.clear()
    run("changed", merge_adapters=True, max_steps=1)
    assert not any(adapters_while_decoding)
    run("changed", resume=True)
    apart, changed = (lines(tmp_path / name) for name in ("apart", "changed"))
    assert len(apart) == 2
    assert changed == [pytest.approx(one, rel=1e-3, abs=1e-5) for one in apart]


def test_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="merge_adapters must be false where lora_r is 0: there is nothing to merge"):
        settings(tmp_path / "run", merge_adapters=True)
    options = settings(tmp_path / "run", merge_adapters=True, lora_r=2)
    dora = peft.get_peft_model(model(), peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="merge_adapters must be false with a LoRA variant"):
        check_model(options, dora)
    check_model(dataclasses.replace(options, merge_adapters=False), dora)
    monkeypatch.setattr(dmpo.run.preflight, "check_launch", lambda accelerator: None)
    for stage in (2, 3):
        state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage))
        accelerator: Any = SimpleNamespace(
            distributed_type=DistributedType.DEEPSPEED, state=state, num_processes=2, device=torch.device("cpu")
        )
        if stage == 2:
            check_ranks(options, accelerator)
    with pytest.raises(ValueError, match="merge_adapters must be false under DeepSpeed ZeRO-3"):
        check_ranks(options, accelerator)
    assert not (tmp_path / "run").exists()
