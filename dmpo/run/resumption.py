"""Whether a run may start in its folder, or continue there. No torch here, because the command line checks this first.

A script may give DMPOTrainer a task or a reward as an object. config.yaml cannot store objects, so the run stores their
names in objects.json. Only a script that gives objects of the same names may resume the run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..config.files import build_config
from ..config.run import RunConfig
from ..rewards.entries import source_of
from ..storage.checkpoints import CHECKPOINTS, list_checkpoints, newest_checkpoint, step_of
from ..storage.lock import LOCK
from ..storage.whole_files import ASIDE

log = logging.getLogger("dmpo")

CONFIG, OBJECTS = "config.yaml", "objects.json"

# Only these keys may change when a run is resumed. The keys of the second line change a run only by rounding and by
# dropout, so a run that ran out of memory may continue with smaller values.
MAY_CHANGE = {
    *("output_dir", "resume", "max_steps", "save_steps", "eval_steps", "save_total_limit", "report_to"),
    *("micro_batch_size", "memory_budget", "gradient_checkpointing", "rollout_batch_size"),
    *("merge_adapters", "compile"),
    *("max_skipped_steps", "log_completions", "reward_timeout"),
    *("run_name", "logging_steps"),
}


def object_name(thing: Any) -> str:
    """The name module.name of a function or class; for any other object, the name of its class. Of a list, all names.

    A text is itself a name: `rewards` may mix names and objects.
    """
    if isinstance(thing, list | tuple):
        return ", ".join(map(object_name, thing))
    return source_of(thing)


def is_used(folder: Path) -> bool:
    """Whether a folder has more than the files of a process that was killed at its start."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name not in (LOCK, OBJECTS) and not name.startswith(ASIDE) for name in names)


def check_output_dir(config: RunConfig, objects: Mapping[str, str]) -> None:
    """Raise ValueError unless the run may start in `output_dir`, or continue there with the same keys and objects.

    objects: `object_name` of the task and of the reward that a script gave, by "task" and "reward", and what
        `dmpo.tasks.describe_datasets` says of its rows.
    """
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir must be a folder, got the file {folder}; give the path of a folder")
    if not is_used(folder):
        return
    if not config.resume:
        raise ValueError(
            f"output_dir {folder} is not empty: pass resume=true to continue the run, or another output_dir"
        )
    _check_same(config, folder / CONFIG)
    _check_objects(objects, folder / OBJECTS)


def resume_point(config: RunConfig, objects: Mapping[str, str]) -> Path | None:
    """The checkpoint from which a run continues; None if the run starts at step 0.

    With resume, a run without a checkpoint starts at step 0. So the same command starts a run and continues it.

    Raises:
        ValueError: as `check_output_dir`; or no checkpoint of the run is whole; or the run has passed `max_steps`.
    """
    check_output_dir(config, objects)
    folder, checkpoint = Path(config.output_dir), None
    if is_used(folder):
        checkpoint = newest_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None and list_checkpoints(folder / CHECKPOINTS):
            raise ValueError(
                f"resume=true, but {folder / CHECKPOINTS} has no whole checkpoint; start a new run with another "
                "output_dir"
            )
        if checkpoint is not None and (reached := step_of(checkpoint)) > config.max_steps:
            raise ValueError(
                f"max_steps is {config.max_steps}, but the run in {folder} has a checkpoint of step {reached}; give a "
                f"larger max_steps to continue, or evaluate an earlier step with dmpo eval {folder} checkpoint=step-N"
            )
    if config.resume and checkpoint is None:
        log.warning("resume=true, but %s has no checkpoint yet: the run starts at step 0", folder)
    return checkpoint


def check_not_moved(source: str, config: RunConfig) -> None:
    """Raise ValueError if `source` is the config.yaml of a run whose folder is no longer its `output_dir`."""
    path = Path(source)
    is_a_run = path.name == CONFIG and (path.parent / CHECKPOINTS).is_dir()
    if config.resume and is_a_run and path.parent.resolve() != Path(config.output_dir).resolve():
        raise ValueError(
            f"{source} is the config of a run that was moved: its output_dir is {config.output_dir}; "
            f"add output_dir={path.parent} to continue the run where it is now"
        )


def _check_same(config: RunConfig, path: Path) -> None:
    if not path.exists():
        raise ValueError(
            f"cannot resume: output_dir {path.parent} is not empty, but it is not the folder of a run, because it has "
            "no config.yaml; give another output_dir"
        )
    try:
        before = dataclasses.asdict(build_config(type(config), yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"cannot resume: {path} cannot be read: {error}") from error
    if config.lr_scheduler_type != "constant" and before["max_steps"] != config.max_steps:
        log.warning(
            "max_steps was %d and is now %d: the rest of the run follows the %s curve of the new max_steps",
            *(before["max_steps"], config.max_steps, config.lr_scheduler_type),
        )
    for key, value in dataclasses.asdict(config).items():
        if key not in MAY_CHANGE and before[key] != value:
            raise ValueError(
                f"cannot resume: config key {key!r} was {before[key]!r} and is now {value!r}; leave {key} as it was, "
                f"or start a new run from the weights of this run: dmpo merge {path.parent} --output FOLDER, then "
                "train with model=FOLDER and another output_dir"
            )


def _check_objects(objects: Mapping[str, str], path: Path) -> None:
    try:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        names = {what: before.get(what) for what in ("task", "reward", "train_dataset", "eval_dataset")}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot resume: {path} cannot be read: {error}") from error
    for what, name in names.items():
        if name != (now := objects.get(what)):
            remedy = f"give DMPOTrainer that {what}" if name else f"leave {what} out of DMPOTrainer"
            raise ValueError(
                f"cannot resume: the {what} of this run was {_object_or_config(name, what)} and is now "
                f"{_object_or_config(now, what)}; to continue the run, {remedy}"
            )


def _object_or_config(name: str | None, what: str) -> str:
    return f"the object {name}, which a script gave" if name else f"the {what} that the config names"
