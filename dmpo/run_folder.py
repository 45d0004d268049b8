"""The folder that a run owns: config, metrics, timings, checkpoints, summary. No other run ever writes into it."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from .checkpoint import newest_checkpoint
from .config import DMPOConfig
from .config_files import dump_config

# A resumed run may differ from the one it continues in these keys alone.
MAY_CHANGE = {"output_dir", "resume", "max_steps", "save_steps", "eval_steps", "save_total_limit", "report_to"}


class RunFolder:
    """Opens `output_dir` for a new run, or for one that goes on.

    metrics.jsonl holds what a seed determines, one object a gradient step, `step` first; timings.jsonl the seconds of
    each phase, which no two runs share.

    Raises:
        ValueError: the folder is not empty and resume is off, there is nothing whole to resume from, or the config
            differs from that of the run to resume.
    """

    def __init__(self, config: DMPOConfig, *, writes: bool = True) -> None:
        self.path = Path(config.output_dir)
        self.writes = writes
        self.checkpoint: Path | None = None
        self.seconds: dict[str, float] = defaultdict(float)  # by phase, since the last line of timings.jsonl
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output_dir {self.path} is a file")
        if config.resume:
            self.checkpoint = newest_checkpoint(self.checkpoints)
            if self.checkpoint is None:
                raise ValueError(f"resume=true, but {self.checkpoints} holds no whole checkpoint")
            self._check_same(config)
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ValueError(
                f"output_dir {self.path} is not empty: pass resume=true to go on, or another output_dir to start anew"
            )

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def start(self, config: DMPOConfig, step: int) -> None:
        """Write config.yaml; of a resumed run, forget the lines after `step`, which will be written again."""
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        for name in ("metrics.jsonl", "timings.jsonl", "completions.jsonl"):
            path = self.path / name
            kept = [line for line in read_lines(path) if line["step"] <= step]
            path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Add the seconds of the block to a phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    def log(self, metrics: dict[str, Any], table: list[dict[str, Any]]) -> None:
        """Append one step to metrics.jsonl, and the phases' seconds since the last call to timings.jsonl."""
        if self.writes:
            timings = {"step": metrics["step"], **{k: round(v, 4) for k, v in self.seconds.items()}}
            for name, line in (("metrics.jsonl", metrics), ("timings.jsonl", timings), *(("completions.jsonl", row) for row in table)):
                with (self.path / name).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
        self.seconds.clear()

    def read(self, name: str) -> list[dict[str, Any]]:
        """The objects of metrics.jsonl or timings.jsonl."""
        return read_lines(self.path / name)

    def write_summary(self, summary: dict[str, Any]) -> None:
        if self.writes:
            (self.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

    def _check_same(self, config: DMPOConfig) -> None:
        try:
            saved = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"cannot resume: {self.path / 'config.yaml'} cannot be read: {error}") from error
        now = yaml.safe_load(dump_config(config))
        for key, value in now.items():
            if key not in MAY_CHANGE and saved.get(key) != value:
                raise ValueError(f"cannot resume: config key {key!r} was {saved.get(key)!r} and is now {value!r}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
