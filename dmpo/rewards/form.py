"""The form of a reward: one completion a call or many, the columns that it takes, and whether it is `async`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from .errors import RewardError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OF_MANY, _OF_ONE = "completions", "completion"

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class RewardForm:
    """How a reward is called.

    singly: it takes one completion and one value of each column, because it names a parameter `completion`. Otherwise
        it takes lists of both.
    is_async: it is an `async def`.
    keyword: the parameter that takes the completions; None if they are the first argument.
    named: the columns that it names. required: of them, those without a default.
    takes_all: it has **columns, so it takes every column.
    options: parameters that no column of the same name fills: it has them already, or `option_names` says so.
    unset: of them, those that have no value.
    """

    singly: bool
    is_async: bool
    keyword: str | None
    named: frozenset[str]
    required: tuple[str, ...]
    takes_all: bool
    options: frozenset[str] = frozenset()
    unset: tuple[str, ...] = ()

    def arguments(self, name: str, completions: Any, columns: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of one call: the completions and the columns that the reward takes.

        A reward that names `prompts`, as in TRL, gets the column `prompt` under that name.

        Raises:
            RewardError: the rows lack a column that the reward named `name` requires, or an option has no value.
        """
        if self.unset:
            raise RewardError(
                f"reward {name} needs {self.unset[0]}, which is an option: {{options: {{{self.unset[0]}: …}}}}"
            )
        given = dict(columns)
        if "prompts" in self.named and "prompts" not in given and "prompt" in given:
            given["prompts"] = given["prompt"]
        if missing := [column for column in self.required if column not in given]:
            raise RewardError(
                f"reward {name} takes {', '.join(missing)}, which the rows do not have; their columns are "
                f"{', '.join(columns) or 'none'}"
            )
        own = (_OF_MANY, _OF_ONE)[self.singly]
        taken = {column: value for column, value in given.items() if self._takes(column) and column != own}
        if self.keyword is None:
            return [completions], taken
        return [], {self.keyword: completions, **taken}

    def _takes(self, column: str) -> bool:
        return column in self.named or (self.takes_all and column not in self.options)


def form_of(reward: Callable[..., Any]) -> RewardForm:
    """The form of a reward, from the names of its parameters.

    Raises:
        RewardError: no parameter takes the completions.
    """
    try:
        parameters = list(inspect.signature(reward).parameters.values())
    except (TypeError, ValueError):  # some functions of C code have no signature
        return RewardForm(False, is_async(reward), None, frozenset(), (), True)
    names = {parameter.name: parameter for parameter in parameters}
    singly = _OF_ONE in names and _OF_MANY not in names
    own = names.get(_OF_ONE if singly else _OF_MANY)
    first = parameters[0] if parameters else None
    keyword: str | None = None
    if own is not None and own.kind is not inspect.Parameter.POSITIONAL_ONLY:
        keyword = own.name
    elif own is None and first is not None and first.kind in (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL):
        own = first
    elif own is None and any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        keyword = _OF_MANY
    if (own is None and keyword is None) or (own is not None and own.name in ("prompt", "prompts")):
        raise RewardError(
            f"reward {name_of(reward)} must have a parameter named completions, for a list of texts, or completion, "
            f"for one text; its parameters are {', '.join(names) or 'none'}"
        )
    filled = _filled(reward)
    options = filled | getattr(innermost(reward), "option_names", frozenset())
    settable = [
        parameter
        for parameter in parameters
        if parameter is not own
        and parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    ]
    columns = [parameter for parameter in settable if parameter.name not in options]
    unfilled = [parameter for parameter in settable if parameter.name in options - filled]
    return RewardForm(
        singly=singly,
        is_async=is_async(reward),
        keyword=keyword,
        named=frozenset(parameter.name for parameter in columns),
        required=tuple(parameter.name for parameter in columns if parameter.default is inspect.Parameter.empty),
        takes_all=any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters),
        options=options,
        unset=tuple(parameter.name for parameter in unfilled if parameter.default is inspect.Parameter.empty),
    )


def is_async(reward: Any) -> bool:
    """Whether a function is an `async def`, or an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(reward.__call__)


def name_of(reward: Any) -> str:
    """The name of a function; of `functools.partial`, the name of its function; of another object, its class's name."""
    function = innermost(reward)
    return str(getattr(function, "__name__", type(function).__name__))


def innermost(reward: Any) -> Any:
    """The function inside `functools.partial`."""
    while isinstance(reward, partial):
        reward = reward.func
    return reward


def option_names(*names: str) -> Callable[[Function], Function]:
    """Decorator of a reward: these parameters are options, and a column of the same name does not fill them."""

    def decorate(function: Function) -> Function:
        function.option_names = frozenset(names)  # type: ignore[attr-defined]
        return function

    return decorate


def with_options(reward: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """The reward with these keyword arguments.

    Raises:
        ValueError: the reward does not name such a parameter.
    """
    if not options:
        return reward
    form = form_of(reward)
    for option in options:
        if option not in form.named | form.options:
            raise ValueError(
                f"reward {name_of(reward)} has no option {option!r}; its parameters are "
                f"{', '.join(sorted(form.named | form.options)) or 'only its completions'}"
            )
    return partial(reward, **options)


def _filled(reward: Any) -> frozenset[str]:
    """The names of the parameters that `functools.partial` has filled."""
    names: set[str] = set()
    while isinstance(reward, partial):
        names |= reward.keywords.keys()
        reward = reward.func
    return frozenset(names)
