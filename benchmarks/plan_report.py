"""Does LLaDA-8B with LoRA r=128 train within 40 GB a GPU in bfloat16, and within 24 GB with a 4-bit base?

    python -m benchmarks.plan_report        minutes; writes results/plan.json

4 views of 200 + 256 tokens at a time, all 32 blocks, in the simulation of `benchmarks.simulated_step`; beside it what
`dmpo plan` says of the same. On top of both come the CUDA context (1 GiB in the plan), the kernels' piece of logits
(256 MiB at most) and, on several GPUs, DDP's buckets: the gradient once more, 1.3 GB.

Answer: yes, with gradient_checkpointing 22.7 GB in bfloat16 and 12.4 GB in 4 bits; without it 4 views need 40.8 GB and
3 fit.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.simulated_step import llada_8b, resident, update_peak
from dmpo.config import DMPOConfig
from dmpo.plan import GB, plan
from dmpo.plan_ledger import CONTEXT

RESULTS = Path(__file__).parent / "results" / "plan.json"
CASES: list[tuple[dict[str, Any], int]] = [
    ({"gradient_checkpointing": True, "load_in_4bit": True}, 24),
    ({"gradient_checkpointing": True}, 40),
    ({"gradient_checkpointing": True, "micro_batch_size": 16, "num_generations": 8}, 40),
    ({"micro_batch_size": 3, "num_generations": 3, "replicates": 2}, 40),
    ({}, 40),
]


def main() -> None:
    rows = []
    print(f"{'':74} {'simulated':>9} {'planned':>8} {'limit':>6}   GB")
    for changes, limit in CASES:
        settings: dict[str, Any] = {"num_prompts": 1, "num_generations": 2, "micro_batch_size": 4} | changes
        config, model, start = DMPOConfig(model="", task="", output_dir="", **settings), llada_8b(), time.perf_counter()
        simulated = (resident(config, model) + update_peak(config, model)) / GB
        found = plan(config, model, memory=limit)
        planned = (found.peak("update") - CONTEXT["cuda"]) / GB
        name = ", ".join(f"{key}={value}" for key, value in changes.items()) or "as in the paper"
        print(f"{name:74} {simulated:9.2f} {planned:8.2f} {limit:6d}   {time.perf_counter() - start:.0f} s", flush=True)
        row = {"settings": changes, "simulated_gb": simulated, "planned_gb": planned, "limit_gb": limit}
        rows.append(row | {"largest_micro_batch_in_plan": found.largest})
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
