"""Which checkpoint of a run is best: by the validation split, and never by the test split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .json_lines import JsonLines


def best_step(run: Path, steps: Iterable[int]) -> int | None:
    """Of these steps the one with the best validation accuracy in the run's metrics.jsonl; None if it has none of them.

    The greedy accuracy decides; ties go to the better sampled accuracy, then to the earlier step, which is nearer to
    the reference. metrics.jsonl holds accuracies of the validation split alone.
    """
    wanted = set(steps)
    scores = [
        (line["greedy_accuracy"], line["sampled_accuracy"], -line["step"])
        for line in JsonLines(run / "metrics.jsonl").read()
        if line["step"] in wanted and line.get("greedy_accuracy") is not None
    ]
    return -max(scores)[2] if scores else None
