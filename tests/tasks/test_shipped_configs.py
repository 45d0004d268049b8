"""If these fail, the shipped configs for LLaDA-8B do not run, or not with the paper's settings.

Each is run as a user runs it, by `dmpo train NAME`, on a tiny checkpoint in LLaDA's layout and on local files in the
schemas of the real data sets, with fewer and shorter completions.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dmpo.cli import main
from dmpo.config import DMPOConfig
from dmpo.config.files import load_config, shipped_configs
from dmpo.models import load_model, load_tokenizer
from dmpo.models.published import PUBLISHED
from dmpo.tasks import TASKS
from tests.llada_checkpoint import llada_checkpoint
from tests.tasks.data_files import countdown_rows, gsm8k_rows, math500_rows, math_rows, write

NAMES = ("gsm8k", "math", "countdown", "sudoku")
# The paper's run (arXiv 2510.08233).
PAPER: dict[str, Any] = {
    "lora_r": 128,
    "lora_alpha": 64,
    "lora_dropout": 0.05,
    "learning_rate": 1e-6,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "max_grad_norm": 0.2,
    "num_generations": 16,
    "gen_length": 256,
    "block_length": 32,
    "steps": 128,
    "temperature": 0.2,
    "dtype": "bfloat16",
    "alpha": 0.04,
    "coeff": 1.0,
    "baseline": "negative",
    "strength": 1.0,
    "replicates": 4,
    "gradient_steps": 8,
    "loss": "wdce",
    "model": "GSAI-ML/LLaDA-8B-Instruct",
}
SMALL = (
    *("num_prompts=2", "num_generations=2", "gen_length=32", "steps=4", "score_views=2", "replicates=2", "lora_r=4"),
    *("max_steps=2", "gradient_steps=2", "eval_prompts=2", "eval_steps=0", "eval_decode_steps=2"),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    rows = [*gsm8k_rows(20), *math_rows(20)]
    prompts = [kind.TEMPLATE for kind in TASKS.values() if hasattr(kind, "TEMPLATE")]
    prompts.append(load_config(DMPOConfig, "llada-8b-sudoku").task_options["template"])
    llada_checkpoint(folder, [*prompts, *(text for row in rows for text in row.values())])
    return folder


def data(name: str, folder: Path) -> list[str]:
    """Options that put local files in the place of the hub's."""
    if name == "sudoku":
        return []
    if name == "countdown":
        return [f"task_options.train={write(folder / 'rows.jsonl', countdown_rows(200))}"]
    train, test = (gsm8k_rows(12), gsm8k_rows(4, 40)) if name == "gsm8k" else (math_rows(12), math500_rows(4))
    files = {"train": write(folder / "train.parquet", train), "test": write(folder / "test.jsonl", test)}
    return [*(f"task_options.{split}={path}" for split, path in files.items()), "task_options.validation_rows=4"]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_runs(name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmpo.trainer.plot_run", lambda *arguments: None)  # longer than the run
    run = tmp_path / "run"
    options = [f"model={checkpoint}", f"output_dir={run}", *SMALL, *data(name, tmp_path)]
    assert main(["train", f"llada-8b-{name}", *options]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(line["loss"]) and line["reward_failures"] == 0 for line in lines)
    assert json.loads((run / "summary.json").read_text())["test_rows"] == 2
    told = [json.loads(line) for line in (run / "completions.jsonl").read_text().splitlines()]
    assert "<answer>" in told[0]["prompt"], "the model is told the form"
    if name == "gsm8k":
        assert main(["merge", str(run), "--output", str(tmp_path / "merged")]) == 0
        assert load_model(tmp_path / "merged").config.mask_token_id == load_tokenizer(checkpoint).mask_token_id


@pytest.mark.parametrize("name", NAMES)
def test_a_config_has_the_papers_settings(name: str) -> None:
    config = load_config(DMPOConfig, f"llada-8b-{name}")
    assert {key: getattr(config, key) for key in PAPER} == PAPER
    assert config.merge_adapters
    assert config.task.startswith(name)
    assert config.output_dir == f"runs/llada-8b-{name}"
    assert (config.max_prompt_length == 200) == (name in ("countdown", "sudoku"))


def test_illada_has_the_settings_of_llada() -> None:
    ours, theirs = (dataclasses.asdict(load_config(DMPOConfig, f"{name}-8b-gsm8k")) for name in ("illada", "llada"))
    assert {key for key in ours if ours[key] != theirs[key]} == {"model", "output_dir", "suffix"}
    assert ours["suffix"] == "none", "the published mode"
    assert ours["model"] in PUBLISHED


def test_all_are_shipped() -> None:
    assert {f"llada-8b-{name}" for name in NAMES} <= set(shipped_configs())


def test_the_prompt_the_model_sees(checkpoint: Path) -> None:
    """LLaDA's turns, each special token as one id."""
    tokenizer = load_tokenizer(checkpoint)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+1?"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[:2] == ["<|startoftext|>", "<|start_header_id|>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\n\n1+1?assistant\n\n"
