"""If these fail, the benchmark's baseline is not the published decoders, and its ratios mean nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from scipy import stats

from benchmarks.baselines.decoders import DECODERS, Rule, choose, published_generate
from dmpo import generate, load_model
from tests.decoding.golden_runs import GOLDEN, OPTIONS
from tests.tiny_models import DATA, tiny, tokens

pytestmark = pytest.mark.usefixtures("device")
MASK = GOLDEN["mask_id"]
SOUND = [run for run in GOLDEN["runs"] if not run["fragile"]]
FRAGILE = [run for run in GOLDEN["runs"] if run["fragile"]]
SHAPE: dict[str, Any] = {"gen_length": 12, "block_length": 4, "steps": 6}


@pytest.fixture(scope="module")
def checkpoint() -> Any:
    return load_model(DATA / GOLDEN["checkpoint"], dtype="float32")


@pytest.fixture
def golden_model(checkpoint: Any, device: torch.device) -> Any:
    return checkpoint.to(device)


def repeat(model: Any, run: dict[str, Any]) -> tuple[list[list[int]], int]:
    options = {name: run[name] for name in OPTIONS}
    sequences, forwards = published_generate(model, torch.tensor(run["prompt"]), mask_id=MASK, **options)
    return sequences[:, run["prompt_length"] :].tolist(), forwards


@pytest.mark.parametrize("decoder", DECODERS)
def test_recorded_runs_are_token_exact_in_as_many_forwards(golden_model: Any, decoder: str) -> None:
    runs = [run for run in SOUND if run["decoder"] == decoder]
    assert runs
    for run in runs:
        assert repeat(golden_model, run) == (run["output"], run["forwards"]), {name: run[name] for name in OPTIONS}


def test_fragile_runs_are_reported(golden_model: Any) -> None:
    """Weight noise of 1e-6 flips these: how many agree is printed; that they end without a mask is checked."""
    agree: Counter[str] = Counter()
    for run in FRAGILE:
        output, forwards = repeat(golden_model, run)
        agree[run["decoder"]] += (output, forwards) == (run["output"], run["forwards"])
        assert not any(MASK in row for row in output)
    print(f"fragile runs: {len(FRAGILE)} of {len(GOLDEN['runs'])}; {agree.total()} agree {dict(agree)}")
    assert len(FRAGILE) == 2


@pytest.mark.parametrize(
    "case",
    [
        {"decoder": "topk"},
        {"decoder": "topk", "cfg_scale": 0.5},
        {"decoder": "parallel", "factor": 1.0, "cfg_scale": 0.5},
        *({"decoder": name} for name in ("parallel", "prefix_cache", "dual_cache")),
        *({"decoder": name, "factor": 1.0} for name in ("parallel", "prefix_cache", "dual_cache")),
        *({"decoder": name, "threshold": 0.5} for name in ("parallel", "prefix_cache", "dual_cache")),
        {"decoder": "wino", "wino_threshold": 0.3, "wino_threshold_back": 0.6},
    ],
    ids=lambda case: "-".join(map(str, case.values())),
)
def test_dmpo_makes_the_same_tokens_in_no_more_forwards(case: dict[str, Any]) -> None:
    """Beside the recorded runs: another model, batch and schedule, and `factor`, of which none is recorded.

    dmpo takes the mask token out of the softmax, not of the draw alone; the published decoders get such logits here.
    """
    model, prompts = tiny(init_std=0.35), tokens(6, 9, seed=3)

    def without_mask(*args: Any, **kwargs: Any) -> Any:
        output = model(*args, **kwargs)
        output.logits[..., MASK] = -1e4  # finite: guidance subtracts
        return output

    expected, forwards = published_generate(without_mask, prompts, mask_id=MASK, **SHAPE, **case)
    assert not (expected[:, 9:] == MASK).any()
    ours = generate(model, prompts, **SHAPE, **case)
    assert torch.equal(ours.sequences, expected)
    assert ours.forwards <= forwards


@pytest.mark.parametrize(
    ("factor", "expected"), [(0.5, [1, 1, 1]), (0.7, [2, 1, 1]), (0.9, [3, 1, 1]), (1.1, [4, 1, 1]), (3.0, [4, 2, 1])]
)
def test_factor_takes_the_longest_prefix_of_each_row(factor: float, expected: list[int]) -> None:
    """The n-th needs 1 − factor/(n + 1): factor 0.6, 0.8 and 1 for 0.8, 2.43 for a second 0.19."""
    confidence = torch.tensor([[0.8, 0.99, 0.9, 0.8, 0.8], [0.1, 0.19, 0.2, 0.99, 0.15], [0.9, 0.9, 0.9, 0.9, 0.3]])
    candidates = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 1, 0, 1], [0, 0, 0, 0, 1]]).bool()
    chosen = choose(confidence, candidates, torch.ones(3, dtype=torch.long), Rule(None, factor, 0.6, 0.9))
    assert chosen.sum(1).tolist() == expected
    assert not (chosen & ~candidates).any()
    best = torch.where(candidates, confidence, -1).argmax(1)
    assert chosen.gather(1, best.unsqueeze(1)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_follow_the_tempered_model(temperature: float) -> None:
    """Chi-square of one position, filled in one step, against softmax(logits / T)."""
    model, prompt, rows = tiny(), tokens(1, 4), 20_000
    logits = model(torch.cat([prompt, torch.full((1, 1), MASK)], 1)).logits[0, -1].detach().double()
    options: dict[str, Any] = {"decoder": "topk", "gen_length": 1, "block_length": 1, "steps": 1, "seed": 1}
    drawn, _ = published_generate(model, prompt.expand(rows, -1), temperature=temperature, mask_id=MASK, **options)
    expected = (logits / temperature).softmax(-1) * rows
    observed = torch.bincount(drawn[:, -1], minlength=len(expected)).double()
    rare = expected < 5  # pooled, as chi-square asks
    table = torch.stack([torch.cat([x[~rare], x[rare].sum()[None]]) for x in (observed, expected)])
    assert stats.chisquare(*table[:, table[1] > 0].cpu().numpy()).pvalue > 1e-3


@pytest.mark.parametrize("decoder", DECODERS)
def test_seed_decides_the_draws(decoder: str) -> None:
    model, prompts = tiny(), tokens(2, 5)
    made = [
        published_generate(model, prompts, decoder=decoder, temperature=1.0, mask_id=MASK, seed=seed, **SHAPE)[0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    if decoder != "topk":
        assert not (made[0] == MASK).any()


@pytest.mark.parametrize(
    ("change", "message"), [({"decoder": "topp"}, "unknown decoder"), ({"cfg_scale": 0.5}, "cfg_scale must be 0")]
)
def test_what_is_not_published_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        published_generate(tiny(), tokens(1, 4), **{"decoder": "wino"} | SHAPE | change, mask_id=MASK)
