"""If these fail, a wrong key gets a good message on the command line, but a bad one or none in Python."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any

import pytest

from dmpo.config import DMPOConfig, GenerateConfig
from dmpo.config.files import build_config
from dmpo.evaluation.keys import EvalConfig

NEEDED: dict[str, Any] = {"model": "tiny", "task": "sudoku4", "output_dir": "runs/x"}


def test_keywords_are_refused_like_keys_of_a_file() -> None:
    for changes, message in (
        ({"learning_rat": 1}, "unknown config key 'learning_rat', did you mean 'learning_rate'?"),
        ({"lr": 1}, "unknown config key 'lr', did you mean 'lora_r' or 'learning_rate'?"),
        ({"alpha": "x"}, "config key 'alpha': Input should be a valid number, .* got 'x'"),
        ({"alpha": -1}, "alpha must be ≥ 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message) as by_keyword:
            DMPOConfig(**NEEDED, **changes)
        with pytest.raises(ValueError) as by_file:
            build_config(DMPOConfig, NEEDED | changes)
        assert str(by_keyword.value) == str(by_file.value)
    with pytest.raises(ValueError, match="config key 'model' is required; config key 'output_dir' is required"):
        DMPOConfig()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="valid keys: max_prompt_length, rollout_batch_size"):
        GenerateConfig(zzz=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="did you mean 'limit'"):
        EvalConfig(model="a", tasks=["b"], output_dir="c", limt=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="takes keys"):
        DMPOConfig("tiny")  # type: ignore[call-arg, arg-type]


def test_a_problem_is_named_once() -> None:
    with pytest.raises(ValueError) as error:
        build_config(DMPOConfig, NEEDED | {"report_to": [1, 1], "seed": "x"})
    problems = str(error.value).split("; ")
    assert len(problems) == len(set(problems)) == 3


def test_assignments_are_checked() -> None:
    config = DMPOConfig(**NEEDED)
    config.alpha = "0.5"  # type: ignore[assignment]
    assert config.alpha == 0.5, "as a file's value would be"
    for name, value, message in (
        ("alpha", -1, "alpha must be ≥ 0"),
        ("gen_length", 7, "multiple of block_length"),
        ("learning_rat", 1, "did you mean 'learning_rate'"),
    ):
        with pytest.raises(ValueError, match=message):
            setattr(config, name, value)
    assert config == dataclasses.replace(config) == copy.deepcopy(config) == pickle.loads(pickle.dumps(config))
