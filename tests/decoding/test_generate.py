"""If these fail, draws do not follow the model, the schedule does not cover a block, or bad input is let through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from dmpo import generate
from dmpo.config import GenerateConfig
from dmpo.config.decoding import DecodingOptions
from dmpo.decoding.policies import Row, Schedule
from tests.tiny_models import tiny, tokens

pytestmark = pytest.mark.usefixtures("device")
MASK, EOS = 3, 2


def test_all_rows_ended_saves_forwards() -> None:
    model: Any = tiny()
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
    assert stats.chisquare(*table.cpu().numpy()).pvalue > 1e-3


def test_schedule_covers_the_block() -> None:
    for length in range(1, 20):
        for steps in range(1, length + 1):
            policy = Schedule(length, steps)
            counts = [policy.count(Row(0, length, step=t)) for t in range(steps)]
            assert sum(counts) == length
            assert sorted(counts, reverse=True) == counts


def test_training_mode_is_kept() -> None:
    model = tiny().train()
    generate(model, tokens(1, 4), decoder="topk", gen_length=4, block_length=4, steps=1)
    assert model.training
    model.model.norm.forward = None
    with pytest.raises(TypeError, match="NoneType"):
        generate(model, tokens(1, 4), decoder="topk", gen_length=4, block_length=4, steps=1)
    assert model.training


def good() -> dict[str, Any]:
    return {"prompt_ids": tokens(1, 4), "decoder": "topk", "gen_length": 8, "block_length": 4, "steps": 4}


@pytest.mark.cpu_only("the same checks run on a GPU")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": "topp"}, "unknown decoder 'topp'"),
        ({"gen_length": 9}, "gen_length"),
        ({"steps": 3}, "steps"),
        ({"steps": 64}, "steps per block"),
        ({"temperature": -0.1}, "temperature"),
        ({"remasking": "most"}, "remasking"),
        ({"temperature": float("inf")}, "temperature"),
        ({"threshold": 0.9}, "threshold must be left at None, got 0.9: it belongs to parallel"),
        ({"factor": 1.0}, "factor must be left at None"),
        ({"wino_threshold": 0.7}, "wino_threshold must be left at 0.6, got 0.7: it belongs to wino, not to 'topk'"),
        ({"decoder": "parallel", "threshold": 0.9, "factor": 1.0}, "threshold or factor, not both"),
        ({"decoder": "parallel", "threshold": float("nan")}, "threshold must be in"),
        ({"decoder": "dual_cache", "factor": -1.0}, "factor must be finite"),
        ({"decoder": "wino", "threshold": 0.9}, "threshold must be left at None"),
        ({"decoder": "wino", "wino_threshold_back": 2.0}, "wino_threshold_back must be in"),
        ({"decoder": "wino", "remasking": "random"}, "remasking must be low_confidence"),
        ({"decoder": "risk", "threshold": 1.5}, r"threshold must be in \[0, 1\], got 1.5"),
        ({"decoder": "risk", "factor": 1.0}, "factor must be left at None"),
        ({"decoder": "risk", "remasking": "random"}, "remasking must be low_confidence for 'risk'"),
        ({"decoder": "entropy", "entropy_bound": -1.0}, "entropy_bound must be finite and ≥ 0, got -1.0"),
        ({"decoder": "entropy", "threshold": 0.5}, "threshold must be left at None"),
        ({"decoder": "entropy", "remasking": "random"}, "remasking must be low_confidence for 'entropy'"),
        ({"decoder": "hierarchy", "low_threshold": -0.1}, r"low_threshold must be in \[0, 1\], got -0.1"),
        ({"decoder": "hierarchy", "threshold": 0.3}, "low_threshold must be at most threshold, got 0.4 and"),
        ({"decoder": "parallel", "low_threshold": 0.3}, "low_threshold must be left at 0.4.* belongs to hierarchy"),
        ({"cfg_scale": float("nan")}, "cfg_scale must be finite"),
        ({"attention_mask": torch.zeros(1, 4)}, "attention_mask has no token in row 0"),
        ({"row_ids": torch.zeros(2, dtype=torch.long)}, "row_ids must be int64"),
        ({"mask_id": 48}, r"mask_id must be in \[0, 48\), the vocabulary, got 48"),
        ({"eos_id": -1}, "eos_id must be in"),
        ({"eos_id": MASK}, "mask_id and eos_id must differ"),
        ({"temperature": 1e-40}, "temperature must be 0 or finite"),
        ({"prompt_ids": torch.full((1, 4), 48)}, "prompt_ids must be in"),
        ({"prompt_ids": torch.full((1, 4), MASK)}, "mask token"),
        ({"prompt_ids": torch.zeros(4, dtype=torch.long)}, "prompt_ids"),
        ({"attention_mask": torch.ones(1, 3)}, "attention_mask"),
        ({"attention_mask": torch.tensor([[0.0, -1e9, 0, 0]])}, "attention_mask must be 1 at the tokens of the prompt"),
        ({"attention_mask": torch.tensor([[0, 1, 2, 3]])}, "attention_mask must be 1 .* got 0 to 3"),
        ({"eos_id": [2, 48]}, r"eos_id must be in \[0, 48\), the vocabulary, got 48"),
        ({"eos_id": [2, MASK]}, "mask_id and eos_id must differ"),
        ({"eos_id": [], "early_stop": True}, "early_stop needs eos_id"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tiny(), **(good() | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bool])
def test_prompt_of_another_type_is_a_type_error(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="prompt_ids must be int64"):
        generate(tiny(), torch.zeros(1, 4, dtype=dtype), decoder="topk", gen_length=8, block_length=4, steps=4)


@pytest.mark.cpu_only("the same checks run on a GPU")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 8.0}, "steps must be an int, got 8.0"),
        ({"block_length": True}, "block_length must be an int"),
        ({"temperature": "1"}, "temperature must be a number"),
        ({"temperature": None}, "temperature must be a number"),
        ({"seed": 1.5}, "seed must be an int"),
        ({"early_stop": "no"}, "early_stop must be True or False"),
        ({"mask_id": 3.0}, "mask_id must be an int"),
        ({"eos_id": [2, "7"]}, "eos_id must be an int"),
        ({"prompt_ids": [[5, 6]]}, "prompt_ids must be a tensor"),
        ({"attention_mask": [[1, 1]]}, "attention_mask must be a tensor"),
    ],
)
def test_wrong_type_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        generate(tiny(), **(good() | change))


@pytest.mark.parametrize("decoder", ["topk", "parallel", "prefix_cache", "dual_cache", "wino", "random_order"])
def test_no_more_tokens_than_the_model_takes(decoder: Any) -> None:
    """Padding has no position of its own, so it does not count."""
    model, options = tiny(max_length=12), good() | {"decoder": decoder}
    assert generate(model, **options).sequences.shape == (1, 12)
    padded: dict[str, Any] = {"prompt_ids": tokens(1, 6), "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1]])}
    assert generate(model, **options | padded).sequences.shape == (1, 14)
    for longer in ({"prompt_ids": tokens(1, 5)}, padded | {"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]])}):
        with pytest.raises(ValueError, match=r"prompt_ids and gen_length are 5 \+ 8 tokens, the model takes 12"):
            generate(model, **options | longer)


def test_mask_token_may_be_padding() -> None:
    options: dict[str, Any] = {"decoder": "topk", "gen_length": 4, "block_length": 4, "steps": 4}
    prompt, mask = torch.tensor([[MASK, 7, 8]]), torch.tensor([[0, 1, 1]])
    plain = generate(tiny(), prompt[:, 1:], **options).sequences[:, 2:]
    assert torch.equal(generate(tiny(), prompt, attention_mask=mask, **options).sequences[:, 3:], plain)


def test_only_what_was_in_training_mode_goes_back_to_it() -> None:
    model = tiny().train()
    model.model.norm.eval()
    generate(model, tokens(1, 4), decoder="topk", gen_length=4, block_length=4, steps=1)
    assert model.training
    assert not model.model.norm.training


def test_options_as_an_object_a_config_or_by_name_are_the_same() -> None:
    keys: dict[str, Any] = {"decoder": "parallel", "gen_length": 8, "block_length": 4, "steps": 4, "threshold": 0.3}
    config = GenerateConfig(**keys, early_stop=False, temperature=0.7, seed=1)
    options = DecodingOptions(**keys, temperature=0.7, seed=1)
    by_name = generate(tiny(), tokens(3, 4), temperature=0.7, seed=1, **keys)
    for given in (options, config):
        made = generate(tiny(), tokens(3, 4), options=given)
        assert torch.equal(made.sequences, by_name.sequences)
    changed = generate(tiny(), tokens(3, 4), options, seed=2)
    assert torch.equal(changed.sequences, generate(tiny(), tokens(3, 4), temperature=0.7, seed=2, **keys).sequences)
    assert not torch.equal(changed.sequences, by_name.sequences)


@pytest.mark.cpu_only("the same checks run on a GPU")
def test_unknown_and_missing_options_are_named() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'treshold', did you mean 'threshold'"):
        generate(tiny(), **good(), treshold=0.5)
    with pytest.raises(TypeError, match="needs gen_length, steps: give them by name"):
        generate(tiny(), tokens(1, 4), decoder="topk", block_length=4)
    with pytest.raises(TypeError, match="options must be a DecodingOptions or a config, got dict"):
        generate(tiny(), tokens(1, 4), {"decoder": "topk"})  # type: ignore[arg-type]
