"""If these fail, model passes run on columns that hold nothing but padding, or trimming those changes a result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmpo import generate
from dmpo.models.tokenizer import padding
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import apply_head_to_views, sequence_log_prob
from tests.tiny_models import tiny, tokens


class Widths:
    """Widths and masks of the model's calls."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[tuple[int, bool]] = []
        model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: nn.Module, arguments: Any, kwargs: dict[str, Any]) -> None:
        ids: Any = kwargs.get("input_ids", arguments[0] if arguments else None)
        self.calls.append((ids.shape[1], kwargs.get("attention_mask") is not None))


def padded(prompt: Tensor, left: list[int]) -> tuple[Tensor, Tensor]:
    """The prompts with so many columns of padding before each row's own last tokens; ids and mask [B, P]."""
    mask = torch.ones_like(prompt, dtype=torch.bool)
    for row, count in enumerate(left):
        mask[row, :count] = False
    return prompt.masked_fill(~mask, 2), mask


@pytest.mark.parametrize(
    ("left", "wanted"),
    [([0, 0], (0, False)), ([3, 3], (3, False)), ([3, 1], (1, True)), ([0, 4], (0, True)), ([6, 6], (0, True))],
)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_padding_of_a_mask(left: list[int], wanted: tuple[int, bool], dtype: torch.dtype) -> None:
    assert padding(padded(tokens(2, 6), left)[1].to(dtype)) == wanted
    assert padding(torch.ones(2, 0, dtype=dtype)) == (0, False)


@pytest.mark.parametrize("decoder", ["topk", "prefix_cache", "dual_cache", "wino", "random_order"])
@pytest.mark.parametrize("left", [[4, 4, 4], [4, 6, 5]])
def test_decoding_trims_to_the_longest_row(decoder: Any, left: list[int]) -> None:
    model = tiny(init_std=0.7)
    prompt, mask = padded(tokens(3, 9), left)
    options: dict[str, Any] = {"decoder": decoder, "gen_length": 8, "block_length": 4, "steps": 4, "temperature": 0.7}
    short = generate(model, prompt[:, 4:], attention_mask=mask[:, 4:], **options)
    widths = Widths(model)
    whole = generate(model, prompt, attention_mask=mask, **options)
    assert max(width for width, _ in widths.calls) <= 5 + 8 + (4 if decoder == "wino" else 0)
    assert decoder == "wino" or any(masked for _, masked in widths.calls) == (left != [4, 4, 4])
    assert torch.equal(whole.sequences[:, :9], prompt)
    assert torch.equal(whole.sequences[:, 4:], short.sequences)
    assert torch.equal(whole.log_probs, short.log_probs)
    assert torch.equal(whole.order, short.order)


@pytest.mark.parametrize("left", [[4, 4, 4], [4, 6, 5], [0, 0, 0]])
def test_views_are_trimmed_and_score_the_same(left: list[int]) -> None:
    model = tiny(init_std=0.7)
    prompt, mask = padded(tokens(3, 9), left)
    completion = tokens(3, 6)
    rows = Completions(prompt, mask, completion, torch.ones_like(completion).bool())
    view = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    blank = min(left)
    with torch.no_grad():  # as a pass over all columns has it
        ids = torch.cat([prompt, completion.masked_fill(view, model.config.mask_token_id)], 1)
        logits = model(input_ids=ids, attention_mask=torch.cat([mask, torch.ones_like(view)], 1)).logits[:, 9:]
    widths = Widths(model)
    found = apply_head_to_views(
        model, rows, view, model.config.mask_token_id, lambda hidden, weight, bias: hidden @ weight.t()
    )
    assert widths.calls == [(9 - blank + 6, len({*left}) > 1)]
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=5e-5)


def test_each_pass_is_trimmed_to_its_own_rows() -> None:
    """Short prompts beside a long one: only the pass that holds it is wide, and narrow rows pass by themselves."""
    model = tiny(init_std=0.7)
    prompt, mask = padded(tokens(4, 9), [7, 7, 0, 3])
    completion = tokens(4, 6)
    rows = Completions(prompt, mask, completion, torch.ones_like(completion).bool())
    views = torch.ones(4, 6, dtype=torch.bool)
    widths = Widths(model)
    together = sequence_log_prob(model, rows, views, mask_id=model.config.mask_token_id, batch_size=4)
    apart = sequence_log_prob(model, rows, views, mask_id=model.config.mask_token_id, batch_size=2)
    assert widths.calls == [(15, True), (15, True), (8, False)]
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
