"""If these fail, credits are not given, kept or read as CreditDecoding defines them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from dmpo import generate
from dmpo.config.decoding import DecodingOptions
from dmpo.decoding.credit import SLOTS, Credits, Plain
from tests import tiny_models
from tests.tiny_models import tokens

pytestmark = pytest.mark.usefixtures("device")
MASK, EOS = 3, 2
SHAPE: dict[str, Any] = {"gen_length": 12, "block_length": 6, "steps": 6, "decoder": "credit"}


def tiny(shift: int = 0) -> Any:
    model: Any = tiny_models.tiny(init_std=0.7)
    model.prediction_shift = shift
    return model.double()


def by_definition(
    model: Any, prompt: Tensor, threshold: float, alpha: float, gamma: float, beta: float
) -> tuple[list[int], list[int]]:
    """A row at temperature 0 with the credits of all tokens, and the steps at which its tokens were unmasked."""
    text = torch.cat([prompt, prompt.new_full((12,), MASK)])
    credits, order = torch.zeros(len(text), model.config.vocab_size, dtype=torch.float64), torch.full((12,), -1)
    for first in range(len(prompt), len(text), 6):
        while (text[first : first + 6] == MASK).any():
            logits = model(text.unsqueeze(0)).logits[0].double().cpu()
            logits[:, MASK] = -torch.inf
            at = [place for place in range(first, first + 6) if text[place] == MASK]
            for place in at:
                share, best = logits[place].softmax(-1).max(-1)
                credits[place] *= beta
                credits[place, best] += share**gamma
            sure, choice = (logits + alpha * credits.log1p()).softmax(-1).max(-1)
            most = max(at, key=lambda place: float(sure[place]))
            step = int(order.max()) + 1
            for place in at:
                if sure[place] >= threshold or place == most:
                    text[place], order[place - len(prompt)] = choice[place], step
    return text[len(prompt) :].tolist(), order.tolist()


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("rule", [(0.6, 0.7, 0.2, 0.8), (0.9, 3.0, 1.0, 1.0), (0.5, 1.0, 0.0, 0.3)])
def test_greedy_decoding_is_the_definition(shift: int, rule: tuple[float, ...]) -> None:
    model, prompts = tiny(shift), tokens(6, 5)
    keys = dict(zip(("threshold", "credit_alpha", "credit_gamma", "credit_beta"), rule, strict=True))
    made = generate(model, prompts, **SHAPE | keys)
    with torch.no_grad():
        expected = [by_definition(model, prompt.to(model.device), *rule) for prompt in prompts]
    assert made.sequences[:, 5:].tolist() == [text for text, _ in expected]
    assert made.order.tolist() == [order for _, order in expected]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_without_credit_it_is_parallel(temperature: float) -> None:
    model, prompts = tiny(), tokens(4, 5)
    options = SHAPE | {"temperature": temperature, "threshold": 0.4}
    made, plain = (
        generate(model, prompts, **options | keys) for keys in ({"credit_alpha": 0.0}, {"decoder": "parallel"})
    )
    assert torch.equal(made.sequences, plain.sequences)
    assert torch.equal(made.order, plain.order)
    torch.testing.assert_close(made.log_probs, plain.log_probs, rtol=1e-5, atol=1e-6)


def test_credit_saves_forwards() -> None:
    model, prompts = tiny(), tokens(16, 5)
    rule = SHAPE | {"threshold": 0.7}
    plain, credited = generate(model, prompts, **rule | {"decoder": "parallel"}), generate(model, prompts, **rule)
    assert credited.row_forwards < plain.row_forwards


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_a_draw_has_the_credited_distribution(temperature: float) -> None:
    """20,000 draws of one position beside the credited probabilities, each within five standard deviations."""
    torch.manual_seed(0)
    draws, vocab, alpha = 20_000, 9, 2.0
    weight, bias, hidden = torch.randn(vocab, 4), torch.randn(vocab), torch.randn(1, 4)
    logits = (hidden @ weight.T + bias)[0].double()
    given = Credits(draws, 1, alpha, 1.0, 1.0, torch.device("cpu"))
    given.ids[:, 0, :2], given.values[:, 0, :2] = torch.tensor([4, 7]), torch.tensor([3.0, 0.5])
    log_prob, best = logits.log_softmax(-1).max(-1)
    credits = torch.zeros(vocab, dtype=torch.float64)
    credits[4], credits[7] = 3.0, 0.5
    credits[best] += log_prob.exp()
    expected = logits + alpha * credits.log1p()
    plain = Plain(
        best.repeat(draws),
        log_prob.float().repeat(draws),
        torch.multinomial((logits / temperature).softmax(-1), draws, replacement=True),
        (logits / temperature).log_softmax(-1)[best].float().repeat(draws),
    )
    place = torch.arange(draws), torch.zeros(draws, dtype=torch.int64)
    uniform = torch.rand(draws, dtype=torch.float64)
    rows = hidden.expand(draws, -1)
    token, own, credited = given.draw(plain, rows, weight, bias, place, temperature, uniform)
    shares, counts = (expected / temperature).softmax(-1), torch.bincount(token, minlength=vocab)
    spread = (draws * shares * (1 - shares)).sqrt()
    assert ((counts - draws * shares).abs() <= 5 * spread + 1).all()
    torch.testing.assert_close(own.double(), logits.log_softmax(-1)[token], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(credited.double(), expected.softmax(-1)[token], rtol=1e-4, atol=1e-6)


def test_of_too_many_tokens_the_least_credited_is_forgotten() -> None:
    given = Credits(1, 1, 0.7, 0.0, 1.0, torch.device("cpu"))
    place = torch.tensor([0]), torch.tensor([0])
    rows, weight = torch.zeros(1, 2), torch.zeros(SLOTS + 2, 2)
    for token in [*range(SLOTS), *range(1, SLOTS), SLOTS]:  # token 0 leads once, the others twice, then a new one
        best = torch.tensor([token])
        plain = Plain(best, torch.tensor([0.5]).log(), best, None)
        given.draw(plain, rows, weight, None, place, 0.0, torch.zeros(1, dtype=torch.float64))
    assert sorted(given.ids.flatten().tolist()) == list(range(1, SLOTS + 1))
    assert sorted(given.values.flatten().tolist()) == [1.0, *[2.0] * (SLOTS - 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit_beta": 1.5}, "credit_beta must be in [0, 1], got 1.5"),
        ({"credit_alpha": -1.0}, "credit_alpha must be finite and ≥ 0, got -1.0"),
        ({"decoder": "topk", "credit_gamma": 0.5}, "it belongs to credit, not to 'topk'"),
        ({"remasking": "random"}, "remasking must be low_confidence for 'credit': it raises probabilities"),
    ],
)
def test_what_is_no_credit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DecodingOptions(**SHAPE | options)
