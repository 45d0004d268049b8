"""The tasks of the exact study: one prompt, all completions listed, a reward for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dmpo.models import new_model
from dmpo.models.masked_lm import MaskedLM
from dmpo.objectives.step import ViewLoss, weighted_ce
from dmpo.rollouts.batch import Completions
from dmpo.rollouts.likelihood import apply_head_to_views
from dmpo.rollouts.masking import sample_views

from .enumeration import completions

CONTENTS, LENGTH = 4, 4
MASK_ID = CONTENTS  # tokens 0 to 3 are drawn; token 0 is the prompt, and no token ends a completion
PROMPT = (0,)
PRETRAINING_STEPS = 100
SPREAD = 0.3


@dataclass(frozen=True)
class Instance:
    """A reward for each completion, and the temperature of the target.

    rewards: float64 [256], in the order of `enumeration.completions`. modes: bool [256], the completions of which a
    policy should keep every one.
    """

    name: str
    rewards: Tensor
    alpha: float
    modes: Tensor

    def target(self, log_ref: Tensor) -> Tensor:
        """log p* of every completion, for the reference's log-probabilities; both float64 [256]."""
        return (log_ref + self.rewards / self.alpha).log_softmax(-1)

    def rewards_of(self, tokens: Tensor) -> Tensor:
        """Rewards [B] of completions, int64 [B, L]."""
        return self.rewards[numbers(tokens)]


def numbers(tokens: Tensor) -> Tensor:
    """The row in `enumeration.completions` of each completion; int64 [B, L] -> int64 [B]."""
    places = torch.tensor([CONTENTS ** (LENGTH - 1 - position) for position in range(LENGTH)])
    return (tokens * places).sum(-1)


def graded() -> Instance:
    """A reward of its own for every completion, drawn once from a normal distribution; its modes are the best 16."""
    draw = torch.Generator().manual_seed(7)
    rewards = 0.8 * torch.randn(CONTENTS**LENGTH, generator=draw, dtype=torch.float64)
    return Instance("graded", rewards, 0.5, rewards >= rewards.sort().values[-16])


def several_answers() -> Instance:
    """Eight right answers with reward 1, no two of which differ in fewer than three tokens; all others have 0."""
    table, chosen = completions(CONTENTS, LENGTH), list[int]()
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(3)).tolist()
    for index in order:
        if len(chosen) < 8 and all(int((table[index] != table[other]).sum()) >= 3 for other in chosen):
            chosen.append(index)
    right = torch.zeros(len(table)).bool().index_fill(0, torch.tensor(chosen), True)
    return Instance("answers", right.double(), 0.2, right)


def additive() -> Instance:
    """A sum of rewards of single tokens, drawn once: what a policy learns in seconds; its modes are the best 16."""
    draw = torch.Generator().manual_seed(7)
    of_tokens = 0.5 * torch.randn(LENGTH, CONTENTS, generator=draw, dtype=torch.float64)
    rewards = of_tokens[torch.arange(LENGTH), completions(CONTENTS, LENGTH)].sum(-1)
    return Instance("additive", rewards, 0.5, rewards >= rewards.sort().values[-16])


INSTANCES = {instance.name: instance for instance in (graded(), several_answers(), additive())}


@cache
def _base_weights(spread: float) -> dict[str, Tensor]:
    """Of a model that has learnt a distribution, as a user's base has: its orders agree, and it predicts no mask."""
    model: Any = _new_model()
    draw = torch.Generator().manual_seed(5)
    table = completions(CONTENTS, LENGTH)
    likely = (spread * torch.randn(len(table), generator=draw)).softmax(0)
    prompts = torch.tensor(PROMPT).expand(len(table), -1)
    rows = Completions(prompts, torch.ones_like(prompts).bool(), table, torch.ones_like(table).bool())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(PRETRAINING_STEPS):
        views = sample_views(rows.eligible, 2, key=step, rate_range=(0.0, 1.0))
        view_loss = weighted_ce(rows.repeat(2), views, likely.repeat(2))

        def head(hidden: Tensor, weight: Tensor, bias: Tensor | None, view_loss: ViewLoss = view_loss) -> Tensor:
            return view_loss(torch.arange(2 * len(table)), hidden, weight, bias)[0]

        apply_head_to_views(model, rows.repeat(2), views, MASK_ID, head).backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.eval().state_dict())


def base_model(spread: float = SPREAD) -> MaskedLM:
    """The reference, the same for every run: two layers, trained for seconds on completions of unequal probabilities.

    spread: standard deviation of the logarithms of these probabilities; the usual one is close to uniform.
    """
    model: Any = _new_model()
    model.load_state_dict(_base_weights(spread))
    return model


def _new_model() -> MaskedLM:
    return new_model(
        vocab_size=CONTENTS + 1,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        mlp_hidden_size=64,
        mask_id=MASK_ID,
        eos_id=0,
        max_length=8,
        init_std=0.1,
        seed=1,
    )
