"""Checks of names and paths that the command line makes before it imports torch, which takes seconds.

The run makes the same checks again with the same functions, because a script does not use the command line.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable

from ..config.embedded import keys_of_model
from ..config.files import read_values
from ..config.keys import DMPOConfig
from ..config.names import is_own_name
from ..config.run import RunConfig
from ..config.sft import SFTConfig
from ..models.files import local_checkpoint
from ..models.refused import check_name
from ..rewards.entries import source_of
from ..tasks import TASKS, check_task_name, check_task_options
from .resumption import check_not_moved, check_output_dir

log = logging.getLogger("dmpo")


def check_run(config: DMPOConfig, source: str) -> None:
    """Raise ValueError for a task, reward, loss, decoder, model or output_dir that cannot be used.

    source: names the config.

    A Hub id is not looked up, and no data set is read.
    """
    _check_task_and_place(config, source)
    own_rewards = config.rewards or ([] if config.reward is None else [config.reward])
    check_task_options(config.task, config.task_options, has_reward=bool(own_rewards))
    for reward in own_rewards:
        _check_module(source_of(reward), "reward")
    check_own_modules("loss", [config.loss])
    _check_model_and_decoder(config)


def check_sft_run(config: SFTConfig, source: str) -> None:
    """`check_run` for supervised fine-tuning, which has no reward and no loss to choose."""
    _check_task_and_place(config, source)
    check_task_options(config.task, config.task_options, has_reward=True)
    _check_model_and_decoder(config)


def _check_task_and_place(config: RunConfig, source: str) -> None:
    check_not_moved(source, config)
    _mention_keys_of_model(config, source)
    check_task_name(config.task)
    if config.task not in TASKS:
        _check_module(config.task, "task")


def _check_model_and_decoder(config: RunConfig) -> None:
    check_own_modules("decoder", [config.decoder])
    check_model_path(config.model)
    check_output_dir(config, {})


def _mention_keys_of_model(config: RunConfig, source: str) -> None:
    """Say in one line which keys a config leaves to its embedded model."""
    suggested = keys_of_model(config.model)
    left_out = suggested.keys() - read_values(type(config), source).keys()
    keys = {
        name: value
        for name in suggested
        if name in left_out and (value := getattr(config, name, None)) == suggested[name]
    }
    if keys and int(os.environ.get("RANK", "0")) == 0:
        values = ", ".join(f"{name}={value}" for name, value in keys.items())
        log.warning("keys that %s leaves out are as the model %s suggests: %s", source, config.model, values)


def check_model_path(model: str) -> None:
    """Raise ValueError unless `model` is a folder, an embedded model, or looks like a Hub id of a model that loads."""
    try:
        local_checkpoint(model)
        check_name(model)
    except ValueError as error:
        raise ValueError(f"model: {error}") from None


def check_own_modules(what: str, names: Iterable[str]) -> None:
    """Raise ValueError unless the module of each name `module:name` can be found; `what` is the config key."""
    for name in names:
        if is_own_name(name):
            _check_module(name, what)


def _check_module(name: str, what: str) -> None:
    """Raise ValueError unless `name` is module:name and the module can be found; it is not imported."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{what} must be named 'module:name', got {name!r}")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{what} {name!r} cannot be imported: {error}") from error
    if spec is None:
        raise ValueError(f"{what} {name!r} cannot be imported: there is no module {module!r}")
