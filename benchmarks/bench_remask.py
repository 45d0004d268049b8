"""How much faster is `remask_` than the loop that published samplers run: `torch.topk` row by row?

B = 64 rows of L = 1024 masked positions, float32, by number of transfers, by threshold and by factor, with one thread
and two. The loop masks the scores of a row, takes the top, and writes the chosen tokens; by threshold and factor it
sorts the row and cuts. Both start from the same tokens, whose copy is not timed; the best of many calls counts. Ends
with the answer and writes benchmarks/results/remask-cpu.json.

    python -m benchmarks.bench_remask
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmpo.kernels import remask_

ROWS, LENGTH, MASK = 64, 1024, 99
TARGET = 10.0  # times faster
RULES: list[dict[str, Any]] = [{"num_transfer": 2**n} for n in range(10)] + [{"threshold": 0.9}, {"factor": 1.0}]
RESULTS = Path(__file__).parent / "results"


def by_row(tokens: Tensor, candidates: Tensor, confidence: Tensor, **rule: Any) -> None:
    """Row by row: the same choice as remask_ where no two confidences are equal."""
    for row in range(tokens.shape[0]):
        scores = torch.where(tokens[row] == MASK, confidence[row], float("-inf"))
        if "num_transfer" in rule:
            chosen = torch.topk(scores, rule["num_transfer"]).indices
        else:
            ranked, order = torch.sort(scores, descending=True)
            bound = rule.get("threshold")
            if bound is None:
                bound = 1 - rule["factor"] / torch.arange(2, scores.numel() + 2)
            admitted = ranked >= bound
            admitted[0] = True
            chosen = order[admitted.long().cumprod(0).bool()]
        tokens[row, chosen] = candidates[row, chosen]


def best_seconds(call: Callable[[], Any], prepare: Callable[[], Any], budget: float) -> float:
    """The best of the calls that fit into `budget` seconds, at least five."""
    best, calls, end = float("inf"), 0, time.perf_counter() + budget
    while calls < 5 or time.perf_counter() < end:
        prepare()
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def measure(rule: dict[str, Any], budget: float) -> dict[str, float]:
    """Microseconds of both, after making sure that they agree."""
    rng = torch.Generator().manual_seed(0)
    masks = torch.full((ROWS, LENGTH), MASK)
    candidates = torch.randint(0, MASK, (ROWS, LENGTH), generator=rng)
    confidence = torch.stack([torch.randperm(LENGTH, generator=rng) for _ in range(ROWS)]).float() / LENGTH  # no ties
    tokens, expected = masks.clone(), masks.clone()
    by_row(expected, candidates, confidence, **rule)
    remask_(tokens, candidates, confidence, mask_id=MASK, **rule)
    if not torch.equal(tokens, expected):
        raise SystemExit(f"remask_ and the loop choose differently: {rule}")

    def prepare() -> None:
        tokens.copy_(masks)

    ours = best_seconds(lambda: remask_(tokens, candidates, confidence, mask_id=MASK, **rule), prepare, budget)
    loop = best_seconds(lambda: by_row(tokens, candidates, confidence, **rule), prepare, budget)
    return {"microseconds": ours * 1e6, "loop_microseconds": loop * 1e6, "ratio": loop / ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found: list[dict[str, Any]] = []
    print(f"{'threads':>7}  {'rule':18} {'loop us':>9} {'ours us':>9} {'ratio':>7}")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for rule in RULES:
            row = measure(rule, options.seconds)
            found.append({"threads": threads, **rule, **row})
            ((name, value),) = rule.items()
            print(
                f"{threads:7}  {f'{name} {value}':18} {row['loop_microseconds']:9.0f} {row['microseconds']:9.0f} "
                f"{row['ratio']:7.1f}"
            )
    least = min(row["ratio"] for row in found)
    print(f"load average before the first call: {load:.1f} on {os.cpu_count()} cores")
    print(f"ours: at least {least:.1f} times faster; target {TARGET:g}: {'met' if least >= TARGET else 'MISSED'}")
    RESULTS.mkdir(exist_ok=True)
    about = {"device": platform.processor() or platform.machine(), "torch": torch.__version__}
    about |= {"load_average_before": round(load, 1), "cores": os.cpu_count()}
    shape = {"rows": ROWS, "length": LENGTH}
    result = {"shape": shape, **about, "target": TARGET, "least_ratio": least, "rules": found}
    (RESULTS / "remask-cpu.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
