"""If these fail, a wrong kernel passes for a right one on a GPU, or a right one for a wrong one.

The checks of benchmarks.gpu.parity run on the CPU, on ops that are right, and on ops with one fault each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import oracle, parity, trainer
from benchmarks.gpu.oracle import LEAST_P, chi_square, draws_that_differ, error_of
from benchmarks.gpu.records import FileNote, GpuSetting
from dmpo import kernels
from dmpo.kernels import reference

CPU = torch.device("cpu")


def setting(seed: int = 1) -> GpuSetting:
    return GpuSetting(CPU, True, time.monotonic() + 600, seed)


@pytest.fixture
def note(tmp_path: Path) -> FileNote:
    return FileNote(tmp_path / "parity.jsonl", "parity")


@pytest.fixture
def problems() -> dict[int, parity.Problem]:
    generator = torch.Generator().manual_seed(3)
    return {67: parity.problem(torch.float32, 67, generator)}


def test_every_op_is_right_as_it_is(note: FileNote, problems: dict[int, parity.Problem]) -> None:
    with parity.poisoned_memory():
        assert torch.empty(5).isnan().all()
        for name in parity.JOBS:
            parity.compare(name, torch.float32, problems, note)
        parity.draw(torch.float32, problems, setting(), note)
        parity.entropies(torch.float32, problems, setting(), note)
    assert not torch.empty(5, dtype=torch.int64).eq(2**63 - 1).all()
    assert note.failed == []
    public = {name for name in kernels.__all__ if name != "reference"}
    covered = {name.split(",")[0] for name in parity.JOBS} | {
        f"{kind}sample_tokens{result}" for kind in ("", "linear_") for result in ("", "_with_entropy")
    }
    assert public - covered == {"remask_", "revoke_"}, "these two have a check of their own"


def shifted(function: Callable[..., Any], by: float) -> Callable[..., Any]:
    """A function whose first result is off by a little."""

    def run(*given: Any, **options: Any) -> Any:
        result = function(*given, **options)
        return (result[0] + by, *result[1:]) if isinstance(result, tuple) else result + by

    return run


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (1 + 1e-3)


@pytest.mark.parametrize("name", list(parity.JOBS))
def test_a_value_or_a_gradient_that_is_off_by_little_is_found(
    name: str, note: FileNote, problems: dict[int, parity.Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    op = name.split(",")[0]
    right = getattr(kernels, op)
    monkeypatch.setattr(kernels, op, shifted(right, 1e-3))
    parity.compare(name, torch.float32, problems, note)
    monkeypatch.setattr(kernels, op, lambda x, *given, **options: right(_ScaledGradient.apply(x), *given, **options))
    parity.compare(name, torch.float32, problems, Renamed(note, "gradient"))
    assert len(note.failed) == 2


class _ShiftedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient + 8e-6 * (gradient != 0)


@pytest.mark.parametrize("name", [name for name in parity.JOBS if name.startswith("weighted")])
def test_a_gradient_that_is_off_by_a_probability_of_a_large_vocabulary_is_found(
    name: str, note: FileNote, problems: dict[int, parity.Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 / 126464 is 8e-6: a wider bound would pass a gradient without most of its elements."""
    right = kernels.weighted_masked_ce
    monkeypatch.setattr(
        kernels, "weighted_masked_ce", lambda x, *given, **options: right(_ShiftedGradient.apply(x), *given, **options)
    )
    parity.compare(name, torch.float32, problems, note)
    assert len(note.failed) == 1


class Renamed:
    """A note whose names carry a word more."""

    def __init__(self, note: FileNote, word: str) -> None:
        self.note, self.word = note, word

    def __call__(self, name: str, *, ok: bool | None = None, **values: Any) -> None:
        self.note(f"{name}, {self.word}", ok=ok, **values)


