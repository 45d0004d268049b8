"""Does LLaDA-8B with LoRA r=128 train within 40 GB a GPU in bfloat16, and within 24 GB with a 4-bit base?

    python -m benchmarks --only plan        two minutes; needs no GPU

4 views of 200 + 256 tokens at a time, all 32 blocks, simulated by simulated_step.py; beside it the memory by `dmpo
plan`. To both must be added the CUDA context, the kernels' tile of logits and, on several GPUs, DDP's buckets, which
are the gradient once more. The column of 8 GPUs has all of it, and must be within the limit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.harness.markdown import table
from benchmarks.harness.provenance import packages_text, short_commit
from benchmarks.harness.setting import Setting
from benchmarks.memory.simulated_step import llada_8b, resident, update_peak
from dmpo.config import DMPOConfig
from dmpo.planning.ledger import CONTEXT
from dmpo.planning.plan import GB, plan

CASES: list[tuple[dict[str, Any], int]] = [
    ({}, 40),
    ({"micro_batch_size": 3, "num_generations": 3, "replicates": 2}, 40),
    ({"gradient_checkpointing": True}, 40),
    ({"gradient_checkpointing": True, "micro_batch_size": 16, "num_generations": 8}, 40),
    ({"gradient_checkpointing": True, "load_in_4bit": True}, 24),
]


def measure(setting: Setting) -> dict[str, Any]:
    """Every case, in GB of 1e9 bytes: simulated, planned of the same, planned for one of 8 GPUs with all that comes."""
    layers, runs = (2 if setting.quick else 32), []
    for changes, limit in CASES[:1] if setting.quick else CASES:
        settings: dict[str, Any] = {"num_prompts": 1, "num_generations": 2, "micro_batch_size": 4} | changes
        config, model = DMPOConfig(model="", task="", output_dir="", **settings), llada_8b(layers)
        alone = plan(config, model, memory=limit)
        one_of_8 = plan(replace(config, num_prompts=8), model, gpus=8, memory=limit)
        runs.append(
            {
                "changes": changes,
                "views": config.micro_batch_size,
                "simulated_gb": (resident(config, model) + update_peak(config, model)) / GB,
                "planned_gb": (alone.peak("update") - CONTEXT["cuda"]) / GB,
                "one_of_8_gpus_gb": one_of_8.peak("update") / GB,
                "limit_gb": limit,
            }
        )
    return {"layers": layers, "runs": runs}


def markdown(results: dict[str, Any]) -> str:
    """A line for each case."""
    head = [
        "LLaDA-8B, LoRA r = 128, 200 + 256 tokens; GB",
        "simulated step",
        "its plan",
        "one of 8 GPUs, all in",
        "limit",
    ]
    rows = []
    for run in results["runs"]:
        parts = ["4-bit base" if run["changes"].get("load_in_4bit") else "bfloat16", f"{run['views']} views at a time"]
        parts += ["gradient checkpointing"] if run["changes"].get("gradient_checkpointing") else []
        figures = (run["simulated_gb"], run["planned_gb"], run["one_of_8_gpus_gb"])
        verdict = f"{run['limit_gb']}: {'fits' if figures[-1] <= run['limit_gb'] else 'DOES NOT FIT'}"
        rows.append([", ".join(parts), *(f"{x:.1f}" for x in figures), verdict])
    found = results["header"]
    made = f"Simulated, {results['layers']} blocks; {packages_text(found, ['torch'])}, {found['date'][:10]}, "
    return f"{table(head, rows)}\n\n{made}commit {short_commit(found)}.\n"
