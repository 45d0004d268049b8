"""If these fail, the embedded model cannot be made again, or is not the sloppy solver that the demonstration needs."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

from dmpo import DMPOConfig, load_model, load_tokenizer
from dmpo.cli import main
from dmpo.config_files import load_config
from dmpo.evaluate import evaluate
from dmpo.pretrain import PretrainConfig, character_tokenizer, pretrain
from dmpo.tasks import load_task

SMALL = PretrainConfig(
    output_dir="",
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    mlp_hidden_size=32,
    batch_size=8,
    correct_steps=3,
    sloppy_steps=2,
)


def test_same_seed_same_model() -> None:
    first, second = (pretrain(SMALL).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tokenizer_round_trip() -> None:
    tokenizer = character_tokenizer()
    ids = tokenizer("1.34")["input_ids"]
    assert ids == [3, 2, 5, 6]
    assert tokenizer.decode(ids) == "1.34"
    assert tokenizer.decode([0, 3, 1], skip_special_tokens=True) == "1"


def test_cli_writes_a_checkpoint(tmp_path: Path) -> None:
    sizes = [f"{k}={v}" for k, v in vars(SMALL).items() if k not in ("output_dir",) and not k.startswith("_")]
    assert main(["pretrain", f"output_dir={tmp_path / 'made'}", *sizes]) == 0
    assert json.loads((tmp_path / "made" / "config.json").read_text())["model_type"] == "llada"
    assert load_model(tmp_path / "made").config.mask_token_id == 1
    assert load_tokenizer(tmp_path / "made")("12")["input_ids"] == [3, 4]
    assert main(["pretrain", f"output_dir={tmp_path / 'made'}", *sizes]) == 2


def test_the_shipped_model() -> None:
    folder = Path(str(files("dmpo"))) / "assets" / "sudoku-tiny"
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 3_000_000
    recipe = json.loads((folder / "recipe.json").read_text())
    default = PretrainConfig(output_dir=recipe["output_dir"])
    assert recipe == vars(default) | {}, "the shipped model was made by the default recipe"
    config = load_config(DMPOConfig, "sudoku-tiny")
    result = evaluate(
        load_model("sudoku-tiny", dtype="float32"),
        load_tokenizer("sudoku-tiny"),
        load_task("sudoku4"),
        config,
        split="test",
    )
    # Same rows and draws as `make train`: the start that README and summary.json report.
    assert result.sampled.share <= 0.2
    assert result.greedy.share > result.sampled.share + 0.2, "it knows, but answers badly"


@pytest.mark.parametrize("name", ["sudoku-tiny"])
def test_the_shipped_config_is_commented_yaml(name: str) -> None:
    text = (Path(str(files("dmpo"))) / "configs" / f"{name}.yaml").read_text()
    assert text.startswith("#")
    assert yaml.safe_load(text)["model"] == name
