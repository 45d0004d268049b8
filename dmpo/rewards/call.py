"""Load a reward by its name and call it. If a call of a batch fails, each completion is scored alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from .errors import RewardError
from .form import form_of, name_of, with_options
from .judging import ask
from .outcomes import Columns, Failure, Outcome, Scores, failures, slice_columns
from .values import read_value, read_values

Reward = Callable[..., Any]
"""`(completions, **columns) -> list[float]` or `(completion, **columns) -> float`, perhaps `async`: docs/rewards.md."""

Call = Callable[[list[str], Columns], Outcome]


def load_object(name: str, what: str) -> Any:
    """The callable named `module:name`, as `find_object`.

    Raises:
        ValueError: as `find_object`, or the object is no callable.
    """
    loaded = find_object(name, what)
    if not callable(loaded):
        raise ValueError(f"{what} {name!r} must be a function or a class, got {type(loaded).__name__}")
    return loaded


def find_object(name: str, what: str) -> Any:
    """The object named `module:name`. Error messages start with `what`, for example "reward" or "task".

    Raises:
        ValueError: the name has another form, or the module or the object does not exist.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{what} must be named 'module:name', got {name!r}")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error


def load_reward(name: str, options: Mapping[str, Any]) -> Reward:
    """The reward named `module:function`, with these keyword arguments.

    Raises:
        ValueError: the reward cannot be loaded, or takes no completions, or has no such keyword argument.
    """
    reward: Reward = with_options(load_object(name, "reward"), options)
    form_of(reward)
    return reward


def score(reward: Reward, completions: list[str], columns: dict[str, list[Any]]) -> list[float]:
    """Call a reward and check the values that it returns.

    Raises:
        RewardError: the number of values is wrong, a value is no number, or a value is not finite; or the columns lack
            a column that the reward takes; or an `async` reward failed.
        Exception: an exception of a reward that is not `async`.
    """
    outcome = _call(reward, completions, columns)
    if form_of(reward).is_async and outcome.failures:
        raise RewardError(f"reward {name_of(reward)} failed: {outcome.failures[0].message}")
    return outcome.values


def call_here(reward: Reward, completions: list[str], columns: Columns, *, optional: bool = False) -> Outcome:
    """Call a reward in this process; `optional`: it may return None, see `read_values`."""
    try:
        return _call(reward, completions, columns, optional=optional)
    except RewardError as error:
        return Outcome("wrong", [], str(error)[:500])
    except Exception as error:  # a reward may raise anything, and the run continues
        return Outcome("exception", [], f"{type(error).__name__}: {error}"[:500])


def score_all(call: Call, completions: list[str], columns: Columns, *, singly: bool = False) -> Scores:
    """The scores of all completions. `call` gets all of them at once; if that fails, or with `singly`, one at a time.

    Raises:
        RewardError: the reward did not return one finite number for each completion.
    """
    if not singly and len(completions) > 1:
        outcome = call(completions, columns)
        if outcome.kind == "wrong":
            raise RewardError(outcome.message)
        if outcome.kind == "values":
            return Scores(outcome.values, list(outcome.failures))
    scores = Scores([])
    for index in range(len(completions)):
        outcome = call(completions[index : index + 1], slice_columns(columns, index, index + 1))
        if outcome.kind == "wrong":
            raise RewardError(outcome.message)
        failed = outcome.failures if outcome.kind == "values" else (Failure(0, outcome.kind, outcome.message),)
        scores.failures.extend(failure._replace(row=index) for failure in failed)
        scores.values.append(outcome.values[0] if outcome.kind == "values" else 0.0)
    return scores


def calls_singly(reward: Reward) -> bool:
    """Whether the limits of time are meant for one completion, because the function takes one a call and waits."""
    form = form_of(reward)
    return form.singly and not form.is_async


def _call(reward: Reward, completions: list[str], columns: Columns, *, optional: bool = False) -> Outcome:
    form, name = form_of(reward), name_of(reward)
    if form.is_async:
        return ask(reward, form, completions, columns, optional=optional)
    if not form.singly:
        positional, named = form.arguments(name, completions, columns)
        with failures() as noted:
            returned = reward(*positional, **named)
        return Outcome("values", read_values(name, returned, completions, optional=optional), failures=tuple(noted))
    values: list[float] = []
    failed: list[Failure] = []
    for index, completion in enumerate(completions):
        of_row = {column: of_rows[index] for column, of_rows in columns.items()}
        positional, named = form.arguments(name, completion, of_row)
        with failures() as noted:
            values.append(read_value(name, reward(*positional, **named), completion, optional=optional))
        failed += [failure._replace(row=index) for failure in noted]
    return Outcome("values", values, failures=tuple(failed))
