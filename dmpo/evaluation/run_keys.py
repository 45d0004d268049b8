"""The keys that `dmpo eval RUN` takes from the run: task, length, decoder and its options, ids. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ..config.decoding import DecodingRules, is_read
from ..config.files import build_config, read_values
from ..config.keys import DMPOConfig
from ..config.token_ids import TokenIds
from ..storage.checkpoints import run_config
from .keys import listed

# Decoding options of a run's rollouts alone: an evaluation has its own.
_OF_ROLLOUTS = ("temperature", "seed")


def keys_of_run(source: str | None, overrides: Sequence[str]) -> list[str]:
    """`key=value` of the run whose folder is `model` in a YAML file or overrides; keys that these set are left out.

    [] if `model` is no run. A key that none of the decoders reads is left out, too.

    Raises:
        ValueError: the run's config.yaml cannot be read, or its steps have no `tokens_per_step`.
    """
    given = read_values(source, list(overrides))
    folder = Path(str(given.get("model", ""))).expanduser()
    path = run_config(folder) if given.get("model") else None
    if path is None:
        return []
    try:
        run = build_config(DMPOConfig, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no run's config: {error}") from error
    keys: dict[str, Any] = {"tasks": [run.task], "gen_lengths": [run.gen_length], "decoders": [run.decoder]}
    keys["tokens_per_step"] = _tokens_per_step(run, path, "tokens_per_step" in given)
    decoders = given.get("decoders", keys["decoders"])
    keys["block_length"] = run.block_length
    same = [key.name for key in fields(DecodingRules) if key.name not in _OF_ROLLOUTS]
    keys |= {name: getattr(run, name) for name in same if is_read(name, listed(decoders))}
    keys |= {key.name: getattr(run, key.name) for key in fields(TokenIds)}
    return [f"{name}={json.dumps(value)}" for name, value in keys.items() if name not in given and value is not None]


def _tokens_per_step(run: DMPOConfig, path: Path, given: bool) -> int | None:
    steps = run.eval_decode_steps or run.steps
    if given:
        return None
    if run.gen_length % steps:
        raise ValueError(f"{path} has gen_length {run.gen_length} and {steps} steps; give tokens_per_step, an integer")
    return run.gen_length // steps
