"""Rewards that wait, for example for a model behind an HTTP endpoint: `async` functions.

All of them run in one event loop, in a thread of its own: a client that a judge keeps between calls stays usable, and
a notebook's own loop does not matter. A process that calls judges has one such thread.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

from .errors import RewardError
from .form import RewardForm, form_of, innermost, is_async, name_of
from .outcomes import Columns, Failure, Outcome, failures, slice_columns
from .values import read_value, read_values

Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")

_LONGEST_PAUSE = 30.0  # seconds
_starting = threading.Lock()
# The answer, or the judge's own code, is wrong: a second try would not help.
_NOT_REPEATED = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)


@dataclass(frozen=True)
class JudgeLimits:
    """The arguments of `judge`."""

    in_flight: int = 8
    timeout: float = 30.0
    retries: int = 3
    backoff: float = 1.0

    def __post_init__(self) -> None:
        for name, holds, description in (
            ("in_flight", self.in_flight >= 1, "≥ 1"),
            ("timeout", self.timeout > 0, "> 0 seconds"),
            ("retries", self.retries >= 0, "≥ 0"),
            ("backoff", self.backoff >= 0, "≥ 0 seconds"),
        ):
            if not holds:
                raise ValueError(f"{name} of a judge must be {description}, got {getattr(self, name)}")

    def pause(self, retry: int) -> float:
        """Seconds before a retry; the first is 1."""
        return min(_LONGEST_PAUSE, self.backoff * 2.0 ** (retry - 1))

    def seconds(self, form: RewardForm, count: int) -> float:
        """The longest time that the calls for so many completions may take together."""
        one = self.timeout * (self.retries + 1) + sum(self.pause(i + 1) for i in range(self.retries))
        return one * (-(-count // self.in_flight) + (not form.singly))


def judge(
    *, in_flight: int = 8, timeout: float = 30.0, retries: int = 3, backoff: float = 1.0
) -> Callable[[Function], Function]:
    """Decorator of an `async` reward; without it the limits are the defaults.

    A call that raises or takes too long is repeated. A call is not repeated if it raises a ValueError, TypeError,
    LookupError, AttributeError, NameError or ArithmeticError, or returns no number: its answer is wrong. A completion
    without an answer scores 0 and counts as a failure.

    Args:
        in_flight: the most calls at a time, of each rank.
        timeout: seconds of one call. Then it is cancelled.
        retries: further calls after a call that failed.
        backoff: seconds before the first retry; the time doubles with each retry, up to 30 s.

    Raises:
        ValueError: an argument is out of range.
        TypeError: the function is not `async`.
    """
    limits = JudgeLimits(in_flight, timeout, retries, backoff)

    def decorate(function: Function) -> Function:
        if not is_async(function):
            raise TypeError(f"judge takes an async function, got {name_of(function)}, which is not async")
        function.judge_limits = limits  # type: ignore[attr-defined]
        return function

    return decorate


def limits_of(reward: Callable[..., Any]) -> JudgeLimits:
    """The limits of an `async` reward: its decorator's, or the defaults."""
    limits = getattr(innermost(reward), "judge_limits", None)
    return limits if isinstance(limits, JudgeLimits) else JudgeLimits()


def most_seconds(reward: Callable[..., Any], count: int) -> float:
    """The longest time of a call for so many completions, by the limits of an `async` reward; 0 for others."""
    form = form_of(reward)
    return limits_of(reward).seconds(form, count) if form.is_async else 0.0


def ask(
    reward: Callable[..., Any], form: RewardForm, completions: list[str], columns: Columns, *, optional: bool
) -> Outcome:
    """The values of an `async` reward. Whatever it does, the outcome has values; failed completions score 0.

    A function of many completions gets all of them in one call. If that fails, it gets one completion a call.
    """
    return _run(_Judge(reward, form, optional).ask(completions, columns))


class _Answer(NamedTuple):
    values: list[float]
    failures: list[Failure]


class _ExitError(Exception):
    """Carries SystemExit or KeyboardInterrupt out of the event loop, which they would end."""

    def __init__(self, carried: BaseException) -> None:
        self.carried = carried


class _Judge:
    def __init__(self, reward: Callable[..., Any], form: RewardForm, optional: bool) -> None:
        self.reward, self.form, self.optional = reward, form, optional
        self.name, self.limits = name_of(reward), limits_of(reward)

    async def ask(self, completions: list[str], columns: Columns) -> Outcome:
        if not self.form.singly:
            answer = await self._attempt(completions, columns)
            if answer.values or len(completions) == 1:
                return _outcome([answer])
        gate = asyncio.Semaphore(self.limits.in_flight)

        async def one(index: int) -> _Answer:
            async with gate:
                return await self._attempt(completions[index : index + 1], slice_columns(columns, index, index + 1))

        return _outcome(await asyncio.gather(*(one(index) for index in range(len(completions)))))

    async def _attempt(self, completions: list[str], columns: Columns) -> _Answer:
        """The answer for these completions after some tries; without values if none succeeds."""
        kind = message = ""
        for number in range(self.limits.retries + 1):
            if number:
                await asyncio.sleep(self.limits.pause(number))
            try:
                with failures() as noted:
                    values = await asyncio.wait_for(self._call(completions, columns), self.limits.timeout)
                return _Answer(values, noted)
            except _ExitError:
                raise
            except (asyncio.TimeoutError, TimeoutError) as error:  # not the same class before Python 3.11
                kind, message = "timeout", str(error) or f"no answer within {self.limits.timeout:g} s"
            except _NOT_REPEATED as error:
                return _Answer([], [Failure(0, "exception", _text(error))])
            except Exception as error:  # a judge may raise anything
                kind, message = "exception", _text(error)
        tries = f" (the last of {self.limits.retries + 1} tries)" if self.limits.retries else ""
        return _Answer([], [Failure(0, kind, f"{message[:450]}{tries}")])

    async def _call(self, completions: list[str], columns: Columns) -> list[float]:
        try:
            if not self.form.singly:
                positional, named = self.form.arguments(self.name, completions, columns)
                values = await self.reward(*positional, **named)
                return read_values(self.name, values, completions, optional=self.optional)
            of_row = {name: column[0] for name, column in columns.items()}
            positional, named = self.form.arguments(self.name, completions[0], of_row)
            value = await self.reward(*positional, **named)
            return [read_value(self.name, value, completions[0], optional=self.optional)]
        except (SystemExit, KeyboardInterrupt) as error:
            raise _ExitError(error) from error


def _outcome(answers: list[_Answer]) -> Outcome:
    values: list[float] = []
    failed: list[Failure] = []
    for answer in answers:
        failed += [failure._replace(row=len(values) + failure.row) for failure in answer.failures]
        values += answer.values or [0.0]
    return Outcome("values", values, failures=tuple(failed))


def _text(error: Exception) -> str:
    return (str(error) if isinstance(error, RewardError) else f"{type(error).__name__}: {error}")[:500]


def _run(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """The value of a coroutine in the thread of the judges. Any thread may call this but that one."""
    with _starting:
        loop = _loop(os.getpid())
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except _ExitError as error:
        raise error.carried from None
    except BaseException:  # Ctrl-C while this thread waits
        future.cancel()
        raise


@cache
def _loop(process_id: int) -> asyncio.AbstractEventLoop:
    """The running event loop of this process; a fork starts another one, because it has none of the threads."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="judges", daemon=True).start()
    return loop
