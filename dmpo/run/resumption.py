"""Whether a run may start in its folder, or continue there. No torch here: the command line asks first.

A run that a script made with a task or reward object of its own keeps the names of these objects in objects.json, since
config.yaml cannot hold them. Only a script that gives objects of the same names may resume the run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..config import DMPOConfig
from ..config_files import build_config
from .lock import LOCK
from .selection import CHECKPOINTS, list_checkpoints, newest_checkpoint, step_of
from .whole_files import ASIDE

log = logging.getLogger("dmpo")

CONFIG, OBJECTS = "config.yaml", "objects.json"

# A resumed run may differ from the run that it continues in these keys alone. Gradients depend on the keys of the
# second line only by rounding and dropout: a run that ran out of memory continues with smaller ones.
MAY_CHANGE = {
    *("output_dir", "resume", "max_steps", "save_steps", "eval_steps", "save_total_limit", "report_to"),
    *("micro_batch_size", "memory_budget", "gradient_checkpointing", "rollout_batch_size"),
    *("max_skipped_steps", "log_completions", "reward_timeout"),
}


def object_name(thing: Any) -> str:
    """module.name of a function or class; of another object, module.name of its class."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def is_used(folder: Path) -> bool:
    """Whether a folder holds more than what a process leaves that was killed at its very start."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name not in (LOCK, OBJECTS) and not name.startswith(ASIDE) for name in names)


def check_output_dir(config: DMPOConfig, objects: Mapping[str, str]) -> None:
    """Raise ValueError unless the run may start in `output_dir`, or continue there with the same keys and objects.

    objects: `object_name` of the task and the reward that a script gave in place of what the config names.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {folder} is a file; give the path of a folder")
    if not is_used(folder):
        return
    if not config.resume:
        raise ValueError(
            f"output_dir {folder} is not empty: pass resume=true to go on, or another output_dir to start anew"
        )
    _check_same(config, folder / CONFIG)
    _check_objects(objects, folder / OBJECTS)


def resume_point(config: DMPOConfig, objects: Mapping[str, str]) -> Path | None:
    """The checkpoint from which a run continues; None where the run starts at step 0.

    With resume, a run without a checkpoint starts at step 0. So one command starts a run, and continues it however
    early it died.

    Raises:
        ValueError: as `check_output_dir`; the run has checkpoints, and none of them is whole; or the run has passed
            `max_steps` already.
    """
    check_output_dir(config, objects)
    folder, checkpoint = Path(config.output_dir), None
    if is_used(folder):
        checkpoint = newest_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None and list_checkpoints(folder / CHECKPOINTS):
            raise ValueError(f"resume=true, but {folder / CHECKPOINTS} holds no whole checkpoint")
        if checkpoint is not None and (reached := step_of(checkpoint)) > config.max_steps:
            raise ValueError(
                f"max_steps is {config.max_steps}, but the run in {folder} has a checkpoint of step {reached}: give a "
                f"larger max_steps to continue, or evaluate an earlier step with dmpo eval {folder} checkpoint=step-N"
            )
    if config.resume and checkpoint is None:
        log.warning("resume=true, but %s holds no checkpoint yet: the run starts at step 0", folder)
    return checkpoint


def check_not_moved(source: str, config: DMPOConfig) -> None:
    """Raise ValueError where `source` is the config.yaml of a run whose folder is no longer its `output_dir`."""
    path = Path(source)
    is_a_run = path.name == CONFIG and (path.parent / CHECKPOINTS).is_dir()
    if config.resume and is_a_run and path.parent.resolve() != Path(config.output_dir).resolve():
        raise ValueError(
            f"{source} is the config of a run that was moved: its output_dir is {config.output_dir}; "
            f"add output_dir={path.parent} to continue the run where it is now"
        )


def _check_same(config: DMPOConfig, path: Path) -> None:
    if not path.exists():
        raise ValueError(f"cannot resume: output_dir {path.parent} is not empty, but no run's: it has no config.yaml")
    try:
        before = dataclasses.asdict(build_config(DMPOConfig, yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"cannot resume: {path} cannot be read: {error}") from error
    for key, value in dataclasses.asdict(config).items():
        if key not in MAY_CHANGE and before[key] != value:
            raise ValueError(
                f"cannot resume: config key {key!r} was {before[key]!r} and is now {value!r}; leave {key} as it was, "
                f"or start a new run from this one's weights: dmpo merge {path.parent} --output FOLDER, then train "
                "with model=FOLDER and another output_dir"
            )


def _check_objects(objects: Mapping[str, str], path: Path) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        names = {what: before.get(what) for what in ("task", "reward")}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot resume: {path} cannot be read: {error}") from error
    for what, name in names.items():
        if name != (now := objects.get(what)):
            mend = f"give DMPOTrainer that {what}" if name else f"leave {what} out of DMPOTrainer"
            raise ValueError(
                f"cannot resume: the {what} of this run was {_object_or_config(name)} and is now "
                f"{_object_or_config(now)}; to continue the run, {mend}"
            )


def _object_or_config(name: str | None) -> str:
    return f"the object {name}, which a script gave" if name else "what the config names"
