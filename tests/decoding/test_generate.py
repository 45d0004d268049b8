"""If these fail, rollouts are not the published decoder's, depend on their neighbours, or contain the mask token."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from scipy import stats

from dmpo import generate, load_model
from dmpo.decoding.policies import TopK
from tests.tiny_models import DATA, tiny, tokens

GOLDEN = json.loads((DATA / "golden" / "decoders.json").read_text())
RUNS = [run for run in GOLDEN["runs"] if run["decoder"] == "topk"]
MASK, EOS = 3, 2


@pytest.fixture(scope="module")
def golden_model() -> Any:
    return load_model(DATA / GOLDEN["checkpoint"], dtype="float32")


@pytest.mark.parametrize("run", RUNS, ids=lambda r: f"B{r['batch']}-{r['steps']}-cfg{r['cfg_scale']}-{r['gen_length']}")
def test_topk_is_token_exact(golden_model: Any, run: dict[str, Any]) -> None:
    assert not run["fragile"]
    options = {k: run[k] for k in ("decoder", "gen_length", "block_length", "steps", "cfg_scale")}
    result = generate(golden_model, torch.tensor(run["prompt"]), **options)
    assert result.sequences[:, run["prompt_length"] :].tolist() == run["output"]
    assert result.forwards <= run["forwards"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
def test_a_row_does_not_see_its_neighbours(temperature: float, remasking: Any) -> None:
    model = tiny()
    prompts, ids = tokens(5, 6), torch.tensor([4, 0, 9, 2, 7])
    options: dict[str, Any] = {"decoder": "topk", "gen_length": 8, "block_length": 4, "steps": 6, "seed": 5}
    options |= {"temperature": temperature, "remasking": remasking}
    whole = generate(model, prompts, row_ids=ids, **options).sequences
    for row in range(5):
        alone = generate(model, prompts[row : row + 1], row_ids=ids[row : row + 1], **options).sequences
        assert torch.equal(whole[row : row + 1], alone)


def test_left_padding_changes_nothing() -> None:
    model, prompt = tiny(), tokens(1, 6)
    padded = torch.cat([torch.full((1, 3), EOS), prompt], 1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    options: dict[str, Any] = {"decoder": "topk", "gen_length": 8, "block_length": 8, "steps": 8}
    plain = generate(model, prompt, **options).sequences[:, 6:]
    assert torch.equal(generate(model, padded, attention_mask=mask, **options).sequences[:, 9:], plain)
    assert not torch.equal(generate(model, padded, **options).sequences[:, 9:], plain), "padding was not even noticed"


def test_mask_token_is_never_drawn() -> None:
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight[MASK] = 50 * model.lm_head.weight.sum(0)  # extreme logits, of either sign
    for temperature in (0.0, 1.5):
        made = generate(
            model, tokens(64, 4), decoder="topk", gen_length=8, block_length=8, steps=4, temperature=temperature
        ).sequences
        assert not (made == MASK).any()


def test_early_stop_fills_with_eos() -> None:
    model = tiny(vocab_size=8)  # EOS is one token in eight
    options: dict[str, Any] = {"decoder": "topk", "gen_length": 16, "block_length": 4, "steps": 16, "temperature": 1.0}
    prompts = tokens(32, 4, vocab_size=8)
    plain = generate(model, prompts, **options).sequences[:, 4:]
    stopped = generate(model, prompts, early_stop=True, **options).sequences[:, 4:]
    ended = 0
    for row in stopped.tolist():
        if EOS in row:
            ended += 1
            assert set(row[row.index(EOS) :]) == {EOS}
    assert ended > 8
    first_block_same = (plain[:, :4] == stopped[:, :4]) | (stopped[:, :4] == EOS)
    assert first_block_same.all()


def test_all_rows_ended_saves_forwards() -> None:
    model = tiny()
    with torch.no_grad():
        model.model.norm.weight.zero_()  # all logits are 0, and the best token is 0
    options: dict[str, Any] = {"decoder": "topk", "gen_length": 16, "block_length": 4, "steps": 16}
    result = generate(model, tokens(2, 4), early_stop=True, eos_id=0, **options)
    assert result.forwards == 4
    assert (result.sequences[:, 4:] == 0).all()


def test_one_step_draws_follow_the_model() -> None:
    """All positions in one step at T=1: chi-square of the first position against the model's own distribution."""
    model, rows = tiny(), 20_000
    prompt = tokens(1, 4)
    canvas = torch.cat([prompt, torch.full((1, 2), MASK)], 1)
    with torch.no_grad():
        logits = model(canvas).logits[0, 4]
        logits[MASK] = float("-inf")
    made = generate(
        model, prompt.expand(rows, -1), decoder="topk", gen_length=2, block_length=2, steps=1, temperature=1.0, seed=3
    ).sequences[:, 4]
    expected = logits.softmax(-1) * rows
    observed = torch.bincount(made, minlength=len(expected)).double()
    assert observed[MASK] == 0
    keep = expected >= 5  # the rest is pooled, as chi-square asks
    table = torch.stack([torch.cat([v[keep], v[~keep].sum()[None]]) for v in (observed, expected.double())])
    table = table[:, table[1] > 0]
    table[1] *= table[0].sum() / table[1].sum()
    assert stats.chisquare(*table.numpy()).pvalue > 1e-3


def test_schedule_covers_the_block() -> None:
    for length in range(1, 20):
        for steps in range(1, length + 1):
            policy = TopK(length, steps)
            counts = [policy.count(t) for t in range(steps)]
            assert sum(counts) == length
            assert sorted(counts, reverse=True) == counts
            assert [policy.left(t) for t in range(steps)] == [length - sum(counts[:t]) for t in range(steps)]


def test_training_mode_is_kept() -> None:
    model = tiny().train()
    generate(model, tokens(1, 4), decoder="topk", gen_length=4, block_length=4, steps=1)
    assert model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": "topp"}, "unknown decoder 'topp'"),
        ({"gen_length": 9}, "gen_length"),
        ({"steps": 3}, "steps"),
        ({"steps": 64}, "steps per block"),
        ({"temperature": -0.1}, "temperature"),
        ({"remasking": "most"}, "remasking"),
        ({"threshold": 0.9}, "threshold must be left at None, got 0.9: decoder 'topk' unmasks by count"),
        ({"factor": 1.0}, "factor must be left at None"),
        ({"wino_threshold": 0.7}, "wino_threshold must be left at 0.6"),
        ({"prompt_ids": torch.full((1, 4), 48)}, "prompt_ids must be in"),
        ({"prompt_ids": torch.full((1, 4), MASK)}, "mask token"),
        ({"prompt_ids": torch.zeros(4, dtype=torch.long)}, "prompt_ids"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "prompt_ids": tokens(1, 4),
        "decoder": "topk",
        "gen_length": 8,
        "block_length": 4,
        "steps": 4,
    }
    with pytest.raises(ValueError, match=message):
        generate(tiny(), **(good | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool])
def test_prompt_of_another_type_is_a_type_error(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="prompt_ids must be int64"):
        generate(tiny(), torch.zeros(1, 4, dtype=dtype), decoder="topk", gen_length=8, block_length=4, steps=4)
