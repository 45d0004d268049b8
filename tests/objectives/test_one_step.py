"""If these fail, one-step log-probabilities are of other inputs than the published ones, or depend on the ranks."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.nn.functional import pad

from dmpo.models.lora import add_lora
from dmpo.objectives.diffu_grpo import CUR, REF
from dmpo.objectives.gradient import accumulate_gradient
from dmpo.objectives.one_step import one_step_log_probs, one_step_views
from dmpo.planning.plan import plan
from dmpo.rollouts.batch import Completions
from tests import devices
from tests.gradient_problems import MASK, PROMPT, config, rollouts
from tests.planning import measured_memory as memory
from tests.tiny_models import tiny, tokens

pytestmark = pytest.mark.usefixtures("device")
OPTIONS: dict[str, Any] = {"loss": "diffu_grpo", "replicates": 2, "gradient_steps": 3}


def wide(rows: int, length: int) -> Completions:
    prompts, completion_ids = tokens(rows, length, seed=1), tokens(rows, 2, seed=2)
    return Completions(prompts, torch.ones_like(prompts).bool(), completion_ids, torch.ones_like(completion_ids).bool())


def test_prompt_tokens_are_masked_at_their_rate_and_completions_whole() -> None:
    completions = wide(200, 50)
    options = config(**OPTIONS, prompt_mask_rate=0.3)
    rows, masks = one_step_views(completions, torch.arange(200), options, 0, MASK)
    masked = rows.prompt_ids == MASK  # no prompt has the mask token by itself
    count = masked.sum()
    # 20000 draws at p = 0.3: 5 standard deviations
    assert abs(count - 6000) < 5 * math.sqrt(20000 * 0.3 * 0.7)
    assert masks.all()
    assert torch.equal(rows.prompt_ids[~masked], completions.repeat(2).prompt_ids[~masked])
    assert torch.equal(rows.tokens, completions.repeat(2).tokens)


def test_masks_are_fresh_for_each_step_and_replicate_and_depend_on_row_ids_alone() -> None:
    completions, ids, options = wide(6, 40), torch.tensor([7, 3, 90, 12, 1, 5]), config(**OPTIONS)
    masks = [one_step_views(completions, ids, options, step, MASK)[0].prompt_ids == MASK for step in range(3)]
    every = torch.stack([mask.view(2, 6, 40) for mask in masks]).flatten(0, 2)
    assert len(every.unique(dim=0)) == len(every) == 36
    some = torch.tensor([4, 0, 2])
    alone = one_step_views(completions[some], ids[some], options, 1, MASK)[0].prompt_ids == MASK
    assert torch.equal(alone.view(2, 3, 40), masks[1].view(2, 6, 40)[:, some])
    padded = dataclasses.replace(
        completions,
        prompt_ids=pad(completions.prompt_ids, (5, 0), value=9),
        prompt_mask=pad(completions.prompt_mask, (5, 0)),
    )
    left, body = (one_step_views(padded, ids, options, 1, MASK)[0].prompt_ids == MASK).split([5, 40], 1)
    assert not left.any()
    assert torch.equal(body, masks[1])


@pytest.mark.parametrize("size", [5, 100])
def test_log_probs_are_those_of_whole_logits(size: int) -> None:
    """Of what counts, 0 elsewhere, in any batches, without dropout; the axes of [B, F, R, L] are what they say."""
    batch, options = rollouts(), config(**OPTIONS, rollout_batch_size=size)
    model = tiny().double().train()
    log_probs = one_step_log_probs(model, batch.completions, batch.row_ids, options)
    assert model.training
    assert log_probs.shape == (12, 3, 2, 8)
    assert not log_probs.requires_grad
    for step in range(3):
        rows, _ = one_step_views(batch.completions, batch.row_ids, options, step, MASK)
        with torch.no_grad():
            logits = model(torch.cat([rows.prompt_ids, torch.full_like(rows.tokens, MASK)], 1)).logits[:, PROMPT:]
        wanted = logits.log_softmax(-1).gather(-1, rows.tokens.unsqueeze(-1)).squeeze(-1).masked_fill(~rows.eligible, 0)
        for replicate, of_replicate in enumerate(wanted.chunk(2)):
            tolerance = devices.float64_tolerance(1e-10, 1e-12)
            torch.testing.assert_close(log_probs[:, step, replicate], of_replicate, **tolerance)


def test_no_dropout_is_live() -> None:
    model: Any = add_lora(tiny(), rank=2, alpha=8, dropout=0.5).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    batch = rollouts()
    one, two = (one_step_log_probs(model, batch.completions, batch.row_ids, config(**OPTIONS)) for _ in range(2))
    assert torch.equal(one, two)
    assert model.training


@pytest.mark.cpu_only("memory on the CPU")
@pytest.mark.parametrize(("loss", "lora_r"), [("wd1", 0), ("diffu_grpo", 8)])
def test_memory_of_the_update_is_as_planned(loss: str, lora_r: int) -> None:
    options = memory.small(loss=loss, lora_r=lora_r, gradient_steps=1, replicates=4, mask_rate_max=0.5)
    policy, model_config = memory.policy_of(options, vocab_size=4000, num_layers=1)  # where the head has the peak
    batch = memory.batch_of(options)
    scores = one_step_log_probs(policy, batch.completions, batch.row_ids, options)
    batch = dataclasses.replace(batch, scores={CUR: scores, REF: scores})
    got = memory.measured(lambda: accumulate_gradient(devices.accelerator(), policy, policy, batch, options, 0))
    memory.check(plan(options, model_config, device="cpu"), "update", got)
