"""The training loop, read top to bottom: rollouts → importance weights → F weighted denoising steps, repeated.

See docs/maths.md, section 8. Everything random is a function of (seed, purpose, step), so a run has no generator state.
A checkpoint has the weights, the optimiser, the current round and the numbers of the first evaluation.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .config.keys import DMPOConfig
from .distributed import zero
from .distributed.ranks import end_together, from_main, is_shared, make_accelerator
from .evaluation.held_out import Evaluation, evaluate_on_ranks
from .models.compiled_layers import compile_layers
from .models.tokenizer import load_tokenizer
from .objectives.gradient import accumulate_gradient, objective_of, scores_are_finite
from .randomness import derive_key
from .rewards import Reward, RewardPool
from .rollouts.buffer import ReplayBuffer
from .rollouts.policy import ReferencePolicy, make_policy, rollout_model
from .rollouts.rollout import collect
from .run.folder import RunFolder
from .run.interruption import Interrupted, SignalWatch
from .run.preflight import (
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
from .run.samples import sample_table, send_table
from .run.saving import Saver
from .run.skipping import SkippedSteps, write_evidence
from .tasks import Task, load_task

log = logging.getLogger("dmpo")


class DMPOTrainer:
    """Trains a masked diffusion language model by distribution matching policy optimization.

    Args:
        config: all keys of the run.
        model, tokenizer, task, reward: objects to use in place of the names in the config.

    Raises:
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
    ) -> None:
        self.config = config
        self.accelerator = make_accelerator(config.output_dir, config.report_to)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        main = self.accelerator.is_main_process
        check_ranks(config, self.accelerator)
        check_own_names(config)
        warn_unread_keys(config, enabled=main)
        zero.configure(self.accelerator, dtype=config.dtype, max_grad_norm=config.max_grad_norm)
        self.objects = {k: object_name(v) for k, v in (("task", task), ("reward", reward)) if v is not None}
        checkpoint = from_main(self.accelerator, lambda: resume_point(config, self.objects))
        self.run = RunFolder(config, checkpoint, writes=main)
        self.task = task or load_task(config.task, **config.task_options)
        self.reward = RewardPool(reward or config.reward or self.task.reward, timeout=config.reward_timeout)
        self.tokenizer = tokenizer or load_tokenizer(config.model)
        check_task(config, self.task, self.reward, self.tokenizer)
        self.policy = make_policy(config, self.accelerator.device, model)
        check_model(config, self.policy)
        self.config = config = fit_micro_batch(config, self.policy, self.accelerator)
        origin = fingerprint(self.policy)  # before anything spreads it
        weights = [p for p in self.policy.parameters() if p.requires_grad]
        betas = (config.adam_beta1, config.adam_beta2)
        optimizer = torch.optim.AdamW(weights, config.learning_rate, betas, weight_decay=config.weight_decay)
        self.model, self.optimizer = self.accelerator.prepare(self.policy, optimizer)
        if config.compile == "layers":
            compile_layers(self.policy)
        self.trainable = [p for p in self.policy.parameters() if p.requires_grad]  # sharding has replaced them
        self.reference = ReferencePolicy(self.model, refreshable=config.reference_refresh_steps > 0)
        self.reporter, self.step, self.seconds_before = Reporter(config.max_steps, visible=main), 0, 0.0
        self.objective, self.buffer = objective_of(config), ReplayBuffer(config.buffer_rounds, config.seed)
        self.skipped = SkippedSteps(config.max_skipped_steps)
        self.before: Evaluation | None = None
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
        if self.run.checkpoint:
            self._resume()
        self.run.start(config, self.step, self.objects)
        if config.report_to:
            self.accelerator.init_trackers("dmpo", config={k: str(v) for k, v in dataclasses.asdict(config).items()})
        if self.before is None:
            self.before = self._evaluate("test")
            self.reporter.accuracy(0, self.before)
        with self.reporter.progress, SignalWatch(prints=self.accelerator.is_main_process) as signals:
            while self.step < config.max_steps:
                self._refresh_reference()
                if self.step % config.gradient_steps == 0:
                    self._collect()
                metrics = self._gradient_step()
                self.step += 1
                last = self.step == config.max_steps
                if config.eval_steps and (self.step % config.eval_steps == 0 or last):
                    evaluation = self._evaluate("validation")
                    metrics["sampled_accuracy"] = evaluation.sampled.share
                    metrics["greedy_accuracy"] = evaluation.greedy.share
                    self.reporter.accuracy(self.step, evaluation)
                self._log({"step": self.step, **metrics})
                if last:
                    self.saver.save_last(self.step, self._state())
                elif config.save_steps and self.step % config.save_steps == 0:
                    self.saver.begin(self.step, self._state())
                if self.skipped.too_many:
                    self._give_up()
                if number := signals.received(self.accelerator):
                    self._leave(number)
        after = self._evaluate("test")
        summary = self._finish(self.before, after, self._seconds())
        end_together(self.accelerator)
        return summary

    def _collect(self) -> None:
        try:
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
        except Exception as error:
            if is_shared(error):
                self.saver.save(self.step, self._state())
            raise
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
            rate = config.learning_rate * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
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

    def _evaluate(self, split: str) -> Evaluation:
        with self.run.clock("evaluate"), rollout_model(self.model, self.config) as policy:
            return evaluate_on_ranks(self.accelerator, policy, self.tokenizer, self.task, self.config, split=split)

    def _log(self, metrics: dict[str, Any]) -> None:
        newest, table = self.buffer.rounds[-1], []
        if (self.step - 1) % self.config.gradient_steps == 0 and scores_are_finite(newest):
            table = sample_table(newest, self.tokenizer, self.task, self.config, step=self.step)
        seconds = sum(self.run.seconds.values())
        completions = self.config.num_prompts * self.config.num_generations / self.config.gradient_steps
        self.reporter.step(metrics, completions / max(seconds, 1e-9))
        self.run.log(metrics, table)
        if self.config.report_to:
            self.accelerator.log({k: v for k, v in metrics.items() if k != "step"}, step=self.step)
            send_table(self.accelerator, table, self.step)

    def _state(self) -> dict[str, Any]:
        assert self.before is not None
        return {"seconds": self._seconds(), "before": self.before.counts()}

    def _resume(self) -> None:
        state = self.saver.load()
        self.step, self.seconds_before = state["step"], state["seconds"]
        rows = [self.task.row("test", index) for index in range(0, self.config.eval_prompts, state["world"])]
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
        raise FloatingPointError(
            f"the last {self.skipped.in_row} steps had a loss or gradient that is not finite; the run is saved at step "
            f"{self.saver.saved}, and the batch of step {self.step} is in {folder}; to go on, raise max_skipped_steps"
        )

    def _seconds(self) -> float:
        """Seconds of the run so far, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.start

    def _finish(self, before: Evaluation, after: Evaluation, seconds: float) -> dict[str, Any]:
        facts: dict[str, Any] = {"steps": self.step, "seconds": seconds, "seed": self.config.seed}
        facts |= {"skipped_steps": self.skipped.total, "steps_taken": self.step - self.skipped.total}
        facts |= {"device": str(self.accelerator.device), "torch": torch.__version__}
        summary = summarise(before, after) | facts | {"output_dir": self.config.output_dir}
        if self.accelerator.is_main_process:
            self.run.write_summary(summary)
            title = f"{self.config.model} on {self.config.task}, seed {self.config.seed}"
            lines = (self.run.read("metrics.jsonl"), self.run.read("timings.jsonl"))
            plot_run(*lines, summary, title, self.run.path / "training.png")
            self.reporter.closing(before, after, self.task, summary)
        return summary
