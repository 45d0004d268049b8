"""If these fail, log-ratios are wrong and every importance weight with them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from dmpo import Generation, generate
from dmpo.models.lora import add_lora
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import ENTROPY_ROWS, ordered_log_probs, sequence_log_prob, token_entropy
from dmpo.rollouts.masking import sample_views
from dmpo.rollouts.policy import ReferencePolicy
from tests.tiny_models import tiny, tokens

MASK, EOS = 3, 2


def completions(rows: int = 3, prompt: int = 5, length: int = 6) -> Completions:
    prompt_ids = tokens(rows, prompt, seed=1)
    drawn = tokens(rows, length, seed=2)
    return Completions(prompt_ids, torch.ones_like(prompt_ids).bool(), drawn, torch.ones_like(drawn).bool())


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


@pytest.mark.parametrize("mask", [[1, 1, 1, 0, 0], [0, 1, 0, 1, 1]])
def test_padding_elsewhere_is_refused(mask: list[int]) -> None:
    rows = completions()
    prompt_mask = rows.prompt_mask.clone()
    prompt_mask[1] = torch.tensor(mask).bool()
    padded = Completions(rows.prompt_ids, prompt_mask, rows.tokens, rows.eligible)
    views = sample_views(rows.eligible, 2, key=0)
    with pytest.raises(ValueError, match=r"prompt_mask must be left padding .* in row 1"):
        sequence_log_prob(tiny(), padded, views, mask_id=MASK, batch_size=8)
    order = torch.arange(rows.tokens.shape[1]).expand_as(rows.tokens)
    with pytest.raises(ValueError, match=r"prompt_mask must be left padding .* in row 1"):
        ordered_log_probs(tiny(), padded, order, mask_id=MASK, batch_size=8)


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
    model, rows = tiny(), completions(7)
    mask = rows.eligible
    assert ENTROPY_ROWS < mask.sum() < 256, "else there is one chunk of logits alone, or some tokens are left out"
    with torch.no_grad():
        view = torch.cat([rows.prompt_ids, rows.tokens.masked_fill(mask, MASK)], 1)
        p = model(view).logits[:, 5:].double().softmax(-1)
    expected = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(token_entropy(model, rows, mask, mask_id=MASK).double(), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert token_entropy(model, rows, mask, mask_id=MASK).item() == pytest.approx(torch.tensor(48.0).log().item())


def plain_path(model: torch.nn.Module, rows: Completions, order: torch.Tensor) -> torch.Tensor:
    """One token at a time, all logits: everything drawn before it is seen, the mask token is impossible."""
    total = torch.zeros(order.shape, dtype=torch.float64)
    for i, j in (order >= 0).nonzero().tolist():
        seen = (order[i] >= 0) & (order[i] < order[i, j])
        view = torch.where(seen, rows.tokens[i], MASK)
        with torch.no_grad():
            logits = model(torch.cat([rows.prompt_ids[i], view]).unsqueeze(0)).logits[0, rows.prompt_ids.shape[1] + j]
        logits[MASK] = -float("inf")
        total[i, j] = logits.double().log_softmax(-1)[rows.tokens[i, j]]
    return total


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_order_against_the_definition(batch_size: int, bias: bool) -> None:
    """Several tokens a step, steps that kept nothing, tokens never drawn, and a row without any."""
    model, rows = tiny(), completions()
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(48, generator=torch.Generator().manual_seed(0)))
    model.double()
    order = torch.tensor([[0, 3, 0, -1, 1, 3], [5, 4, 3, 2, 1, 0], [-1] * 6], dtype=torch.int32)
    got = ordered_log_probs(model, rows, order, mask_id=MASK, batch_size=batch_size)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), plain_path(model, rows, order), rtol=1e-6, atol=1e-6)
    assert (got[order < 0] == 0).all()
    assert not ordered_log_probs(model, rows, order.fill_(-1), mask_id=MASK, batch_size=batch_size).any()


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_paths_of_an_order_sum_to_one(order: list[int]) -> None:
    vocab = 8
    drawn = torch.tensor([pair for pair in itertools.product(range(vocab), repeat=2) if MASK not in pair])
    prompt_ids = tokens(1, 4, vocab_size=vocab).expand(len(drawn), -1)
    rows = Completions(prompt_ids, torch.ones_like(prompt_ids).bool(), drawn, torch.ones_like(drawn).bool())
    model = tiny(vocab_size=vocab).double()
    path = ordered_log_probs(model, rows, torch.tensor([order]).expand_as(drawn), mask_id=MASK, batch_size=16).sum(-1)
    assert path.double().exp().sum().item() == pytest.approx(1, abs=1e-6)


def drawn(model: Any, **options: Any) -> tuple[Generation, Completions]:
    """Half of the rows are left-padded."""
    prompt_ids = tokens(6, 7, vocab_size=12, seed=1)
    prompt_mask = torch.ones_like(prompt_ids).bool()
    prompt_mask[::2, :3] = False
    sizes: dict[str, Any] = {"gen_length": 8, "block_length": 4, "steps": 4}
    generation = generate(model, prompt_ids, attention_mask=prompt_mask, **(sizes | options))
    drawn = generation.sequences[:, 7:]
    return generation, Completions(prompt_ids, prompt_mask, drawn, torch.ones_like(drawn).bool())


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("options", "exact"),
    [
        ({"decoder": "topk"}, True),
        ({"decoder": "parallel", "threshold": 0.2}, True),
        ({"decoder": "random_order"}, True),
        ({"decoder": "prefix_cache"}, False),
        ({"decoder": "dual_cache"}, False),
    ],
    ids=lambda value: value["decoder"] if isinstance(value, dict) else "",
)
def test_order_gives_back_what_was_recorded(options: dict[str, Any], exact: bool, temperature: float) -> None:
    """A decoder that sees the whole canvas drew from these log-probabilities; one with a cache did not."""
    generation, rows = drawn(tiny(vocab_size=12), temperature=temperature, **options)
    single, double = (
        ordered_log_probs(model, rows, generation.order, mask_id=MASK, batch_size=5)
        for model in (tiny(vocab_size=12), tiny(vocab_size=12).double())
    )
    rounding = (single - double).abs().max()
    assert 0 < rounding < 1e-5
    off = (generation.log_probs - double).abs().max()
    assert off <= 4 * rounding if exact else off > 1e4 * rounding
    if options["decoder"] == "parallel":
        assert (generation.order.amax(1) < 7).any(), "no step of it drew two tokens"


def test_order_of_another_shape() -> None:
    rows = completions()
    with pytest.raises(ValueError, match=r"order has shape \(3, 5\), the tokens \(3, 6\)"):
        ordered_log_probs(tiny(), rows, torch.zeros(3, 5, dtype=torch.int32), mask_id=MASK, batch_size=2)
