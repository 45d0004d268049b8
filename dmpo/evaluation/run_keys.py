"""The keys that `dmpo eval RUN` and `dmpo generate RUN` take from the run: task, length, decoder. No torch here."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ..config.decoding import DecodingOptions, DecodingRules, default_of, is_read
from ..config.files import build_config, load_config, read_values, shipped_configs
from ..config.generate import GenerateConfig
from ..config.keys import DMPOConfig
from ..config.kinds import kind_of_keys
from ..config.run import RunConfig
from ..config.token_ids import TokenIds
from ..models.files import embedded_models
from ..storage.checkpoints import run_config
from .keys import EvalConfig

# Decoding options of a run's rollouts alone: an evaluation has its own.
_OF_ROLLOUTS = ("temperature", "seed")


def keys_of_run(source: str | None, overrides: Sequence[str]) -> list[str]:
    """`key=value` of the run whose folder is `model` in a YAML file or overrides; keys that these set are left out.

    [] if `model` is no run. A key that none of the decoders reads is left out, too.

    Raises:
        ValueError: the run's config.yaml cannot be read, or its steps do not go with another gen_length.
    """
    given = read_values(EvalConfig, source, list(overrides))
    path = run_config(Path(str(given["model"])).expanduser()) if given.get("model") else None
    if path is None:
        return []
    run = read_run(path)
    keys: dict[str, Any] = {"task": [run.task], "gen_length": [run.gen_length], "decoder": [run.decoder]}
    if not {"steps", "tokens_per_step"} & given.keys():
        keys |= _steps(run, path, "gen_length" in given)
    keys["block_length"] = run.block_length
    keys |= _rules(run, given.get("decoder", keys["decoder"])) | _token_ids(run)
    return _words(keys, given)


def keys_of_generation(model: str, overrides: Sequence[str]) -> list[str]:
    """`key=value` of decoding that `dmpo generate` takes where the overrides do not set the key.

    As the run was trained whose folder `model` is, or as the shipped config has it whose embedded model it is. For
    another gen_length, blocks are at most as long, and each step unmasks as many tokens.

    Raises:
        ValueError: the run's config.yaml cannot be read, or its steps do not go with another gen_length.
    """
    given = read_values(GenerateConfig, None, list(overrides))
    plain: DecodingOptions = GenerateConfig()
    path = run_config(Path(model).expanduser())
    if path is not None:
        plain = read_run(path)
    elif model in embedded_models() and model in shipped_configs():
        plain = load_config(DMPOConfig, model)
    keys: dict[str, Any] = {"decoder": plain.decoder, "gen_length": plain.gen_length}
    length = given.get("gen_length", plain.gen_length)
    if isinstance(length, int) and length > 0:  # or else the config's own checks name it
        keys["block_length"] = min(plain.block_length, length)
        steps = getattr(plain, "eval_decode_steps", 0) or plain.steps
        if "steps" not in given and length * steps % plain.gen_length:
            whole = f"{steps} steps for gen_length {plain.gen_length} are no whole number for gen_length {length}"
            raise ValueError(f"{model}: {whole}; give steps")
        keys["steps"] = length * steps // plain.gen_length
    keys |= _rules(plain, [given.get("decoder", plain.decoder)])
    keys |= _token_ids(plain) if isinstance(plain, TokenIds) else {}
    keys = {name: value for name, value in keys.items() if value != default_of(GenerateConfig, name)}
    return _words(keys, given)


def read_run(path: Path) -> RunConfig:
    """The config of a run from its config.yaml. Raises ValueError if it cannot be read."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return build_config(kind_of_keys(values), values)
    except (OSError, yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no run's config: {error}") from error


def _steps(run: RunConfig, path: Path, other_length: bool) -> dict[str, int]:
    """What stands for the steps of a run; for another length too, where each step unmasks as many tokens."""
    steps = run.eval_decode_steps or run.steps
    if run.gen_length % steps == 0:
        return {"tokens_per_step": run.gen_length // steps}
    if other_length:
        raise ValueError(f"{path} has gen_length {run.gen_length} and {steps} steps; give steps or tokens_per_step")
    return {"steps": steps}


def _rules(options: DecodingOptions, decoders: Sequence[str]) -> dict[str, Any]:
    """The rules that one of the decoders reads."""
    same = [key.name for key in fields(DecodingRules) if key.name not in _OF_ROLLOUTS]
    return {name: getattr(options, name) for name in same if is_read(name, decoders)}


def _token_ids(source: TokenIds) -> dict[str, Any]:
    return {key.name: getattr(source, key.name) for key in fields(TokenIds)}


def _words(keys: Mapping[str, Any], given: Container[str]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in keys.items() if name not in given and value is not None]
