"""How long would a round of RL on LLaDA-8B, and each kernel, take on GPUs that are not at hand? A prediction.

    python -m benchmarks.predict        writes benchmarks/results/prediction.{json,md,png}; under a minute, no GPU

Counted bytes and FLOPs (`roofline_step`, `roofline_kernels`) over the peaks of data sheets (`roofline`). The answer
stands at the top of the Markdown. Run it again after `python -m benchmarks --only report`, whose counts it reads.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from benchmarks.roofline import BOUND, DEVICES, LIKELY
from benchmarks.roofline_count import time_of, total
from benchmarks.roofline_kernels import predicted
from benchmarks.roofline_model import Simulation
from benchmarks.roofline_report import draw, markdown
from benchmarks.roofline_step import APPROACHES, OURS_DDP, Approach, Stages, memory, round_of
from benchmarks.roofline_step import rollout as rollout_of
from benchmarks.roofline_step import score as score_of
from benchmarks.roofline_step import update as update_of
from benchmarks.setting import RESULTS, Load, Setting, header
from dmpo.config import DMPOConfig
from dmpo.config_files import load_config
from dmpo.decoding_options import Decoder

CONFIG, GPUS, PROMPT, LONG_PROMPT = "llada-8b-gsm8k", 8, 200, 512
REACHES = (LIKELY, BOUND)
# (decoder, tokens that a step unmasks in a block; more than the config's own is an assumption)
ROLLOUTS: tuple[tuple[Decoder, int], ...] = (("topk", 2), ("prefix_cache", 2), ("dual_cache", 2), ("dual_cache", 4))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers.*")
    results = predict()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "prediction.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "prediction.md").write_text(markdown(results))
    draw(results, RESULTS / "prediction.png")
    print(markdown(results))


def predict() -> dict[str, Any]:
    """Everything that prediction.json holds."""
    config = load_config(DMPOConfig, CONFIG)
    parts: list[dict[str, Any]] = []
    held: list[dict[str, Any]] = []

    @cache
    def counts(wide: bool, recomputed: bool) -> Simulation:
        return Simulation(replace(config, gradient_checkpointing=recomputed), wide_adapters=wide)

    for approach in APPROACHES:
        parts += _parts(counts(approach.wide_adapters, False), approach)
        held += _held(counts(approach.wide_adapters, False), approach)
        if approach == OURS_DDP:
            continue
        recomputed = counts(approach.wide_adapters, True)
        run = round_of(recomputed.config, gpus=GPUS, prompt=PROMPT)
        parts.append(_part(approach, "update", PROMPT, update_of(recomputed, run, approach), recomputed=True))
        size = memory(recomputed, run, approach)["update"]
        held.append({"approach": approach.name, "phase": "update", "recomputed": True, "bytes": size})
    keys = ["num_prompts", "num_generations", "gen_length", "block_length", "steps", "temperature", "replicates"]
    keys += ["score_views", "gradient_steps", "lora_r", "micro_batch_size", "rollout_batch_size", "dtype"]
    found = header(Setting(), "python -m benchmarks.predict", Load())
    return {
        "header": {key: found[key] for key in ("commit", "dirty", "date", "command", "versions")},
        "config": {"name": CONFIG, **{key: getattr(config, key) for key in keys}, "gpus": GPUS, "prompt": PROMPT},
        "devices": [asdict(device) for device in DEVICES],
        "reaches": [asdict(reach) for reach in REACHES],
        "parts": parts,
        "memory": held,
        "kernels": predicted(json.loads((RESULTS / "kernel_report.json").read_text())["meter"], REACHES),
    }


def _parts(counts: Simulation, approach: Approach) -> Iterator[dict[str, Any]]:
    """Phases of one round, and the rollout by other decoders and all of it at a longer prompt."""
    for prompt in (PROMPT,) if approach == OURS_DDP else (PROMPT, LONG_PROMPT):
        run = round_of(counts.config, gpus=GPUS, prompt=prompt)
        for decoder, tokens in ROLLOUTS if prompt == PROMPT else ROLLOUTS[:1]:
            stages = rollout_of(counts, replace(run, decoder=decoder, tokens_a_step=tokens), approach)
            yield _part(approach, "rollout", prompt, stages, decoder=decoder, tokens_a_step=tokens)
        yield _part(approach, "score", prompt, score_of(counts, run, approach))
        yield _part(approach, "update", prompt, update_of(counts, run, approach))


def _part(approach: Approach, phase: str, prompt: int, stages: Stages, **more: Any) -> dict[str, Any]:
    return {
        "approach": approach.name,
        "phase": phase,
        "prompt": prompt,
        **more,
        "stages": {
            name: {
                **total(ops),
                "seconds": {reach.name: {d.name: time_of(ops, d, reach) for d in DEVICES} for reach in REACHES},
            }
            for name, ops in stages.items()
        },
    }


def _held(counts: Simulation, approach: Approach) -> Iterator[dict[str, Any]]:
    run = round_of(counts.config, gpus=GPUS, prompt=PROMPT)
    for decoder in ("topk", "dual_cache"):
        sizes = memory(counts, replace(run, decoder=decoder), approach)
        yield {"approach": approach.name, "phase": "rollout", "decoder": decoder, "bytes": sizes["rollout"]}
    for phase in ("score", "update"):
        yield {"approach": approach.name, "phase": phase, "bytes": sizes[phase]}


if __name__ == "__main__":
    main()
