"""The folder that a run owns: config, metrics, timings, checkpoints, summary. No other run ever writes into it."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config import DMPOConfig
from ..config_files import dump_config
from ..parallel import together
from .json_lines import JsonLines
from .lock import FolderLock
from .resumption import CHECKPOINTS, CONFIG, OBJECTS
from .selection import list_checkpoints
from .whole_files import sweep, write_text

log = logging.getLogger("dmpo")

NETWORK_DELAY = 30.0  # seconds within which a network file system shows one node's files to the others
LINES = ("metrics.jsonl", "timings.jsonl", "completions.jsonl")


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

    def start(self, config: DMPOConfig, step: int, objects: Mapping[str, str]) -> None:
        """Lock the folder, and write config.yaml and the names of a script's objects (`resumption.object_name`).

        The lines of a resumed run after `step` are forgotten: they will be written again.

        Called by every rank.

        Raises:
            ValueError: another process writes into the folder, or did so since this run looked at it; a rank does not
                see what the main one has written.
        """
        together(lambda: self._begin(config, step, objects) if self.writes else None)
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

    def _begin(self, config: DMPOConfig, step: int, objects: Mapping[str, str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        if self._landmarks() != self._found:
            raise ValueError(f"another run has written into output_dir {self.path} since this one looked at it")
        for folder in (self.path, self.checkpoints):
            sweep(folder)
        if objects:  # before config.yaml, which makes the folder a run's
            write_text(self.path / OBJECTS, json.dumps(objects, indent=1) + "\n")
        else:
            (self.path / OBJECTS).unlink(missing_ok=True)
        write_text(self.path / CONFIG, dump_config(config))
        for name, lines in self.lines.items():
            last = lines.cut(step)
            if last < step and name == "metrics.jsonl":
                log.warning("%s ends at step %d, the checkpoint is of step %d: lines are lost", lines.path, last, step)

    def _check_shared(self) -> None:
        give_up = time.monotonic() + NETWORK_DELAY
        while not (self.path / CONFIG).exists():
            if time.monotonic() > give_up:
                raise ValueError(f"output_dir {self.path} is not on a file system that all nodes share")
            time.sleep(0.5)

    def _landmarks(self) -> tuple[bool, list[Path]]:
        return (self.path / CONFIG).exists(), list_checkpoints(self.checkpoints)
