"""The loss inside a plain PyTorch loop, on a model that dmpo does not know.

    python examples/plain_pytorch_loop.py

`WDCELoss` takes the logits of any module. What a loop of your own brings is here: a sampler, a log-probability, masked
views and an optimiser. The model below starts with random weights. The reward counts the tokens of one kind.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dmpo import WDCELoss, importance_weights
from dmpo.kernels import masked_token_logprobs

VOCAB, LENGTH, MASK = 8, 8, 0  # token 0 is the mask token
GROUP, REPLICATES = 16, 4  # completions of a group, masked views of each completion
FAVOURITE = 5


class Denoiser(nn.Module):
    """Logits [N, L, V] of every position, from tokens [N, L] some of which are masked."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.place = nn.Parameter(torch.randn(LENGTH, width) / width**0.5)
        self.block = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.embed(tokens) + self.place))
        return logits


@torch.no_grad()
def draw(model: nn.Module, rows: int, per_step: int = 2) -> Tensor:
    """Completions [B, L]: `per_step` masked positions at a time, in a random order for each row."""
    tokens, order = torch.full((rows, LENGTH), MASK), torch.rand(rows, LENGTH).argsort(-1)
    for positions in order.split(per_step, dim=-1):
        logits = model(tokens)
        logits[..., MASK] = -torch.inf  # the mask token is never drawn
        drawn = torch.distributions.Categorical(logits=logits).sample()
        tokens.scatter_(-1, positions, drawn.gather(-1, positions))
    return tokens


def random_views(rows: int) -> Tensor:
    """Masks [R · B, L], row = view · B + completion: a share of the positions, drawn anew for each view."""
    masked = torch.rand(REPLICATES * rows, LENGTH) < torch.empty(REPLICATES * rows, 1).uniform_(0.1, 0.9)
    masked[torch.arange(len(masked)), torch.randint(LENGTH, (len(masked),))] = True  # at least one position
    return masked


@torch.no_grad()
def log_prob(model: nn.Module, tokens: Tensor, masked: Tensor) -> Tensor:
    """Estimate of log p of each completion [B]: L times the mean of log p over masked tokens, mean over views."""
    targets = tokens.repeat(REPLICATES, 1)
    per_token = masked_token_logprobs(model(targets.masked_fill(masked, MASK)), targets, masked)  # 0 where not masked
    return LENGTH * (per_token.sum(-1) / masked.sum(-1)).view(REPLICATES, -1).mean(0)


def train(rounds: int = 25, gradient_steps: int = 2, alpha: float = 0.2) -> list[float]:
    """The mean reward of every round."""
    torch.manual_seed(0)
    model = Denoiser()
    reference = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    wdce = WDCELoss(baseline="negative", strength=1.0, replicates=REPLICATES)
    rewards_of_rounds: list[float] = []
    for _ in range(rounds):
        tokens = draw(model, GROUP)
        rewards = (tokens == FAVOURITE).float().mean(-1)  # [G]
        masked = random_views(GROUP)  # the same views under both models
        weights = importance_weights(
            rewards, log_prob(reference, tokens, masked), log_prob(model, tokens, masked), alpha=alpha
        )
        for _ in range(gradient_steps):
            masked, targets = random_views(GROUP), tokens.repeat(REPLICATES, 1)
            logits = model(targets.masked_fill(masked, MASK))
            wdce(logits, targets, masked, weights.positive, weights.negative).backward()
            optimizer.step()
            optimizer.zero_grad()
        rewards_of_rounds.append(rewards.mean().item())
    return rewards_of_rounds


if __name__ == "__main__":
    history = train()
    print(f"mean reward of the first 5 rounds {sum(history[:5]) / 5:.3f}, of the last 5 {sum(history[-5:]) / 5:.3f}")
