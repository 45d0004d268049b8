"""What a run writes after each gradient step: the lines of its folder, the progress bar, and the trackers."""

from __future__ import annotations

import dataclasses
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ..config.keys import DMPOConfig
from ..objectives.gradient import scores_are_finite
from ..rollouts.batch import Batch
from ..tasks import Task
from .folder import RunFolder
from .report import Reporter
from .samples import sample_table, send_table


class StepLog:
    """Logs the gradient steps of a run. All ranks call it; the main rank writes."""

    def __init__(
        self,
        accelerator: Accelerator,
        run: RunFolder,
        reporter: Reporter,
        *,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        config: DMPOConfig,
    ) -> None:
        self.accelerator, self.run, self.reporter = accelerator, run, reporter
        self.tokenizer, self.task, self.config = tokenizer, task, config

    def start(self) -> None:
        """Start the trackers of `report_to`."""
        if self.config.report_to:
            values = {name: str(value) for name, value in dataclasses.asdict(self.config).items()}
            self.accelerator.init_trackers("dmpo", config=values)

    def step(self, metrics: dict[str, Any], newest: Batch) -> None:
        """Log one step, whose number is `metrics["step"]`, and samples of `newest` if the step is its first."""
        step, table = metrics["step"], []
        if (step - 1) % self.config.gradient_steps == 0 and scores_are_finite(newest):
            table = sample_table(newest, self.tokenizer, self.task, self.config, step=step)
        seconds = sum(self.run.seconds.values())
        completions = self.config.num_prompts * self.config.num_generations / self.config.gradient_steps
        self.reporter.step(metrics, completions / max(seconds, 1e-9))
        self.run.log(metrics, table)
        if self.config.report_to:
            self.accelerator.log({k: v for k, v in metrics.items() if k != "step"}, step=step)
            send_table(self.accelerator, table, step)
