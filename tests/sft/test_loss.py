"""If these fail, supervised fine-tuning descends on another loss than LLaDA's, or its masks depend on the batch."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from dmpo.config.sft import SFTConfig
from dmpo.objectives.denoising import (
    MaskedSequences,
    blank_pass,
    loss_of_pass,
    masked,
    passes,
    reach_of_step,
    widened_mask,
)
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.demonstrations import Demonstration, Sequences, sequences
from dmpo.rollouts.likelihood import apply_head_to_views
from tests.tiny_models import random_in_float64, tiny

EOS, MASK = 2, 3
LENGTHS = [(3, 5), (6, 2), (1, 7), (4, 4), (9, 1)]  # tokens of prompt and answer


def config(**changes: Any) -> SFTConfig:
    values: dict[str, Any] = {"model": "m", "task": "sudoku4", "output_dir": "o", "lora_r": 0, "max_prompt_length": 9}
    return SFTConfig(**values | {"gen_length": 8, "block_length": 8, "steps": 8, "mask_rate_min": 0.2} | changes)


def demonstrations() -> list[Demonstration]:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 48, (p + a,), generator=draw).tolist() for p, a in LENGTHS]
    return [Demonstration(row[:p], [*row[p:], EOS]) for row, (p, _) in zip(rows, LENGTHS, strict=True)]


def laid_out(keys: SFTConfig, which: slice = slice(None), padding: str | None = None) -> Sequences:
    rows, ids = demonstrations(), list(range(10, 10 + len(LENGTHS)))
    longest = max(len(row.answer) for row in rows)
    if padding is not None:  # a few rows as they are among all of them
        rows = [Demonstration(row.prompt, row.answer + [EOS] * (longest - len(row.answer))) for row in rows]
    layout: Any = {"padding": padding or keys.eos_padding, "length": keys.gen_length, "eos_id": EOS}
    return sequences(rows[which], ids[which], **layout)


def model64(model: Any = None) -> Any:
    """Float64 throughout, also where transformers narrows: in norms and in rotary embeddings."""
    model = random_in_float64(model or tiny()).train()
    rotary = model.model.rotary_emb
    frequencies = rotary.inv_freq.double()

    def rotated(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids.double().unsqueeze(-1) * frequencies
        both = torch.cat([angles, angles], -1)
        return both.cos(), both.sin()

    rotary.forward = rotated
    return model


def plain_loss(model: Any, batch: MaskedSequences, token_weights: str) -> Tensor:
    """The definition, with the logits of all positions: one row at a time, without padding."""
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(batch.rows)):
        ids = batch.rows.ids[row][batch.rows.attended[row]]
        mask = batch.masks[row][batch.rows.attended[row]]
        logits = model(ids.masked_fill(mask, MASK).unsqueeze(0)).logits[0]
        nll = -logits.log_softmax(-1)[torch.arange(len(ids)), ids][mask]
        if token_weights == "mean":
            total = total + nll.mean() / len(batch.rows)
        else:
            total = total + nll.sum() * batch.weights[row]
    return total


@pytest.mark.parametrize("eos_padding", ["batch", "full", "none"])
@pytest.mark.parametrize("token_weights", ["rate", "mean"])
@pytest.mark.parametrize(("rows", "view_rates"), [(1, "uniform"), (2, "stratified"), (5, "uniform")])
def test_loss_and_gradient_are_those_of_the_definition(
    eos_padding: Any, token_weights: Any, rows: int, view_rates: Any
) -> None:
    keys, model = config(eos_padding=eos_padding, token_weights=token_weights, view_rates=view_rates), model64()
    batch = masked(laid_out(keys), 7, keys)
    expected = plain_loss(model, batch, token_weights)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    loss = sum(loss_of_pass(model, one) for one in passes(batch, keys, MASK, rows=rows))
    assert isinstance(loss, Tensor)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    for found, wanted in zip(torch.autograd.grad(loss, list(model.parameters())), gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_rows_pass_together_up_to_the_tokens_of_the_longest() -> None:
    keys = config(eos_padding="none", token_weights="mean")
    every = passes(masked(laid_out(keys), 7, keys), keys, MASK, rows=2)
    assert sum(len(one.ids) for one in every) == len(LENGTHS)
    assert len(every) < 3, "2 · (9 + 8) tokens hold more than two short rows"
    assert all(one.ids.numel() <= 2 * (9 + 8) for one in every)


def test_weights_are_one_over_rate_and_length() -> None:
    """The rate is known where its range is a point."""
    keys = config(mask_rate_min=0.4, mask_rate_max=0.4)
    batch = masked(laid_out(keys), 0, keys)
    answers = batch.rows.answers.sum(-1)
    torch.testing.assert_close(batch.weights, 1 / (0.4 * answers.double() * len(LENGTHS)), rtol=1e-14, atol=0)
    mean = config(token_weights="mean")
    batch = masked(laid_out(mean), 0, mean)
    assert (batch.weights * batch.masks.sum(-1) * len(LENGTHS)).tolist() == pytest.approx([1.0] * len(LENGTHS))


def test_the_weighted_masks_count_every_token_once_on_average() -> None:
    """E Σ 1/(t·L) over masked tokens is 1 for every row, so that the loss bounds the log-likelihood."""
    keys, count = config(mask_rate_min=0.05), 20_000
    ids, column = torch.full((count, 6), 5), torch.arange(6)
    rows = Sequences(ids, ids > 0, (column > 1).expand(count, 6), torch.arange(count))
    batch = masked(rows, 3, keys)
    of_rows = batch.weights * batch.masks.sum(-1) * count
    error = float(of_rows.std() / count**0.5)
    assert abs(float(of_rows.mean()) - 1) < 5 * error
    assert not batch.masks[:, :2].any(), "no prompt is masked"
    shares = batch.masks[:, 2:].double().mean(0)
    assert (shares - (1 + 0.05) / 2).abs().max() < 5 * (0.25 / count) ** 0.5, "each place alike"


def test_strata_mask_every_number_of_tokens_once() -> None:
    """Rows with as many tokens as there are rows mask 1, 2, ... of them; every token counts 1 / L on average."""
    count, batches = 6, 120
    of_place, least = torch.zeros(count, dtype=torch.float64), []
    for batch in range(batches):
        ids = torch.full((count, count), 5)
        rows = Sequences(ids, ids > 0, ids > 0, torch.arange(count * batch, count * (batch + 1)))
        keys = config(view_rates="stratified", token_weights=("mean", "rate")[batch % 2], mask_rate_min=0.0)
        found = masked(rows, 3, keys)
        assert sorted(found.masks.sum(-1).tolist()) == list(range(1, count + 1))
        assert (found.weights * found.masks.sum(-1) * count).tolist() == pytest.approx([1.0] * count)
        of_place += (found.masks * found.weights.unsqueeze(1)).sum(0) / batches
        least.append(int(found.masks.sum(-1).argmin()))
    assert (of_place - 1 / count).abs().max() < 0.05
    assert len(set(least)) == count, "no row of a step is special"
    few = masked(rows, 3, config(view_rates="stratified", mask_rate_min=0.0, mask_rate_max=0.5))
    assert sorted(few.masks.sum(-1).tolist()) == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("token_weights", ["rate", "mean"])
def test_masks_depend_on_the_row_alone(token_weights: Any) -> None:
    keys = config(token_weights=token_weights)
    whole, few = laid_out(keys, padding="none"), laid_out(keys, slice(1, 3), padding="none")
    of_whole, of_few = masked(whole, 7, keys), masked(few, 7, keys)
    width = few.ids.shape[1]
    assert torch.equal(of_whole.masks[1:3, -width:], of_few.masks)
    assert not torch.equal(masked(whole, 8, keys).masks, of_whole.masks)


def test_a_block_causal_model_learns_each_block_from_the_clean_blocks_before() -> None:
    """The same pass as that of DMPO's views, which tests/models hold to the definition."""
    keys, model = config(), model64()
    model.config.block_size = 4
    batch = masked(laid_out(keys), 7, keys)
    length = int(batch.rows.answers.sum(-1).max())
    prompt, tokens = batch.rows.ids[:, :-length], batch.rows.ids[:, -length:]
    completions = Completions(prompt, batch.rows.attended[:, :-length], tokens, torch.ones_like(tokens).bool())
    masks = batch.masks[:, -length:]

    def head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        logits = torch.nn.functional.linear(hidden, weight, bias)
        nll = -logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return ((nll * masks).sum(-1) * batch.weights).sum()

    expected = apply_head_to_views(model, completions, masks, MASK, head)
    loss = sum(loss_of_pass(model, one) for one in passes(batch, keys, MASK, rows=3))
    assert isinstance(loss, Tensor)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)


