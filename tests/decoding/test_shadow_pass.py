"""If these fail, wino verifies a token that its shadow has seen, or its block sees the shadows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dmpo.decoding.canvas import Canvas
from dmpo.decoding.passes import FullPass, ShadowPass
from tests.decoding.unsure_models import each_alignment
from tests.tiny_models import tokens

pytestmark = pytest.mark.usefixtures("device")
MASK = 3


@each_alignment
def test_wino_block_does_not_see_its_shadow(make: Any) -> None:
    model, prompt = make(), tokens(3, 6)
    canvas = torch.cat([prompt, torch.full((3, 8), MASK)], 1)
    canvas[:, 6:8] = tokens(3, 2, seed=1)
    view = Canvas(model, canvas, None, None, 6, 0.0, MASK)
    index, start = torch.arange(3), torch.tensor([6, 10, 6])
    with torch.no_grad():
        block, shadow = ShadowPass(view, 4)(index, start, None)
        plain, _ = FullPass(view, 4)(index, start, None)
    assert shadow is not None
    assert shadow.shape == block.shape
    torch.testing.assert_close(block, plain, rtol=1e-4, atol=1e-5)


@each_alignment
def test_shadow_sees_all_but_the_token_it_verifies(make: Any) -> None:
    """With one layer nothing else can carry that token to it."""
    model, start = make(num_layers=1), torch.tensor([6])
    canvas = torch.cat([tokens(1, 6), tokens(1, 4, seed=1), torch.full((1, 4), MASK)], 1)

    def shadow(position: int | None) -> torch.Tensor:
        changed = canvas.clone()
        if position is not None:
            changed[0, position] = 4 + (changed[0, position] - 3) % 44
        with torch.no_grad():
            result = ShadowPass(Canvas(model, changed, None, None, 6, 0.0, MASK), 4)(torch.tensor([0]), start, None)[1]
        assert result is not None
        return result[0]

    plain = shadow(None)
    for position in range(14):
        moved = (shadow(position) - plain).abs().amax(-1) > 1e-5  # [4]
        expected = [position != 6 + j for j in range(4)]
        assert moved.tolist() == expected, position


@each_alignment
def test_shadow_is_a_token_at_its_position(make: Any) -> None:
    """With one layer attention is to a set: leave the verified token out, put the shadow in, and mask nothing."""
    model, start = make(num_layers=1), 6
    shift = model.prediction_shift
    canvas = torch.cat([tokens(1, 6), tokens(1, 2, seed=1), torch.full((1, 4), MASK)], 1)
    with torch.no_grad():
        shadow = ShadowPass(Canvas(model, canvas, None, None, 6, 0.0, MASK), 4)(
            torch.tensor([0]), torch.tensor([start]), None
        )[1]
        assert shadow is not None
        for j in range(4):
            rest = torch.tensor([position for position in range(12) if position != start + j])
            output = model.model(
                input_ids=torch.cat([canvas[:, rest], torch.full((1, 4), MASK)], 1),
                position_ids=torch.cat([rest, start - shift + torch.arange(4)]).unsqueeze(0),
            ).last_hidden_state
            torch.testing.assert_close(shadow[:, j], output[:, 11 + j], rtol=1e-4, atol=1e-5)
