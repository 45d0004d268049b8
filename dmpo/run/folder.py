"""The folder that a run owns: config, metrics, timings, checkpoints, summary. No other run ever writes into it."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ..config import DMPOConfig
from ..config_files import build_config, dump_config
from ..parallel import together
from .checkpoint import list_checkpoints, newest_checkpoint
from .json_lines import JsonLines
from .lock import LOCK, FolderLock
from .whole_files import ASIDE, sweep, write_text

log = logging.getLogger("dmpo")

# A resumed run may differ from the one it continues in these keys alone. Of the second line gradients do not depend but
# by rounding and dropout: a run that fell for lack of memory goes on with smaller ones.
MAY_CHANGE = {
    *("output_dir", "resume", "max_steps", "save_steps", "eval_steps", "save_total_limit", "report_to"),
    *("micro_batch_size", "memory_budget", "gradient_checkpointing", "rollout_batch_size"),
    *("max_skipped_steps", "log_completions", "reward_timeout"),
}
NETWORK_DELAY = 30.0  # seconds within which a network file system shows one node's files to the others
CHECKPOINTS, LINES = "checkpoints", ("metrics.jsonl", "timings.jsonl", "completions.jsonl")


def resume_point(config: DMPOConfig) -> Path | None:
    """The checkpoint that a run goes on from; None where it starts at step 0.

    With resume, a run that has no checkpoint yet, or that never began, starts: so one command begins a run, and begins
    it again however early it died.

    Raises:
        ValueError: output_dir is not empty and resume is off, or it is no run's; it has checkpoints and none of them is
            whole; or the config differs from that of the run to resume.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is a file")
    # What a process leaves that was killed at its very start does not count.
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    used = any(name != LOCK and not name.startswith(ASIDE) for name in names)
    if used and not config.resume:
        raise ValueError(
            f"output_dir {folder} is not empty: pass resume=true to go on, or another output_dir to start anew"
        )
    checkpoint = None
    if used:
        _check_same(config, folder / "config.yaml")
        checkpoint = newest_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None and list_checkpoints(folder / CHECKPOINTS):
            raise ValueError(f"resume=true, but {folder / CHECKPOINTS} holds no whole checkpoint")
    if config.resume and checkpoint is None:
        log.warning("resume=true, but %s holds no checkpoint yet: the run starts at step 0", folder)
    return checkpoint


class RunFolder:
    """The `output_dir` of one run, from its start or from a checkpoint on (`resume_point`).

    metrics.jsonl holds what a seed determines, one object a gradient step, `step` first; timings.jsonl the seconds of
    each phase, which no two runs share; completions.jsonl samples of rollouts. One rank `writes`.
    """

    def __init__(self, config: DMPOConfig, checkpoint: Path | None, *, writes: bool = True) -> None:
        self.path = Path(config.output_dir)
        self.writes, self.checkpoint = writes, checkpoint
        self.seconds: dict[str, float] = defaultdict(float)  # by phase, since the last line of timings.jsonl
        self.lines = {name: JsonLines(self.path / name) for name in LINES}
        self._lock: FolderLock | None = None
        self._found = self._landmarks()

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def start(self, config: DMPOConfig, step: int) -> None:
        """Lock the folder and write config.yaml; of a resumed run, forget the lines after `step`, to be written again.

        Called by every rank.

        Raises:
            ValueError: another process writes into the folder, or did so since this run looked at it; a rank does not
                see what the main one has written.
        """
        together(lambda: self._begin(config, step) if self.writes else None)
        together(self._check_shared)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other runs into the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the seconds of the block to a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    def log(self, metrics: dict[str, Any], completions: Iterable[dict[str, Any]] = ()) -> None:
        """Append one step to metrics.jsonl, and the phases' seconds since the last call to timings.jsonl.

        `completions` go to completions.jsonl; each names its `step`, too.
        """
        self.append("completions.jsonl", *completions)
        self.append("metrics.jsonl", metrics)
        self.append("timings.jsonl", {"step": metrics["step"], **{k: round(v, 4) for k, v in self.seconds.items()}})
        self.seconds.clear()

    def append(self, name: str, *lines: dict[str, Any]) -> None:
        """Append objects, each with its `step`, to metrics.jsonl, timings.jsonl or completions.jsonl."""
        if self.writes:
            self.lines[name].append(*lines)

    def sync(self) -> None:
        """Bring all lines to disk, as before a checkpoint that counts on them. Raises OSError where it is full."""
        if self.writes:
            for lines in self.lines.values():
                lines.sync()

    def read(self, name: str) -> list[dict[str, Any]]:
        """The objects of metrics.jsonl, timings.jsonl or completions.jsonl."""
        return self.lines[name].read()

    def write_summary(self, summary: dict[str, Any]) -> None:
        if self.writes:
            write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def _begin(self, config: DMPOConfig, step: int) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        if self._landmarks() != self._found:
            raise ValueError(f"another run has written into output_dir {self.path} since this one looked at it")
        for folder in (self.path, self.checkpoints):
            sweep(folder)
        write_text(self.path / "config.yaml", dump_config(config))
        for name, lines in self.lines.items():
            last = lines.cut(step)
            if last < step and name == "metrics.jsonl":
                log.warning("%s ends at step %d, the checkpoint is of step %d: lines are lost", lines.path, last, step)

    def _check_shared(self) -> None:
        give_up = time.monotonic() + NETWORK_DELAY
        while not (self.path / "config.yaml").exists():
            if time.monotonic() > give_up:
                raise ValueError(f"output_dir {self.path} is not on a file system that all nodes share")
            time.sleep(0.5)

    def _landmarks(self) -> tuple[bool, list[Path]]:
        return (self.path / "config.yaml").exists(), list_checkpoints(self.checkpoints)


def _check_same(config: DMPOConfig, path: Path) -> None:
    """Raise ValueError for a key that must not differ from the config.yaml of the run to resume."""
    if not path.exists():
        raise ValueError(f"cannot resume: output_dir {path.parent} is not empty, but no run's: it has no config.yaml")
    try:
        before = dataclasses.asdict(build_config(DMPOConfig, yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"cannot resume: {path} cannot be read: {error}") from error
    for key, value in dataclasses.asdict(config).items():
        if key not in MAY_CHANGE and before[key] != value:
            raise ValueError(f"cannot resume: config key {key!r} was {before[key]!r} and is now {value!r}")
