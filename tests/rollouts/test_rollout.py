"""If these fail, rollouts depend on their neighbours, or a run says of its decoder what is not so."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo import DMPOConfig, Generation
from dmpo.config.decoding import DECODERS
from dmpo.models.lora import add_lora
from dmpo.pretrain import character_tokenizer
from dmpo.randomness import derive_key
from dmpo.rollouts import rollout
from dmpo.rollouts.likelihood import ordered_log_probs
from dmpo.rollouts.policy import ReferencePolicy
from dmpo.rollouts.rollout import complete
from dmpo.rollouts.scoring import rollout_mismatch, row_hash
from tests.rollout_problems import MASK, RULES, a_round, config, model
from tests.small_runs import CountOnes, lines, settings, trainer
from tests.tiny_models import tokens

every_decoder = pytest.mark.parametrize("decoder", DECODERS)


def completed(options: DMPOConfig, order: Tensor) -> Generation:
    """Seven left-padded prompts with ids of their own, in the given order."""
    prompts = tokens(7, 4, vocab_size=7, seed=1)
    mask = torch.ones_like(prompts).bool()
    mask[1::3, :2] = False
    ids = torch.tensor([40, 3, 17, 8, 25, 1, 60])
    return complete(model(), prompts[order], mask[order], ids[order], options, temperature=1.0, steps=4, seed=9)


@every_decoder
@pytest.mark.parametrize("early_stop", [False, True])
def test_completions_depend_on_row_ids_alone(decoder: str, early_stop: bool) -> None:
    """And so does what each costs: rows of a batch wait for nobody at anybody's expense."""
    options, straight = {"early_stop": early_stop}, torch.arange(7)
    alone = completed(config(decoder, rollout_batch_size=1, **options), straight)
    assert alone.forwards == alone.row_forwards, "a batch of one is one row a model call"
    assert alone.seconds > 0
    for size, order in ((3, straight), (100, straight), (3, straight.flip(0))):
        batched = completed(config(decoder, rollout_batch_size=size, **options), order)
        assert torch.equal(batched.sequences, alone.sequences[order])
        assert torch.equal(batched.order, alone.order[order])
        torch.testing.assert_close(batched.log_probs, alone.log_probs[order], rtol=1e-4, atol=1e-5)
        assert batched.row_forwards == alone.row_forwards
        assert batched.forwards < alone.forwards


class DigitsOfSeveralLengths(CountOnes):
    """Prompts of one to four digits."""

    def row(self, split: str, index: int) -> dict[str, Any]:
        return {"prompt": "1234"[: 1 + index % 4], "digit": index}


def test_batches_have_prompts_of_like_length() -> None:
    """Equal tokens in the order of the prompts, and fewer positions through the model."""
    policy, options = model(), config("topk", rollout_batch_size=4)
    prompts, mask = tokens(8, 4, vocab_size=7, seed=1), torch.ones(8, 4).bool()
    mask[0::2, :3] = False
    ids, positions = torch.arange(20, 28), [0]
    policy.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: positions.__setitem__(0, positions[0] + inputs[0].numel())
    )
    sampling: dict[str, Any] = {"temperature": 1.0, "steps": 4, "seed": 9}
    as_given = [
        complete(policy, prompts[rows], mask[rows], ids[rows], options, **sampling) for rows in torch.arange(8).split(4)
    ]
    assert positions == [4 * 8 * (4 + 8)], "every batch is as wide as the longest prompt"
    decoded: list[tuple[Tensor, Tensor]] = []
    sorted_by_length = complete(
        policy, prompts, mask, ids, options, **sampling, decoded=lambda *batch: decoded.append(batch)
    )
    alike = 1 + 8  # two of the prompts of one token are the same, and share the first call
    assert positions == [4 * 8 * (4 + 8) + 4 * 4 * (4 + 8) + 4 * 4 * (1 + 8) - alike]
    assert torch.equal(sorted_by_length.sequences, torch.cat([batch.sequences for batch in as_given]))
    assert torch.equal(sorted_by_length.order, torch.cat([batch.order for batch in as_given]))
    assert [rows.tolist() for rows, _ in decoded] == [[1, 3, 5, 7], [0, 2, 4, 6]], "the longest first"
    for rows, completions in decoded:
        assert torch.equal(completions, sorted_by_length.sequences[rows, 4:])


