"""If these fail, the study of views measures against a wrong log p, or its table says other than its records."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.study.exact.instances import CONTENTS, LENGTH, MASK_ID, PROMPT
from benchmarks.study.views.command import BASE, WAYS, main, measure
from benchmarks.study.views.subjects import MarkovChain, Subject, four_tokens
from dmpo import sequence_log_prob
from dmpo.models import new_model
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.masking import WeightedViews
from tests.view_worlds import beside_every_set


def every_mask(length: int) -> torch.Tensor:
    return (torch.arange(1, 2**length).unsqueeze(1) >> torch.arange(length) & 1).bool()


def test_log_p_of_a_chain_is_that_of_its_joint_distribution() -> None:
    """5 tokens of 3 states: every set of masks, against sums over the joint distribution."""
    chain, masks = MarkovChain.drawn(5, 3, 4), every_mask(5)
    joint = chain.start
    for _ in range(4):
        joint = joint.unsqueeze(-1) * chain.step
    for row, tokens in enumerate(chain.tokens.tolist()):
        wanted = beside_every_set(joint, tokens)[1:] * masks
        torch.testing.assert_close(chain.log_probs(masks, torch.full((31,), row)), wanted, rtol=1e-10, atol=1e-10)


def test_the_elbo_of_four_tokens_is_the_mean_over_all_masks() -> None:
    """By the package's own score of each mask."""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "mlp_hidden_size": 16, "max_length": 8}
    model: Any = new_model(vocab_size=CONTENTS + 1, mask_id=MASK_ID, eos_id=0, init_std=0.5, seed=1, **sizes)
    tokens, masks = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1]]), every_mask(LENGTH)
    subject, row_ids = four_tokens("two", model, tokens), torch.arange(2).repeat(len(masks))
    prompts = torch.tensor(PROMPT).expand(2, -1)
    rows = Completions(prompts, torch.ones_like(prompts).bool(), tokens, subject.eligible).repeat(len(masks))
    views = masks.repeat_interleave(2, 0)
    scores = sequence_log_prob(model, rows, views, mask_id=MASK_ID, batch_size=30).double()
    torch.testing.assert_close(subject.estimates(WeightedViews(views, None), row_ids, 1), scores, rtol=1e-5, atol=1e-5)
    of_masks, number = scores.view(len(masks), 2), masks.sum(-1)
    elbo = torch.stack([of_masks[number == m].mean(0) for m in range(1, LENGTH + 1)]).mean(0)
    torch.testing.assert_close(subject.elbo, elbo, rtol=1e-5, atol=1e-5)


def numbers(name: str, estimates: int) -> Subject:
    """A subject whose log p is said to be the number of masked positions, of which the laws are known."""
    eligible = torch.ones(3, 4).bool()

    def number(views: WeightedViews, row_ids: Tensor, replicates: int) -> Tensor:
        return views.masks.sum(-1).double().view(replicates, -1).mean(0)

    return Subject(name, eligible, torch.full((3,), 2.0).double(), number, estimates)


def test_a_record_is_that_of_its_draws() -> None:
    records = {record["way"]: record for record in measure(numbers("numbers", 4000), [2])}
    assert list(records) == list(WAYS)
    strata = records["strata of the number"]  # one of {1, 2}, one of {3, 4}: 2 · 0.25 / 4
    assert strata["variance"] == pytest.approx(0.125, rel=0.05)
    assert strata["bias"] == pytest.approx(0.5, abs=0.02)
    assert strata["rmse"] == pytest.approx((0.125 + 0.25) ** 0.5, rel=0.05)
    assert strata["ratio"] == pytest.approx(0.125 / records[BASE]["variance"], rel=0.05)
    assert records["pairs, 0.1 to 0.9 (the default)"]["variance"] == 0, "complements have 4 masks together"


def test_a_subject_is_measured_again_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ["--results", str(tmp_path)]
    assert main([*words, "--report"]) == 2
    assert "run the command without --report first" in capsys.readouterr().err
    small = {name: partial(numbers, name, 8) for name in ("one", "two")}
    monkeypatch.setattr("benchmarks.study.views.command.subjects", lambda: small)
    with monkeypatch.context() as no_plot:
        no_plot.setattr("benchmarks.study.views.command.write", lambda *_: None)
        assert main(words) == 0
    before = json.loads((tmp_path / "records.json").read_text())
    assert [record["subject"] for record in before] == ["one"] * 24 + ["two"] * 24
    assert main([*words, "--subjects", "one"]) == 0
    assert json.loads((tmp_path / "records.json").read_text()) == before
    assert (tmp_path / "views.png").exists()
    page = (tmp_path / "views.md").read_text()
    assert page.count("\n## ") == 2
    assert f"| {BASE} | 2 | {before[0]['variance']:.3g} | 1.00 [1.00, 1.00] |" in page
