"""If these fail, log-ratios are wrong and every importance weight with them."""

from __future__ import annotations

import itertools

import pytest
import torch

from dmpo.likelihood import Completions, sequence_log_prob, token_entropy
from dmpo.masking import sample_views
from dmpo.policy import ReferencePolicy, add_lora
from tests.tiny_models import tiny, tokens

MASK, EOS = 3, 2


def completions(rows: int = 3, prompt: int = 5, length: int = 6) -> Completions:
    prompt_ids = tokens(rows, prompt, seed=1)
    made = tokens(rows, length, seed=2)
    return Completions(prompt_ids, torch.ones_like(prompt_ids).bool(), made, torch.ones_like(made).bool())


def plain_elbo(model: torch.nn.Module, rows: Completions, views: torch.Tensor) -> torch.Tensor:
    """Section 2, word for word: one view of one completion at a time, all logits."""
    count = len(rows)
    total = torch.zeros(count, dtype=torch.float64)
    replicates = len(views) // count
    for k, i in itertools.product(range(replicates), range(count)):
        mask = views[k * count + i]
        view = torch.where(mask, MASK, rows.tokens[i])
        with torch.no_grad():
            logits = model(torch.cat([rows.prompt_ids[i], view]).unsqueeze(0)).logits[0]
        log_p = logits[rows.prompt_ids.shape[1] :].double().log_softmax(-1)
        picked = log_p.gather(-1, rows.tokens[i].unsqueeze(-1)).squeeze(-1)
        total[i] += rows.eligible[i].sum() / mask.sum() * picked[mask].sum() / replicates
    return total


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_against_the_definition(batch_size: int) -> None:
    model, rows = tiny().double(), completions()
    rows.eligible[1, 3:] = False  # an EOS at position 2
    views = sample_views(rows.eligible, 4, key=0)
    got = sequence_log_prob(model, rows, views, mask_id=MASK, batch_size=batch_size)
    torch.testing.assert_close(got.double(), plain_elbo(model, rows, views), rtol=1e-6, atol=1e-6)


def test_left_padding_changes_nothing() -> None:
    model, rows = tiny(), completions()
    views = sample_views(rows.eligible, 2, key=0)
    pad = torch.full((3, 4), EOS)
    padded = Completions(
        torch.cat([pad, rows.prompt_ids], 1), torch.cat([pad < 0, rows.prompt_mask], 1), rows.tokens, rows.eligible
    )
    plain = sequence_log_prob(model, rows, views, mask_id=MASK, batch_size=8)
    torch.testing.assert_close(
        sequence_log_prob(model, padded, views, mask_id=MASK, batch_size=8), plain, rtol=1e-5, atol=1e-5
    )


def test_no_dropout_while_scoring() -> None:
    model = add_lora(tiny(), rank=2, alpha=4, dropout=0.5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    rows = completions()
    views = sample_views(rows.eligible, 2, key=0)
    model.train()
    first, second = (sequence_log_prob(model, rows, views, mask_id=MASK, batch_size=8) for _ in range(2))
    assert torch.equal(first, second)
    assert model.training


@pytest.mark.parametrize("lora", [False, True])
def test_reference_stays_where_the_policy_was(lora: bool) -> None:
    policy = add_lora(tiny(), rank=2, alpha=4, dropout=0.0) if lora else tiny()
    reference, rows = ReferencePolicy(policy), completions()
    views = sample_views(rows.eligible, 2, key=0)

    def score(model: torch.nn.Module) -> torch.Tensor:
        return sequence_log_prob(model, rows, views, mask_id=MASK, batch_size=8)

    start = score(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    with reference.active() as model:
        assert torch.equal(score(model), start)
    assert not torch.allclose(score(policy), start, atol=1e-2)


def test_entropy() -> None:
    model, rows = tiny(), completions()
    mask = rows.eligible
    with torch.no_grad():
        view = torch.cat([rows.prompt_ids, rows.tokens.masked_fill(mask, MASK)], 1)
        p = model(view).logits[:, 5:].double().softmax(-1)
    expected = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(token_entropy(model, rows, mask, mask_id=MASK).double(), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert token_entropy(model, rows, mask, mask_id=MASK).item() == pytest.approx(torch.tensor(48.0).log().item())
