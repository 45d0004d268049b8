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

from .checkpoint import list_checkpoints, newest_checkpoint
from .config import DMPOConfig
from .config_files import build_config, dump_config
from .folder_lock import LOCK, FolderLock
from .json_lines import JsonLines
from .whole_files import ASIDE, sweep, write_text

log = logging.getLogger("dmpo")

# A resumed run may differ from the one it continues in these keys alone. Of the second line gradients do not depend but
# by rounding: a run that fell for lack of memory goes on with smaller ones.
MAY_CHANGE = {
    *("output_dir", "resume", "max_steps", "save_steps", "eval_steps", "save_total_limit", "report_to"),
    *("micro_batch_size", "memory_budget", "gradient_checkpointing", "rollout_batch_size"),
    *("max_skipped_steps", "log_completions"),
}
LINES = ("metrics.jsonl", "timings.jsonl", "completions.jsonl")


class RunFolder:
    """Opens `output_dir` for a new run, or for one that goes on.

    metrics.jsonl holds what a seed determines, one object a gradient step, `step` first; timings.jsonl the seconds of
    each phase, which no two runs share.

    With resume, a run that has no checkpoint yet, or that never began, begins at step 0: so one command starts a run,
    and starts it again however early it died.

    Raises:
        ValueError: the folder is not empty and resume is off, or is no run's; it has checkpoints and none of them is
            whole; or the config differs from that of the run to resume.
    """

    def __init__(self, config: DMPOConfig, *, writes: bool = True) -> None:
        self.path = Path(config.output_dir)
        self.writes = writes
        self.checkpoint: Path | None = None
        self.seconds: dict[str, float] = defaultdict(float)  # by phase, since the last line of timings.jsonl
        self.lines = {name: JsonLines(self.path / name) for name in LINES}
        self._lock: FolderLock | None = None
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output_dir {self.path} is a file")
        used = self._is_used()
        if not config.resume and used:
            raise ValueError(
                f"output_dir {self.path} is not empty: pass resume=true to go on, or another output_dir to start anew"
            )
        if config.resume and used:
            self._check_same(config)
            self.checkpoint = newest_checkpoint(self.checkpoints)
            if self.checkpoint is None and list_checkpoints(self.checkpoints):
                raise ValueError(f"resume=true, but {self.checkpoints} holds no whole checkpoint")
        self._found = self._landmarks()
        if config.resume and self.checkpoint is None and self.writes:
            log.warning("resume=true, but %s holds no checkpoint yet: the run starts at step 0", self.path)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def start(self, config: DMPOConfig, step: int) -> None:
        """Lock the folder and write config.yaml; of a resumed run, forget the lines after `step`, to be written again.

        Raises:
            ValueError: another process writes into the folder, or did so since this run looked at it.
        """
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        if self._landmarks() != self._found:
            self.close()
            raise ValueError(f"another run has written into output_dir {self.path} since this one looked at it")
        for folder in (self.path, self.checkpoints):
            sweep(folder)
        write_text(self.path / "config.yaml", dump_config(config))
        for name, lines in self.lines.items():
            last = lines.cut(step)
            if last < step and name == "metrics.jsonl":
                log.warning("%s ends at step %d, the checkpoint is of step %d: lines are lost", lines.path, last, step)

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

    def _is_used(self) -> bool:
        """Whether the folder holds anything but what a process leaves that was killed at its very start."""
        names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        return any(name != LOCK and not name.startswith(ASIDE) for name in names)

    def _landmarks(self) -> tuple[bool, list[Path]]:
        return (self.path / "config.yaml").exists(), list_checkpoints(self.checkpoints)

    def _check_same(self, config: DMPOConfig) -> None:
        path = self.path / "config.yaml"
        if not path.exists():
            raise ValueError(f"cannot resume: output_dir {self.path} is not empty, but no run's: it has no config.yaml")
        try:
            saved = yaml.safe_load(path.read_text(encoding="utf-8"))
            before = dataclasses.asdict(build_config(DMPOConfig, saved))
        except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
            raise ValueError(f"cannot resume: {path} cannot be read: {error}") from error
        for key, value in dataclasses.asdict(config).items():
            if key not in MAY_CHANGE and before[key] != value:
                raise ValueError(f"cannot resume: config key {key!r} was {before[key]!r} and is now {value!r}")