def test_attention_widens_from_causal_to_bidirectional() -> None:
    keys = config(widen_attention_steps=4)
    assert [reach_of_step(keys, step) for step in (0, 1, 3, 4, 9)] == [0, 0.25, 0.75, 1, 1]
    assert reach_of_step(config(), 0) == 1
    attended = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    for reach, furthest in ((0.0, (0, 0)), (0.4, (1, 2)), (1.0, (4, 6))):
        mask = widened_mask(attended, reach)
        assert mask.shape == (2, 1, 6, 6)
        for row, query, key in product(range(2), range(6), range(6)):
            seen = key - query <= furthest[row] and bool(attended[row, key])
            assert bool(mask[row, 0, query, key]) == (seen or key == query), (reach, row, query, key)


def one_masked_each(keys: SFTConfig, place: int) -> MaskedSequences:
    """One token of each answer is masked, at this place in it."""
    batch = masked(laid_out(keys), 7, keys)
    masks = torch.zeros_like(batch.masks)
    masks.scatter_(1, batch.rows.answers.int().argmax(-1, keepdim=True) + place, True)
    return MaskedSequences(batch.rows, masks, batch.weights)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_start_is_the_autoregressive_model(attention: str) -> None:
    """Causal and with the shift, one masked token has the probability that the autoregressive model gives it."""
    keys, model = config(), model64(tiny(attn_implementation=attention)).eval()
    model.prediction_shift = 1
    plain = model64(LlamaForCausalLM(LlamaConfig(**model.config.to_dict() | {"is_causal": True}))).eval()
    plain.load_state_dict(model.state_dict())
    batch, expected = one_masked_each(keys, 1), 0.0
    for ids, attended, mask, weight in zip(
        batch.rows.ids, batch.rows.attended, batch.masks, batch.weights, strict=True
    ):
        ids, mask = ids[attended], mask[attended]
        with torch.no_grad():
            log_probs = plain(ids.unsqueeze(0)).logits[0, :-1].log_softmax(-1)
        expected -= float(weight * log_probs.gather(1, ids[1:].unsqueeze(1)).squeeze(1)[mask[1:]])
    for rows in (1, 9):
        every = passes(batch, keys, MASK, rows=rows)
        with torch.no_grad():
            found = sum(float(loss_of_pass(model, one, reach=0.0)) for one in every)
            assert abs(sum(float(loss_of_pass(model, one)) for one in every) - expected) > 1e-6, "it ends elsewhere"
        assert found == pytest.approx(expected, rel=1e-12 if attention == "sdpa" else 1e-6)  # eager: softmax in float32


def test_a_later_token_is_seen_once_it_is_in_reach() -> None:
    keys, model = config(), model64().eval()
    (one,) = passes(one_masked_each(keys, 0), keys, MASK, rows=9)
    other = one.ids.clone()
    other[:, -2] = 9  # behind the tokens that are predicted
    changed = type(one)(**{**vars(one), "ids": other})
    with torch.no_grad():
        losses = [[float(loss_of_pass(model, view, reach=reach)) for view in (one, changed)] for reach in (0, 0.2, 1)]
        whole = float(loss_of_pass(model, one))
    assert losses[0][0] == pytest.approx(losses[0][1], rel=1e-12), "causal: what comes later is not seen"
    assert abs(losses[2][0] - losses[2][1]) > 1e-6
    assert len({round(of[0], 9) for of in losses}) == 3
    assert losses[2][0] == pytest.approx(whole, rel=1e-12)


def test_a_pass_of_a_rank_without_masks_is_one_token() -> None:
    keys = config()
    one = blank_pass(masked(laid_out(keys), 7, keys), MASK)
    assert one.targets.tolist() == [EOS]
    assert bool(loss_of_pass(model64(), one).isfinite())
