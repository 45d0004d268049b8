"""Configs from YAML files, shipped names and `key=value` of the command line, and back."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import check_keys, key_names
from .spelling import name_of, understood

Config = TypeVar("Config")
_SHIPPED = Path(__file__).parent / "shipped"


def load_config(kind: type[Config], source: str | None, overrides: list[str] | None = None) -> Config:
    """A config from a YAML path or a shipped name, with `key=value` overrides (values are YAML).

    Raises:
        ValueError: no such file, bad YAML, an unknown key (the message has the most similar key) or a bad value.
    """
    return build_config(kind, read_values(kind, source, overrides))


def read_values(kind: type, source: str | None, overrides: list[str] | None = None) -> dict[str, Any]:
    """The keys that a YAML file and `key=value` overrides give, by the names that `kind` has for them, not validated.

    Errors are as in `load_config`.
    """
    values = {} if source is None else understood(kind, _read_yaml(source, kind))
    return values | understood(kind, _overrides(kind, overrides or [], values))


def _overrides(kind: type, words: list[str], values: dict[str, Any]) -> dict[str, Any]:
    """The values of `key=value`, the last one of a key; `key.inner=value` changes what `values` has for the key."""
    given: dict[str, Any] = {}
    for item in words:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise ValueError(f"expected key=value, got {item!r}; `dmpo config` lists every key")
        first, *deeper = key.split(".")
        *parents, last = (name_of(kind, first), *deeper)
        inner = given
        if parents and parents[0] not in given:
            given[parents[0]] = copy.deepcopy(values.get(parents[0], {}))
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ValueError(f"config key {key!r}: {parent!r} has no keys of its own")
        inner[last] = _parse_yaml(text, f"value of {key}")
    return given


def build_config(kind: type[Config], values: dict[str, Any]) -> Config:
    """A validated config; errors as in `load_config`."""
    check_keys(kind, understood(kind, values))  # a key of a file may be no string
    return kind(**values)


def shipped_configs(kind: type | None = None) -> list[str]:
    """Names of the configs of a class that come with the package; None: of runs of DMPO."""
    return _yaml_names(_folder_of(kind))


def _folder_of(kind: type | None) -> str:
    return getattr(kind, "SHIPPED_IN", "")


def launch_configs() -> list[str]:
    """Names of the accelerate configs that come with the package."""
    return _yaml_names("accelerate")


def launch_config_path(name: str) -> Path:
    """Path of the accelerate config of that name, for `accelerate launch --config_file`.

    Raises:
        ValueError: no such name.
    """
    if name not in launch_configs():
        raise ValueError(f"no accelerate config {name!r}, choose one of {', '.join(launch_configs())}")
    return _SHIPPED / "accelerate" / f"{name}.yaml"


def _yaml_names(folder: str) -> list[str]:
    return sorted(path.stem for path in (_SHIPPED / folder).glob("*.yaml"))


def config_values(config: Any) -> dict[str, Any]:
    """The keys of a config and their values, its own keys before inherited keys."""
    values = dataclasses.asdict(config)
    return {name: values[name] for name in key_names(type(config))}


def dump_config(config: Any) -> str:
    """The config as YAML, in the order of `config_values`."""
    return yaml.safe_dump(config_values(config), sort_keys=False, allow_unicode=True)


def _read_yaml(source: str, kind: type) -> dict[str, Any]:
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        shipped = shipped_configs(kind)
        if source not in shipped:
            if (_SHIPPED / "sft" / f"{source}.yaml").is_file():
                raise ValueError(f"{source} is a config of supervised fine-tuning: run dmpo sft {source}")
            near = difflib.get_close_matches(source, shipped, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"no config {source!r}{hint}; shipped are {', '.join(shipped)}; or give the path of a .yaml file"
            )
        text = (_SHIPPED / _folder_of(kind) / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"config file {source} cannot be read: {error.strerror}") from error
    values = _parse_yaml(text, f"config {source}")
    if not isinstance(values, dict):
        raise ValueError(f"config {source} must be a mapping of keys to values, got {type(values).__name__}")
    return values


def _parse_yaml(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error
