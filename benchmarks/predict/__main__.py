"""How long would a round of RL on LLaDA-8B, and each kernel, take on GPUs that are not at hand? A prediction.

    python -m benchmarks.predict        writes benchmarks/results/prediction.{json,md,png}; under a minute, no GPU

Counted bytes and FLOPs (rl_round.py, kernels.py) over the peaks of data sheets. Where benchmarks/results/ has results
of `python -m benchmarks.gpu`, also over the ceilings that it measured, with its figures beside the prediction
(beside_measured.py). The answer is at the top of the Markdown. Run this again after `python -m benchmarks --only
report`, whose counts it reads.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from benchmarks.gpu.measurements import Measurement, measurements
from benchmarks.harness.data_sheets import DEVICES, Device
from benchmarks.harness.provenance import RESULTS
from benchmarks.harness.setting import Load, Setting, header
from benchmarks.predict.beside_measured import compared, measured_reach
from benchmarks.predict.kernels import predicted
from benchmarks.predict.levers import DECODER, lever_times
from benchmarks.predict.llada_passes import Simulation
from benchmarks.predict.op_counts import Passes, host_time, time_of, together, total
from benchmarks.predict.plot import draw
from benchmarks.predict.report import markdown
from benchmarks.predict.rl_round import APPROACHES, OURS_DDP, Approach, Stages, memory, round_of
from benchmarks.predict.rl_round import rollout as rollout_of
from benchmarks.predict.rl_round import score as score_of
from benchmarks.predict.rl_round import update as update_of
from benchmarks.predict.roofline import BOUND, LIKELY, Attainable
from dmpo.config import DMPOConfig
from dmpo.config.decoding import Decoder
from dmpo.config.files import load_config

CONFIG, GPUS, PROMPT, LONG_PROMPT = "llada-8b-gsm8k", 8, 200, 512
REACHES = (LIKELY, BOUND)
Rates = Sequence[tuple[Attainable, Device]]  # what each device is taken to reach
ASSUMED: Rates = [(reach, device) for reach in REACHES for device in DEVICES]
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
    seen = measurements(RESULTS)

    @cache
    def counts(wide: bool, recomputed: bool, fp8: bool = False) -> Simulation:
        narrow: dict[str, Any] = {"fp8_rollouts": True, "fp8_training": True, "merge_adapters": False} if fp8 else {}
        return Simulation(replace(config, gradient_checkpointing=recomputed, **narrow), wide_adapters=wide)

    known = [(each, sheet, measured_reach(each, sheet, counts(True, False))) for each in seen if (sheet := each.sheet)]
    rates = [*ASSUMED, *((reach, sheet) for _, sheet, reach in known)]
    for approach in APPROACHES:
        parts += _parts(counts(approach.wide_adapters, False), approach, rates)
        held += _held(counts(approach.wide_adapters, False), approach)
        if approach == OURS_DDP:
            continue
        recomputed = counts(approach.wide_adapters, True)
        run = round_of(recomputed.config, gpus=GPUS, prompt=PROMPT)
        stages = update_of(recomputed, run, approach)
        parts.append(_part(approach, "update", PROMPT, stages, rates, recomputed=True))
        size = memory(recomputed, run, approach)["update"]
        held.append({"approach": approach.name, "phase": "update", "recomputed": True, "bytes": size})
    run = round_of(replace(config, decoder=DECODER), gpus=GPUS, prompt=PROMPT)
    levers = lever_times(lambda fp8: counts(False, False, fp8), run, rates)
    keys = ["num_prompts", "num_generations", "gen_length", "block_length", "steps", "temperature", "replicates"]
    keys += ["score_views", "gradient_steps", "lora_r", "micro_batch_size", "rollout_batch_size", "dtype"]
    found = header(Setting(), "python -m benchmarks.predict", Load())
    return {
        "header": {key: found[key] for key in ("commit", "dirty", "date", "command", "versions")},
        "config": {"name": CONFIG, **{key: getattr(config, key) for key in keys}, "gpus": GPUS, "prompt": PROMPT},
        "devices": [asdict(device) for device in DEVICES],
        "reaches": [asdict(reach) for reach in REACHES],
        "measured": [_measured(*each, counts(True, False)) for each in known],
        "without_data_sheet": [each.header["device"] for each in seen if each.sheet is None],
        "parts": parts,
        "memory": held,
        "levers": levers,
        "kernels": predicted(json.loads((RESULTS / "kernel_report.json").read_text())["meter"], REACHES),
    }


def _measured(seen: Measurement, device: Device, reach: Attainable, counts: Simulation) -> dict[str, Any]:
    """A device on which something was measured: its header, what it reaches, and figures beside predictions."""
    return {
        "device": device.name,
        "header": seen.header,
        "reach": asdict(reach),
        "figures": compared(seen, device, counts, (LIKELY, reach)),
    }


def _parts(counts: Simulation, approach: Approach, rates: Rates = ASSUMED) -> Iterator[dict[str, Any]]:
    """Phases of one round, and the rollout by other decoders and all of it at a longer prompt."""
    for prompt in (PROMPT,) if approach == OURS_DDP else (PROMPT, LONG_PROMPT):
        run = round_of(counts.config, gpus=GPUS, prompt=prompt)
        for decoder, tokens in ROLLOUTS if prompt == PROMPT else ROLLOUTS[:1]:
            stages = rollout_of(counts, replace(run, decoder=decoder, tokens_a_step=tokens), approach)
            yield _part(approach, "rollout", prompt, stages, rates, decoder=decoder, tokens_a_step=tokens)
        yield _part(approach, "score", prompt, score_of(counts, run, approach), rates)
        yield _part(approach, "update", prompt, update_of(counts, run, approach), rates)


def _part(approach: Approach, phase: str, prompt: int, stages: Stages, rates: Rates, **more: Any) -> dict[str, Any]:
    def times(passes: Passes) -> dict[str, dict[str, float]]:
        seconds: dict[str, dict[str, float]] = {}
        for reach, device in rates:
            seconds.setdefault(reach.name, {})[device.name] = time_of(passes, device, reach)
        return seconds

    return {
        "approach": approach.name,
        "phase": phase,
        "prompt": prompt,
        **more,
        "stages": {
            name: {
                **total(together(passes)),
                "host_seconds": host_time(together(passes), LIKELY),
                "seconds": times(passes),
            }
            for name, passes in stages.items()
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
