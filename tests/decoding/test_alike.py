"""If these fail, the first model call runs on rows that are the same, or rows get the hidden states of other rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo import generate
from dmpo.decoding import generation
from dmpo.decoding.alike import Alike, alike_rows
from dmpo.decoding.generation import Generation
from tests.tiny_models import tiny, tokens

pytestmark = pytest.mark.usefixtures("device")
SHAPE: dict[str, Any] = {"gen_length": 8, "block_length": 4, "steps": 4, "temperature": 1.0}
CASES: list[dict[str, Any]] = [
    {"decoder": "topk"},
    {"decoder": "parallel", "threshold": 0.3, "cfg_scale": 0.5},
    {"decoder": "prefix_cache"},
    {"decoder": "dual_cache", "cfg_scale": 0.5},
    {"decoder": "wino", "wino_threshold": 0.3},
    {"decoder": "random_order"},
]
GROUPS = [0, 1, 0, 2, 1, 1, 2, 0]  # the prompt of each row
# One prompt on the left of its padding, on the right and around it; the other one has fewer tokens.
MASK = {0: [0, 1, 1, 1, 1, 1], 1: [1, 1, 0, 1, 1, 1], 2: [0, 0, 1, 1, 1, 1]}


def prompts() -> tuple[Tensor, Tensor]:
    return tokens(3, 6)[GROUPS], torch.tensor([MASK[group] for group in GROUPS])


def calls_and_rows(case: dict[str, Any]) -> tuple[Generation, list[int]]:
    """A run, and how many rows each model call had."""
    model, rows = tiny(init_std=0.7), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    prompt, mask = prompts()
    return generate(model, prompt, attention_mask=mask, **SHAPE | case), rows


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["decoder"])
def test_first_call_runs_once_for_each_prompt(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    shared, rows = calls_and_rows(case)
    monkeypatch.setattr(generation, "alike_rows", lambda *args: Alike())
    whole, all_rows = calls_and_rows(case)
    for name in ("sequences", "order", "steps"):
        assert torch.equal(getattr(shared, name), getattr(whole, name)), name
    torch.testing.assert_close(shared.log_probs, whole.log_probs, rtol=1e-4, atol=1e-5)
    assert len({tuple(row) for row in shared.sequences.tolist()}) > 3, "completions of one prompt do not differ"
    # Without their prompt, rows with equally many tokens are the same: 5 and 4.
    guided = "cfg_scale" in case
    assert all_rows[0] == (16 if guided else 8)
    assert rows == [5 if guided else 3, *all_rows[1:]]
    assert shared.row_forwards == sum(rows)
    assert shared.forwards == whole.forwards


def test_kinds_of_rows() -> None:
    prompt, device = torch.tensor([[7, 8], [8, 7], [7, 8], [9, 7]]), torch.device("cpu")
    found = alike_rows(prompt, None, False, device)
    assert found.first is not None
    assert found.kind is not None
    assert found.first.tolist() == [0, 1, 3]
    assert found.kind.tolist() == [0, 1, 0, 2]
    assert torch.equal(found.to_all(found.one_of_each(prompt)), prompt)
    of_prompt = torch.tensor([[1, 1], [0, 1], [1, 1], [0, 1]]).bool()  # the second and the last are [7]
    found = alike_rows(prompt, of_prompt, True, device)
    assert found.first is not None
    assert found.kind is not None
    assert found.first.tolist() == [0, 1, 4, 5]
    assert found.kind.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert alike_rows(prompt[:2], None, False, device) == Alike()
