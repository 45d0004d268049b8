"""The training loop, read top to bottom: rollouts → importance weights → F weighted denoising steps, repeated.

See docs/maths.md, section 8. Everything random is a function of (seed, purpose, step), so a run has no generator state.
A checkpoint has the weights, the optimiser, the current round and the numbers of the first evaluation.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from .config.keys import DMPOConfig
from .distributed import zero
from .distributed.ranks import end_run, end_together, from_main, is_shared, make_accelerator
from .evaluation.held_out import Evaluation, evaluate_on_ranks
from .models.compiled_layers import compile_layers
from .models.tokenizer import load_tokenizer
from .objectives.gradient import accumulate_gradient, objective_of
from .randomness import derive_key
from .rewards import Reward, RewardEntry, RewardPool, chosen_rewards
from .rollouts.buffer import ReplayBuffer
from .rollouts.policy import ReferencePolicy, make_policy, rollout_model
from .rollouts.rollout import collect
from .run.banner import banner
from .run.callbacks import Callbacks, check_callbacks
from .run.epochs import epochs
from .run.folder import RunFolder
from .run.interruption import Interrupted, SignalWatch
from .run.learning_rate import learning_rate
from .run.model_of_run import ModelOfRun
from .run.optimizer import make_optimizer
from .run.preflight import (
    check_held_out,
    check_model,
    check_own_names,
    check_ranks,
    check_task,
    fingerprint,
    fit_micro_batch,
    warn_unread_keys,
)
from .run.report import Reporter, plot_run, summarise
from .run.resumption import object_name, resume_point
from .run.saving import Saver
from .run.skipping import SkippedSteps, write_evidence
from .run.step_log import StepLog
from .tasks import RowObject, Task, describe_datasets, rows_of_evaluation, task_of_run


class DMPOTrainer(ModelOfRun):
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
        self.config = config
        self.accelerator = make_accelerator(config.output_dir, config.report_to)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        main = self.accelerator.is_main_process
        check_ranks(config, self.accelerator)
        check_own_names(config)
        check_callbacks(self.accelerator, callbacks)
        warn_unread_keys(config, enabled=main)
        zero.configure(self.accelerator, dtype=config.dtype, max_grad_norm=config.max_grad_norm)
        own_reward = chosen_rewards(reward, rewards)
        self.objects = {k: object_name(v) for k, v in (("task", task), ("reward", own_reward)) if v is not None}
        self.objects |= describe_datasets(train_dataset=train_dataset, eval_dataset=eval_dataset)
        checkpoint = from_main(self.accelerator, lambda: resume_point(config, self.objects))
        self.run = RunFolder(config, checkpoint, writes=main)
        self.task = task_of_run(task, config.task, config.task_options, train_dataset, eval_dataset)
        self.reward = RewardPool(
            own_reward or config.rewards or config.reward or self.task.reward,
            config.reward_weights,
            timeout=config.reward_timeout,
        )
        self.tokenizer = tokenizer or load_tokenizer(config.model)
        check_held_out(config, self.task, self.accelerator)
        check_task(config, self.task, self.reward, self.tokenizer)
        self.policy = make_policy(config, self.accelerator.device, model)
        check_model(config, self.policy)
        self.config = config = fit_micro_batch(config, self.policy, self.accelerator)
        origin = fingerprint(self.policy)  # before anything spreads it
        optimizer = make_optimizer(config, self.policy.parameters())
        self.model, self.optimizer = self.accelerator.prepare(self.policy, optimizer)
        if config.compile == "layers":
            compile_layers(self.policy)
        self.trainable = [p for p in self.policy.parameters() if p.requires_grad]  # sharding has replaced them
        self.reference = ReferencePolicy(self.model, refreshable=config.reference_refresh_steps > 0)
        self.reporter, self.step, self.seconds_before = Reporter(config.max_steps, visible=main), 0, 0.0
        self.objective, self.buffer = objective_of(config), ReplayBuffer(config.buffer_rounds, config.seed)
        self.skipped = SkippedSteps(config.max_skipped_steps)
        self.before: Evaluation | None = None
        self.summary: dict[str, Any] = {}  # of a run that has ended
        self.step_log = StepLog(
            self.accelerator, self.run, self.reporter, tokenizer=self.tokenizer, task=self.task, config=config
        )
        self.callbacks = Callbacks(
            self.accelerator,
            callbacks,
            config=config,
            model=self.policy,
            tokenizer=self.tokenizer,
            optimizer=self.optimizer,
            task=self.task,
        )
        self.saver = Saver(
            self.accelerator,
            self.run,
            model=self.model,
            optimizer=self.optimizer,
            tokenizer=self.tokenizer,
            reference=self.reference,
            buffer=self.buffer,
            skipped=self.skipped,
            config=config,
            origin=origin,
        )

    def train(self) -> dict[str, Any]:
        """Train to `max_steps`; returns the content of summary.json.

        Raises:
            ValueError: another run writes into output_dir, or the reward failed. The run is saved.
            FloatingPointError: `max_skipped_steps` steps in a row were not finite. The run and that batch are saved.
            OSError: the last step could not be saved.
            Interrupted: a signal asked the run to stop. The run is saved.
        """
        with self.run, self.saver:
            return self._train()

    def _train(self) -> dict[str, Any]:
        config, self.start = self.config, time.perf_counter()
        self._restore()
        self.run.start(config, self.step, self.objects)
        self.step_log.start()
        self.callbacks.begin(self.step)
        self.reporter.banner(banner(config, self.accelerator, self.policy, self.task, self.step))
        if self.before is None:
            self.before = self._evaluate("test")
            self.reporter.accuracy(0, self.before)
            self.run.append("held_out.jsonl", *self.before.lines(0))
        signals_of_main = SignalWatch(prints=self.accelerator.is_main_process)
        with self.reporter.training.from_step(self.step), signals_of_main as signals:
            ends = False
            while self.step < config.max_steps and not ends:
                self._refresh_reference()
                if self.step % config.gradient_steps == 0:
                    self._collect()
                metrics = self._gradient_step()
                self.step += 1
                ends = self._end_step({"step": self.step, **metrics})
                if self.skipped.too_many:
                    self._give_up()
                if number := signals.received(self.accelerator):
                    self._leave(number)
        after = self._evaluate("test")
        self.run.append("held_out.jsonl", *after.lines(self.step))
        self.summary = self._finish(self.before, after, self._seconds())
        self.callbacks.end()
        end_run(self.accelerator)
        return self.summary

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
                self.buffer.drop_stale(self.accelerator, self.model, self.config)

    def _refresh_reference(self) -> None:
        """Copy the policy to the reference, and score the buffer with the new reference."""
        every = self.config.reference_refresh_steps
        if not every or not self.step or self.step % every:
            return
        self.reference.refresh()
        with self.run.clock("score"):
            self.buffer.replace_reference(self.accelerator, self.model, self.objective, self.config)

    def _gradient_step(self) -> dict[str, float]:
        """One AdamW step on fresh views of groups from the buffer."""
        config, batch = self.config, self.buffer.batch(self.step)
        with self.run.clock("update"):
            torch.manual_seed(derive_key(config.seed, "dropout", self.step, self.rank))
            rate = learning_rate(config, self.step)
            for group in self.optimizer.param_groups:  # before the gradient: DeepSpeed's last backward also steps
                group["lr"] = rate
            result = accumulate_gradient(self.accelerator, self.model, self.policy, batch, config, self.step)
            norm = float(self.accelerator.clip_grad_norm_(self.trainable, config.max_grad_norm))
            if not (skipped := self.skipped.skip(result.loss, norm)):
                self.optimizer.step()
            self.optimizer.zero_grad()
        return {
            "round": self.step // config.gradient_steps,
            "learning_rate": rate,
            "skipped": int(skipped),
            "loss": result.loss,
            "grad_norm": norm,
            "clipped": int(norm > config.max_grad_norm),
            **result.report,
            **self.buffer.report(batch),
            **batch.report,
        }

    def _end_step(self, metrics: dict[str, Any]) -> bool:
        """Evaluate, log and save after a step, as config and callbacks say. Returns whether it was the last step."""
        with self._saved_if_it_fails(metrics):
            control = self.callbacks.end_step(self.step)
        if evaluates := control.should_evaluate:
            evaluation = self._evaluate("validation")
            accuracies = evaluation.metrics()
            metrics |= accuracies
            self.reporter.accuracy(self.step, evaluation)
            self.run.append("held_out.jsonl", *evaluation.lines(self.step))
        reports = control.should_log
        self.step_log.step(metrics, self.buffer.rounds[-1], reports=reports)
        with self._saved_if_it_fails():
            if evaluates:
                self.callbacks.evaluated(accuracies)
            if reports:
                self.callbacks.logged(metrics)
            control = self.callbacks.decide()
        ends = control.should_training_stop or self.step == self.config.max_steps
        if ends:
            self.saver.save_last(self.step, self._state())
        elif control.should_save and not self.callbacks.listen_to("on_save"):
            self.saver.begin(self.step, self._state())
        elif control.should_save and not self.saver.save(self.step, self._state()):
            return False
        if ends or control.should_save:
            self.callbacks.saved()
        return ends

    @contextmanager
    def _saved_if_it_fails(self, unlogged: dict[str, Any] | None = None) -> Iterator[None]:
        """Save the run if the block fails on every rank, for which the step's metrics must be logged first."""
        try:
            yield
        except Exception as error:
            if is_shared(error):
                if unlogged:
                    self.step_log.step(unlogged, self.buffer.rounds[-1])
                self.saver.save(self.step, self._state())
            raise

    def _evaluate(self, split: str) -> Evaluation:
        with self.run.clock("evaluate"), rollout_model(self.model, self.config) as policy:
            return evaluate_on_ranks(
                self.accelerator, policy, self.tokenizer, self.task, self.config, self.reward, split=split
            )

    def _state(self) -> dict[str, Any]:
        assert self.before is not None
        return {"seconds": self._seconds(), "before": self.before.counts()}

    def _restore(self) -> None:
        """Load, once, the checkpoint from which the run continues."""
        if self.run.checkpoint is None or self.before is not None:
            return
        state = self.saver.load()
        self.step, self.seconds_before = state["step"], state["seconds"]
        count = rows_of_evaluation(self.task, "test", self.config.eval_prompts)
        rows = [self.task.row("test", index) for index in range(0, count, state["world"])]
        self.before = Evaluation.from_counts(state["before"], rows)
        self.reporter.say(f"resumed from {self.run.checkpoint}, step {self.step} of {self.config.max_steps}")

    def _leave(self, number: int) -> None:
        saved = self.saver.save(self.step, self._state())
        left = f"go on with resume=true from step {self.step if saved else self.saver.saved}"
        self.reporter.say(f"{signal.Signals(number).name}: left after step {self.step}; {left}")
        end_together(self.accelerator)
        raise Interrupted(number)

    def _give_up(self) -> None:
        self.saver.save(self.step, self._state())
        folder = self.run.path / f"not-finite-step-{self.step}"
        write_evidence(folder, self.rank, self.buffer.batch(self.step - 1), self.tokenizer, self.config)
        raise self.skipped.error(self.step, saved=self.saver.saved, folder=folder)

    def _seconds(self) -> float:
        """Seconds of the run so far, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.start

    def _finish(self, before: Evaluation, after: Evaluation, seconds: float) -> dict[str, Any]:
        facts: dict[str, Any] = {"steps": self.step, "seconds": seconds, "seed": self.config.seed}
        facts |= {"skipped_steps": self.skipped.total, "steps_taken": self.step - self.skipped.total}
        facts |= {"epochs": epochs(self.config, self.task, self.step)}
        facts |= {"device": str(self.accelerator.device), "torch": torch.__version__}
        summary = summarise(before, after) | facts | {"output_dir": self.config.output_dir}
        if self.accelerator.is_main_process:
            self.run.write_summary(summary)
            title = f"{self.config.model} on {self.config.task}, seed {self.config.seed}"
            lines = (self.run.read("metrics.jsonl"), self.run.read("timings.jsonl"))
            plot_run(*lines, summary, title, self.run.path / "training.png")
            self.reporter.closing(before, after, self.task, summary)
        return summary
