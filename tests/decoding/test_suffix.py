"""If these fail, a pass sees other masks after its block than `suffix` says, or a row sees as far as its neighbour."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo import generate
from dmpo.config.decoding import DecodingOptions
from dmpo.models.model_config import make_bidirectional
from dmpo.models.model_types import SDAR, SDARConfig
from tests import devices, tiny_models
from tests.tiny_models import PLAIN, tokens

pytestmark = pytest.mark.usefixtures("device")
MASK, EOS = 3, 2
SHAPE: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 6}
CASES: list[dict[str, Any]] = [
    {"decoder": "topk"},
    *({"decoder": d, "threshold": 0.3} for d in ("parallel", "prefix_cache", "dual_cache")),
    {"decoder": "wino", "wino_threshold": 0.3, "wino_threshold_back": 0.6},
    {"decoder": "entropy", "entropy_bound": 2.0},
]


def tiny(shift: int, **changes: Any) -> Any:
    """A model that is sure of some tokens and not of others, so that rows need unlike numbers of steps."""
    model: Any = tiny_models.tiny(**{"init_std": 0.7, **changes})
    model.prediction_shift = shift
    return model


def sdar() -> Any:
    fields: dict[str, Any] = PLAIN | {"block_size": 4}
    config = SDARConfig(**fields)
    make_bidirectional(config, MASK)
    torch.manual_seed(0)
    model = SDAR(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.to(devices.current())


def ragged(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Left-padded prompts and their mask."""
    width = max(lengths)
    mask = torch.arange(width) >= width - torch.tensor(lengths).unsqueeze(1)
    return tokens(len(lengths), width).masked_fill(~mask, EOS), mask


def by_a_short_canvas(model: Any, prompt: Tensor, suffix: int, threshold: float) -> list[int]:
    """A plain loop at temperature 0: prompt, finished blocks, the block, at most `suffix` masks."""
    length, block = SHAPE["gen_length"], SHAPE["block_length"]
    text = prompt
    for first in range(0, length, block):
        text = torch.cat([text, text.new_full((block,), MASK)])
        while (text == MASK).any():
            behind = text.new_full((min(suffix, length - first - block),), MASK)
            with torch.no_grad():
                scores = model(torch.cat([text, behind]).unsqueeze(0)).logits[0, : len(text)]
            scores[:, MASK] = -torch.inf
            best, choice = scores.softmax(-1).max(-1)
            best = best.masked_fill(text != MASK, -1)
            chosen = (best >= threshold) | (best == best.max())
            text = torch.where(chosen, choice, text)
    return text[len(prompt) :].tolist()


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("suffix", [0, 3, 5, 40])
def test_the_canvas_is_cut_after_so_many_masks(shift: int, suffix: int) -> None:
    model, (prompts, mask) = tiny(shift), ragged([6, 4, 6, 5])
    rule: dict[str, Any] = SHAPE | {"decoder": "parallel", "threshold": 0.3}
    made = generate(model, prompts, attention_mask=mask, suffix=suffix, **rule)
    assert len(set(made.steps.tolist())) > 1, "all rows go through their blocks together"
    expected = [by_a_short_canvas(model, prompts[row][mask[row]].to(model.device), suffix, 0.3) for row in range(4)]
    assert made.sequences[:, 6:].tolist() == expected
    full = generate(model, prompts, attention_mask=mask, **rule)
    assert full.positions == full.row_forwards * (6 + SHAPE["gen_length"])
    assert (made.sequences.tolist() == full.sequences.tolist()) == (suffix == 40)
    assert suffix == 40 or made.positions / made.row_forwards < full.positions / full.row_forwards


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["decoder"])
@pytest.mark.parametrize("shift", [0, 1])
def test_without_a_suffix_each_block_is_the_last(case: dict[str, Any], shift: int) -> None:
    """At temperature 0 the blocks of one call are those of calls of one block, each after the blocks before it."""
    model, (prompts, mask) = tiny(shift), ragged([6, 4, 6])
    made = generate(model, prompts, attention_mask=mask, suffix="none", **SHAPE | case).sequences
    for row in range(3):
        text = prompts[row][mask[row]].unsqueeze(0)
        for _ in range(3):
            text = generate(model, text, gen_length=4, block_length=4, steps=2, **case).sequences
        assert text[0, -12:].tolist() == made[row, 6:].tolist()


