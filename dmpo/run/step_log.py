"""What a run writes after each gradient step: the lines of its folder, the progress bar, and the trackers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
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

# What the trackers call the name of a run; project_name is dmpo. The others name a run by its folder or by themselves.
RUN_NAMES = {
    "wandb": "name",
    "trackio": "name",
    "swanlab": "experiment_name",
    "mlflow": "run_name",
    "clearml": "task_name",
}


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
        self._table: list[dict[str, Any]] = []  # the newest samples that the trackers do not have yet

    def start(self) -> None:
        """Start the trackers of `report_to`."""
        if self.config.report_to:
            values = {name: str(value) for name, value in dataclasses.asdict(self.config).items()}
            name = self.config.run_name or Path(self.config.output_dir).resolve().name
            options = {tracker: {argument: name} for tracker, argument in RUN_NAMES.items()}
            self.accelerator.init_trackers("dmpo", config=values, init_kwargs=options)

    def step(self, metrics: dict[str, Any], newest: Batch, *, reports: bool = True) -> None:
        """Log one step, whose number is `metrics["step"]`, and samples of `newest` if the step is its first.

        The files get every step. The trackers get a step that `reports`, with the newest samples.
        """
        step, table = metrics["step"], []
        if (step - 1) % self.config.gradient_steps == 0 and scores_are_finite(newest):
            table = sample_table(newest, self.tokenizer, self.task, self.config, step=step)
        seconds = sum(self.run.seconds.values())
        completions = self.config.num_prompts * self.config.num_generations / self.config.gradient_steps
        self.reporter.step(metrics, completions / max(seconds, 1e-9), reports=reports)
        self.run.log(metrics, table)
        self._table = table or self._table
        if self.config.report_to and reports:
            self.accelerator.log({k: v for k, v in metrics.items() if k != "step"}, step=step)
            send_table(self.accelerator, self._table, step)
            self._table = []
