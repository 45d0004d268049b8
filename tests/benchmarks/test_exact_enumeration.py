"""If these fail, the exact study measures another distribution than the policy's own."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from benchmarks.study.exact.enumeration import canvases, completions, conditionals, log_bound, log_distribution
from benchmarks.study.exact.instances import CONTENTS, LENGTH, MASK_ID, PROMPT, base_model, numbers
from dmpo.decoding import generate

CLOSE: dict[str, Any] = {"atol": 1e-12, "rtol": 1e-12}


def paths(of_tokens: Tensor, contents: int, length: int, completion: list[int]) -> Tensor:
    """log p of one completion in every order, by the definition: [length!]."""
    row_of = {tuple(canvas): row for row, canvas in enumerate(canvases(contents, length).tolist())}
    of_orders = []
    for order in permutations(range(length)):
        canvas, total = [contents] * length, torch.zeros((), dtype=torch.float64)
        for position in order:
            total = total + of_tokens[row_of[tuple(canvas)], position, completion[position]]
            canvas[position] = completion[position]
        of_orders.append(total)
    return torch.stack(of_orders)


def test_distribution_and_bound_are_the_means_over_all_orders() -> None:
    for contents, length in ((2, 3), (3, 2), (1, 1), (2, 4)):
        draw = torch.Generator().manual_seed(length)
        shape = (len(canvases(contents, length)), length, contents)
        of_tokens = torch.randn(shape, generator=draw, dtype=torch.float64).log_softmax(-1)
        orders = [paths(of_tokens, contents, length, row) for row in completions(contents, length).tolist()]
        expected = torch.stack([log_p.exp().mean().log() for log_p in orders])
        torch.testing.assert_close(log_distribution(of_tokens), expected, **CLOSE)
        torch.testing.assert_close(log_bound(of_tokens), torch.stack([log_p.mean() for log_p in orders]), **CLOSE)
        torch.testing.assert_close(expected.exp().sum(), torch.ones((), dtype=torch.float64), **CLOSE)


def test_random_order_draws_from_the_distribution() -> None:
    model = base_model()
    policy = log_distribution(conditionals(model, torch.tensor(PROMPT), CONTENTS, LENGTH)).exp()
    rows = 4096
    keys: dict[str, Any] = {"gen_length": LENGTH, "block_length": LENGTH, "steps": LENGTH, "early_stop": False}
    drawn = generate(
        model, torch.tensor(PROMPT).repeat(rows, 1), decoder="random_order", temperature=1.0, seed=5, **keys
    )
    tokens = drawn.sequences[:, len(PROMPT) :]
    assert not (tokens == MASK_ID).any()
    counts = torch.bincount(numbers(tokens), minlength=len(policy)).double()
    chi_squared = float(((counts - rows * policy).square() / (rows * policy)).sum())
    freedom = len(policy) - 1
    assert abs(chi_squared - freedom) < 5 * (2 * freedom) ** 0.5, chi_squared
