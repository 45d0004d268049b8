"""What a run writes after each gradient step: the lines of its folder, the progress bar, and the trackers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from ..config.keys import DMPOConfig
from ..config.run import RunConfig
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


class MetricsLog:
    """Logs the gradient steps of a run. All ranks call it; the main rank writes."""

    def __init__(self, accelerator: Accelerator, run: RunFolder, reporter: Reporter, *, config: RunConfig) -> None:
        self.accelerator, self.run, self.reporter, self.config = accelerator, run, reporter, config
        self._table: list[dict[str, Any]] = []  # the newest samples that the trackers do not have yet

    def start(self) -> None:
        """Start the trackers of `report_to`."""
        if self.config.report_to:
            values = {name: str(value) for name, value in dataclasses.asdict(self.config).items()}
            name = self.config.run_name or Path(self.config.output_dir).resolve().name
            options = {tracker: {argument: name} for tracker, argument in RUN_NAMES.items()}
            self.accelerator.init_trackers("dmpo", config=values, init_kwargs=options)

    def write(
        self,
        metrics: dict[str, Any],
        speeds: Callable[[float], Sequence[str]],
        *,
        table: Sequence[dict[str, Any]] = (),
        reports: bool = True,
    ) -> None:
        """Log one step, whose number is `metrics["step"]`, and samples, each of which has its step.

        speeds: from the seconds of the step, texts for the terminal.
        """
        step = metrics["step"]
        self.reporter.step(metrics, speeds(max(sum(self.run.seconds.values()), 1e-9)), reports=reports)
        self.run.log(metrics, table)
        self._table = list(table) or self._table
        if self.config.report_to and reports:
            self.accelerator.log({k: v for k, v in metrics.items() if k != "step"}, step=step)
            send_table(self.accelerator, self._table, step)
            self._table = []


class StepLog(MetricsLog):
    """`MetricsLog` of a run of DMPO: with samples of each round."""

    config: DMPOConfig

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
        super().__init__(accelerator, run, reporter, config=config)
        self.tokenizer, self.task = tokenizer, task

    def step(self, metrics: dict[str, Any], newest: Batch, *, reports: bool = True) -> None:
        """Log one step, whose number is `metrics["step"]`, and samples of `newest` if the step is its first.

        The files get every step. The trackers get a step that `reports`, with the newest samples.
        """
        step, table = metrics["step"], list[dict[str, Any]]()
        if (step - 1) % self.config.gradient_steps == 0 and scores_are_finite(newest):
            table = sample_table(newest, self.tokenizer, self.task, self.config, step=step)
        prompts = self.config.num_prompts + metrics.get("prompts_resampled", 0)
        completions = prompts * self.config.num_generations / self.config.gradient_steps
        a_forward = f"{metrics['tokens_per_forward']:.1f} tokens/forward"
        self.write(
            metrics,
            lambda seconds: (a_forward, f"{completions / seconds:.0f} completions/s"),
            table=table,
            reports=reports,
        )
