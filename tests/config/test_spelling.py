"""If these fail, a key that a config understands by another name, or one value for a list, means something else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from dmpo.config import DMPOConfig, GenerateConfig
from dmpo.config.errors import checked_config
from dmpo.config.files import load_config
from dmpo.evaluation.keys import EvalConfig
from dmpo.evaluation.rescore import RescoreConfig

RUN = ["model=m", "task=sudoku4", "output_dir=out"]
OLD = ["model=m", "tasks=[gsm8k,math]", "output_dir=out", "gen_lengths=64", "decoders=wino", "batch_size=3", "limit=5"]
NEW = ["model=m", "task=[gsm8k,math]", "output_dir=out", "gen_length=64", "decoder=wino"]
NEW += ["rollout_batch_size=3", "eval_prompts=5"]


@checked_config
@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class Lists:
    """Types of keys with a list in them."""

    texts: list[str] = dataclasses.field(default_factory=list)
    """a"""
    numbers: list[int] | None = None
    """b"""
    either: list[str] | str = "x"
    """c"""
    mapping: dict[str, Any] = dataclasses.field(default_factory=dict)
    """d"""


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("texts", "a:f", ["a:f"]),
        ("texts", ["a", "b"], ["a", "b"]),
        ("texts", "", [""]),
        ("numbers", 3, [3]),
        ("numbers", None, None),
        ("numbers", [], []),
        ("either", "a", "a"),
        ("mapping", {"a": 1}, {"a": 1}),
    ],
)
def test_one_value_is_a_list_of_one_where_the_type_is_a_list(key: str, value: Any, expected: Any) -> None:
    config = Lists(**{key: value})
    assert getattr(config, key) == expected
    changed = Lists()
    setattr(changed, key, value)
    assert getattr(changed, key) == expected


def test_a_list_of_one_from_the_command_line_and_a_file(tmp_path: Path) -> None:
    assert load_config(DMPOConfig, None, [*RUN, "report_to=tensorboard"]).report_to == ["tensorboard"]
    file = tmp_path / "run.yaml"
    file.write_text("model: m\ntask: sudoku4\noutput_dir: out\nreport_to: wandb\n")
    assert load_config(DMPOConfig, str(file)).report_to == ["wandb"]
    assert load_config(RescoreConfig, None, ["file=f", "task=t", "pass_at=1"]).pass_at == [1]
    with pytest.raises(ValueError, match="config key 'pass_at"):
        load_config(RescoreConfig, None, ["file=f", "task=t", "pass_at={a: 1}"])


def test_older_names_are_understood(tmp_path: Path) -> None:
    old, new = load_config(EvalConfig, None, OLD), load_config(EvalConfig, None, NEW)
    assert old == new
    assert (new.task, new.gen_length, new.decoder, new.rollout_batch_size, new.eval_prompts) == (
        ["gsm8k", "math"],
        [64],
        ["wino"],
        3,
        5,
    )
    assert load_config(GenerateConfig, None, ["batch_size=2"]).rollout_batch_size == 2
    file = tmp_path / "eval.yaml"
    file.write_text("model: m\ntasks: [gsm8k, math]\noutput_dir: out\nlimit: 5\n")
    assert load_config(EvalConfig, str(file), ["task=sudoku4", "eval_prompts=6"]).task == ["sudoku4"]
    assert load_config(EvalConfig, str(file), ["limit=6", "eval_prompts=7"]).eval_prompts == 7, "the last one counts"
    file.write_text("model: m\ntasks: gsm8k\ntask: math\noutput_dir: out\n")
    with pytest.raises(ValueError, match="task is given twice: tasks, task"):
        load_config(EvalConfig, str(file))


def test_steps_are_the_model_calls_of_a_completion() -> None:
    config = load_config(EvalConfig, None, ["model=m", "task=t", "output_dir=o", "gen_length=[32,64]", "steps=16"])
    assert [config.decoding(length, "topk").steps for length in config.gen_length] == [16, 16]
    with pytest.raises(ValueError, match="give steps or tokens_per_step, not both, got 16 and 4"):
        dataclasses.replace(config, tokens_per_step=4)


def test_inner_keys_change_what_the_file_has(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\ntask: sudoku4\noutput_dir: out\ntask_options: {a: 1, b: {c: 2}}\n")
    config = load_config(DMPOConfig, str(file), ["task_options.b.d=3", "task_options.a=4"])
    assert config.task_options == {"a": 4, "b": {"c": 2, "d": 3}}
    with pytest.raises(ValueError, match=r"'task_options\.a\.x': 'a' has no keys of its own"):
        load_config(DMPOConfig, str(file), ["task_options.a.x=3"])


def test_a_required_key_without_a_value_is_required() -> None:
    with pytest.raises(ValueError, match=r"^config key 'output_dir' is required$"):
        load_config(DMPOConfig, None, ["model=m", "task=t", "output_dir="])
