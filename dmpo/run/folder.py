"""The folder of a run: config, metrics, timings, checkpoints, summary. No other run writes into it."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..config.files import dump_config
from ..config.run import RunConfig
from ..distributed.ranks import together
from ..storage.checkpoints import CHECKPOINTS, list_checkpoints
from ..storage.json_lines import JsonLines
from ..storage.lock import FolderLock
from ..storage.whole_files import delete_leftovers, write_text
from .resumption import CONFIG, OBJECTS

log = logging.getLogger("dmpo")

NETWORK_DELAY = 30.0  # seconds until a network file system shows the files of one node to the other nodes
LINES = ("metrics.jsonl", "timings.jsonl", "completions.jsonl", "held_out.jsonl")


class RunFolder:
    """The `output_dir` of one run, which starts at step 0 or at a checkpoint (`resume_point`).

    metrics.jsonl has one object for each gradient step, `step` first; the seed determines its values. timings.jsonl
    has the seconds of each phase, which differ between runs. completions.jsonl has samples of rollouts
    (`samples.sample_table`), held_out.jsonl greedy completions of the same held-out rows (`Evaluation.samples`). Only
    the rank with `writes` writes.
    """

    def __init__(self, config: RunConfig, checkpoint: Path | None, *, writes: bool = True) -> None:
        self.path = Path(config.output_dir)
        self.writes, self.checkpoint = writes, checkpoint
        self.seconds: dict[str, float] = defaultdict(float)  # of each phase since the last line of timings.jsonl
        self.lines = {name: JsonLines(self.path / name) for name in LINES}
        self._lock: FolderLock | None = None
        self._first_look = self._traces_of_runs()

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def start(self, config: RunConfig, step: int, objects: Mapping[str, str]) -> None:
        """Lock the folder, and write config.yaml and the names of a script's objects (`resumption.object_name`).

        In a resumed run the lines after `step` are deleted, because the run will write them again. So are the last
        evaluation of a run that goes on, and all lines of a run without a checkpoint. Every rank calls this.

        Raises:
            ValueError: another process writes into the folder, or has written since this object was made; or a rank
                does not see the files of the main rank.
        """
        together(lambda: self._begin(config, step, objects) if self.writes else None)
        together(self._check_shared)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for other runs."""
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
        """Append one step to metrics.jsonl, and the seconds of each phase since the last call to timings.jsonl.

        `completions` are appended to completions.jsonl; each has its `step`.
        """
        self.append("completions.jsonl", *completions)
        self.append("metrics.jsonl", metrics)
        self.append("timings.jsonl", {"step": metrics["step"], **{k: round(v, 4) for k, v in self.seconds.items()}})
        self.seconds.clear()

    def append(self, name: str, *lines: dict[str, Any]) -> None:
        """Append objects to a file of `LINES`. Each object has its `step`."""
        if self.writes:
            self.lines[name].append(*lines)

    def sync(self) -> None:
        """Sync all lines to disk; a checkpoint needs the lines up to its step. Raises OSError if the disk refuses."""
        if self.writes:
            for lines in self.lines.values():
                lines.sync()

    def read(self, name: str) -> list[dict[str, Any]]:
        """The objects of a file of `LINES`."""
        return self.lines[name].read()

    def write_summary(self, summary: dict[str, Any]) -> None:
        if self.writes:
            write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def _begin(self, config: RunConfig, step: int, objects: Mapping[str, str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        if self._traces_of_runs() != self._first_look:
            raise ValueError(
                f"another run has written into output_dir {self.path} since this run looked at it; start again, or "
                "give another output_dir"
            )
        for folder in (self.path, self.checkpoints):
            delete_leftovers(folder)
        if objects:  # written before config.yaml, because a folder with config.yaml is the folder of a run
            write_text(self.path / OBJECTS, json.dumps(objects, indent=1) + "\n")
        else:
            (self.path / OBJECTS).unlink(missing_ok=True)
        write_text(self.path / CONFIG, dump_config(config))
        for name, lines in self.lines.items():
            last = lines.cut(step, _is_written_again if self.checkpoint else lambda line: True)
            if last < step and name == "metrics.jsonl":
                log.warning(
                    "%s ends at step %d before the checkpoint of step %d: lines are lost", lines.path, last, step
                )

    def _check_shared(self) -> None:
        deadline = time.monotonic() + NETWORK_DELAY
        while not (self.path / CONFIG).exists():
            if time.monotonic() > deadline:
                raise ValueError(f"output_dir {self.path} must be on a file system that all nodes share")
            time.sleep(0.5)

    def _traces_of_runs(self) -> tuple[bool, list[Path]]:
        """The files by which another run in this folder shows."""
        return (self.path / CONFIG).exists(), list_checkpoints(self.checkpoints)


def _is_written_again(line: dict[str, Any]) -> bool:
    """Whether a line of held_out.jsonl is of the evaluation at the end, which every process of a run makes anew."""
    return line.get("split") == "test" and line["step"] > 0
