"""Does training on this device equal training on the CPU, and does a resumed run equal a run that never stopped?

Ten gradient steps on the embedded Sudoku model, in float32. The CPU runs beside them in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gpu.records import GpuSetting, Note
from dmpo import DMPOConfig, DMPOTrainer

FIRST_STEP = 1e-3  # relative: the first loss differs by rounding alone
SAME_RUN = 1e-4  # relative: a resumed run repeats what the whole run did


def settings(folder: Path, setting: GpuSetting, **changes: Any) -> DMPOConfig:
    """LoRA, a buffer of two rounds and a save in the middle, so that all of it is used."""
    steps = 2 if setting.rehearse else 10
    values: dict[str, Any] = {
        "model": "sudoku-tiny",
        "task": "sudoku4",
        "output_dir": str(folder),
        "dtype": "float32",
        "lora_r": 8,
        "lora_dropout": 0.0,
        "num_prompts": 2 if setting.rehearse else 8,
        "num_generations": 2 if setting.rehearse else 4,
        "replicates": 2,
        "score_views": 2,
        "gen_length": 16,
        "block_length": 16,
        "steps": 4,
        "temperature": 1.0,
        "max_prompt_length": 16,
        "buffer_rounds": 2,
        "max_steps": steps,
        "gradient_steps": 2,
        "learning_rate": 1e-4,
        "eval_steps": 0,
        "eval_prompts": 4,
        "save_steps": steps // 2,
        "seed": setting.seed % 1000,
    }
    return DMPOConfig(**(values | changes))


def run(setting: GpuSetting, note: Note) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        on_cpu = start_on_cpu(settings(folder / "cpu", setting), folder)
        begun = time.perf_counter()
        summary = DMPOTrainer(settings(folder / "whole", setting)).train()
        seconds = time.perf_counter() - begun
        losses = losses_of(folder / "whole")
        note(
            f"{len(losses)} steps, evaluation included",
            ok=all(loss is not None for loss in losses) and setting.device.type in str(summary["device"]),
            device=summary["device"],
            seconds=seconds,
            losses=losses,
        )
        first_half = settings(folder / "resumed", setting)
        first_half.max_steps //= 2
        DMPOTrainer(first_half).train()
        DMPOTrainer(settings(folder / "resumed", setting, resume=True)).train()
        difference = largest_difference(losses_of(folder / "resumed"), losses)
        note("a run that is saved and resumed", ok=difference <= SAME_RUN, largest_difference=difference)
        try:
            _, errors = on_cpu.communicate(timeout=max(1.0, setting.remaining() - 2))
        except subprocess.TimeoutExpired:
            on_cpu.kill()
            note("the same on the CPU", skipped="the CPU took too long")
            return
        if on_cpu.returncode:
            note("the same on the CPU", ok=False, fault=errors.strip()[-300:])
            return
        wanted = losses_of(folder / "cpu")
        first, all_steps = largest_difference(losses[:1], wanted[:1]), largest_difference(losses, wanted)
        values = {"first_step_difference": first, "largest_difference": all_steps, "losses": wanted}
        note("the same on the CPU", ok=first <= FIRST_STEP, **values)


def start_on_cpu(config: DMPOConfig, folder: Path) -> subprocess.Popen[str]:
    """`dmpo train` with the same settings in a process that sees no GPU."""
    file = folder / "cpu.yaml"
    file.write_text(yaml.safe_dump(asdict(config)))
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "dmpo", "train", str(file)]
    return subprocess.Popen(command, env=hidden, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def losses_of(folder: Path) -> list[float | None]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def largest_difference(ours: list[float | None], wanted: list[float | None]) -> float:
    """The largest difference of the losses of two runs, relative to the largest loss; infinite if any are missing."""
    if len(ours) != len(wanted) or None in ours or None in wanted:
        return float("inf")
    scale = max(abs(loss) for loss in wanted if loss is not None)
    return max(abs((a or 0.0) - (b or 0.0)) for a, b in zip(ours, wanted, strict=True)) / max(scale, 1e-12)
