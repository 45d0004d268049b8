"""If these fail, the help of a command or `dmpo config` tells something that is not so."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from dmpo.config import DMPOConfig, GenerateConfig
from dmpo.config.commented import commented_yaml
from dmpo.config.files import config_values, load_config, shipped_configs
from dmpo.config.meanings import keys_of, kind_in_words
from dmpo.config.pretrain import PretrainConfig
from dmpo.config.sft import SFTConfig
from dmpo.evaluation.keys import EvalConfig
from dmpo.evaluation.rescore import RescoreConfig


@pytest.mark.parametrize("kind", [DMPOConfig, SFTConfig, EvalConfig, GenerateConfig, RescoreConfig, PretrainConfig])
def test_every_key_has_a_line(kind: type) -> None:
    keys = keys_of(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert {key.name for key in keys} == set(fields)
    groups = [key.group for key in keys]
    assert len(set(groups)) == sum(a != b for a, b in zip(groups, ["", *groups], strict=False)) + (groups[0] == "")
    for key in keys:
        field = fields[key.name]
        assert key.default == (
            field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        )
        assert key.meaning in key.summary
        assert key.kind in key.summary


def test_groups_are_those_of_the_class() -> None:
    groups = {key.name: key.group for key in keys_of(DMPOConfig)}
    assert (groups["model"], groups["num_prompts"], groups["gen_length"]) == ("Model", "Rollouts", "Rollouts")
    assert (groups["max_steps"], groups["resume"], groups["threshold"]) == ("Optimisation", "Book-keeping", "Decoding")
    assert next(iter(groups.values())) == "Model"
    assert keys_of(GenerateConfig)[0].group == "Model"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (bool, "true or false"),
        (int | None, "integer or null"),
        (list[str], "list of text"),
        (list[str] | None, "list of text or null"),
        (Literal["a", "b"], "a or b"),
        (Literal["a", "b", "c"] | None, "a, b, c or null"),
        (list[Literal["a", "b"]], "list of a or b"),
        (dict[str, Any], "mapping"),
        (float, "number"),
    ],
)
def test_types_in_words(hint: Any, words: str) -> None:
    assert kind_in_words(hint) == words


@pytest.mark.parametrize("name", shipped_configs())
def test_a_commented_config_is_the_config(name: str, tmp_path: Path) -> None:
    config = load_config(DMPOConfig, name, ["task_options={a: [1, 'x: y'], b: 'two\nlines'}", "learning_rate=1e-7"])
    path = tmp_path / "copy.yaml"
    path.write_text(commented_yaml(DMPOConfig, config_values(config), f"{name}\n# not: a key " * 9))
    assert load_config(DMPOConfig, str(path)) == config
    assert list(yaml.safe_load(path.read_text())) == [key.name for key in keys_of(DMPOConfig)]


def test_a_commented_list_of_keys_has_the_defaults() -> None:
    text = commented_yaml(DMPOConfig, {}, "all")
    values = yaml.safe_load(text)
    required = {"model": "m", "task": "t", "output_dir": "o"}
    assert DMPOConfig(**(values | required)) == DMPOConfig(**required)  # type: ignore[arg-type]
    above = text.partition("\nmax_grad_norm:")[0].rpartition("\n\n")[2]
    assert above == "# a gradient with a larger norm is scaled down to this norm [number; default 0.2]"