def test_rewards_of_a_batch_are_counted_while_the_next_one_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of the reward ends only once the second batch has begun."""
    batches, second_began, calls = [], threading.Event(), []
    real = rollout.generate

    def generate(*arguments: Any, **options: Any) -> Generation:
        batches.append(options["row_ids"])
        if len(batches) == 2:
            second_began.set()
        return real(*arguments, **options)

    def reward(completions: list[str], *, digit: list[int], **columns: Any) -> list[float]:
        calls.append((second_began.wait(30.0), digit))
        return [text.count("1") / 4 + number for text, number in zip(completions, digit, strict=True)]

    monkeypatch.setattr(rollout, "generate", generate)
    policy, task = model(), DigitsOfSeveralLengths()
    options = config("topk", rollout_batch_size=8, gen_length=4, steps=2)
    batch = a_round(policy, ReferencePolicy(policy), options, task=task, reward=reward)
    digits = [row["digit"] for row in (rollout.training_row(task, options.seed, 4 + j) for j in range(4))]
    texts = character_tokenizer().batch_decode(batch.completions.tokens, skip_special_tokens=True)
    expected = [text.count("1") / 4 + digits[index // 4] for index, text in enumerate(texts)]
    torch.testing.assert_close(batch.rewards.flatten(), torch.tensor(expected, dtype=batch.rewards.dtype))
    assert [began for began, _ in calls] == [True, True]
    lengths = [1 + number % 4 for _, digits in calls for number in digits]
    assert lengths == sorted(lengths, reverse=True)
    assert len(set(lengths)) > 1


def test_guidance_and_remasking_reach_the_decoder() -> None:
    straight = torch.arange(7)
    plain = completed(config("topk"), straight)
    guided = completed(config("topk", cfg_scale=1.5), straight)
    # In the first call rows without their prompt differ by its length alone, of which there are two.
    assert guided.row_forwards == 2 * plain.row_forwards - (7 - 2)
    assert not torch.equal(guided.sequences, plain.sequences)
    assert not torch.equal(completed(config("topk", remasking="random"), straight).order, plain.order)


def test_mismatch_is_counted_token_by_token() -> None:
    """Five tokens: the first row drew all, the second has an EOS third, then filling, and its end does not count."""
    log_probs = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -5.0], [-1.0, -2.0, -6.0, 0.0, 0.0]])
    order = torch.tensor([[0, 1, 2, 3, 4], [2, 1, 0, -1, -1]], dtype=torch.int32)
    generation = Generation(torch.zeros(2, 5).long(), 5, 8, 0.1, log_probs, order, torch.tensor([5, 3]), 80)
    elbo = torch.tensor([-20.0, -15.0])
    everything = torch.ones(2, 5).bool()
    assert rollout_mismatch(generation, everything, elbo).tolist() == [-3 + 20 / 5, -3 + 15 / 5]
    counted = everything.clone()
    counted[1, 2:] = False
    assert rollout_mismatch(generation, counted, elbo).tolist() == [-3 + 20 / 5, -1.5 + 15 / 2]
    assert generation.tokens_per_forward == 1


def test_a_round_is_reported_as_it_was() -> None:
    policy = model()
    batch = a_round(policy, ReferencePolicy(policy), config("topk"))
    assert batch.row_ids.tolist() == list(range(16, 32))
    assert batch.rewards.shape == batch.log_prob_cur.shape == (4, 4)
    texts = character_tokenizer().batch_decode(batch.completions.tokens, skip_special_tokens=True)
    assert batch.rewards.flatten().tolist() == [text.count("1") / 4 for text in texts]
    report = batch.report
    assert report["tokens_per_forward"] * report["row_forwards"] == 16 * 8
    groups = [{tuple(row) for row in group} for group in batch.completions.tokens.view(4, 4, 8).tolist()]
    assert report["distinct_in_group"] == sum(len(group) for group in groups) / 16
    assert report["reward_std_in_group"] == pytest.approx(batch.rewards.double().std(-1).mean().item())
    twice = batch.completions.tokens.clone()
    twice[1] = twice[0]
    assert len(row_hash(twice).unique()) == len(twice.unique(dim=0))


@pytest.mark.parametrize("lora", [False, True])
def test_exact_paths_under_both_policies(lora: bool) -> None:
    policy = add_lora(model(), rank=2, alpha=8, dropout=0.5) if lora else model()
    reference = ReferencePolicy(policy)
    options = config("random_order")
    start = a_round(policy, reference, options)
    assert start.report["path_log_prob_cur"] == start.report["path_log_prob_ref"]
    assert start.report["path_log_prob_cur"] != start.log_prob_cur.double().mean(), "the ELBO is something else"
    assert torch.equal(start.log_prob_cur, start.log_prob_ref)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    moved = a_round(policy, reference, options)
    rows = moved.completions
    drawn = complete(
        policy,
        rows.prompt_ids,
        rows.prompt_mask,
        moved.row_ids,
        options,
        temperature=options.temperature,
        steps=options.steps,
        seed=derive_key(options.seed, "rollout"),
    )
    assert torch.equal(drawn.sequences[:, rows.prompt_ids.shape[1] :], rows.tokens)
    path = moved.report["path_log_prob_cur"]
    assert path == pytest.approx(float(drawn.log_probs.sum(-1).mean()), rel=1e-5)
    expected = ordered_log_probs(model(), rows, drawn.order, mask_id=MASK, batch_size=3).sum(-1)
    assert moved.report["path_log_prob_ref"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert abs(path - float(expected.mean())) > 1e-2
    assert not torch.equal(moved.log_prob_cur, moved.log_prob_ref)


@every_decoder
def test_two_steps_and_a_resume(tmp_path: Path, decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the round, so the round comes out of the checkpoint."""
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)  # takes longer than the run
    options: dict[str, Any] = {"decoder": decoder, **RULES.get(decoder, {}), "save_steps": 1, "eval_steps": 0}
    trainer(settings(tmp_path / "whole", max_steps=2, **options)).train()
    trainer(settings(tmp_path / "stopped", max_steps=1, **options)).train()
    trainer(settings(tmp_path / "stopped", max_steps=2, resume=True, **options)).train()
    whole = lines(tmp_path / "whole")
    assert lines(tmp_path / "stopped") == whole
    for line in whole:
        # 16 completions of 4 tokens, 8 a batch
        assert line["tokens_per_forward"] == 64 / line["row_forwards"]
        assert 2 <= line["forwards"] <= line["row_forwards"] <= 64
        assert all(torch.isfinite(torch.tensor(float(value))) for value in line.values())
        assert line["rollout_mismatch"] != 0
        assert ("path_log_prob_cur" in line) == ("path_log_prob_ref" in line) == (decoder == "random_order")
    assert whole[0]["loss"] != whole[1]["loss"]
    if decoder == "topk":
        assert whole[0]["forwards"] == 2 * 2
        assert whole[0]["row_forwards"] == 2 * (2 + 8), "a batch has two prompts, which share the first call"
    assert "rollout" in lines(tmp_path / "whole", "timings.jsonl")[0]
