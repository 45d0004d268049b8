"""Which start is best? With and without the shift, all weights or LoRA: how soon does fine-tuning have it right?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.markdown import table
from dmpo.storage.whole_files import write_text

from .pipeline import Command, carry_out, command_of_run, prepare
from .report import mean, percent

COMMAND = "python -m benchmarks.real --starts"
EVALUATIONS = ("eval_steps=20", "eval_prompts=64")
LORA_RATE = "5e-4"
LORA = ("lora_r=64", "lora_alpha=128", "lora_dropout=0.0", f"learning_rate={LORA_RATE}")


@dataclass(frozen=True)
class Start:
    """A converted model and what of it is trained. changes: keys of its run."""

    name: str
    shift: bool
    changes: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        return "base" if self.shift else "base-without-shift"

    @property
    def title(self) -> str:
        return f"{'with' if self.shift else 'without'} the shift, {'LoRA' if self.changes else 'all weights'}"


STARTS = (
    Start("shift", True),
    Start("no-shift", False),
    Start("shift-lora", True, LORA),
    Start("no-shift-lora", False, LORA),
)


def run_of(folder: Path, start: Start, seed: int) -> Path:
    """Where the run of a start lies."""
    return folder / "starts" / f"{start.name}-{seed}"


def run(folder: Path, seeds: Sequence[int], changes: Sequence[str] = ()) -> None:
    """Run what is missing, a seed after the other. Raises subprocess.CalledProcessError if a command fails."""
    for shift in (True, False):
        prepare(folder, next(start.base for start in STARTS if start.shift == shift), shift=shift)
    for seed in seeds:
        for start in STARTS:
            carry_out(command(folder, start, seed, changes))


def command(folder: Path, start: Start, seed: int, changes: Sequence[str] = ()) -> Command:
    """The fine-tuning of a start."""
    keys = [*EVALUATIONS, *start.changes, *changes]
    return command_of_run("sft", folder, folder / start.base, run_of(folder, start, seed), seed, keys)


def write(folder: Path, results: Path) -> bool:
    """Write starts.md from the runs that are complete; False where there is none."""
    rows, seeds, steps = [], set[int](), list[int]()
    for start in STARTS:
        runs = sorted((folder / "starts").glob(f"{start.name}-[0-9]*/summary.json"))
        if runs:
            rows.append((start, [_Curve.of(path.parent) for path in runs]))
            seeds |= {int(path.parent.name.rpartition("-")[2]) for path in runs}
            steps = [*rows[-1][1][0].greedy]
    if not rows:
        return False
    results.mkdir(parents=True, exist_ok=True)
    greedy = [f"greedy, step {step}" for step in steps]
    lines = [
        "# SmolLM2-135M: which start is best?",
        "",
        f"`{COMMAND} --seeds {' '.join(map(str, sorted(seeds)))}`: fine-tuning as in [real.md](real.md), which "
        f"says what the task is. LoRA is of rank 64, with a learning rate of {LORA_RATE} in place of 3e-4. Accuracies "
        "after so many steps are of 64 validation rows, whose sums the run also learns, with other answers. Held-out "
        "sums are 64 that no run learns. Means over seeds, with 95 % intervals.",
        "",
        table(
            ("start", "seeds", *greedy, "held-out, greedy", "held-out, sampled", "loss"),
            [_row(start, curves, steps) for start, curves in rows],
        ),
        "",
    ]
    write_text(results / "starts.md", "\n".join(lines))
    return True


@dataclass(frozen=True)
class _Curve:
    """Greedy accuracies of a run on its validation sums, by gradient step; on held-out sums at the end; its loss."""

    greedy: dict[int, float]
    held_out: dict[str, float]
    loss: float

    @classmethod
    def of(cls, folder: Path) -> _Curve:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        found = {line["step"]: line["greedy_accuracy"] for line in lines if "greedy_accuracy" in line}
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        held_out = {how: summary[f"{how}_accuracy_after"] for how in ("greedy", "sampled")}
        return cls(found, held_out, summary["held_out_loss_after"])


def _row(start: Start, curves: Sequence[_Curve], steps: Sequence[int]) -> tuple[str, ...]:
    greedy = (percent([curve.greedy[step] for curve in curves]) for step in steps)
    held_out = (percent([curve.held_out[how] for curve in curves]) for how in ("greedy", "sampled"))
    return start.title, str(len(curves)), *greedy, *held_out, mean([curve.loss for curve in curves], 2)
