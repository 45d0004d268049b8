"""If these fail, a typo in a config is found after hours instead of at once, or is not found at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from dmpo.config import DMPOConfig, dump_config, load_config, shipped_configs

REQUIRED = ["model=m", "task=sudoku4", "output_dir=out"]


def load(*overrides: str) -> DMPOConfig:
    return load_config(DMPOConfig, None, [*REQUIRED, *overrides])


@pytest.mark.parametrize("name", shipped_configs())
def test_shipped_configs_load_and_round_trip(name: str, tmp_path: Path) -> None:
    config = load_config(DMPOConfig, name)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(DMPOConfig, str(path)) == config


def test_overrides_have_types() -> None:
    config = load(
        "learning_rate=1e-4", "seed=3", "antithetic=false", "task_options.min_holes=2", "report_to=[tensorboard]"
    )
    assert config.learning_rate == 1e-4
    assert config.seed == 3
    assert config.antithetic is False
    assert config.task_options == {"min_holes": 2}
    assert config.report_to == ["tensorboard"]


def test_every_field_is_documented() -> None:
    for field in dataclasses.fields(DMPOConfig):
        assert field.name in (DMPOConfig.__doc__ or ""), f"{field.name} is not in the docstring"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "unknown config key 'learning_rat', did you mean 'learning_rate'"),
        ("zzz=1", "unknown config key 'zzz'; valid keys"),
        ("seed=abc", "config key 'seed'.*'abc'"),
        ("baseline=negativ", "config key 'baseline'.*'negative'"),
        ("num_generations=1", "num_generations must be ≥ 2"),
        ("coeff=0", "coeff must be"),
        ("coeff=.nan", "coeff"),
        ("gen_length=100", "gen_length must be a multiple of block_length 32, got 100"),
        ("steps=100", "steps must be a multiple of the 8 blocks"),
        ("replicates=3", "replicates must be even"),
        ("mask_rate_min=0.95", "mask_rate_min"),
        ("decoder=topp", "config key 'decoder'.*'topp'"),
        ("max_steps=0", "max_steps must be ≥ 1"),
        ("seed.x=1", "'seed.x'|seed"),
        ("seed", "expected key=value"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_bad_values_are_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(override)


def test_missing_key_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config key 'output_dir' is required"):
        load_config(DMPOConfig, None, REQUIRED[:2])
    with pytest.raises(ValueError, match="did you mean 'sudoku-tiny'"):
        load_config(DMPOConfig, "sudoku-tini")
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(DMPOConfig, str(tmp_path / "absent.yaml"))
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(ValueError, match="must be a mapping"):
        load_config(DMPOConfig, str(tmp_path / "list.yaml"))
