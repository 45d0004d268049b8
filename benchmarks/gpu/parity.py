"""Are the kernels right on this device, in every dtype and at odd shapes?

Every public op against its definition in float64, with inputs that nobody has seen (the seed is noted), in memory that
held NaN before. A check compares the largest error with the error of plain PyTorch in the same dtype. Draws are
compared with the definition one by one, and their frequencies by chi-square. Remasking is compared with the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.oracle import LEAST_P, Error, chi_square, draws_that_differ, error_of, value_and_gradients
from benchmarks.gpu.parity_problems import JOBS, STRENGTH, Problem, problem
from benchmarks.gpu.records import GpuSetting, Note
from dmpo import kernels
from dmpo.kernels import reference

DTYPES = (torch.bfloat16, torch.float32, torch.float16)
VOCABULARIES = (126464, 126463, 1003)  # LLaDA's; one that leaves no 16-byte loads; one that a single block holds
REHEARSED = (384, 383, 67)
LOGIT_ROUNDINGS, PRODUCT_ROUNDINGS = 3, 24  # the sums of a tensor core keep fewer bits than float32 does
FORBIDDEN = (3,)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New tensors that have not been written are NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def run(setting: GpuSetting, note: Note) -> None:
    generator = torch.Generator(setting.device).manual_seed(setting.seed)
    vocabularies = REHEARSED if setting.rehearse else VOCABULARIES
    note("seed of the inputs", seed=setting.seed, vocabularies=list(vocabularies))
    with poisoned_memory():
        empty = torch.empty(1000, device=setting.device)
        note("unwritten memory holds NaN", ok=bool(empty.isnan().all()))
        for dtype in DTYPES:
            problems = {vocab: problem(dtype, vocab, generator) for vocab in vocabularies}
            for name in JOBS:
                if setting.remaining() < 10:
                    note(f"{name}, {kind(dtype)}", skipped="no time left")
                    continue
                compare(name, dtype, problems, note)
            draw(dtype, problems, setting, note)
            entropies(dtype, problems, setting, note)
            problems.clear()
    hostile_rows(setting, generator, note)
    frequencies(setting, generator, note)
    remasking(setting, generator, note)


def kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def size_of_terms(p: Problem) -> float:
    """The sum of the absolute terms of a weighted loss: terms have either sign, so their sum may be small."""
    live = reference.masked_token_logprobs(p.logits.double(), p.targets, p.mask)
    return float((p.weights.abs() + STRENGTH * p.baseline.abs()).sum()) * float(live.abs().max())


def compare(name: str, dtype: torch.dtype, problems: dict[int, Problem], note: Note) -> None:
    """Value and gradients of one op for every vocabulary and, with a head, in one tile and in several."""
    job, has_products = JOBS[name]
    cases, failed, worst, where = 0, [], Error(0.0, 1.0), ""
    for vocab, p in problems.items():
        for limit in (None, 17 * 4 * vocab) if has_products else (None,):
            ours = value_and_gradients(*job(kernels, p, {"limit": limit}))
            plain, exact = (
                value_and_gradients(run, [leaf.to(wide) for leaf in leaves])
                for wide in (torch.float32, torch.float64)
                for run, leaves in [job(reference, p, {"wide": wide})]
            )
            roundings = PRODUCT_ROUNDINGS if has_products else LOGIT_ROUNDINGS
            names = ("value", "gradient", "gradient of the head", "gradient of the bias")
            for what, a, b, c in zip(names[: len(ours)], ours, plain, exact, strict=True):
                if has_products:
                    scale = float(p.head.double().abs().max()) * 8
                else:  # terms cancel in the sum of a weighted loss, and in no gradient
                    scale = size_of_terms(p) if what == "value" and name.startswith("weighted") else 1.0
                this = error_of(a, b, c, roundings, scale, has_products)
                case = f"V {vocab}, {'several pieces, ' if limit else ''}{what}"
                cases += 1
                if not this.error <= this.allowed:
                    failed.append(case)
                if not this.share <= worst.share:
                    worst, where = this, case
    note(
        f"{name}, {kind(dtype)}",
        ok=not failed,
        cases=cases,
        failed_cases=failed,
        nearest_to_its_bound=where,
        error=worst.error,
        allowed=worst.allowed,
    )


def draw(dtype: torch.dtype, problems: dict[int, Problem], setting: GpuSetting, note: Note) -> None:
    """Both samplers, draw by draw, at three temperatures, and the confidences that they report."""
    given: dict[str, Any] = {"seed": setting.seed, "forbid": FORBIDDEN}
    # Logits that a product makes on a GPU are rounded to the dtype.
    of_product = torch.finfo(dtype).eps if setting.device.type == "cuda" else 2.0**-20
    for temperature in (0.0, 0.2, 1.0):
        for op in ("sample_tokens", "linear_sample_tokens"):
            draws, differ, wrong, off = 0, 0, 0, 0.0
            for p in problems.values():
                if op == "sample_tokens":
                    exact = p.logits[p.mask].double()
                    ids, confidence = kernels.sample_tokens(p.logits[p.mask], temperature, **given)
                    error = 2.0**-18 if temperature else 0.0
                else:
                    exact = p.live[0].double() @ p.head.double().t()
                    ids, confidence = kernels.linear_sample_tokens(p.live[0], p.head, temperature, **given)
                    error = max(2.0**-18, of_product * float(exact.abs().max()))
                some, unexplained = draws_that_differ(ids, exact, temperature, setting.seed, FORBIDDEN, error)
                draws, differ, wrong = draws + len(ids), differ + some, wrong + unexplained
                exact[:, list(FORBIDDEN)] = -torch.inf
                probability = exact.softmax(-1).gather(1, ids.unsqueeze(1)).squeeze(1)
                # Logits that are off by e make a probability off by a factor of exp(2e) at most.
                allowed = probability * math.expm1(2 * error) + 2.0**-20
                off = max(off, float(((confidence.double() - probability).abs() / allowed).nan_to_num(torch.inf).max()))
            note(
                f"{op}, T {temperature:g}, {kind(dtype)}",
                ok=wrong == 0 and off <= 1,
                draws=draws,
                differ=differ,
                not_by_rounding=wrong,
                confidence_error_by_allowed=off,
            )


def entropies(dtype: torch.dtype, problems: dict[int, Problem], setting: GpuSetting, note: Note) -> None:
    """The draws that also report entropies: the same tokens as without, and the entropies of the definition."""
    given: dict[str, Any] = {"seed": setting.seed, "forbid": FORBIDDEN}
    of_product = torch.finfo(dtype).eps if setting.device.type == "cuda" else 2.0**-20
    for op in ("sample_tokens_with_entropy", "linear_sample_tokens_with_entropy"):
        other, off = 0, 0.0
        for p in problems.values():
            if op == "sample_tokens_with_entropy":
                exact, error = p.logits[p.mask].double(), 2.0**-18
                ids, _, entropy = kernels.sample_tokens_with_entropy(p.logits[p.mask], 1.0, **given)
                alone, _ = kernels.sample_tokens(p.logits[p.mask], 1.0, **given)
            else:
                exact = p.live[0].double() @ p.head.double().t()
                error = max(2.0**-18, of_product * float(exact.abs().max()))
                ids, _, entropy = kernels.linear_sample_tokens_with_entropy(p.live[0], p.head, 1.0, **given)
                alone, _ = kernels.linear_sample_tokens(p.live[0], p.head, 1.0, **given)
            other += int((ids != alone).sum())
            wanted = reference.row_entropy(exact, FORBIDDEN).double()
            # Logits that are off by e change log p by 2e and p by a factor of exp(2e) at most.
            allowed = math.expm1(2 * error) * (wanted + 1) + 2 * error + 2.0**-16 * (wanted + 1)
            off = max(off, float(((entropy.double() - wanted).abs() / allowed).nan_to_num(torch.inf).max()))
        note(f"{op}, {kind(dtype)}", ok=other == 0 and off <= 1, other_tokens=other, error_by_allowed=off)


def hostile_rows(setting: GpuSetting, generator: torch.Generator, note: Note) -> None:
    """Infinities, NaN and huge logits: the fault of a row stays in the row."""
    x = torch.randn(7, 4096, generator=generator, device=setting.device) * 1e3
    x[0], x[3], x[1, 5], x[2, 9], x[5, :4000] = -torch.inf, 1e4, torch.nan, torch.inf, -torch.inf
    for temperature in (0.0, 1.0):
        ids, confidence = kernels.sample_tokens(x, temperature, seed=setting.seed)
        wanted, exact = reference.sample_tokens(x.double(), temperature, seed=setting.seed)
        same = torch.equal(confidence.isnan(), exact.isnan()) and bool((ids == wanted)[[0, 1, 2, 3, 6]].all())
        error = float((confidence - exact).abs().nan_to_num(0.0)[ids == wanted].max())
        note(f"sample_tokens of infinities and NaN, T {temperature:g}", ok=same and error < 1e-5, error=error)
    targets = torch.zeros(1, 7, dtype=torch.int64, device=setting.device)
    ours, plain = (ops.masked_token_logprobs(x.unsqueeze(0), targets) for ops in (kernels, reference))
    ok = torch.equal(ours.isnan(), plain.isnan()) and torch.allclose(ours, plain, rtol=1e-5, atol=1e-3, equal_nan=True)
    note("masked_token_logprobs of infinities and NaN", ok=ok)


def frequencies(setting: GpuSetting, generator: torch.Generator, note: Note) -> None:
    """Many draws from one distribution. Rows share their logits, so the stride of a row is 0."""
    for vocab, draws in ((7, 1 << 12), (131, 1 << 13)) if setting.rehearse else ((1003, 1 << 18), (126464, 1 << 15)):
        logits = torch.randn(1, vocab, generator=generator, device=setting.device) * 3
        for temperature in (0.5, 1.0):
            rows = logits.expand(draws, -1)
            ids, _ = kernels.sample_tokens(rows, temperature, seed=setting.seed, forbid=FORBIDDEN)
            wanted = (logits[0].double() / temperature).softmax(-1)
            wanted[list(FORBIDDEN)] = 0.0
            p, degrees = chi_square(torch.bincount(ids, minlength=vocab), wanted)
            name = f"chi-square of sample_tokens, V {vocab}, T {temperature:g}"
            note(name, ok=p > LEAST_P, draws=draws, degrees=degrees, p_value=p)


def remasking(setting: GpuSetting, generator: torch.Generator, note: Note) -> None:
    """remask_ and revoke_ against their definitions on the CPU, with many equal confidences, NaN and infinities."""
    rows = 9
    counts = torch.arange(rows, device=setting.device)
    rules: dict[str, dict[str, Any]] = {
        "a count": {"num_transfer": 3},
        "counts": {"num_transfer": counts},
        "threshold": {"threshold": 0.8},
        "factor": {"factor": 2.0},
    }
    for rule, given in rules.items():
        wrong = []
        for length in (1, 31, 33, 300) if setting.rehearse else (1, 31, 33, 700, 4096):
            shape = (rows, length)
            confidence = (torch.rand(shape, generator=generator, device=setting.device) * 64).round() / 64
            confidence[1, 0], confidence[2, -1], confidence[3, 0] = torch.nan, torch.inf, -torch.inf
            tokens = torch.randint(0, 2, shape, generator=generator, device=setting.device) * 7
            tokens[4], tokens[5] = 7, 0
            candidates = torch.randint(1, 99, shape, generator=generator, device=setting.device)
            ours, plain = tokens.clone(), tokens.cpu()
            on_host: dict[str, Any] = {
                key: value.cpu() if isinstance(value, Tensor) else value for key, value in given.items()
            }
            moved = kernels.remask_(ours, candidates, confidence, mask_id=0, **given)
            wanted = reference.remask_(plain, candidates.cpu(), confidence.cpu(), mask_id=0, **on_host)
            same = torch.equal(ours.cpu(), plain) and torch.equal(moved.cpu(), wanted)
            limits: dict[str, Any] = {"mask_id": 0, "threshold": 0.5, "limit": 5}
            moved = kernels.revoke_(ours, confidence, **limits)
            wanted = reference.revoke_(plain, confidence.cpu(), **limits)
            if not (same and torch.equal(ours.cpu(), plain) and torch.equal(moved.cpu(), wanted)):
                wrong.append(length)
        note(f"remask_ by {rule}, then revoke_", ok=not wrong, wrong_lengths=wrong)