def test_a_dead_row_whose_gradient_is_not_zero_is_found(
    note: FileNote, problems: dict[int, parity.Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = kernels.masked_token_logprobs
    monkeypatch.setattr(
        kernels, "masked_token_logprobs", lambda x, *given, **options: right(x, *given, **options) + 0 * x.sum()
    )
    parity.compare("masked_token_logprobs", torch.float32, problems, note)
    assert len(note.failed) == 1, "NaN of a dead row reaches the result"


def test_small_elements_of_a_half_precision_gradient_count() -> None:
    exact = torch.tensor([1.0, 1e-3, 1e-3], dtype=torch.float64)
    rounded = exact.to(torch.bfloat16)
    wrong = rounded.clone()
    wrong[1] *= 1.05
    assert error_of(rounded, exact.float(), exact, 3, 1.0, False).share <= 1
    assert error_of(wrong, exact.float(), exact, 3, 1.0, False).share > 1
    nan = rounded.clone()
    nan[2] = torch.nan
    assert error_of(nan, exact.float(), exact, 3, 1.0, False).share == float("inf")
    exact[2] = torch.nan
    assert error_of(rounded, exact.float(), exact, 3, 1.0, False).share == float("inf")
    assert error_of(nan, exact.float(), exact, 3, 1.0, False).share <= 1


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_draws_may_differ_by_rounding_and_by_nothing_else(temperature: float) -> None:
    logits = torch.randn(400, 50, generator=torch.Generator().manual_seed(2)) * 3
    ids, _ = reference.sample_tokens(logits.double(), temperature, seed=9, forbid=(3,))
    assert draws_that_differ(ids, logits, temperature, 9, (3,), 1e-6) == (0, 0)
    noisy = logits.double() + 1e-3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(4))
    other, _ = reference.sample_tokens(noisy, temperature, seed=9, forbid=(3,))
    error = float((noisy - logits).abs().max())
    assert draws_that_differ(other, logits, temperature, 9, (3,), error)[1] == 0
    if temperature == 0:
        equal = torch.ones(2, 5)
        assert draws_that_differ(torch.tensor([0, 1]), equal, 0.0, 9, (), 0.0) == (1, 1), "the first of equal logits"
        assert draws_that_differ(torch.tensor([0, 1]), equal, 0.0, 9, (), 1e-6) == (1, 0)
    another, _ = reference.sample_tokens(logits.double(), temperature, seed=10, forbid=(3,))
    wrong = ids.roll(1, 0) if temperature == 0 else another
    assert draws_that_differ(wrong, logits, temperature, 9, (3,), 1e-6)[1] > 40
    assert draws_that_differ(torch.full_like(ids, 3), logits, temperature, 9, (3,), 1e-6)[1] > 300, "forbidden"


def test_the_chi_square_of_right_counts_is_uniform_and_wrong_counts_have_none() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(30, generator=generator).double() ** 4
    probabilities[7] = 0
    values = []
    for _ in range(200):
        drawn = torch.multinomial(probabilities, 4096, replacement=True, generator=generator)
        values.append(chi_square(torch.bincount(drawn, minlength=30), probabilities)[0])
    assert min(values) > LEAST_P
    assert 0.4 < sum(values) / len(values) < 0.6
    wrong = probabilities.clone()
    wrong[:2] = wrong[:2].flip(0) + 0.1
    drawn = torch.multinomial(wrong, 4096, replacement=True, generator=generator)
    assert chi_square(torch.bincount(drawn, minlength=30), probabilities)[0] < LEAST_P
    drawn[0] = 7
    assert chi_square(torch.bincount(drawn, minlength=30), probabilities) == (0.0, 0)


def test_a_confidence_that_is_off_by_little_is_found(
    note: FileNote, problems: dict[int, parity.Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sample_tokens", "linear_sample_tokens"):
        right = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, confident(right))
    parity.draw(torch.float32, problems, setting(), note)
    assert len(note.failed) == 6


@pytest.mark.parametrize(("tokens_off", "factor"), [(0, 1.001), (1, 1.0)])
def test_an_entropy_that_is_off_by_little_or_another_draw_is_found(
    note: FileNote, problems: dict[int, parity.Problem], monkeypatch: pytest.MonkeyPatch, tokens_off: int, factor: float
) -> None:
    right = kernels.sample_tokens_with_entropy

    def wrong(*given: Any, **options: Any) -> Any:
        ids, confidence, entropy = right(*given, **options)
        return ids + tokens_off, confidence, entropy * factor

    monkeypatch.setattr(kernels, "sample_tokens_with_entropy", wrong)
    parity.entropies(torch.float32, problems, setting(), note)
    assert len(note.failed) == 1


def confident(function: Callable[..., Any]) -> Callable[..., Any]:
    """A sampler that overstates its confidence."""

    def run(*given: Any, **options: Any) -> Any:
        ids, confidence = function(*given, **options)
        return ids, confidence * (1 + 1e-3)

    return run


def biased(logits: Tensor, temperature: float, **options: Any) -> tuple[Tensor, Tensor]:
    return reference.sample_tokens(logits, temperature * 1.2 if temperature else 0.0, **options)


def test_a_biased_sampler_fails_the_draws_and_the_frequencies(
    note: FileNote, problems: dict[int, parity.Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    parity.frequencies(setting(), generator, note)
    assert note.failed == []
    monkeypatch.setattr(kernels, "sample_tokens", biased)
    parity.draw(torch.float32, problems, setting(), note)
    assert note.failed == ["sample_tokens, T 0.2, float32", "sample_tokens, T 1, float32"]
    note.names.clear()
    parity.frequencies(setting(), generator, note)
    assert len(note.failed) >= 2 + 3


def test_remasking_that_breaks_ties_the_other_way_fails(note: FileNote, monkeypatch: pytest.MonkeyPatch) -> None:
    right = kernels.remask_

    def from_the_end(tokens: Tensor, candidates: Tensor, confidence: Tensor, **rule: Any) -> Tensor:
        flipped = tokens.flip(1)
        moved = right(flipped, candidates.flip(1), confidence.flip(1), **rule)
        tokens.copy_(flipped.flip(1))
        return moved

    generator = torch.Generator().manual_seed(1)
    parity.remasking(setting(), generator, note)
    assert note.failed == []
    note.names.clear()
    monkeypatch.setattr(kernels, "remask_", from_the_end)
    parity.remasking(setting(), generator, note)
    assert [name.split(",")[0] for name in note.failed] == [
        "remask_ by a count",
        "remask_ by counts",
        "remask_ by factor",
    ]


def test_a_fault_of_a_hostile_row_that_spreads_is_found(note: FileNote, monkeypatch: pytest.MonkeyPatch) -> None:
    parity.hostile_rows(setting(), torch.Generator().manual_seed(1), note)
    assert note.failed == []
    note.names.clear()
    right = kernels.sample_tokens

    def spread(logits: Tensor, temperature: float, **options: Any) -> tuple[Tensor, Tensor]:
        ids, confidence = right(logits, temperature, **options)
        return ids, confidence + 0 * confidence[0]

    monkeypatch.setattr(kernels, "sample_tokens", spread)
    parity.hostile_rows(setting(), torch.Generator().manual_seed(1), note)
    assert len(note.failed) == 2


def test_losses_of_runs_are_compared_step_by_step() -> None:
    assert trainer.largest_difference([1.0, -2.0], [1.0, -2.0]) == 0
    assert trainer.largest_difference([1.0, -2.1], [1.0, -2.0]) == pytest.approx(0.05)
    others: list[list[float | None]] = [[1.0], [1.0, None], []]
    for ours in others:
        assert trainer.largest_difference(ours, [1.0, -2.0]) == float("inf")


def test_the_upstream_gradient_differs_by_element() -> None:
    value, gradient = oracle.value_and_gradients(lambda x: 2 * x, [torch.ones(5)])
    assert value.tolist() == [2.0] * 5
    assert gradient.tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]
