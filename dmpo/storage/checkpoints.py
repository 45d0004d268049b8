"""Finding the checkpoints of a run: all, the newest whole one, the best one by the validation split. No torch here."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from .json_lines import JsonLines
from .whole_files import damage

log = logging.getLogger("dmpo")

CHECKPOINTS = "checkpoints"  # in the folder of a run
CONFIG = "config.yaml"  # in the folder of a run, with its keys
STATE, OPTIMIZER, REFERENCE = "trainer.json", "optimizer.safetensors", "reference.safetensors"
ADAPTER = "adapter/adapter_model.safetensors"


def best_step(run: Path, steps: Iterable[int]) -> int | None:
    """Of these steps the one with the best validation accuracy in the run's metrics.jsonl; None if it has none of them.

    The greedy accuracy decides; ties go to the better sampled accuracy, then to the earlier step, which is nearer to
    the reference. metrics.jsonl holds accuracies of the validation split alone. The run of a task that cannot say what
    is solved has mean rewards in their place, and fine-tuning without either has the loss.
    """
    wanted = set(steps)
    evaluated = [line for line in JsonLines(run / "metrics.jsonl").read() if line["step"] in wanted]
    scores = [
        (line[f"greedy_{measure}"], line[f"sampled_{measure}"], -line["step"])
        for line in evaluated
        for measure in ("accuracy", "reward")
        if line.get(f"greedy_{measure}") is not None
    ] or [(-line["held_out_loss"], 0.0, -line["step"]) for line in evaluated if line.get("held_out_loss") is not None]
    return -max(scores)[2] if scores else None


def run_config(folder: Path) -> Path | None:
    """config.yaml of the run whose folder, or a folder in whose checkpoints, this is; a link counts at its own path
    first."""
    if not folder.is_dir():
        return None
    for absolute in (folder.resolve(),) if ".." in folder.parts else (folder.absolute(), folder.resolve()):
        for run in (absolute, *(path.parent for path in absolute.parents if path.name == CHECKPOINTS)):
            if (run / CHECKPOINTS).is_dir() and (run / CONFIG).is_file():
                return run / CONFIG
    return None


def list_checkpoints(root: Path) -> list[Path]:
    """Folders `step-N` below root, oldest first."""
    folders = [path for path in root.glob("step-*") if path.name.removeprefix("step-").isdecimal()]
    return sorted(folders, key=step_of)


def newest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named in a warning and passed over."""
    for path in reversed(list_checkpoints(root)):
        problem = checkpoint_damage(path)
        if problem is None:
            return path
        log.warning("checkpoint %s is damaged (%s), trying an older one", path, problem)
    return None


def checkpoint_damage(path: Path) -> str | None:
    """What keeps a checkpoint from being resumed from, or None: see `whole_files.damage`."""
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        step, ranks = state["step"], [f"rank-{rank}.safetensors" for rank in range(state["world"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{STATE} cannot be read: {type(error).__name__}: {error}"
    if step != step_of(path):
        return f"{STATE} is of step {step}"
    weights = [ADAPTER] if (path / "adapter").is_dir() else [f"model/{file.name}" for file in model_files(path)]
    reference = [REFERENCE] if (path / REFERENCE).exists() else []
    return damage(path, [STATE, OPTIMIZER, *reference, *ranks, *weights])


def step_of(path: Path) -> int:
    """N of a folder step-N."""
    return int(path.name.removeprefix("step-"))


def model_files(path: Path) -> list[Path]:
    """The weight files of a checkpoint without LoRA."""
    return sorted((path / "model").glob("*.safetensors"))
