"""The exact distribution of a policy over all completions of a few tokens (docs/maths.md, section 4).

The policy is the one that `random_order` draws from: the mean over all orders of the product of conditionals.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from dmpo.models.last_layer import HeadRows
from dmpo.models.masked_lm import apply_head, without_dropout

Step = tuple[Tensor, Tensor, Tensor, Tensor]


@cache
def canvases(contents: int, length: int) -> Tensor:
    """All partly filled completions, int64 [(contents + 1)^length, length]; token `contents` stands for the mask.

    Row = the tokens as digits of a number, the first token the highest digit.
    """
    return torch.cartesian_prod(*[torch.arange(contents + 1)] * length).view(-1, length)


@cache
def completions(contents: int, length: int) -> Tensor:
    """All completions, int64 [contents^length, length], in the order of their rows in `canvases`."""
    table = canvases(contents, length)
    return table[(table < contents).all(-1)]


@cache
def _steps(contents: int, length: int) -> list[Step]:
    """For each number of tokens from 1: (canvas after, canvas before, position, token) of every way to fill it."""
    table = canvases(contents, length)
    filled = table < contents
    places = torch.tensor([(contents + 1) ** (length - 1 - position) for position in range(length)])
    steps = []
    for count in range(1, length + 1):
        after, position = (filled & (filled.sum(-1, keepdim=True) == count)).nonzero(as_tuple=True)
        token = table[after, position]
        steps.append((after, after + (contents - token) * places[position], position, token))
    return steps


@torch.no_grad()
def conditionals(model: nn.Module, prompt: Tensor, contents: int, length: int) -> Tensor:
    """log p(token at a position | canvas) of every canvas, float64 [canvases, length, contents].

    As in decoding, the mask token has no probability. One forward.

    Args:
        prompt: int64 [P].
        contents: tokens 0 to contents − 1 are drawn; the mask token has id `contents` and is the last one.
    """
    table = canvases(contents, length).to(prompt.device)
    input_ids = torch.cat([prompt.expand(len(table), -1), table], 1)
    positions = torch.arange(len(prompt), input_ids.shape[1], device=prompt.device)

    def log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(hidden, weight, bias)[..., :contents].double().log_softmax(-1)

    with without_dropout(model):
        return apply_head(model, log_probs, input_ids, None, rows=HeadRows(positions, None))


def log_distribution(of_tokens: Tensor) -> Tensor:
    """log p of every completion, float64 [contents^length]: the logarithm of the mean over orders.

    By dynamic programming over canvases: a canvas is reached from each canvas with one token less, which fills each of
    its masks next with the same chance.

    Args:
        of_tokens: `conditionals`.
    """
    count, length, contents = of_tokens.shape
    reached = of_tokens.new_full((count,), 1.0)
    for filled, (after, before, position, token) in enumerate(_steps(contents, length)):
        ways = reached[before] * of_tokens[before, position, token].exp() / (length - filled)
        reached = torch.where(torch.zeros(count).bool().index_fill(0, after, True), 0.0, reached)
        reached = reached.index_add(0, after, ways)
    full = (canvases(contents, length) < contents).all(-1)
    return reached[full].log()


def log_bound(of_tokens: Tensor) -> Tensor:
    """The ELBO of every completion, float64 [contents^length]: the mean over orders of the logarithm, exactly."""
    count, length, contents = of_tokens.shape
    bound = of_tokens.new_zeros(count)
    for filled, (after, before, position, token) in enumerate(_steps(contents, length)):
        # Of the tokens of a canvas each is as likely to have come last.
        bound = bound.index_add(0, after, (bound[before] + of_tokens[before, position, token]) / (filled + 1))
    full = (canvases(contents, length) < contents).all(-1)
    return bound[full]
