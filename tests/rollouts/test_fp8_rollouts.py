"""If these fail, rollouts in FP8 decode with other weights than the policy's, or scoring takes FP8 unasked."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from dmpo.models.fp8 import E4M3, Float8Linear, fp8_base, quantise_rows
from dmpo.models.merged_adapters import merged_weight
from dmpo.rollouts.batch import Batch
from dmpo.rollouts.policy import ReferencePolicy, make_policy, rollout_model
from dmpo.rollouts.scoring import score_log_prob
from tests.rollout_problems import a_round, config, model

LORA: dict[str, Any] = {"lora_r": 2, "lora_alpha": 4, "lora_dropout": 0.0}


def policy_of(options: Any) -> nn.Module:
    policy = make_policy(options, "cpu", model())
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return policy


def collected(policy: nn.Module, options: Any) -> Batch:
    return a_round(policy, ReferencePolicy(policy), options)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_round_draws_in_fp8_and_scores_without(adapted: bool) -> None:
    """As a round that is drawn by a model whose layers are replaced, and scored by the policy itself."""
    options = config("topk", fp8_rollouts=True, **(LORA if adapted else {}))
    plain = config("topk", **(LORA if adapted else {}))
    policy = policy_of(options)
    state = copy.deepcopy(policy.state_dict())
    batch = collected(policy, options)
    assert all(torch.equal(value, state[name]) for name, value in policy.state_dict().items())
    with fp8_base(policy):
        narrow = collected(policy, plain)
    assert torch.equal(batch.completions.tokens, narrow.completions.tokens)
    assert not torch.equal(batch.log_prob_cur, narrow.log_prob_cur)
    with torch.no_grad():
        expected = score_log_prob(policy, batch.completions, batch.row_ids, plain)
    assert torch.equal(batch.log_prob_cur.flatten(), expected)


def test_merged_adapters_are_in_the_fp8_weights() -> None:
    options = config("topk", fp8_rollouts=True, merge_adapters=True, **LORA)
    policy = policy_of(options)
    layers: dict[str, Any] = {name: m for name, m in policy.named_modules() if isinstance(m, LoraLayer)}
    with rollout_model(policy, options) as decoding:
        assert not any(isinstance(module, LoraLayer) for module in decoding.modules())
        for name, layer in layers.items():
            narrow = decoding.get_submodule(name)
            assert isinstance(narrow, Float8Linear)
            values, scales = quantise_rows(merged_weight(layer))
            assert torch.equal(narrow.weight.view(E4M3).float(), values.float())
            assert torch.equal(narrow.scales, scales)
    assert {name for name, module in policy.named_modules() if isinstance(module, LoraLayer)} == layers.keys()


def test_with_fp8_training_there_is_no_other_base() -> None:
    """Rollouts, scores and the reference all take it; without adapters the policy is the reference."""
    options = config("topk", fp8_rollouts=True, fp8_training=True, **LORA)
    policy = make_policy(options, "cpu", model())
    batch = collected(policy, options)
    assert sum(isinstance(module, Float8Linear) for module in policy.modules()) == 14
    assert torch.equal(batch.log_prob_cur, batch.log_prob_ref), "adapters start at zero"
    narrow = make_policy(config("topk", **LORA), "cpu", model())
    with fp8_base(narrow):
        same = collected(narrow, config("topk", **LORA))
    assert torch.equal(batch.completions.tokens, same.completions.tokens)
    assert torch.equal(batch.log_prob_cur, same.log_prob_cur)
