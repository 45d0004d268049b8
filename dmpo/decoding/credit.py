"""Credits of tokens that were the most probable at earlier steps (CreditDecoding, arXiv 2510.06133).

At every step a masked position with probabilities p gives credit to its most probable token, C ← β·C + p^γ·[the most
probable], and the logits become l + α·log(1 + C). So a token that has led for some steps is sure sooner.

No logits of all tokens are built. With x = l/T and ω = (1 + C)^(α/T) the credited distribution has the mass e^x·ω at a
credited token and e^x at the others: it is the plain one, of mass Z = Σ e^x, and the mass e^x·(ω − 1) more at the few
credited tokens. So a draw from it is the plain draw with probability Z / (Z + Σ e^x·(ω − 1)), and else one of the
credited tokens; its best token is a credited one, because the plain best has just been given credit. The logits of
credited tokens are products of their rows of the head alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SLOTS = 8  # credited tokens of a position; of more, the one of least credit is forgotten


@dataclass(frozen=True)
class Plain:
    """What the model says at M masked positions, without credits.

    best: int64 [M], its most probable tokens. log_prob: float32 [M], their log-probabilities; tempered: float32 [M],
    the same at the temperature, None at temperature 0. drawn: int64 [M], its draw.
    """

    best: Tensor
    log_prob: Tensor
    drawn: Tensor
    tempered: Tensor | None


class Credits:
    """The credited tokens of every position of B completions of G tokens.

    ids: int64 [B, G, SLOTS], -1 where a slot is free; values: float32 [B, G, SLOTS], 0 there.
    """

    def __init__(self, batch: int, length: int, alpha: float, gamma: float, beta: float, device: torch.device) -> None:
        self.alpha, self.gamma, self.beta = alpha, gamma, beta
        self.ids = torch.full((batch, length, SLOTS), -1, dtype=torch.int64, device=device)
        self.values = torch.zeros(batch, length, SLOTS, device=device)

    def draw(
        self,
        plain: Plain,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        place: tuple[Tensor, Tensor],
        temperature: float,
        uniform: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give credit, and draw from the credited distribution.

        rows: [M, H], the hidden states. place: int64 [M] each, row of the batch and position in the completion.
        uniform: float64 [M] in [0, 1). Returns token int64, its plain log-probability and its credited probability
        float32, [M] each; both untempered.
        """
        ids, values = self._given(plain, place)
        logits = _logits(rows, weight, bias, ids).masked_fill(ids < 0, -torch.inf)  # [M, SLOTS]
        best = _logits(rows, weight, bias, plain.best.unsqueeze(1))[:, 0]
        total = best - plain.log_prob  # log Σ e^l
        gains = self.alpha * values.log1p()
        if plain.tempered is None:
            token = ids.gather(1, (logits + gains).argmax(1, keepdim=True))[:, 0]
        else:
            shares = (logits / temperature - (best / temperature - plain.tempered).unsqueeze(1)).double().exp()
            slot = _slot(shares * (gains.double() / temperature).expm1(), uniform)
            token = torch.where(slot < 0, plain.drawn, ids.gather(1, slot.clamp(min=0).unsqueeze(1))[:, 0])
        chosen = ids == token.unsqueeze(1)
        gain = (gains * chosen).sum(1)
        log_prob = _logits(rows, weight, bias, token.unsqueeze(1))[:, 0] - total
        more = (logits - total.unsqueeze(1)).exp() * gains.expm1()
        return token, log_prob, (log_prob + gain - more.sum(1).log1p()).exp()

    def _given(self, plain: Plain, place: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Credit for the best tokens: the slots of the positions afterwards, [M, SLOTS] each."""
        ids, values = self.ids[place], self.values[place] * self.beta
        best = plain.best.unsqueeze(1)
        known = ids == best
        least = torch.zeros_like(known).scatter(1, values.argmin(1, keepdim=True), True)
        slot = torch.where(known.any(1, keepdim=True), known, least)
        values = torch.where(slot & ~known, 0.0, values) + slot * (plain.log_prob * self.gamma).exp().unsqueeze(1)
        ids = torch.where(slot, best, ids)
        self.ids[place], self.values[place] = ids, values
        return ids, values


def _slot(more: Tensor, uniform: Tensor) -> Tensor:
    """A slot by its mass, or -1 for the plain distribution, whose mass is 1: float64 [M, SLOTS], [M] -> int64 [M]."""
    ends = more.cumsum(1)
    at = uniform * (1 + ends[:, -1]) - 1
    slot = (ends <= at.unsqueeze(1)).sum(1).clamp(max=SLOTS - 1)
    return torch.where(at < 0, -1, slot)


def _logits(rows: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor) -> Tensor:
    """Logits of a few tokens of each row: [M, H] and int64 [M, K] -> float32 [M, K]."""
    wanted = ids.clamp(min=0)
    logits = torch.einsum("mh,mkh->mk", rows.float(), weight[wanted].float())
    return logits if bias is None else logits + bias[wanted].float()
