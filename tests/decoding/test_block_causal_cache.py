"""If these fail, a block-causal model decoded beside stored keys and values is not decoded as without them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo import generate
from dmpo.models.model_config import make_bidirectional
from dmpo.models.model_types import SDAR, SDARConfig
from tests import devices
from tests.tiny_models import PLAIN, tokens

pytestmark = pytest.mark.usefixtures("device")
MASK, EOS = 3, 2
SHAPE: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 6}
RULES: list[dict[str, Any]] = [
    {"decoder": "topk"},
    {"decoder": "parallel", "threshold": 0.3},
    {"decoder": "random_order"},
    {"decoder": "risk", "threshold": 0.3},
    {"decoder": "entropy", "entropy_bound": 2.0},
    {"decoder": "hierarchy", "threshold": 0.5},
]


def sdar(block_size: int = 4, shift: int = 0, attention: str = "sdpa") -> Any:
    """Float64, so that tokens are the same however a pass is rounded."""
    fields: dict[str, Any] = PLAIN | {"block_size": block_size, "attn_implementation": attention}
    config = SDARConfig(**fields)
    make_bidirectional(config, MASK)
    torch.manual_seed(0)
    model: Any = SDAR(config).eval().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.prediction_shift = shift
    return model.to(devices.current())


def ragged(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Left-padded prompts and their mask."""
    width = max(lengths)
    mask = torch.arange(width) >= width - torch.tensor(lengths).unsqueeze(1)
    return tokens(len(lengths), width).masked_fill(~mask, EOS), mask


def both(model: Any, prompts: Tensor, mask: Tensor | None, **options: Any) -> tuple[Any, Any]:
    """Without a cache, and as by default."""
    plain = generate(model, prompts, attention_mask=mask, **options, cache="none")
    return plain, generate(model, prompts, attention_mask=mask, **options)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["decoder"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("shift", [0, 1])
def test_the_default_is_as_without_a_cache(rule: dict[str, Any], temperature: float, shift: int) -> None:
    """The prompts are no whole blocks, and one of them is shorter than a block; rows go at their own pace."""
    model, (prompts, mask) = sdar(shift=shift), ragged([7, 4, 5, 2, 8])
    plain, cached = both(model, prompts, mask, **SHAPE | rule | {"temperature": temperature})
    assert torch.equal(plain.sequences, cached.sequences)
    assert torch.equal(plain.order, cached.order)
    torch.testing.assert_close(plain.log_probs, cached.log_probs, rtol=1e-5, atol=1e-6)
    assert (cached.forwards, cached.row_forwards) == (plain.forwards, plain.row_forwards), "no pass more"
    assert cached.positions < plain.positions


@pytest.mark.parametrize("size", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("blocks", [1, 2])
def test_blocks_of_the_decoder_hold_one_or_more_of_the_model(size: int, blocks: int) -> None:
    length = size * blocks
    model, (prompts, mask) = sdar(size), ragged([1, 6, 3, 12])
    options = {"gen_length": 2 * length, "block_length": length, "steps": 2 * length, "decoder": "parallel"}
    plain, cached = both(model, prompts, mask, threshold=0.4, **options)
    assert torch.equal(plain.sequences, cached.sequences)
    assert torch.equal(plain.order, cached.order)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_guided_rows_that_end_early_leave_the_cache(attention: str) -> None:
    """The same prompts twice: their first pass is shared."""
    prompts, mask = ragged([7, 4, 5, 2, 8, 7])
    prompts[5], mask[5] = prompts[0], mask[0]
    options: dict[str, Any] = SHAPE | {"decoder": "parallel", "threshold": 0.5, "temperature": 1.0, "cfg_scale": 0.5}
    options |= {"early_stop": True, "eos_id": [27, 43, 5, 6, 7]}
    plain, cached = both(sdar(attention=attention), prompts, mask, **options)
    assert torch.equal(plain.sequences, cached.sequences)
    assert torch.equal(plain.order, cached.order)
    assert 0 < int((plain.order < 0).any(1).sum()) < 6, "some rows end early, and not all"


def test_without_padding_a_pass_sees_one_block_or_two() -> None:
    made = generate(sdar(), tokens(3, 8), decoder="topk", gen_length=12, block_length=4, steps=12)
    assert made.forwards == 12
    assert made.positions == 3 * (12 + 3 * 4 + 2 * (8 + 3 * 4)), "the prompt once; a block's first pass has two blocks"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"decoder": "dual_cache"},
            "cache must be prefix or none for a block-causal model, got dual: no token attends",
        ),
        ({"decoder": "topk", "cache": "dual"}, "cache must be prefix or none for a block-causal model, got dual"),
        ({"decoder": "wino"}, "decoder must not be 'wino' for a block-causal model: its shadow would see the blocks"),
    ],
)
def test_what_a_block_causal_model_is_not_decoded_with(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        generate(sdar(), tokens(2, 5), **SHAPE | options)


def test_a_cache_without_the_mask_of_the_blocks_is_refused() -> None:
    from transformers import DynamicCache

    with pytest.raises(
        ValueError, match=re.escape("with past_key_values a block-causal model needs a mask [N, 1, L, S]")
    ):
        sdar()(tokens(2, 5).to(devices.current()), past_key_values=DynamicCache())
