"""How much faster is `remask_` than the loop that published samplers run: `torch.topk` row by row?

    python -m benchmarks --only remask [--device cuda]

B = 64 rows of L = 1024 masked positions, float32, by number of transfers, by threshold and by factor; on a CPU with one
thread and with `--threads`. The loop masks the scores of a row, takes the top, and writes the chosen tokens; by
threshold and factor it sorts the row and cuts. Both start from a copy of the same tokens, which is not timed; the best
of many calls counts. If they choose different tokens, there are no figures.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.clock import gauge
from benchmarks.harness.markdown import table
from benchmarks.harness.setting import Setting, about
from dmpo.kernels import remask_

MASK = 99
TARGET = 10.0  # times faster
SHAPES = {"cpu": (64, 1024), "cuda": (64, 1024), "quick": (2, 64)}  # rows, length
BUDGETS = {"cpu": 0.5, "cuda": 0.2, "quick": 0.0}  # seconds for each figure


def by_row(tokens: Tensor, candidates: Tensor, confidence: Tensor, **rule: Any) -> None:
    """Row by row: the same choice as remask_ if no two confidences are equal."""
    for row in range(tokens.shape[0]):
        scores = torch.where(tokens[row] == MASK, confidence[row], float("-inf"))
        if "num_transfer" in rule:
            chosen = torch.topk(scores, rule["num_transfer"]).indices
        else:
            ranked, order = torch.sort(scores, descending=True)
            bound = rule.get("threshold")
            if bound is None:
                bound = 1 - rule["factor"] / torch.arange(2, scores.numel() + 2, device=scores.device)
            admitted = ranked >= bound
            admitted[0] = True
            chosen = order[admitted.long().cumprod(0).bool()]
        tokens[row, chosen] = candidates[row, chosen]


def rules(length: int) -> list[dict[str, Any]]:
    """1, 2, 4 … transfers up to half a row, a threshold and a factor."""
    transfers = [{"num_transfer": 2**n} for n in range(length.bit_length() - 1)]
    return [*transfers, {"threshold": 0.9}, {"factor": 1.0}]


def compare(rule: dict[str, Any], setting: Setting) -> dict[str, float]:
    """Microseconds of both, after making sure that they agree."""
    (rows, length), place, clock = SHAPES[setting.size], setting.place, gauge(setting)
    rng = torch.Generator().manual_seed(0)
    masks = torch.full((rows, length), MASK, device=place)
    candidates = torch.randint(0, MASK, (rows, length), generator=rng).to(place)
    permuted = torch.stack([torch.randperm(length, generator=rng) for _ in range(rows)])
    confidence = permuted.to(place).float() / length  # no ties
    tokens, expected = masks.clone(), masks.clone()
    by_row(expected, candidates, confidence, **rule)
    remask_(tokens, candidates, confidence, mask_id=MASK, **rule)
    if not torch.equal(tokens, expected):
        raise RuntimeError(f"remask_ and the loop choose differently: {rule}")

    jobs = (
        lambda: remask_(tokens, candidates, confidence, mask_id=MASK, **rule),
        lambda: by_row(tokens, candidates, confidence, **rule),
    )
    limits: dict[str, Any] = {"budget": BUDGETS[setting.size], "least": 5, "most": 100_000}
    best, best_loop = (min(clock.times(job, before=lambda: tokens.copy_(masks), **limits)) for job in jobs)
    return {"microseconds": best * 1e6, "loop_microseconds": best_loop * 1e6, "ratio": best_loop / best}


def measure(setting: Setting) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    rows, length = SHAPES[setting.size]
    counts = sorted({1, setting.threads}) if setting.device == "cpu" else [setting.threads]
    try:
        for threads in counts:
            torch.set_num_threads(threads)
            found += [{"threads": threads, **rule, **compare(rule, setting)} for rule in rules(length)]
    finally:
        setting.begin()
    least = min(row["ratio"] for row in found)
    return {"shape": {"rows": rows, "length": length}, "target": TARGET, "least_ratio": least, "rules": found}


def markdown(results: dict[str, Any]) -> str:
    least, shape = results["least_ratio"], results["shape"]
    answer = f"At least {least:.1f} times faster than the loop; target {results['target']:g}: "
    answer += "met." if least >= results["target"] else "MISSED."
    lines = [f"# Remasking {shape['rows']} rows of {shape['length']}, timed on {results['header']['device']}", ""]
    rows = []
    for row in results["rules"]:
        rule = next(f"{name} {row[name]:g}" for name in ("num_transfer", "threshold", "factor") if name in row)
        times = [f"{row['loop_microseconds']:.0f}", f"{row['microseconds']:.0f}", f"{row['ratio']:.1f}"]
        rows.append([str(row["threads"]), rule, *times])
    lines += [answer, "", about(results), "", table(["threads", "rule", "loop µs", "ours µs", "times faster"], rows)]
    return "\n".join(lines) + "\n"
