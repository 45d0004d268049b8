"""If these fail, a block-causal model is trained and scored on other predictions than those that it decodes with."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmpo.decoding import generate
from dmpo.decoding.sampler import Sampler
from dmpo.models.block_causal import block_causal_mask
from dmpo.models.masked_lm import apply_head
from dmpo.models.model_config import make_bidirectional
from dmpo.models.model_types import SDAR, SDARConfig
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import apply_head_to_views, kept_positions, ordered_log_probs
from tests.tiny_models import PLAIN, random_in_float64, tokens

MASK = 3


@cache
def sdar(size: int, attention: str = "sdpa") -> Any:
    """Random parameters in float64, also inside the norms, which transformers narrows."""
    fields: dict[str, Any] = PLAIN | {"block_size": size}
    config = SDARConfig(**fields)
    config._attn_implementation = attention
    make_bidirectional(config, MASK)
    return random_in_float64(SDAR(config))


def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return hidden @ weight.t()


def problem(lengths: list[int], completion: int, seed: int = 0) -> tuple[Completions, Tensor]:
    """Left-padded prompts of these lengths, completions, and a view of each."""
    width, rows = max(lengths), len(lengths)
    prompt_mask = torch.arange(width) >= width - torch.tensor(lengths).unsqueeze(1)
    prompts = tokens(rows, width, seed=seed).masked_fill(~prompt_mask, 0)
    masked = torch.rand(rows, completion, generator=torch.Generator().manual_seed(seed)) < 0.5
    eligible = torch.ones(rows, completion).bool()
    return Completions(prompts, prompt_mask, tokens(rows, completion, seed=seed + 1), eligible), masked


def block_by_block(model: Any, rows: Completions, masked: Tensor, row: int, size: int) -> Tensor:
    """Logits [L, V] of one row: for each block a pass over the clean blocks before it and the block with its masks."""
    prompt = rows.prompt_ids[row][rows.prompt_mask[row]]
    clean = torch.cat([prompt, rows.tokens[row]])
    view = torch.cat([prompt, rows.tokens[row].masked_fill(masked[row], MASK)])
    found = []
    for start in range(0, len(clean), size):
        inputs = torch.cat([clean[:start], view[start : start + size]])
        block = torch.arange(len(inputs)) // size
        mask = (block.unsqueeze(1) >= block)[None, None].contiguous()
        found.append(apply_head(model, logits, inputs.unsqueeze(0), mask)[0, start:])
    return torch.cat(found)[len(prompt) :]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 5),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    completion=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_two_copies_score_as_block_by_block(size: int, lengths: list[int], completion: int, seed: int) -> None:
    model, (rows, masked) = sdar(size), problem(lengths, completion, seed)
    with torch.no_grad():
        together = apply_head_to_views(model, rows, masked, MASK, logits)
        for row in range(len(lengths)):
            expected = block_by_block(model, rows, masked, row, size)
            torch.testing.assert_close(together[row], expected, rtol=1e-10, atol=1e-10)


def test_the_gradient_is_that_of_block_by_block() -> None:
    model, (rows, masked) = sdar(4), problem([5, 2, 3], 7)
    kept = kept_positions(masked)

    def gradient(scores: Tensor) -> list[Tensor]:
        model.zero_grad()
        (scores * torch.linspace(-1, 1, scores.numel(), dtype=scores.dtype).view_as(scores)).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    together = gradient(apply_head_to_views(model, rows, masked, MASK, logits, kept=kept))
    apart = torch.stack([block_by_block(model, rows, masked, row, 4) for row in range(3)])
    for ours, theirs in zip(together, gradient(apart.flatten(0, 1)[kept]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_eager_attention_scores_alike() -> None:
    """Its softmax is in float32."""
    rows, masked = problem([5, 2], 6)
    with torch.no_grad():
        eager, sdpa = (apply_head_to_views(sdar(4, kind), rows, masked, MASK, logits) for kind in ("eager", "sdpa"))
    torch.testing.assert_close(eager, sdpa, rtol=1e-4, atol=1e-4)


def test_the_mask_by_its_definition() -> None:
    attended = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]).bool()
    mask = block_causal_mask(attended, 2)
    for row, padding in enumerate((2, 0)):
        for query in range(7):
            for key in range(7):
                sees = min(query, key) >= padding and (query - padding) // 2 >= (key - padding) // 2
                assert mask[row, 0, query, key] == (sees or query == key)


@pytest.mark.parametrize("form", ["none", "2-D", "of keys"])
def test_a_pass_is_block_causal(form: str) -> None:
    """Also where the mask is of keys alone: later blocks change nothing, and tokens of the block do."""
    model, ids = sdar(4), tokens(1, 10)
    mask = {"none": None, "2-D": torch.ones(1, 10), "of keys": torch.ones(1, 1, 1, 10).bool().expand(-1, 1, 10, -1)}[
        form
    ]
    with torch.no_grad():
        whole = model(ids, mask).logits
        torch.testing.assert_close(whole[:, :8], model(ids[:, :8]).logits, rtol=1e-12, atol=1e-12)
        assert (whole[:, 4:6] - model(ids[:, :6]).logits[:, 4:6]).abs().max() > 1e-3


def test_decoding_is_block_by_block() -> None:
    """Prompt and blocks are whole blocks of the model: greedy decoding without what follows the block is the same."""
    model, prompt = sdar(4), tokens(2, 8)
    options: dict[str, Any] = {"decoder": "topk", "gen_length": 8, "block_length": 4, "steps": 8}
    found = generate(model, prompt, **options).sequences
    for row in range(2):
        text = prompt[row]
        for _ in range(2):
            text = torch.cat([text, torch.full((4,), MASK)])
            for _ in range(4):
                with torch.no_grad():
                    scores = model(text.unsqueeze(0)).logits[0]
                scores[:, MASK] = -torch.inf
                best, choice = scores.softmax(-1).max(-1)
                where = best.masked_fill(text != MASK, -1).argmax()
                text[where] = choice[where]
        assert torch.equal(found[row], text)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    blocks=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_path_of_random_order_has_its_exact_probability(
    size: int, lengths: list[int], blocks: int, seed: int
) -> None:
    """The product of its conditionals: the clean earlier blocks and the masks of the block, under the scoring mask."""
    model, (rows, _) = sdar(size), problem(lengths, size * blocks, seed)
    rows.prompt_ids[rows.prompt_ids == MASK] = MASK + 1
    options: dict[str, Any] = {"decoder": "random_order", "gen_length": size * blocks, "block_length": size}
    options |= {"steps": size * blocks, "temperature": 1.0, "seed": seed}
    drawn_from, draw = torch.zeros(len(lengths), size * blocks, dtype=torch.float64), Sampler.draw

    def watched(sampler: Sampler, hidden: Tensor, positions: Tensor, index: Tensor, span: Tensor) -> Any:
        result = draw(sampler, hidden, positions, index, span)
        scores = (hidden @ sampler.weight.t()).index_fill(-1, torch.tensor([MASK]), -torch.inf)
        of_drawn = scores.log_softmax(-1).gather(-1, result[0].unsqueeze(-1)).squeeze(-1)
        at = span - sampler.canvas.prompt_length
        masked = sampler.canvas.tokens[index.unsqueeze(1), span] == MASK
        drawn_from[index.unsqueeze(1).expand_as(at)[masked], at[masked]] = of_drawn[masked]  # the last draw stays
        return result

    with mock.patch.object(Sampler, "draw", watched):
        made = generate(model, rows.prompt_ids, attention_mask=rows.prompt_mask, **options)
    completions = made.sequences[:, rows.prompt_ids.shape[1] :]
    drawn = replace(rows, tokens=completions)
    expected = torch.zeros(completions.shape, dtype=torch.float64)
    for row, prompt in enumerate(lengths):
        assert sorted(made.order[row].tolist()) == list(range(size * blocks))
        places = [(prompt + j) // size for j in made.order[row].argsort().tolist()]
        assert places == sorted(places), "the decoder's blocks lie across the model's blocks"
        for step in range(size * blocks):
            masked = (made.order >= step)[[row]]
            with torch.no_grad():
                scores = block_by_block(model, drawn[row : row + 1], masked, 0, size)
            scores[:, MASK] = -torch.inf
            of_step = made.order[row] == step
            expected[row, of_step] = scores.log_softmax(-1)[of_step, completions[row, of_step]]
    torch.testing.assert_close(drawn_from, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(drawn_from.sum(1), expected.sum(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(made.log_probs.double(), expected, rtol=1e-6, atol=1e-6)
    scored = ordered_log_probs(model, drawn, made.order, mask_id=MASK, batch_size=4)
    torch.testing.assert_close(scored.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "tests.own_names:Fickle"}, "takes tokens back, which a block-causal model does not allow"),
        ({"block_length": 6, "gen_length": 12}, "block_length must be a multiple of the model's block_size 4, got 6"),
    ],
)
def test_what_a_block_causal_model_is_not_decoded_with(changes: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"decoder": "topk", "gen_length": 8, "block_length": 4, "steps": 2} | changes
    with pytest.raises(ValueError, match=message):
        generate(sdar(4), tokens(1, 4), **options)
