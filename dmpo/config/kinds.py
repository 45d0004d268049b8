"""Which kind of run a config is of: DMPO, or supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import key_names
from .files import read_values, shipped_configs
from .keys import DMPOConfig
from .sft import SFTConfig

Kind = type[DMPOConfig] | type[SFTConfig]


def kind_of_run(source: str | None, overrides: Sequence[str] = ()) -> Kind:
    """`SFTConfig` for a config of supervised fine-tuning, else `DMPOConfig`.

    A shipped name says so itself; in a file or in overrides a key says so that only `SFTConfig` has.

    Raises ValueError as `load_config`.
    """
    if source in shipped_configs(SFTConfig):
        return SFTConfig
    is_file = source is not None and Path(source).suffix in (".yaml", ".yml")
    return kind_of_keys(read_values(DMPOConfig, source if is_file else None, list(overrides)))


def kind_of_keys(values: Mapping[str, Any]) -> Kind:
    """The same from the keys of a config, such as config.yaml of a run, which has all of them."""
    only_sft = set(key_names(SFTConfig)) - set(key_names(DMPOConfig))
    return SFTConfig if isinstance(values, Mapping) and only_sft & values.keys() else DMPOConfig