@pytest.mark.parametrize("decoder", ["topk", "prefix_cache", "dual_cache", "wino"])
def test_guided_rows_are_cut_alike(decoder: str) -> None:
    """A suffix as long as the completion is the full one, and a row does not see how far its neighbours are."""
    model, prompts = tiny(0), tokens(3, 6)
    options: dict[str, Any] = SHAPE | {"decoder": decoder, "cfg_scale": 0.5, "temperature": 1.0}
    full, long = (generate(model, prompts, suffix=suffix, **options).sequences for suffix in ("full", 12))
    assert torch.equal(full, long)
    short = generate(model, prompts, suffix=1, **options)
    alone = [generate(model, prompts[r : r + 1], row_ids=torch.tensor([r]), suffix=1, **options) for r in range(3)]
    assert torch.equal(short.sequences, torch.cat([one.sequences for one in alone]))


@pytest.mark.parametrize("rule", [{}, {"decoder": "parallel", "threshold": 0.5}, {"decoder": "random_order"}], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_block_causal_model_loses_nothing_without_a_suffix(rule: dict[str, Any], temperature: float) -> None:
    """The prompts are no whole blocks of the model."""
    model, (prompts, mask) = sdar(), ragged([7, 4, 5, 2])
    options: dict[str, Any] = SHAPE | {"decoder": "topk", "temperature": temperature} | rule
    full, short = (
        generate(model, prompts, attention_mask=mask, suffix=suffix, cache="none", **options)
        for suffix in ("full", "none")
    )
    assert torch.equal(full.sequences, short.sequences)
    torch.testing.assert_close(full.log_probs, short.log_probs, rtol=1e-4, atol=1e-5)
    assert short.positions < full.positions
    assert short.row_forwards == full.row_forwards


@pytest.mark.parametrize("rule", [{}, {"decoder": "parallel", "threshold": 0.5}], ids=str)
def test_rows_of_a_block_causal_model_do_not_see_each_other(rule: dict[str, Any]) -> None:
    """Rows whose prompts share unlike many tokens with their first block need unlike numbers of steps."""
    model, (prompts, mask) = sdar(), ragged([7, 4, 5, 2, 8, 6])
    options: dict[str, Any] = SHAPE | {"decoder": "topk", "temperature": 1.0, "suffix": 1} | rule
    options |= {"early_stop": True, "eos_id": [27, 43]}  # two tokens that are often drawn
    whole = generate(model, prompts, attention_mask=mask, **options)
    for row in range(6):
        one = generate(model, prompts[[row]], attention_mask=mask[[row]], row_ids=torch.tensor([row]), **options)
        assert torch.equal(one.sequences[0], whole.sequences[row])
        assert torch.equal(one.order[0], whole.order[row])
    assert 2 < int((whole.order < 0).any(1).sum()) < 6, "some rows end early"


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"suffix": -1}, ValueError, "suffix must be full, none or a number of masks, 0 or more, got -1"),
        ({"suffix": "some"}, ValueError, "suffix must be full, none or a number of masks, 0 or more, got some"),
        ({"suffix": 1.5}, TypeError, "suffix must be full, none or an int, got 1.5"),
        ({"suffix": True}, TypeError, "suffix must be full, none or an int, got True"),
        (
            {"suffix": "none", "decoder": "dual_cache", "compiled": True},
            ValueError,
            "suffix must be full with compiled=true, whose shapes are fixed, got 'none'",
        ),
    ],
)
def test_what_is_no_suffix(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        DecodingOptions(**changes)
