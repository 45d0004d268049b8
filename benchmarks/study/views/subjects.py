"""Whose log p is estimated: trained models with their completions, and a Markov chain with exact conditionals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from benchmarks.study.decoders.measure import Subject as EmbeddedModel
from benchmarks.study.exact.instances import CONTENTS, LENGTH, MASK_ID, PROMPT, base_model, several_answers
from benchmarks.study.exact.training import Run
from dmpo import DMPOConfig, sequence_log_prob
from dmpo.config import load_config
from dmpo.losses.views import mean_log_prob
from dmpo.models.masked_lm import MaskedLM, special_ids
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import masked_log_probs
from dmpo.rollouts.masking import WeightedViews, completion_mask, sample_views
from dmpo.rollouts.rollout import complete

Estimates = Callable[[WeightedViews, Tensor, int], Tensor]
REFERENCE_VIEWS, BATCH = 1024, 2048


@dataclass(frozen=True)
class Subject:
    """Completions with their ELBOs.

    eligible: bool [B, L]. elbo: float64 [B], nats. estimates: (views, row ids int64 [N], R) → float64 [N], the
    estimates of N rows, of which row n is completion n mod B. number: estimates of each completion in the study.
    """

    name: str
    eligible: Tensor
    elbo: Tensor
    estimates: Estimates
    number: int


def four_tokens(name: str, model: MaskedLM, tokens: Tensor) -> Subject:
    """Completions of the exact study's models: all masks of 4 tokens in a table, so the ELBO is exact."""
    prompts = torch.tensor(PROMPT).expand(len(tokens), -1)
    every = torch.ones_like(tokens).bool()
    rows = Completions(prompts, torch.ones_like(prompts).bool(), tokens, every)
    masks = (torch.arange(2**LENGTH).unsqueeze(1) >> torch.arange(LENGTH) & 1).bool()  # [16, L]
    each = masks.repeat_interleave(len(tokens), 0)
    log_probs = masked_log_probs(model, rows.repeat(len(masks)), each, each, MASK_ID).double()
    log_probs, number = log_probs.view(len(masks), -1, LENGTH), masks.sum(-1)
    of_mask = LENGTH * log_probs.sum(-1) / number.clamp(min=1).unsqueeze(1)  # [16, B]
    elbo = torch.stack([of_mask[number == m].mean(0) for m in range(1, LENGTH + 1)]).mean(0)

    def estimates(views: WeightedViews, row_ids: Tensor, replicates: int) -> Tensor:
        code = (views.masks.long() << torch.arange(LENGTH)).sum(-1)
        row = row_ids.repeat(replicates) % len(tokens)
        return mean_log_prob(log_probs[code, row], views.masks, LENGTH, replicates, views.weights)

    return Subject(name, every, elbo, estimates, 2000)


def of_base() -> Subject:
    """The reference of the exact study, whose tokens know little of each other, and completions that it draws."""
    return four_tokens("4 tokens, base", base_model(), _drawn(base_model()))


def of_trained() -> Subject:
    """The same model after DMPO for eight right answers: a token tells much of the others."""
    run = Run(several_answers(), {"num_generations": 256, "learning_rate": 3e-3})
    run.train(150)
    return four_tokens("4 tokens, trained", run.model, _drawn(run.model))


def _drawn(model: MaskedLM) -> Tensor:
    """256 completions of a model of the exact study, int64 [256, 4]."""
    config = Run(several_answers(), {}).config
    prompts = torch.tensor(PROMPT).expand(256, -1)
    row_ids, options = torch.arange(256), {"temperature": 1.0, "steps": LENGTH, "seed": 3}
    drawn = complete(model, prompts, torch.ones_like(prompts).bool(), row_ids, config, **options)  # type: ignore[arg-type]
    assert int(drawn.sequences.max()) < CONTENTS
    return drawn.sequences[:, len(PROMPT) :]


