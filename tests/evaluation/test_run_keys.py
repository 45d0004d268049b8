"""If these fail, `dmpo eval RUN` decodes another way than the run was trained, or hides that it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmpo.cli import main
from dmpo.config.files import dump_config
from dmpo.evaluation.run_keys import keys_of_generation, keys_of_run
from tests.small_runs import settings


def run_folder(folder: Path, **changes: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(settings(folder, **changes)))
    return folder


def test_a_run_gives_its_task_length_decoder_and_options(tmp_path: Path) -> None:
    run = run_folder(tmp_path, gen_length=8, steps=4, decoder="parallel", threshold=0.8, cfg_scale=0.5)
    keys = keys_of_run(None, [f"model={run}"])
    assert {'task=["sudoku4"]', "gen_length=[8]", 'decoder=["parallel"]', "tokens_per_step=2"} < set(keys)
    assert {"block_length=4", "threshold=0.8", "cfg_scale=0.5", "early_stop=false"} < set(keys)
    assert not any(key.startswith(("wino_threshold", "compiled", "temperature", "mask_id", "eos_id")) for key in keys)


def test_a_run_gives_its_token_ids(tmp_path: Path) -> None:
    run = run_folder(tmp_path, mask_id=5, eos_id=[2, 4])
    assert {"mask_id=5", "eos_id=[2, 4]"} < set(keys_of_run(None, [f"model={run}"]))
    assert "mask_id=5" not in keys_of_run(None, [f"model={run}", "mask_id=6"])


def test_given_keys_have_precedence(tmp_path: Path) -> None:
    run = run_folder(tmp_path, decoder="parallel", threshold=0.8)
    keys = keys_of_run(None, [f"model={run}", "decoders=topk", "gen_lengths=16", "tokens_per_step=4"])
    assert not any(key.split("=")[0] in ("decoder", "gen_length", "tokens_per_step", "threshold") for key in keys)
    file = tmp_path / "eval.yaml"
    file.write_text(f"model: {run}\ntasks: [countdown]\n")
    assert not any(key.startswith("task=") for key in keys_of_run(str(file), []))


def test_a_model_gives_nothing_and_a_damaged_run_is_named(tmp_path: Path) -> None:
    assert keys_of_run(None, ["model=sudoku-tiny"]) == []
    assert keys_of_run(None, []) == []
    run = run_folder(tmp_path / "odd", gen_length=12, block_length=4, steps=9)
    assert "steps=9" in keys_of_run(None, [f"model={run}"])
    with pytest.raises(ValueError, match="gen_length 12 and 9 steps; give steps or tokens_per_step"):
        keys_of_run(None, [f"model={run}", "gen_length=8"])
    assert not any(key.startswith("steps") for key in keys_of_run(None, [f"model={run}", "gen_length=8", "steps=4"]))
    (run / "config.yaml").write_text("model: [")
    with pytest.raises(ValueError, match=r"config\.yaml is no run's config"):
        keys_of_run(None, [f"model={run}"])


def test_a_generation_decodes_as_its_run(tmp_path: Path) -> None:
    run = str(run_folder(tmp_path, gen_length=8, steps=4, decoder="parallel", threshold=0.8, eval_decode_steps=2))
    assert keys_of_generation(run, []) == [
        *('decoder="parallel"', "gen_length=8", "block_length=4", "steps=2", "threshold=0.8", "early_stop=false"),
    ]
    assert {"block_length=4", "steps=4"} < set(keys_of_generation(run, ["gen_length=16"])), "as many tokens a step"
    given = keys_of_generation(run, ["gen_length=3", "decoder=topk", "steps=1"])
    assert given == ["block_length=3", "early_stop=false"]
    with pytest.raises(ValueError, match="2 steps for gen_length 8 are no whole number for gen_length 6; give steps"):
        keys_of_generation(run, ["gen_length=6"])
    assert keys_of_generation("sudoku-tiny", []) == ["gen_length=16", "block_length=16", "steps=4", "early_stop=false"]
    assert keys_of_generation("owner/name", []) == []
    assert keys_of_generation("owner/name", ["gen_length=16"]) == ["block_length=16", "steps=16"]


def test_the_command_says_what_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["gradient_steps=1", "num_prompts=2", "num_generations=2", "eval_prompts=4", "eval_steps=0", "max_steps=1"]
    assert main(["train", "sudoku-tiny", f"output_dir={tmp_path / 'run'}", *quick]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "limit=2", f"output_dir={tmp_path / 'results'}"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f'as {tmp_path / "run"} was trained: task=["sudoku4"] gen_length=[16]')
    assert "tokens_per_step=4" in first
