"""DMPO on the loop of every run: rollouts → importance weights → F weighted denoising steps, repeated.

See docs/maths.md, section 8. `dmpo.run.training` has the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from .config.keys import DMPOConfig
from .evaluation.held_out import Evaluation, evaluate_on_ranks
from .models.tokenizer import load_tokenizer
from .objectives.gradient import accumulate_gradient, objective_of
from .rewards import Reward, RewardEntry, RewardPool, chosen_rewards
from .rollouts.buffer import ReplayBuffer
from .rollouts.policy import ReferencePolicy, make_policy, rollout_model
from .rollouts.rollout import collect
from .run.plots import plot_run
from .run.preflight import (
    check_held_out,
    check_model,
    check_own_names,
    check_task,
    fit_micro_batch,
    warn_unread_keys,
)
from .run.report import summarise
from .run.resumption import object_name
from .run.skipping import write_evidence
from .run.step_log import StepLog
from .run.training import TrainingRun
from .tasks import RowObject, Task, describe_datasets, rows_of_evaluation, task_of_run


class DMPOTrainer(TrainingRun[Evaluation]):
    """Trains a masked diffusion language model by distribution matching policy optimization.

    Args:
        config: all keys of the run.
        model, tokenizer, task, reward: objects to use in place of the names in the config.
        rewards: in place of `reward`, several: functions, names, or mappings as in the config. The config's
            `reward_weights` weight them.
        callbacks: transformers' callbacks (`dmpo.run.callbacks`), the same on every rank.
        train_dataset, eval_dataset: rows of the task `prompts` in place of its files, see `dmpo.tasks.RowObject`:
            `datasets.Dataset` or lists of dicts. Without eval_dataset, test rows are held out of train_dataset.

    Raises:
        TypeError: a callback is no `TrainerCallback`.
        ValueError: the config, the output folder, the checkpoint, the task or the reward is wrong. Raised before
            anything is written or trained.
    """

    config: DMPOConfig

    def __init__(
        self,
        config: DMPOConfig,
        *,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        task: Task | None = None,
        reward: Reward | None = None,
        rewards: Sequence[RewardEntry] | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] = (),
        train_dataset: RowObject | None = None,
        eval_dataset: RowObject | None = None,
    ) -> None:
        self._open(config, callbacks)
        check_own_names(config)
        warn_unread_keys(config, enabled=self.accelerator.is_main_process)
        own_reward = chosen_rewards(reward, rewards)
        objects = {k: object_name(v) for k, v in (("task", task), ("reward", own_reward)) if v is not None}
        self._open_folder(objects | describe_datasets(train_dataset=train_dataset, eval_dataset=eval_dataset))
        self.task = task_of_run(task, config.task, config.task_options, train_dataset, eval_dataset)
        self.reward = RewardPool(
            own_reward or config.rewards or config.reward or self.task.reward,
            config.reward_weights,
            timeout=config.reward_timeout,
        )
        self.tokenizer = tokenizer or load_tokenizer(config.model)
        check_held_out(config, self.task, self.accelerator)
        check_task(config, self.task, self.reward, self.tokenizer)
        policy = make_policy(config, self.accelerator.device, model)
        check_model(config, policy)
        self.config = config = fit_micro_batch(config, policy, self.accelerator)
        self._prepare(policy)
        self.reference = ReferencePolicy(self.model, refreshable=config.reference_refresh_steps > 0)
        self.objective = objective_of(config)
        self.buffer = ReplayBuffer(config.buffer_rounds, config.seed, skip_equal_rewards=config.skip_equal_rewards)
        self.step_log = StepLog(
            self.accelerator, self.run, self.reporter, tokenizer=self.tokenizer, task=self.task, config=config
        )
        # A reference that is never refreshed is not saved: the model of the config gives it at any time.
        saved_reference = self.reference if config.reference_refresh_steps else None
        self._prepare_books(callbacks, self.tokenizer, reference=saved_reference, buffer=self.buffer)

    def _before_step(self) -> None:
        self._refresh_reference()
        if self.step % self.config.gradient_steps == 0:
            self._collect()

    def _collect(self) -> None:
        with self._saved_if_it_fails():
            rollouts = collect(
                self.accelerator,
                model=self.model,
                reference=self.reference,
                tokenizer=self.tokenizer,
                task=self.task,
                reward=self.reward,
                objective=self.objective,
                config=self.config,
                round_index=self.step // self.config.gradient_steps,
                clock=self.run.clock,
            )
        self.buffer.add(rollouts)
        if self.config.buffer_min_ess:
            with self.run.clock("score"):
                self.buffer.drop_stale(self.accelerator, self.model, self.objective, self.config)

    def _refresh_reference(self) -> None:
        """Copy the policy to the reference, and score the buffer with the new reference."""
        every = self.config.reference_refresh_steps
        if not every or not self.step or self.step % every:
            return
        self.reference.refresh()
        with self.run.clock("score"):
            self.buffer.replace_reference(self.accelerator, self.model, self.objective, self.config)

    def _place(self) -> dict[str, Any]:
        return {"round": self.step // self.config.gradient_steps}

    def _accumulate(self) -> tuple[float, dict[str, Any]]:
        """The gradient on fresh views of groups from the buffer."""
        batch = self.buffer.batch(self.step)
        result = accumulate_gradient(self.accelerator, self.model, self.policy, batch, self.config, self.step)
        idle = {"idle": int(result.idle)} if self.config.skip_equal_rewards else {}
        return result.loss, {**result.report, **idle, **self.buffer.report(batch), **batch.report}

    def _evaluate(self, split: str) -> Evaluation:
        with self.run.clock("evaluate"), rollout_model(self.model, self.config) as policy:
            return evaluate_on_ranks(
                self.accelerator, policy, self.tokenizer, self.task, self.config, self.reward, split=split
            )

    def _measured(self, counts: dict[str, Any], world: int) -> Evaluation:
        count = rows_of_evaluation(self.task, "test", self.config.eval_prompts)
        return Evaluation.from_counts(counts, [self.task.row("test", index) for index in range(0, count, world)])

    def _say_accuracy(self, step: int, evaluation: Evaluation) -> None:
        self.reporter.accuracy(step, evaluation)

    def _start_trackers(self) -> None:
        self.step_log.start()

    def _log(self, metrics: dict[str, Any], *, reports: bool = True) -> None:
        self.step_log.step(metrics, self.buffer.rounds[-1], reports=reports)

    def _write_evidence(self, folder: Path) -> None:
        write_evidence(folder, self.rank, self.buffer.batch(self.step - 1), self.tokenizer, self.config)

    def _finish(self, before: Evaluation, after: Evaluation, seconds: float) -> dict[str, Any]:
        summary = summarise(before, after) | self._facts(seconds) | {"output_dir": self.config.output_dir}
        if self.config.skip_equal_rewards:
            summary["idle_steps"] = self.skipped.idle
        if self.accelerator.is_main_process:
            self.run.write_summary(summary)
            title = f"{self.config.model} on {self.config.task}, seed {self.config.seed}"
            lines = (self.run.read("metrics.jsonl"), self.run.read("timings.jsonl"))
            plot_run(*lines, summary, title, self.run.path / "training.png")
            self.reporter.closing(before, after, self.task, summary)
        return summary
