"""The loop that every run has: steps, logs, evaluations, checkpoints, signals. What a step learns from is a subclass's.

Everything random is a function of (seed, purpose, step), so a run has no generator state. A checkpoint has the weights,
the optimiser, what the subclass keeps, and the numbers of the first evaluation.
"""

from __future__ import annotations

import signal
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ..config.run import RunConfig
from ..distributed import zero
from ..distributed.ranks import end_run, end_together, from_main, is_shared, make_accelerator
from ..models.compiled_layers import compile_layers
from ..randomness import derive_key
from ..tasks import Task
from .banner import banner
from .callbacks import Callbacks, check_callbacks
from .epochs import epochs
from .folder import RunFolder
from .interruption import Interrupted, SignalWatch
from .learning_rate import learning_rate
from .model_of_run import HeldOut, ModelOfRun
from .optimizer import make_optimizer
from .preflight import check_ranks, fingerprint
from .report import Reporter
from .resumption import resume_point
from .saving import Saver
from .skipping import SkippedSteps

Measured = TypeVar("Measured", bound=HeldOut)


class TrainingRun(ModelOfRun, Generic[Measured]):
    """A run from its first step to its last. A subclass prepares it: `_open`, then its own checks, then `_prepare`.

    Attributes:
        policy: the model that is trained; `model` is the policy as accelerate wrapped it.
        before: the evaluation before the first step.
    """

    policy: nn.Module
    task: Task
    saver: Saver
    before: Measured | None

    def _open(self, config: RunConfig, callbacks: Sequence[Any]) -> None:
        """Find the ranks, and check what needs neither task nor model."""
        self.config = config
        self.accelerator = make_accelerator(config.output_dir, config.report_to)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        check_ranks(config, self.accelerator)
        check_callbacks(self.accelerator, callbacks)
        zero.configure(self.accelerator, dtype=config.dtype, max_grad_norm=config.max_grad_norm)

    def _open_folder(self, objects: Mapping[str, str]) -> None:
        """Find the folder and the checkpoint; objects: `object_name` of what a script gave."""
        self.objects = dict(objects)
        checkpoint = from_main(self.accelerator, lambda: resume_point(self.config, self.objects))
        self.run = RunFolder(self.config, checkpoint, writes=self.accelerator.is_main_process)

    def _prepare(self, policy: nn.Module) -> None:
        """Spread the policy over the ranks, with its optimiser."""
        config, self.policy = self.config, policy
        self._origin = fingerprint(policy)  # before anything spreads it
        optimizer = make_optimizer(config, policy.parameters())
        self.model, self.optimizer = self.accelerator.prepare(policy, optimizer)
        if config.compile == "layers":
            compile_layers(policy)
        self.trainable = [p for p in policy.parameters() if p.requires_grad]  # sharding has replaced them
        self.reporter = Reporter(config.max_steps, visible=self.accelerator.is_main_process)
        self.step, self.seconds_before, self.start = 0, 0.0, time.perf_counter()
        self.skipped = SkippedSteps(config.max_skipped_steps)
        self.before = None
        self.summary: dict[str, Any] = {}  # of a run that has ended

    def _prepare_books(
        self,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]],
        tokenizer: PreTrainedTokenizerBase,
        **kept: Any,
    ) -> None:
        """Make the callbacks and the saver; kept: the arguments of `Saver` that say what a checkpoint has besides."""
        of_run: dict[str, Any] = {"optimizer": self.optimizer, "tokenizer": tokenizer, "config": self.config}
        self.callbacks = Callbacks(self.accelerator, callbacks, model=self.policy, task=self.task, **of_run)
        self.saver = Saver(
            self.accelerator,
            self.run,
            model=self.model,
            skipped=self.skipped,
            origin=self._origin,
            **of_run,
            **kept,
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
        self._start_trackers()
        self.callbacks.begin(self.step)
        self.reporter.banner(banner(config, self.accelerator, self.policy, self.task, self.step))
        if self.before is None:
            self.before = self._evaluate("test")
            self._say_accuracy(0, self.before)
            self.run.append("held_out.jsonl", *self.before.lines(0))
        signals_of_main = SignalWatch(prints=self.accelerator.is_main_process)
        with self.reporter.training.from_step(self.step), signals_of_main as signals:
            ends = False
            while self.step < config.max_steps and not ends:
                self._before_step()
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

    def _gradient_step(self) -> dict[str, Any]:
        """One step of the optimiser; returns its metrics."""
        config = self.config
        with self.run.clock("update"):
            torch.manual_seed(derive_key(config.seed, "dropout", self.step, self.rank))
            rate = learning_rate(config, self.step)
            for group in self.optimizer.param_groups:  # before the gradient: DeepSpeed's last backward also steps
                group["lr"] = rate
            loss, report = self._accumulate()
            idle = bool(report.get("idle"))
            norm = 0.0 if idle else float(self.accelerator.clip_grad_norm_(self.trainable, config.max_grad_norm))
            skipped = self.skipped.skip(loss, norm, idle=idle)
            if not (skipped or idle):
                self.optimizer.step()
            self.optimizer.zero_grad()
        return {
            **self._place(),
            "learning_rate": rate,
            "skipped": int(skipped),
            "loss": loss,
            "grad_norm": norm,
            "clipped": int(norm > config.max_grad_norm),
            **report,
        }

    def _end_step(self, metrics: dict[str, Any]) -> bool:
        """Evaluate, log and save after a step, as config and callbacks say. Returns whether it was the last step."""
        with self._saved_if_it_fails(metrics):
            control = self.callbacks.end_step(self.step)
        if evaluates := control.should_evaluate:
            evaluation = self._evaluate("validation")
            accuracies = evaluation.metrics()
            metrics |= accuracies
            self._say_accuracy(self.step, evaluation)
            self.run.append("held_out.jsonl", *evaluation.lines(self.step))
        reports = control.should_log
        self._log(metrics, reports=reports)
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
                    self._log(unlogged)
                self.saver.save(self.step, self._state())
            raise

    def _state(self) -> dict[str, Any]:
        assert self.before is not None
        return {"seconds": self._seconds(), "before": self.before.counts()}

    def _restore(self) -> None:
        """Load, once, the checkpoint from which the run continues."""
        if self.run.checkpoint is None or self.before is not None:
            return
        state = self.saver.load()
        self.step, self.seconds_before = state["step"], state["seconds"]
        self.before = self._measured(state["before"], state["world"])
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
        self._write_evidence(folder)
        raise self.skipped.error(self.step, saved=self.saver.saved, folder=folder)

    def _seconds(self) -> float:
        """Seconds of the run so far, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.start

    def _facts(self, seconds: float) -> dict[str, Any]:
        """What summary.json says of a run that has ended, beside its evaluations."""
        facts: dict[str, Any] = {"steps": self.step, "seconds": seconds, "seed": self.config.seed}
        taken = self.step - self.skipped.total - self.skipped.idle
        facts |= {"skipped_steps": self.skipped.total, "steps_taken": taken}
        facts |= {"epochs": epochs(self.config, self.task, self.step)}
        return facts | {"device": str(self.accelerator.device), "torch": torch.__version__}

    def _before_step(self) -> None:
        """What a step needs first, such as new rollouts."""

    def _place(self) -> dict[str, Any]:
        """Where the next step stands in the run, as the first metrics of its line."""
        return {}

    @abstractmethod
    def _accumulate(self) -> tuple[float, dict[str, Any]]:
        """Add the gradient of the next step to the parameters; returns the loss over all ranks and further metrics.

        A metric `idle` of 1 says that there is no gradient, as there is nothing to learn from: the step is not made.
        """

    @abstractmethod
    def _evaluate(self, split: str) -> Measured: ...

    @abstractmethod
    def _measured(self, counts: dict[str, Any], world: int) -> Measured:
        """The evaluation whose `counts` a checkpoint of so many ranks has."""

    @abstractmethod
    def _say_accuracy(self, step: int, evaluation: Measured) -> None:
        """Print one line for an evaluation."""

    @abstractmethod
    def _start_trackers(self) -> None:
        """Start the trackers of `report_to`."""

    @abstractmethod
    def _log(self, metrics: dict[str, Any], *, reports: bool = True) -> None:
        """Log one step; the trackers get a step that `reports`."""

    @abstractmethod
    def _write_evidence(self, folder: Path) -> None:
        """Write the batch of the last step, whose loss or gradient was not finite."""

    @abstractmethod
    def _finish(self, before: Measured, after: Measured, seconds: float) -> dict[str, Any]:
        """Write summary and plot, print the closing table; returns the summary."""
