"""transformers' callbacks in a run: every rank calls them, and all ranks follow the same decision.

A run calls `on_train_begin`, `on_step_end`, `on_round_end`, `on_evaluate`, `on_log`, `on_save` and `on_train_end`.
`on_round_end` is an event of dmpo: it follows `on_step_end` of the last gradient step of a round. The arguments are
transformers', except that `args` is the config of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from ..config.run import RunConfig
from ..distributed.ranks import largest, summed, together
from ..tasks import Task
from .epochs import epochs

log = logging.getLogger("dmpo")

EVENTS = ("on_train_begin", "on_step_end", "on_round_end", "on_evaluate", "on_log", "on_save", "on_train_end")
_DECISIONS = ("should_training_stop", "should_save", "should_evaluate", "should_log")


def check_callbacks(accelerator: Accelerator, callbacks: Sequence[Any]) -> None:
    """Name, in a warning, the events of callbacks that a run does not call. All ranks call it together.

    Raises:
        TypeError: a callback is no `TrainerCallback`.
        ValueError: the ranks have different numbers of callbacks.
    """
    together(lambda: _check(callbacks, warns=accelerator.is_main_process))
    if largest(accelerator, len(callbacks)) != -largest(accelerator, -len(callbacks)):
        raise ValueError("callbacks: every rank must give the same callbacks; let them look at the rank instead")


def _check(callbacks: Sequence[Any], *, warns: bool) -> None:
    events = [name for name in vars(TrainerCallback) if name.startswith("on_")]
    for callback in callbacks:
        kind = callback if isinstance(callback, type) else type(callback)
        if not issubclass(kind, TrainerCallback):
            raise TypeError(f"callbacks must extend transformers.TrainerCallback, got {kind.__name__}")
        uncalled = [name for name in events if name not in EVENTS and _has_own(kind, name)]
        if uncalled and warns:
            log.warning("callback %s: a run does not call %s", kind.__name__, ", ".join(uncalled))


class Callbacks:
    """The callbacks of a run, with transformers' state and control. All ranks make each call together.

    A decision that a callback sets on one rank holds on all ranks: any rank may stop the run, save or evaluate. What
    the config asks for is set before the callbacks are called, so a callback may also clear it, on all ranks.

    Args:
        callbacks: objects or classes that extend transformers' `TrainerCallback`, checked by `check_callbacks`.
        config: becomes `args` of every event.
        task: `state.epoch` follows from the number of its training rows.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]],
        *,
        config: RunConfig,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: Optimizer,
        task: Task,
    ) -> None:
        self.accelerator, self.config, self.task = accelerator, config, task
        self._any = bool(callbacks)
        self._handler = _Handler([_Schedule(), *callbacks], model, tokenizer, optimizer, None)
        self.control = TrainerControl()
        self.state = TrainerState(
            max_steps=config.max_steps,
            logging_steps=config.logging_steps,
            eval_steps=config.eval_steps,
            save_steps=config.save_steps,
            is_local_process_zero=accelerator.is_local_main_process,
            is_world_process_zero=accelerator.is_main_process,
        )

    def listen_to(self, event: str) -> bool:
        """Whether a callback has its own method for an event of `EVENTS`."""
        return any(_has_own(callback, event) for callback in self._handler.callbacks[1:])

    def begin(self, step: int) -> None:
        """Call `on_train_begin`; `step` is the step at which the run starts or continues."""
        self._at(step)
        self._call("on_train_begin")

    def end_step(self, step: int) -> TrainerControl:
        """Call `on_step_end`, and at the end of a round `on_round_end`. Returns the decisions on which all ranks agree.

        Raises:
            Exception: as `together`.
        """
        self._at(step)
        for decision in _DECISIONS[1:]:
            setattr(self.control, decision, False)
        self._call("on_step_end")
        if step % self.config.round_steps == 0:
            self._call("on_round_end")
        return self.decide()

    def evaluated(self, metrics: dict[str, Any]) -> None:
        """Call `on_evaluate`."""
        self._call("on_evaluate", metrics=metrics)

    def logged(self, metrics: dict[str, Any]) -> None:
        """Call `on_log`, and keep the metrics in `state.log_history`."""
        self.state.log_history.append(dict(metrics))
        self._call("on_log", logs=dict(metrics))

    def saved(self) -> None:
        """Call `on_save`."""
        self._call("on_save")

    def end(self) -> None:
        """Call `on_train_end`."""
        self._call("on_train_end")

    def decide(self) -> TrainerControl:
        """What all ranks do: a decision holds if any rank has set it."""
        if self._any:
            votes = summed(self.accelerator, *(bool(getattr(self.control, name)) for name in _DECISIONS))
            for name, count in zip(_DECISIONS, votes, strict=True):
                setattr(self.control, name, count > 0)
        return self.control

    def _at(self, step: int) -> None:
        self.state.global_step = step
        self.state.epoch = epochs(self.config, self.task, step) or 0.0

    def _call(self, event: str, **values: Any) -> None:
        def call() -> None:
            self.control = getattr(self._handler, event)(self.config, self.state, self.control, **values)

        if self._any:
            together(call)
        else:
            call()


class _Schedule(DefaultFlowCallback):
    """The decisions of the config, which come before the decisions of the callbacks."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **values: Any) -> TrainerControl:
        last = state.global_step >= args.max_steps

        def due(every: int) -> bool:
            return every > 0 and (last or state.global_step % every == 0)

        control.should_log, control.should_evaluate = due(args.logging_steps), due(args.eval_steps)
        control.should_save = last or due(args.save_steps)
        control.should_training_stop = control.should_training_stop or last
        return control


class _Handler(CallbackHandler):
    """transformers' handler with the event of dmpo, which only some callbacks have."""

    def on_round_end(self, args: Any, state: TrainerState, control: TrainerControl, **values: Any) -> TrainerControl:
        every, self.callbacks = self.callbacks, [one for one in self.callbacks if hasattr(one, "on_round_end")]
        try:
            result: TrainerControl = self.call_event("on_round_end", args, state, control, **values)
        finally:
            self.callbacks = every
        return result


def _has_own(callback: Any, event: str) -> bool:
    kind = callback if isinstance(callback, type) else type(callback)
    return getattr(kind, event, None) is not getattr(TrainerCallback, event, None)