def of_embedded(name: str, completions: int = 16) -> Subject:
    """Completions of an embedded model for held-out rows, one token a step at temperature 1."""
    config = load_config(DMPOConfig, name, ["early_stop=false"] if name == "sudoku-tiny" else [])
    model_on_rows = EmbeddedModel(config, "cpu", completions, 0, 0)
    prompts, mask = model_on_rows.prompts
    model: Any = model_on_rows.model
    mask_id, eos_ids = special_ids(model)
    drawn = complete(
        model, prompts, mask, torch.arange(len(prompts)), config, temperature=1.0, steps=config.gen_length, seed=1
    )
    tokens = drawn.sequences[:, prompts.shape[1] :]
    eligible = completion_mask(tokens, eos_ids if config.truncate_at_eos else ())
    rows = Completions(prompts, mask, tokens, eligible)

    def estimates(views: WeightedViews, row_ids: Tensor, replicates: int) -> Tensor:
        repeated = rows.repeat(len(row_ids) // len(rows))
        options: dict[str, Any] = {"mask_id": mask_id, "batch_size": BATCH, "view_weights": views.weights}
        return sequence_log_prob(model, repeated, views.masks, **options).double()

    return Subject(name, eligible, _by_many_views(eligible, estimates), estimates, 64)


@dataclass(frozen=True)
class MarkovChain:
    """Rows of a stationary Markov chain. start: float64 [S]. step: float64 [S, S]. tokens: int64 [B, L]."""

    start: Tensor
    step: Tensor
    tokens: Tensor

    @classmethod
    def drawn(cls, length: int, states: int, completions: int) -> MarkovChain:
        draw = torch.Generator().manual_seed(2)
        step = (2.5 * torch.randn(states, states, generator=draw, dtype=torch.float64)).softmax(-1)
        start = torch.linalg.matrix_power(step, 4096)[0]  # stationary
        tokens = torch.multinomial(start.expand(completions, -1), 1, generator=draw)
        while tokens.shape[1] < length:
            following = torch.multinomial(step[tokens[:, -1]], 1, generator=draw)
            tokens = torch.cat([tokens, following], 1)
        return cls(start, step, tokens)

    def log_probs(self, masks: Tensor, rows: Tensor) -> Tensor:
        """log p of each masked token of these rows beside those that are shown, 0 elsewhere; float64 [N, L].

        It depends on the nearest shown state on either side: P^a[left, x] · P^b[x, right] / P^(a+b)[left, right].
        masks: bool [N, L]. rows: int64 [N].
        """
        of_rows, length, powers = self.tokens[rows], masks.shape[1], self._powers
        column = torch.arange(length)
        left = torch.where(masks, -1, column).cummax(-1).values
        right = torch.where(masks, length, column).flip(-1).cummin(-1).values.flip(-1)
        before, after = (of_rows.gather(1, side.clamp(0, length - 1)) for side in (left, right))
        has_left, has_right = left >= 0, right < length
        to_left = torch.where(has_left, powers[column - left.clamp(min=0), before, of_rows], self.start[of_rows])
        to_right = torch.where(has_right, powers[right - column, of_rows, after], 1.0)
        across = torch.where(has_left, powers[right - left.clamp(min=0), before, after], self.start[after])
        return (to_left * to_right / torch.where(has_right, across, 1.0)).log().masked_fill(~masks, 0.0)

    @cached_property
    def _powers(self) -> Tensor:
        """P^0 to P^L, [L + 1, S, S]."""
        powers = [torch.eye(len(self.start), dtype=torch.float64)]
        for _ in range(self.tokens.shape[1]):
            powers.append(powers[-1] @ self.step)
        return torch.stack(powers)


def of_chain(length: int = 60, states: int = 8, completions: int = 32) -> Subject:
    """Completions longer than those of the models here, from a chain."""
    chain = MarkovChain.drawn(length, states, completions)

    def estimates(views: WeightedViews, row_ids: Tensor, replicates: int) -> Tensor:
        log_probs = chain.log_probs(views.masks, row_ids.repeat(replicates) % completions)
        return mean_log_prob(log_probs, views.masks, length, replicates, views.weights)

    eligible = torch.ones_like(chain.tokens).bool()
    return Subject("Markov chain", eligible, _by_many_views(eligible, estimates), estimates, 400)


def _by_many_views(eligible: Tensor, estimates: Estimates) -> Tensor:
    """The ELBO from so many stratified views that its own error is small; float64 [B]."""
    row_ids = torch.arange(len(eligible))
    views = sample_views(eligible, REFERENCE_VIEWS, key=-1, row_ids=row_ids, rates="stratified", antithetic=False)
    return estimates(WeightedViews(views, None), row_ids, REFERENCE_VIEWS)


@cache
def subjects() -> dict[str, Callable[[], Subject]]:
    """By name; each is built when it is called."""
    return {
        "4 tokens, base": of_base,
        "4 tokens, trained": of_trained,
        "countdown-tiny": lambda: of_embedded("countdown-tiny"),
        "sudoku-tiny": lambda: of_embedded("sudoku-tiny"),
        "Markov chain": of_chain,
    }
