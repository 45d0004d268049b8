"""One run of the study: a training run by `DMPOTrainer`, and the record of its results."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
from collections.abc import Iterable
from datetime import date
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import torch

from benchmarks.harness.provenance import ROOT, git
from dmpo.evaluation.held_out import Evaluation, evaluate
from dmpo.evaluation.intervals import Accuracy
from dmpo.models.files import checkpoint_folder
from dmpo.trainer import DMPOTrainer

from .conditions import Condition
from .records import Record

CURVES = ("reward", "reward_std_in_group", "distinct_in_group", "entropy", "log_ratio", "ess", "coeff", "age")


class StudyTrainer(DMPOTrainer):
    """A run whose evaluations all decode alike, and are kept; it draws no plot of its own.

    The evaluation before training is the same for every run of a task, and made once a process.
    """

    _start: ClassVar[dict[str, Evaluation]] = {}  # by task

    def __init__(self, condition: Condition, seed: int, folder: Path) -> None:
        super().__init__(condition.config(seed, str(folder)))
        self.condition, self.evaluations = condition, list[tuple[str, int, Evaluation]]()

    def _evaluate(self, split: str) -> Evaluation:
        found = self._start.get(self.condition.task) if self.step == 0 else None
        if found is None:
            found = evaluate(self.model, self.tokenizer, self.task, self.condition.evaluation(split), split=split)
        if self.step == 0:
            self._start[self.condition.task] = found
        self.evaluations.append((split, self.step, found))
        return found

    def _finish(self, before: Evaluation, after: Evaluation, seconds: float) -> dict[str, Any]:
        return {"seconds": seconds}


def run(condition: Condition, seed: int, scratch: Path) -> Record:
    """Train once, in a folder of its own below `scratch` that is emptied before and removed after; the record.

    What the trainer prints goes to a log in `scratch`.
    """
    torch.set_num_threads(1)
    name = f"{condition.name} seed {seed}".replace("/", " ").replace(" ", "-")
    folder = scratch / name
    shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / f"{name}.log").open("w") as log, contextlib.redirect_stdout(log):
        trainer = StudyTrainer(condition, seed, folder)
        summary = trainer.train()
        record = _record(trainer, summary)
    shutil.rmtree(folder)
    return record


def _record(trainer: StudyTrainer, summary: dict[str, Any]) -> Record:
    config, lines = trainer.config, trainer.run.read("metrics.jsonl")
    firsts = lines[:: config.gradient_steps]  # the first step of each round
    per_round = config.num_prompts * config.num_generations
    split_of = {
        split: [
            {"samples": step // config.gradient_steps * per_round, "step": step, **_counts(found)}
            for kind, step, found in trainer.evaluations
            if kind == split
        ]
        for split in ("validation", "test")
    }
    return {
        "condition": trainer.condition.name,
        "seed": config.seed,
        "config": trainer.condition.settings(),
        "model": model_digest(config.model),
        "samples": len(firsts) * per_round,
        "steps": trainer.step,
        "skipped_steps": trainer.skipped.total,
        **split_of,
        "rounds": {name: [_short(line[name]) for line in firsts] for name in CURVES},
        "row_forwards": sum(line["row_forwards"] for line in firsts),
        "tokens_per_forward": _short(sum(line["tokens_per_forward"] for line in firsts) / len(firsts)),
        "seconds": round(summary["seconds"]),
        "made": provenance(),
    }


def _counts(evaluation: Evaluation) -> dict[str, int]:
    sampled, greedy = evaluation.sampled, evaluation.greedy
    assert isinstance(sampled, Accuracy)
    assert isinstance(greedy, Accuracy)
    return {"sampled": sampled.solved, "greedy": greedy.solved, "rows": sampled.total}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


@cache
def model_digest(name: str) -> str:
    """Of the weights of an embedded model; 16 hexadecimal digits."""
    weights = checkpoint_folder(name) / "model.safetensors"
    return hashlib.blake2b(weights.read_bytes(), digest_size=8).hexdigest()


@cache
def provenance() -> dict[str, Any]:
    """When, from which commit, with which versions and on what a run was made."""
    commit = git(ROOT, "rev-parse", "--short=10", "HEAD") or "unknown"
    changed = bool(git(ROOT, "status", "--porcelain", "--untracked-files=no", "--", "dmpo", "kernels", "csrc"))
    return {
        "date": date.today().isoformat(),
        "commit": commit + ("+changes" if changed else ""),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "transformers")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread a run",
    }


def keys(conditions: Iterable[Condition], seeds: Iterable[int]) -> list[tuple[Condition, int]]:
    """All runs, seed by seed, so that a study that is cut short has whole seeds."""
    named = list(conditions)
    return [(condition, seed) for seed in seeds for condition in named]
